//! Two programs that talk: each socket belongs to the namespace that it was opened in.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::World;
use super::process::PATIENCE;
use super::world::wait_for;

/// The test's own namespace, which has no name.
pub const HOST: &str = "/proc/thread-self/ns/net";

/// How long to wait for what must not come.
pub const SILENCE: Duration = Duration::from_millis(100);

/// Any address of the family of this one, and any port.
pub fn any(address: &str) -> &'static str {
    if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" }
}

/// A UDP socket in a namespace, on an address or on any.
pub fn udp(world: &World, namespace: &str, address: &str) -> UdpSocket {
    let socket = world.inside(namespace, || UdpSocket::bind(address)).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    socket
}

/// Sends and waits until it arrives; who sent it, as the receiver sees it.
pub fn arrives(from: &UdpSocket, to: &UdpSocket, address: &str) -> SocketAddr {
    send(from, to, address);
    let mut bytes = [0; 16];
    let (length, sender) = to.recv_from(&mut bytes).expect("the datagram arrives");
    assert_eq!(&bytes[..length], b"hello");
    sender
}

/// Sends what must not arrive.
pub fn is_lost(from: &UdpSocket, to: &UdpSocket, address: &str) {
    send(from, to, address);
    to.set_read_timeout(Some(SILENCE)).expect("set a timeout");
    let received = to.recv_from(&mut [0; 16]);
    to.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    assert!(received.is_err(), "a datagram came through: {received:?}");
}

fn send(from: &UdpSocket, to: &UdpSocket, address: &str) {
    let port = to.local_addr().expect("an address").port();
    let ip: IpAddr = address.parse().expect("an address");
    // A route that refuses says so at once, which is a way to lose a datagram as well.
    let _ = from.send_to(b"hello", (ip, port));
}

/// A TCP connection with a megabyte each way, so that there is segmentation.
pub fn tcp(world: &World, from: &str, to: &str, address: &str) {
    let listener = world.inside(to, || TcpListener::bind("[::]:0")).expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let ip: IpAddr = address.parse().expect("an address");
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(ip, port), PATIENCE);
    let client = world.inside(from, connect).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    let bytes = vec![0x5a; 1 << 20];
    for (mut sender, mut receiver) in [(&client, &server), (&server, &client)] {
        receiver.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let mut received = vec![0; bytes.len()];
        std::thread::scope(|scope| {
            scope.spawn(|| sender.write_all(&bytes).expect("send"));
            receiver.read_exact(&mut received).expect("receive");
        });
        assert!(received == bytes, "what arrived is not what was sent");
    }
}

/// One echo request that must be answered, with arguments for ping.
pub fn ping(world: &World, from: &str, arguments: &str) {
    world.inside(from, || world.sh(&format!("ping -qc 1 -W 20 {arguments}")));
}

/// Sends and must be told that nobody has the port open.
pub fn is_refused(from: &UdpSocket, address: &str, port: u16) {
    let ip: IpAddr = address.parse().expect("an address");
    from.connect((ip, port)).expect("connect");
    from.send(b"hello").expect("send");
    let error = from.recv(&mut [0; 16]).expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

/// An echo request that must not be answered.
pub fn is_unanswered(world: &World, from: &str, arguments: &str) {
    let ping =
        world.inside(from, || world.try_sh(&format!("ping -qc 1 -W 0.1 {arguments}")).status);
    assert!(!ping.success(), "an answer came from {arguments}");
}

/// A server on a port, over both families. A command that another test is just starting may still hold a server that
/// this one has closed: what a fork inherits closes with the exec.
pub fn listen(world: &World, namespace: &str, port: u16) -> TcpListener {
    let mut listener = None;
    wait_for("the port is free", || {
        match world.inside(namespace, || TcpListener::bind(("::", port))) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => false,
            bound => {
                listener = Some(bound.expect("bind"));
                true
            }
        }
    });
    listener.expect("a server")
}

/// Tries to connect, and must not get through, nor a refusal.
pub fn cannot_connect(world: &World, from: &str, address: &str, port: u16) {
    let ip: IpAddr = address.parse().expect("an address");
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(ip, port), SILENCE);
    let error = world.inside(from, connect).expect_err("a connection came through");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

/// Both ends of a TCP connection.
pub struct Connection {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Connection {
    /// Connects to a server.
    pub fn open(world: &World, from: &str, to: &TcpListener, address: &str) -> Connection {
        let port = to.local_addr().expect("an address").port();
        Connection::published(world, from, to, address, port)
    }

    /// Connects to a server on a port that is not the one it listens on.
    pub fn published(
        world: &World,
        from: &str,
        to: &TcpListener,
        address: &str,
        port: u16,
    ) -> Connection {
        let ip: IpAddr = address.parse().expect("an address");
        let connect = || TcpStream::connect_timeout(&SocketAddr::new(ip, port), PATIENCE);
        let client = world.inside(from, connect).expect("connect");
        let (server, _) = to.accept().expect("accept");
        Connection { client, server }
    }

    /// What each end sends arrives at the other.
    pub fn works(&self) {
        for (mut from, mut to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            from.write_all(b"hello").expect("send");
            to.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
            let mut bytes = [0; 5];
            to.read_exact(&mut bytes).expect("it arrives");
            assert_eq!(&bytes, b"hello");
        }
    }

    /// What each end sends does not arrive at the other. It will, if the connection gets through
    /// again: it can't work again after this.
    pub fn is_cut(&self) {
        for (mut from, mut to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            from.write_all(b"hello").expect("send");
            to.set_read_timeout(Some(SILENCE)).expect("set a timeout");
            let received = to.read(&mut [0; 5]);
            assert!(received.is_err(), "it came through: {received:?}");
        }
    }
}
