//! What is measured in a topology: one sample each.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::libc::linger;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use super::topology::{A, B, Stream, Topology};
use crate::figures::quantile;

const THROUGHPUT_PORT: u16 = 5001;
const CONNECTIONS_PORT: u16 = 5002;
const LATENCY_PORT: u16 = 5003;

/// The processors that this process may use, by number.
pub fn processors() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect())
}

/// Keeps this thread, and those that it starts from now on, on one processor.
pub fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("stay on one processor")
}

/// Thousands of packets a second, and ns of the processor a packet. All that becomes of a packet happens on the
/// sender's processor: a veth hands it to the receiving side's softirq right there.
/// Beside it the part of the packets that arrived.
pub fn packets(stream: &mut Stream, time: Duration) -> Result<([f64; 2], f64)> {
    let (before, mut sent, start) = (stream.packets()?, 0, Instant::now());
    while start.elapsed() < time {
        sent += stream.send()?;
    }
    let taken = start.elapsed();
    let packets = stream.packets()? - before;
    ensure!(packets > 0, "no packet arrived");
    let arrived = packets as f64 / sent as f64;
    let (packets, taken) = (packets as f64, taken.as_nanos() as f64);
    Ok(([packets / taken * 1e6, taken / packets], arrived))
}

/// Gbit/s of payload over one TCP connection, sender and receiver on a processor each.
pub fn throughput(topology: &Topology, time: Duration, processors: [usize; 2]) -> Result<f64> {
    let listener = Topology::inside(&topology.b, || listen(THROUGHPUT_PORT))?;
    let mut sender = Topology::inside(&topology.a, || connect(THROUGHPUT_PORT))?;
    let (mut receiver, _) = listener.accept()?;
    thread::scope(|scope| {
        let reader = scope.spawn(move || -> Result<f64> {
            pin(processors[1])?;
            let mut buffer = vec![0; 1 << 18];
            let (mut bytes, start) = (0, Instant::now());
            loop {
                match receiver.read(&mut buffer)? {
                    0 => return Ok(bytes as f64 * 8.0 / start.elapsed().as_nanos() as f64),
                    length => bytes += length,
                }
            }
        });
        let buffer = vec![0; 1 << 17];
        let start = Instant::now();
        while start.elapsed() < time {
            sender.write_all(&buffer)?;
        }
        drop(sender);
        reader.join().map_err(|_| anyhow!("the reader panicked"))?
    })
}

/// Thousands of TCP connections a second: connect, accept, and the server closes. The client's reset behind that
/// leaves no TIME_WAIT, at neither end. Both share a processor, so that nobody waits for another to wake.
pub fn connections(topology: &Topology, time: Duration) -> Result<f64> {
    let listener = Topology::inside(&topology.b, || listen(CONNECTIONS_PORT))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                drop(listener.accept()?);
            }
            Ok(())
        });
        let rate = Topology::inside(&topology.a, || {
            let (mut number, start) = (0, Instant::now());
            while start.elapsed() < time {
                close(connect(CONNECTIONS_PORT)?)?;
                number += 1;
            }
            let rate = f64::from(number) / start.elapsed().as_secs_f64() / 1e3;
            stop.store(true, Ordering::Relaxed);
            close(connect(CONNECTIONS_PORT)?)?;
            Ok(rate)
        });
        server.join().map_err(|_| anyhow!("the server panicked"))??;
        rate
    })
}

fn close(mut connection: TcpStream) -> Result<()> {
    match connection.read(&mut [0]) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error.into()),
        _ => {}
    }
    setsockopt(&connection, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}

/// µs between a byte sent by UDP and its answer: of half, and of 99 in 100, no more than this. Both
/// ends share a processor.
pub fn latency(topology: &Topology, time: Duration) -> Result<[f64; 2]> {
    let server =
        Topology::inside(&topology.b, || Ok(UdpSocket::bind((address(B), LATENCY_PORT))?))?;
    let client = Topology::inside(&topology.a, || Ok(UdpSocket::bind((address(A), 0))?))?;
    client.connect((address(B), LATENCY_PORT))?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    thread::scope(|scope| {
        let echo = scope.spawn(|| -> Result<()> {
            let mut buffer = [0; 2];
            loop {
                let (length, from) = server.recv_from(&mut buffer)?;
                if length == 2 {
                    return Ok(());
                }
                server.send_to(&buffer[..length], from)?;
            }
        });
        let taken = ask(&client, time);
        client.send(&[0; 2])?;
        echo.join().map_err(|_| anyhow!("the server panicked"))??;
        let taken = taken?;
        Ok([quantile(&taken, 0.5), quantile(&taken, 0.99)])
    })
}

/// Asks for this long; what each answer took.
fn ask(client: &UdpSocket, time: Duration) -> Result<Vec<f64>> {
    let mut taken = Vec::new();
    let end = Instant::now() + time;
    let mut sent = Instant::now();
    while sent < end {
        client.send(&[0])?;
        client.recv(&mut [0]).context("no answer")?;
        let now = Instant::now();
        taken.push((now - sent).as_nanos() as f64 / 1e3);
        sent = now;
    }
    Ok(taken)
}

fn address(of: [&str; 2]) -> IpAddr {
    of[0].parse().expect("an address")
}

fn listen(port: u16) -> Result<TcpListener> {
    let at = SocketAddr::new(address(B), port);
    TcpListener::bind(at).with_context(|| format!("listen at {at}"))
}

fn connect(port: u16) -> Result<TcpStream> {
    let to = SocketAddr::new(address(B), port);
    TcpStream::connect_timeout(&to, Duration::from_secs(3))
        .with_context(|| format!("connect to {to}"))
}
