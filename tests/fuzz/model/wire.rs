//! What a receiver makes of a frame: tags, IP with options and extension headers, ports, messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const ICMP: u8 = 1;
pub const IGMP: u8 = 2;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const ICMP6: u8 = 58;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 0x10;

/// Documented limits: tags in the frame, extension headers, and how far into the frame headers reach.
const TAGS: usize = 2;
const EXTENSIONS: usize = 8;
const REACH: usize = 512;

/// A frame, from the outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Too short for its link header, or its network header is no whole one.
    Malformed,
    /// More tags than anybody unwraps.
    TooDeep,
    Arp(Arp),
    Ip(Ip),
    /// Another protocol of the network layer.
    Other,
}

/// Of IPv4 over Ethernet.
#[derive(Debug, Clone, PartialEq)]
pub struct Arp {
    pub is_request: bool,
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Behind the extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hops: u8,
    pub fragment: Fragment,
    pub fragment_id: u32,
    /// What the last fragment header says comes next; 0 without one.
    pub behind_fragment: u8,
    pub transport: Transport,
    /// Of a whole packet of IGMP: the type.
    pub igmp: Option<u8>,
    /// Where the network header begins.
    pub at: usize,
    pub flow_label: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fragment {
    Whole,
    First,
    Later,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Transport {
    /// Not whole within the packet.
    Unreadable,
    /// Of a later fragment, or of a protocol that has none.
    Portless,
    Ports {
        source: u16,
        destination: u16,
        flags: Flags,
    },
    Message {
        kind: u8,
        code: u8,
        identifier: u16,
        /// What is behind the first eight bytes, up to the packet's end.
        body: Vec<u8>,
        /// How far into the frame that begins.
        body_at: usize,
    },
}

/// Of TCP; none of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flags(pub u8);

impl Flags {
    pub fn opens(self) -> bool {
        self.0 & (SYN | ACK) == SYN
    }
    pub fn syn(self) -> bool {
        self.0 & SYN != 0
    }
    pub fn fin(self) -> bool {
        self.0 & FIN != 0
    }
    pub fn rst(self) -> bool {
        self.0 & RST != 0
    }
}

impl Ip {
    pub fn is_v6(&self) -> bool {
        self.source.is_ipv6()
    }

    /// The family's own ICMP, readable or not, but not in a later fragment.
    pub fn message(&self) -> Option<(u8, u8)> {
        match &self.transport {
            Transport::Message { kind, code, .. } => Some((*kind, *code)),
            _ => None,
        }
    }

    /// The identifier of an echo, and whether it is a request.
    pub fn echo(&self) -> Option<(u16, bool)> {
        let Transport::Message { kind, identifier, .. } = self.transport else { return None };
        let (request, reply) = if self.is_v6() { (128, 129) } else { (8, 0) };
        (kind == request || kind == reply).then_some((identifier, kind == request))
    }

    pub fn flags(&self) -> Flags {
        match self.transport {
            Transport::Ports { flags, .. } => flags,
            _ => Flags::default(),
        }
    }
}

pub fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 60)
}

/// Bytes up to a limit, and never past those that headers may reach.
struct Bytes<'a> {
    all: &'a [u8],
    end: usize,
}

impl Bytes<'_> {
    fn get(&self, at: usize, length: usize) -> Option<&[u8]> {
        let end = at.checked_add(length)?;
        if end > self.end.min(REACH) { None } else { self.all.get(at..end) }
    }

    fn word(&self, at: usize) -> Option<u16> {
        self.get(at, 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

/// Reads a frame as a device hands it over; `is_gso` is what the stack knows of its segments. Of a fragment
/// there are none.
pub fn read(frame: &[u8], has_ethernet: bool, is_gso: bool) -> Frame {
    match read_link(frame, has_ethernet, is_gso) {
        Frame::Ip(ip) if is_gso && ip.fragment != Fragment::Whole => {
            Frame::Ip(Ip { transport: Transport::Unreadable, ..ip })
        }
        frame => frame,
    }
}

fn read_link(frame: &[u8], has_ethernet: bool, is_gso: bool) -> Frame {
    let bytes = Bytes { all: frame, end: frame.len() };
    if !has_ethernet {
        return match frame.first().map(|byte| byte >> 4) {
            Some(4) => ipv4(frame, 0, is_gso, false),
            Some(6) => ipv6(frame, 0, is_gso, false),
            _ => Frame::Other,
        };
    }
    let mut at = 12;
    for depth in 0.. {
        let Some(kind) = bytes.word(at) else { return Frame::Malformed };
        match kind {
            0x8100 | 0x88a8 if depth == TAGS => return Frame::TooDeep,
            0x8100 | 0x88a8 => at += 4,
            0x0800 => return ipv4(frame, at + 2, is_gso, false),
            0x86dd => return ipv6(frame, at + 2, is_gso, false),
            0x0806 => return arp(frame, at + 2),
            _ => return Frame::Other,
        }
    }
    unreachable!()
}

/// Reads the packet that an error quotes, of the error's own family. How long that says it is tells of
/// the packet before it was cut to be quoted.
pub fn read_quoted(error: &Ip) -> Option<Ip> {
    let Transport::Message { body, body_at, .. } = &error.transport else { return None };
    let mut bytes = vec![0; *body_at];
    bytes.extend(body);
    let read = if error.is_v6() { ipv6 } else { ipv4 };
    match read(&bytes, *body_at, false, true) {
        Frame::Ip(ip) => Some(ip),
        _ => None,
    }
}

fn arp(frame: &[u8], at: usize) -> Frame {
    let bytes = Bytes { all: frame, end: frame.len() };
    let Some(header) = bytes.get(at, 28) else { return Frame::Malformed };
    if header[..6] != [0, 1, 8, 0, 6, 4] {
        return Frame::Malformed;
    }
    let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap());
    Frame::Arp(Arp { is_request: header[6..8] == [0, 1], sender: address(14), target: address(24) })
}

fn ipv4(frame: &[u8], at: usize, is_gso: bool, is_quoted: bool) -> Frame {
    let mut bytes = Bytes { all: frame, end: frame.len() };
    let Some(header) = bytes.get(at, 20) else { return Frame::Malformed };
    let length = usize::from(header[0] & 0xf) * 4;
    let mut total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if total == 0 && is_gso {
        total = frame.len() - at;
    }
    if header[0] >> 4 != 4 || length < 20 || (total < length && !is_quoted) {
        return Frame::Malformed;
    }
    let offset = u16::from_be_bytes([header[6], header[7]]);
    let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap());
    let mut ip = Ip {
        source: address(12).into(),
        destination: address(16).into(),
        protocol: header[9],
        hops: header[8],
        fragment: fragment(offset & 0x1fff != 0, offset & 0x2000 != 0),
        fragment_id: u16::from_be_bytes([header[4], header[5]]).into(),
        behind_fragment: 0,
        transport: Transport::Unreadable,
        igmp: None,
        at,
        flow_label: 0,
    };
    if !is_quoted {
        bytes.end = bytes.end.min(at + total);
    }
    ip.transport = transport(&bytes, at + length, &ip, is_quoted);
    if ip.protocol == IGMP && ip.fragment == Fragment::Whole {
        ip.igmp = bytes.get(at + length, 8).map(|header| header[0]);
    }
    Frame::Ip(ip)
}

fn ipv6(frame: &[u8], at: usize, is_gso: bool, is_quoted: bool) -> Frame {
    let mut bytes = Bytes { all: frame, end: frame.len() };
    let Some(header) = bytes.get(at, 40) else { return Frame::Malformed };
    if header[0] >> 4 != 6 {
        return Frame::Malformed;
    }
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap());
    let mut ip = Ip {
        source: address(8).into(),
        destination: address(24).into(),
        protocol: header[6],
        hops: header[7],
        fragment: Fragment::Whole,
        fragment_id: 0,
        behind_fragment: 0,
        transport: Transport::Unreadable,
        igmp: None,
        at,
        flow_label: u32::from_be_bytes([0, header[1] & 0xf, header[2], header[3]]),
    };
    let is_jumbo = payload == 0 && is_gso;
    if !is_quoted && !is_jumbo {
        bytes.end = bytes.end.min(at + 40 + payload);
    }
    if let Some(end) = walk_extensions(&bytes, &mut ip, at + 40) {
        ip.transport = transport(&bytes, end, &ip, is_quoted);
    }
    Frame::Ip(ip)
}

/// Where the chain of extension headers ends, if it does.
fn walk_extensions(bytes: &Bytes<'_>, ip: &mut Ip, mut at: usize) -> Option<usize> {
    for count in 0.. {
        let header = match ip.protocol {
            protocol if is_extension(protocol) && count == EXTENSIONS => return None,
            44 => bytes.get(at, 8)?,
            0 | 43 | 60 => bytes.get(at, 2)?,
            _ => return Some(at),
        };
        let units = usize::from(header[1]);
        let next = header[0];
        match ip.protocol {
            44 => {
                let offset = u16::from_be_bytes([header[2], header[3]]);
                let is_later = offset & 0xfff8 != 0;
                if is_later || offset & 1 != 0 {
                    ip.fragment = fragment(is_later, true);
                }
                ip.fragment_id = u32::from_be_bytes(header[4..8].try_into().unwrap());
                ip.behind_fragment = next;
                at += 8;
            }
            _ => at += (units + 1) * 8,
        }
        ip.protocol = next;
        if ip.fragment == Fragment::Later {
            return Some(at);
        }
    }
    None
}

fn fragment(is_later: bool, more: bool) -> Fragment {
    match (is_later, more) {
        (true, _) => Fragment::Later,
        (false, true) => Fragment::First,
        (false, false) => Fragment::Whole,
    }
}

fn transport(bytes: &Bytes<'_>, at: usize, ip: &Ip, is_quoted: bool) -> Transport {
    if ip.fragment == Fragment::Later {
        return Transport::Portless;
    }
    let own_icmp = if ip.is_v6() { ICMP6 } else { ICMP };
    let size = match ip.protocol {
        TCP if !is_quoted => 20,
        TCP | UDP | SCTP => 8,
        protocol if protocol == own_icmp => 8,
        _ => return Transport::Portless,
    };
    let Some(header) = bytes.get(at, size) else { return Transport::Unreadable };
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if ip.protocol == own_icmp {
        let end = bytes.end.min(bytes.all.len());
        return Transport::Message {
            kind: header[0],
            code: header[1],
            identifier: word(4),
            body: bytes.all[at + 8..end].to_vec(),
            body_at: at + 8,
        };
    }
    let flags = if size == 20 { Flags(header[13]) } else { Flags::default() };
    Transport::Ports { source: word(0), destination: word(2), flags }
}
