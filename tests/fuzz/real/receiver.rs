//! What Linux gives to sockets: raw ones, which get a copy of every packet of their protocol that is for this
//! host, put together and without its extension headers.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrStorage, recvmsg, setsockopt, socket, sockopt,
};

use crate::common::World;
use crate::fuzz::model::wire::Ip;

/// In both families, also the other one's ICMP.
const PROTOCOLS: [SockProtocol; 4] =
    [SockProtocol::Icmp, SockProtocol::Tcp, SockProtocol::Udp, SockProtocol::IcmpV6];
const BUFFER: usize = 4 << 20;

/// A packet as its receiver has it: an IP header, and what comes behind.
#[derive(Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub bytes: Vec<u8>,
}

pub struct Receiver {
    v4: Vec<OwnedFd>,
    v6: Vec<(u8, OwnedFd)>,
}

impl Receiver {
    /// In a namespace, or this one.
    pub fn open(world: &World, namespace: Option<&str>) -> Receiver {
        let open = || Receiver {
            v4: PROTOCOLS.iter().map(|protocol| raw(AddressFamily::Inet, *protocol)).collect(),
            v6: PROTOCOLS
                .iter()
                .map(|protocol| {
                    let socket = raw(AddressFamily::Inet6, *protocol);
                    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).expect("packet info");
                    setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true).expect("hop limits");
                    (*protocol as u8, socket)
                })
                .collect(),
        };
        match namespace {
            Some(namespace) => world.inside(namespace, open),
            None => open(),
        }
    }

    /// All that has arrived by now.
    pub fn drain(&self) -> Vec<Packet> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        for socket in &self.v4 {
            while let Some((length, ..)) = receive(socket, &mut buffer) {
                let bytes = buffer[..length].to_vec();
                let address = |at: usize| {
                    Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap()).into()
                };
                let source: IpAddr = address(12);
                // No frame from a wire gets here under it.
                if !source.is_loopback() {
                    packets.push(Packet { source, destination: address(16), bytes });
                }
            }
        }
        for (protocol, socket) in &self.v6 {
            while let Some((length, source, destination, hops)) = receive(socket, &mut buffer) {
                let mut bytes = vec![0x60, 0, 0, 0];
                bytes.extend((length as u16).to_be_bytes());
                bytes.extend([*protocol, hops]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&buffer[..length]);
                packets.push(Packet {
                    source: source.into(),
                    destination: destination.into(),
                    bytes,
                });
            }
        }
        packets
    }
}

impl Packet {
    /// Whether it is the packet of a frame.
    pub fn carries(&self, ip: &Ip, frame: &[u8]) -> bool {
        let header = if ip.is_v6() { 40 } else { usize::from(frame[ip.at] & 0xf) * 4 };
        let own = if ip.is_v6() { 40 } else { usize::from(self.bytes[0] & 0xf) * 4 };
        self.source == ip.source
            && self.destination == ip.destination
            && frame[ip.at + header..].starts_with(&self.bytes[own..])
    }
}

fn raw(family: AddressFamily, protocol: SockProtocol) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Raw, flags, protocol).expect("a raw socket");
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).expect("a large buffer");
    socket
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Option<(usize, Ipv6Addr, Ipv6Addr, u8)> {
    let mut control = nix::cmsg_space!([u8; 20], i32);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    );
    let message = match message {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return None,
        Err(error) => panic!("receive: {error}"),
    };
    let source = message.address.and_then(|from| from.as_sockaddr_in6().map(|from| from.ip()));
    let (mut destination, mut hops) = (Ipv6Addr::UNSPECIFIED, 0);
    for part in message.cmsgs().expect("whole control messages") {
        match part {
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                destination = info.ipi6_addr.s6_addr.into();
            }
            ControlMessageOwned::Ipv6HopLimit(limit) => hops = limit as u8,
            _ => {}
        }
    }
    Some((message.bytes, source.unwrap_or(Ipv6Addr::UNSPECIFIED), destination, hops))
}
