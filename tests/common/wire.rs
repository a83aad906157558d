//! A device as an attacker has it: frames leave it as they are, and all that comes in is seen.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use etherparse::{SlicedPacket, TcpHeader, TransportSlice, UdpHeader};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;

use super::World;
use super::packet::Frame;
use super::process::PATIENCE;

/// A hardware address.
pub type Mac = [u8; 6];

/// The length of an Ethernet header without tags.
pub const ETHERNET: usize = 14;

/// `PACKET_OUTGOING` (linux/if_packet.h): what this device sends.
const OUTGOING: u8 = 4;

/// A packet socket on a device of a namespace.
pub struct Wire {
    socket: OwnedFd,
    /// The device's own MAC, which frames come from.
    pub mac: Mac,
    /// The MAC that frames go to.
    pub to: Mac,
}

impl Wire {
    /// Opens it. What comes in from now on is kept.
    pub fn open(world: &World, namespace: &str, device: &str, to: Mac) -> Wire {
        let open = || {
            let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
            let socket = socket(AddressFamily::Packet, kind, flags, SockProtocol::EthAll);
            let (socket, link) = (socket.expect("a packet socket"), link(device));
            bind(socket.as_raw_fd(), &link).expect("bind to the device");
            let patience = TimeVal::seconds(PATIENCE.as_secs() as i64);
            setsockopt(&socket, sockopt::ReceiveTimeout, &patience).expect("set a timeout");
            Wire { socket, mac: link.addr().expect("a MAC"), to }
        };
        world.inside(namespace, open)
    }

    /// Gives what is sent from now on a mark.
    pub fn mark(&self, mark: u32) {
        setsockopt(&self.socket, sockopt::Mark, &mark).expect("set SO_MARK");
    }

    /// Sends a frame from this device's MAC to the one on the other side.
    pub fn send(&self, frame: impl Into<Vec<u8>>) {
        let mut frame = frame.into();
        frame[..6].copy_from_slice(&self.to);
        frame[6..12].copy_from_slice(&self.mac);
        self.send_as_is(&frame);
    }

    /// Sends a frame with the MACs that it has.
    pub fn send_as_is(&self, frame: &[u8]) {
        // All by one CPU, whose queue a veth keeps in order: the last frame arrives last.
        let usual = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this thread");
        let first = (0..CpuSet::count()).find(|cpu| usual.is_set(*cpu) == Ok(true));
        let mut one = CpuSet::new();
        one.set(first.expect("a CPU")).expect("a number of a CPU");
        sched_setaffinity(Pid::from_raw(0), &one).expect("stay on one CPU");
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty());
        sched_setaffinity(Pid::from_raw(0), &usual).expect("leave it");
        // A hook that drops what leaves says so.
        assert!(matches!(sent, Ok(_) | Err(Errno::ENOBUFS)), "send a frame: {sent:?}");
    }

    /// The next frame that comes in.
    pub fn receive(&self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let received = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes);
            let (length, from) = received.expect("a frame comes in");
            if from.is_none_or(|from| from.pkttype() != OUTGOING) {
                bytes.truncate(length);
                return bytes;
            }
        }
    }

    /// What comes in up to a frame with this text in it, which is left out.
    pub fn before(&self, text: &str) -> Vec<Vec<u8>> {
        self.until(|frame| has(frame, text))
    }

    /// What comes in up to such a frame, which is left out.
    pub fn until(&self, is_last: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| Some(self.receive()).filter(|frame| !is_last(frame))).collect()
    }
}

/// The link-layer address of a device of the calling thread's namespace.
fn link(device: &str) -> LinkAddr {
    let link = getifaddrs().expect("the devices").find_map(|interface| {
        let is_it = interface.interface_name == device;
        interface.address.filter(|_| is_it)?.as_link_addr().copied()
    });
    link.unwrap_or_else(|| panic!("no device {device}"))
}

/// The MAC of a device of a namespace.
pub fn mac(world: &World, namespace: &str, device: &str) -> Mac {
    world.inside(namespace, || link(device)).addr().expect("a MAC")
}

/// Whether a frame has this text anywhere in it.
pub fn has(frame: &[u8], text: &str) -> bool {
    frame.windows(text.len()).any(|window| window == text.as_bytes())
}

/// What a TCP segment is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub source_port: u16,
    pub destination_port: u16,
    pub syn: bool,
    pub ack: bool,
    pub rst: bool,
    pub sequence: u32,
}

/// The TCP segment in a frame.
pub fn segment(frame: &[u8]) -> Option<Segment> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some(Segment {
            source_port: tcp.source_port(),
            destination_port: tcp.destination_port(),
            syn: tcp.syn(),
            ack: tcp.ack(),
            rst: tcp.rst(),
            sequence: tcp.sequence_number(),
        }),
        _ => None,
    }
}

/// Packets with a content of their own.
impl Frame {
    /// An IP packet between two addresses of one family.
    pub fn between(source: &str, destination: &str) -> Frame {
        let address = |text: &str| text.parse::<IpAddr>().unwrap_or_else(|_| panic!("{text}"));
        Frame::ip(address(source), address(destination))
    }

    /// A UDP datagram with this text in it.
    pub fn datagram(self, source_port: u16, destination_port: u16, text: &str) -> Frame {
        let length = (UdpHeader::LEN + text.len()) as u16;
        let header = UdpHeader { source_port, destination_port, length, checksum: 0 };
        self.protocol(17, [header.to_bytes().as_slice(), text.as_bytes()].concat())
    }

    /// A TCP segment of a stream: its flags by their letters, `S`, `A`, `F`, `R`, and this text.
    pub fn stream(self, ports: [u16; 2], flags: &str, numbers: [u32; 2], text: &str) -> Frame {
        let header = TcpHeader {
            syn: flags.contains('S'),
            ack: flags.contains('A'),
            fin: flags.contains('F'),
            rst: flags.contains('R'),
            acknowledgment_number: numbers[1],
            ..TcpHeader::new(ports[0], ports[1], numbers[0], 0xffff)
        };
        self.protocol(6, [header.to_bytes().as_slice(), text.as_bytes()].concat())
    }
}

/// Where what follows the IP header of an untagged frame begins.
pub fn payload(frame: &[u8]) -> usize {
    ETHERNET + if is_ipv6(frame) { 40 } else { 20 }
}

fn is_ipv6(frame: &[u8]) -> bool {
    frame[ETHERNET] >> 4 == 6
}

/// Lets an IP header say that so many bytes follow it, whatever follows.
pub fn say_length(frame: &mut [u8], length: usize) {
    if is_ipv6(frame) {
        frame[18..20].copy_from_slice(&(length as u16).to_be_bytes());
    } else {
        frame[16..18].copy_from_slice(&(20 + length as u16).to_be_bytes());
        sum_ipv4(frame);
    }
}

fn sum_ipv4(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
}

/// Puts so many headers of destination options, eight bytes of padding each, behind the IPv6 header.
pub fn with_options(frame: &[u8], headers: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..headers {
        let header = [frame[20], 0, 1, 4, 0, 0, 0, 0];
        frame[20] = 60;
        frame.splice(54..54, header);
    }
    let length = frame.len() - 54;
    say_length(&mut frame, length);
    frame
}

/// Cuts a packet into two fragments: `at` bytes behind its IP header, a multiple of eight.
pub fn fragments(frame: &[u8], at: usize, id: u16) -> [Vec<u8>; 2] {
    let (start, end) = (payload(frame), frame.len());
    [(0, start..start + at), (at, start + at..end)].map(|(offset, bytes)| {
        let mut fragment = frame[..start].to_vec();
        let more = offset == 0;
        if is_ipv6(frame) {
            let place = offset as u16 | u16::from(more);
            fragment.extend([frame[20], 0]);
            fragment.extend(place.to_be_bytes());
            fragment.extend(u32::from(id).to_be_bytes());
            fragment[20] = 44;
        } else {
            let place = (offset as u16 / 8) | (u16::from(more) << 13);
            fragment[18..20].copy_from_slice(&id.to_be_bytes());
            fragment[20..22].copy_from_slice(&place.to_be_bytes());
        }
        fragment.extend(&frame[bytes]);
        let length = fragment.len() - start;
        say_length(&mut fragment, length);
        fragment
    })
}

impl From<Frame> for Vec<u8> {
    fn from(frame: Frame) -> Vec<u8> {
        frame.bytes()
    }
}
