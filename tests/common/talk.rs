//! Two programs that talk: each socket belongs to the namespace that it was opened in.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::World;
use super::process::PATIENCE;

/// How long to wait for what must not come.
const SILENCE: Duration = Duration::from_millis(100);

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
    world.sh(&format!("ip netns exec {from} ping -qc 1 -W 5 {arguments}"));
}
