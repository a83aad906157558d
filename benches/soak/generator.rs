//! Short TCP connections at a pace, with both ends in one thread.
//!
//! On a veth a handshake is over before `connect` returns: who holds both ends never waits for
//! another thread, and two cores have room for what is measured.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cilmark::kernel::netns;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// How many connections are open at a time: fewer than a listener lets wait.
const BATCH: usize = 50;

/// Longer than any retransmission on a machine that has other things to do; then it is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all generators have done so far.
#[derive(Default)]
pub struct Progress {
    /// Connections of which both ends got their byte, and saw the other's end.
    pub served: AtomicU64,
    /// All others.
    pub lost: AtomicU64,
    /// What befell the first that was lost.
    pub first_loss: Mutex<Option<String>>,
    /// Ends the generators.
    pub stop: AtomicBool,
}

/// Connects from one namespace to an address of another until it is stopped.
pub struct Generator<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub address: IpAddr,
    pub port: u16,
    pub per_second: f64,
    pub progress: &'a Progress,
}

impl Generator<'_> {
    /// Takes the calling thread into the namespaces.
    pub fn run(&self) -> Result<()> {
        netns::enter(self.to)?;
        let address = SocketAddr::new(self.address, self.port);
        let server = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
        // What it accepts inherits this.
        setsockopt(&server, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs() as i64, 0))
            .context("set a timeout")?;
        netns::enter(self.from)?;
        let (started, mut begun) = (Instant::now(), 0);
        while !self.progress.stop.load(Relaxed) {
            let due = (started.elapsed().as_secs_f64() * self.per_second) as usize - begun;
            if due < BATCH {
                thread::sleep(Duration::from_secs_f64((BATCH - due) as f64 / self.per_second));
                continue;
            }
            let served = self.batch(&server, address);
            self.progress.served.fetch_add(served as u64, Relaxed);
            self.progress.lost.fetch_add((BATCH - served) as u64, Relaxed);
            begun += BATCH;
            if served < BATCH {
                Generator::drain(&server).context("drain the listener")?;
            }
        }
        Ok(())
    }

    /// How many of the connections went well. An order of acceptance that is not that of the
    /// connections does no harm: each is answered with its own byte.
    fn batch(&self, server: &TcpListener, address: SocketAddr) -> usize {
        let clients = self.each(0..BATCH, |_| connect(address));
        let servers = self.each(&clients, |_| server.accept());
        let asked = self.each(clients.iter().zip(0..), |(mut client, byte)| {
            client.write_all(&[byte]).map(|()| (client, byte))
        });
        self.each(&servers, |(server, _)| answer(server));
        let answered = self.each(asked, |(client, byte)| match receive(client)? {
            answer if answer == byte => client.shutdown(Shutdown::Write).map(|()| client),
            _ => Err(io::Error::other("the answer is another's")),
        });
        let ended = self.each(servers, |(server, _)| ends(&server)).len();
        self.each(answered, ends).len().min(ended)
    }

    /// Forgets what was accepted of connections that their client has given up: the next batch is to
    /// meet its own.
    fn drain(server: &TcpListener) -> io::Result<()> {
        server.set_nonblocking(true)?;
        while server.accept().is_ok() {}
        server.set_nonblocking(false)
    }

    /// What came of each that did not fail. If nothing gets through, the rest is given up untried.
    fn each<T, U>(
        &self,
        of: impl IntoIterator<Item = T>,
        step: impl Fn(T) -> io::Result<U>,
    ) -> Vec<U> {
        let note = |error: &io::Error| {
            let mut first = self.progress.first_loss.lock().expect("no holder has panicked");
            first.get_or_insert_with(|| format!("{}: {error}", self.address));
        };
        let begun = Instant::now();
        let tried = of.into_iter().take_while(|_| begun.elapsed() < PATIENCE);
        tried.filter_map(|item| step(item).inspect_err(note).ok()).collect()
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    Ok(client)
}

fn receive(mut from: &TcpStream) -> io::Result<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte).map(|()| byte[0])
}

fn answer(mut client: &TcpStream) -> io::Result<()> {
    client.write_all(&[receive(client)?])
}

/// The other end has nothing more to say.
fn ends(mut of: &TcpStream) -> io::Result<()> {
    match of.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}
