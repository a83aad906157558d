//! A bulk transfer over TCP that goes on while a test does something to it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::machine::time_for;
use super::traffic::Connection;
use super::world::wait_for;

/// An odd length, so that no loss of whole segments brings it back into step.
const BLOCK: usize = 65_521;

/// How long to wait between blocks, so that the rest of the test gets its share of the CPUs: some
/// 60 MB/s, less on a slow machine.
const PACE: Duration = Duration::from_millis(1);

/// More than is on its way when somebody looks: the last of it has met what was done before.
const PROGRESS: u64 = 2 << 20;

/// How long nothing arrives until it counts as standing still.
const STANDSTILL: Duration = Duration::from_millis(250);

/// Sends much, and checks each byte that arrives; until this is dropped.
pub struct Transfer {
    received: Arc<AtomicU64>,
    running: Sender<()>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<()>,
}

impl Transfer {
    /// From who has connected to the server.
    pub fn upload(connection: Connection) -> Transfer {
        Transfer::start(connection.client, connection.server)
    }

    /// From the server to who has connected.
    pub fn download(connection: Connection) -> Transfer {
        Transfer::start(connection.server, connection.client)
    }

    fn start(mut from: TcpStream, mut to: TcpStream) -> Transfer {
        let block: Vec<u8> = (0..BLOCK).map(|at| (at % 251) as u8).collect();
        let received = Arc::new(AtomicU64::new(0));
        let (running, stop) = mpsc::channel();
        let (wanted, count) = (block.clone(), received.clone());
        let sender = thread::spawn(move || {
            let (mut sent, pace) = (0, time_for(PACE));
            while stop.recv_timeout(pace) == Err(RecvTimeoutError::Timeout) {
                from.write_all(&block).expect("send");
                sent += BLOCK as u64;
            }
            from.shutdown(Shutdown::Write).expect("end the transfer");
            sent
        });
        let receiver = thread::spawn(move || {
            let mut bytes = vec![0; BLOCK];
            while to.peek(&mut [0]).expect("receive") > 0 {
                to.read_exact(&mut bytes).expect("receive a block");
                assert!(bytes == wanted, "what arrived is not what was sent");
                count.fetch_add(BLOCK as u64, Relaxed);
            }
        });
        Transfer { received, running, sender, receiver }
    }

    /// What is sent from now on arrives.
    pub fn goes_on(&self) {
        let goal = self.received.load(Relaxed) + PROGRESS;
        wait_for("the transfer to go on", || {
            assert!(!self.receiver.is_finished(), "the transfer has ended");
            self.received.load(Relaxed) >= goal
        });
    }

    /// Nothing arrives any more, from some moment on.
    pub fn stands_still(&self) {
        let mut last = (0, Instant::now());
        wait_for("the transfer to stand still", || {
            let received = self.received.load(Relaxed);
            if received != last.0 {
                last = (received, Instant::now());
            }
            last.1.elapsed() >= STANDSTILL
        });
    }

    /// Ends it: all that was sent has arrived.
    pub fn ends_complete(self) {
        drop(self.running);
        let sent = self.sender.join().expect("the sender");
        self.receiver.join().expect("the receiver");
        assert_eq!(self.received.load(Relaxed), sent);
    }
}
