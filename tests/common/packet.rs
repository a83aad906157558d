//! Frames, put together from the outside in: `Frame::ipv4(A, B).vlan(7).tcp(1000, 80)`. Lengths, next
//! headers and checksums are right unless a test makes them wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpAuthHeader, IpDscp,
    IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6FragmentHeader,
    Ipv6Header, Ipv6RawExtHeader, SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
};

/// The MAC that frames come from.
pub const SENDER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xaa];
/// The MAC that unicast frames go to.
pub const RECEIVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xbb];

const TYPE_IPV4: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_QINQ: u16 = 0x88a8;
const TYPE_IPV6: u16 = 0x86dd;
/// An experimental protocol (RFC 3692): for packets that nobody gave a transport header.
const PROTOCOL_NONE: u8 = 253;

/// A frame under construction.
#[derive(Debug, Clone)]
pub struct Frame {
    ethernet: bool,
    vlans: Vec<(u16, u16)>,
    network: Network,
    extensions: Vec<(u8, Vec<u8>)>,
    protocol: u8,
    transport: Vec<u8>,
    length: usize,
}

#[derive(Debug, Clone)]
enum Network {
    Ipv4(Box<Ipv4Header>),
    Ipv6(Ipv6Header),
    Other(u16, Vec<u8>),
}

impl Frame {
    fn new(network: Network) -> Frame {
        Frame {
            ethernet: true,
            vlans: Vec::new(),
            network,
            extensions: Vec::new(),
            protocol: PROTOCOL_NONE,
            transport: Vec::new(),
            length: usize::MAX,
        }
    }

    /// An IPv4 packet.
    pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr) -> Frame {
        Frame::new(Network::Ipv4(Box::new(Ipv4Header {
            time_to_live: 64,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv4Header::default()
        })))
    }

    /// An IPv6 packet.
    pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr) -> Frame {
        Frame::new(Network::Ipv6(Ipv6Header {
            hop_limit: 64,
            source: source.octets(),
            destination: destination.octets(),
            ..Ipv6Header::default()
        }))
    }

    /// An IP packet of the family of its addresses, which must be the same.
    pub fn ip(source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Frame {
        match (source.into(), destination.into()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Frame::ipv4(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Frame::ipv6(source, destination),
            (source, destination) => panic!("from {source} to {destination}: two families"),
        }
    }

    /// An ARP request: who has `target`, tell `sender`.
    pub fn arp_request(sender: Ipv4Addr, target: Ipv4Addr) -> Frame {
        Frame::arp(ArpOperation::REQUEST, sender, target)
    }

    /// An ARP reply: `sender` is at this MAC.
    pub fn arp_reply(sender: Ipv4Addr, target: Ipv4Addr) -> Frame {
        Frame::arp(ArpOperation::REPLY, sender, target)
    }

    fn arp(operation: ArpOperation, sender: Ipv4Addr, target: Ipv4Addr) -> Frame {
        let arp: ArpPacket = ArpEthIpv4Packet {
            operation,
            sender_mac: SENDER_MAC,
            sender_ipv4: sender.octets(),
            target_mac: [0; 6],
            target_ipv4: target.octets(),
        }
        .into();
        Frame::other(TYPE_ARP, arp.to_bytes().to_vec())
    }

    /// A frame of any ethertype.
    pub fn other(ethertype: u16, payload: impl Into<Vec<u8>>) -> Frame {
        Frame::new(Network::Other(ethertype, payload.into()))
    }

    /// Puts a VLAN tag (802.1Q) into the frame, inside of those that it has.
    pub fn vlan(mut self, id: u16) -> Frame {
        self.vlans.push((TYPE_VLAN, id));
        self
    }

    /// The same with a service tag (802.1ad).
    pub fn service_vlan(mut self, id: u16) -> Frame {
        self.vlans.push((TYPE_QINQ, id));
        self
    }

    /// Leaves out the Ethernet header, as tun and WireGuard do.
    pub fn without_ethernet(mut self) -> Frame {
        self.ethernet = false;
        self
    }

    /// Cuts the frame off, headers that say otherwise or not.
    pub fn truncate(mut self, length: usize) -> Frame {
        self.length = length;
        self
    }

    /// IPv4 options: a multiple of four bytes, 40 at most.
    pub fn options(mut self, options: &[u8]) -> Frame {
        match &mut self.network {
            Network::Ipv4(ip) => ip.options = Ipv4Options::try_from(options).expect("options"),
            _ => panic!("options belong to IPv4"),
        }
        self
    }

    /// Makes it a fragment: its offset in units of 8 bytes, and whether more follow. In IPv6 a
    /// header of its own, behind those that the packet has so far.
    pub fn fragment(mut self, offset: u16, more_fragments: bool) -> Frame {
        let fragment_offset = IpFragOffset::try_new(offset).expect("an offset of 13 bits");
        match &mut self.network {
            Network::Ipv4(ip) => {
                ip.fragment_offset = fragment_offset;
                ip.more_fragments = more_fragments;
                self
            }
            Network::Ipv6(_) => {
                let next = IpNumber(0);
                let header = Ipv6FragmentHeader::new(next, fragment_offset, more_fragments, 7);
                self.extension(IpNumber::IPV6_FRAGMENTATION_HEADER, header.to_bytes())
            }
            Network::Other(..) => panic!("only IP has fragments"),
        }
    }

    /// IPv6: a hop-by-hop header that holds nothing but padding.
    pub fn hop_by_hop(self) -> Frame {
        self.padded_extension(IpNumber::IPV6_HEADER_HOP_BY_HOP, 1)
    }

    /// IPv6: a routing header of two units of 8 bytes.
    pub fn routing(self) -> Frame {
        self.padded_extension(IpNumber::IPV6_ROUTE_HEADER, 2)
    }

    /// IPv6: destination options of so many units of 8 bytes.
    pub fn destination_options(self, units: usize) -> Frame {
        self.padded_extension(IpNumber::IPV6_DESTINATION_OPTIONS, units)
    }

    /// An authentication header with an ICV of so many bytes, a multiple of four.
    pub fn authentication(self, icv: usize) -> Frame {
        let header = IpAuthHeader::new(IpNumber(0), 1, 1, &vec![0xee; icv]).expect("an ICV");
        self.extension(IpNumber::AUTHENTICATION_HEADER, header.to_bytes())
    }

    fn padded_extension(self, kind: IpNumber, units: usize) -> Frame {
        // Bytes that would be read as a header of their own if a parser lost its way.
        let header = Ipv6RawExtHeader::new_raw(IpNumber(0), &vec![0x3a; units * 8 - 2]);
        self.extension(kind, header.expect("whole units").to_bytes())
    }

    fn extension(mut self, kind: IpNumber, header: impl AsRef<[u8]>) -> Frame {
        self.extensions.push((kind.0, header.as_ref().to_vec()));
        self
    }

    /// The TTL, or hop limit; 64 without it.
    pub fn ttl(mut self, ttl: u8) -> Frame {
        match &mut self.network {
            Network::Ipv4(ip) => ip.time_to_live = ttl,
            Network::Ipv6(ip) => ip.hop_limit = ttl,
            Network::Other(..) => panic!("only IP has that"),
        }
        self
    }

    /// The traffic class; of IPv4 the TOS.
    pub fn traffic_class(mut self, class: u8) -> Frame {
        match &mut self.network {
            Network::Ipv4(ip) => {
                ip.dscp = IpDscp::try_new(class >> 2).expect("6 bits");
                ip.ecn = IpEcn::try_new(class & 3).expect("2 bits");
            }
            Network::Ipv6(ip) => ip.traffic_class = class,
            Network::Other(..) => panic!("only IP has that"),
        }
        self
    }

    /// IPv6: the flow label.
    pub fn flow_label(mut self, label: u32) -> Frame {
        self.ipv6_header().flow_label = Ipv6FlowLabel::try_new(label).expect("20 bits");
        self
    }

    fn ipv6_header(&mut self) -> &mut Ipv6Header {
        match &mut self.network {
            Network::Ipv6(ip) => ip,
            _ => panic!("only IPv6 has that"),
        }
    }

    /// A TCP SYN with some bytes behind it.
    pub fn tcp(self, source_port: u16, destination_port: u16) -> Frame {
        self.segment(source_port, destination_port, "S")
    }

    /// Any TCP segment, by its flags: `S`, `SA`, `A`, `FA`, `R`.
    pub fn segment(self, source_port: u16, destination_port: u16, flags: &str) -> Frame {
        let header = TcpHeader {
            syn: flags.contains('S'),
            ack: flags.contains('A'),
            fin: flags.contains('F'),
            rst: flags.contains('R'),
            ..TcpHeader::new(source_port, destination_port, 1, 64)
        };
        let segment = [header.to_bytes().as_slice(), b"hello"].concat();
        self.protocol(IpNumber::TCP.0, segment)
    }

    /// A UDP datagram with some bytes in it.
    pub fn udp(self, source_port: u16, destination_port: u16) -> Frame {
        let payload = b"hello";
        let length = (UdpHeader::LEN + payload.len()) as u16;
        let header = UdpHeader { source_port, destination_port, length, checksum: 0 };
        self.protocol(IpNumber::UDP.0, [header.to_bytes().as_slice(), payload].concat())
    }

    /// An SCTP packet without a chunk.
    pub fn sctp(self, source_port: u16, destination_port: u16) -> Frame {
        let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
        self.protocol(IpNumber::SCTP.0, [ports.as_slice(), &[0; 8]].concat())
    }

    /// An ICMP message of IPv4.
    pub fn icmp(self, kind: u8, code: u8) -> Frame {
        self.protocol(IpNumber::ICMP.0, [kind, code, 0, 0, 0, 1, 0, 1])
    }

    /// An ICMPv6 message: what stands behind the checksum is `body`, at least four bytes.
    pub fn icmp6(self, kind: u8, body: &[u8]) -> Frame {
        self.protocol(IpNumber::IPV6_ICMP.0, [&[kind, 0, 0, 0], body].concat())
    }

    /// Any protocol.
    pub fn protocol(mut self, protocol: u8, packet: impl Into<Vec<u8>>) -> Frame {
        self.protocol = protocol;
        self.transport = packet.into();
        self
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (ethertype, network) = self.network_bytes();
        if self.ethernet {
            bytes.extend(self.link_bytes(ethertype));
        }
        bytes.extend(network);
        bytes.truncate(self.length);
        bytes
    }

    fn link_bytes(&self, ethertype: u16) -> Vec<u8> {
        let types: Vec<u16> = self.vlans.iter().map(|(tag, _)| *tag).chain([ethertype]).collect();
        let ethernet = Ethernet2Header {
            source: SENDER_MAC,
            destination: if ethertype == TYPE_ARP { [0xff; 6] } else { RECEIVER_MAC },
            ether_type: EtherType(types[0]),
        };
        let mut bytes = ethernet.to_bytes().to_vec();
        for ((_, id), inner) in self.vlans.iter().zip(&types[1..]) {
            let tag = SingleVlanHeader {
                vlan_id: VlanId::try_new(*id).expect("12 bits"),
                ether_type: EtherType(*inner),
                ..SingleVlanHeader::default()
            };
            bytes.extend(tag.to_bytes());
        }
        bytes
    }

    fn network_bytes(&self) -> (u16, Vec<u8>) {
        let transport = self.transport_bytes();
        let mut chain = Vec::new();
        let kinds = self.extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]);
        for ((_, header), next) in self.extensions.iter().zip(kinds.clone().skip(1)) {
            chain.push(next);
            chain.extend(&header[1..]);
        }
        let first = IpNumber(kinds.clone().next().expect("at least the transport"));
        let payload = [chain, transport].concat();
        match &self.network {
            Network::Ipv4(ip) => {
                let mut ip = ip.clone();
                ip.protocol = first;
                ip.set_payload_len(payload.len()).expect("a packet of 64 KiB at most");
                ip.header_checksum = ip.calc_header_checksum();
                (TYPE_IPV4, [ip.to_bytes().as_slice(), &payload].concat())
            }
            Network::Ipv6(ip) => {
                let mut ip = ip.clone();
                ip.next_header = first;
                ip.set_payload_length(payload.len()).expect("a packet of 64 KiB at most");
                (TYPE_IPV6, [ip.to_bytes().as_slice(), &payload].concat())
            }
            Network::Other(ethertype, bytes) => (*ethertype, bytes.clone()),
        }
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let mut bytes = self.transport.clone();
        let at = match IpNumber(self.protocol) {
            IpNumber::TCP => 16,
            IpNumber::UDP => 6,
            IpNumber::ICMP | IpNumber::IPV6_ICMP => 2,
            _ => return bytes,
        };
        let mut sum = Sum16BitWords::new().add_slice(&bytes);
        let pseudo_header = match &self.network {
            _ if self.protocol == IpNumber::ICMP.0 => Vec::new(),
            Network::Ipv4(ip) => [ip.source, ip.destination].concat(),
            Network::Ipv6(ip) => [ip.source, ip.destination].concat(),
            Network::Other(..) => return bytes,
        };
        if !pseudo_header.is_empty() {
            sum = sum
                .add_slice(&pseudo_header)
                .add_2bytes([0, self.protocol])
                .add_2bytes((bytes.len() as u16).to_be_bytes());
        }
        if let Some(field) = bytes.get_mut(at..at + 2) {
            field.copy_from_slice(&sum.ones_complement().to_ne_bytes());
        }
        bytes
    }
}

/// Messages of neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, 3810).
impl Frame {
    pub fn router_solicitation(self) -> Frame {
        self.icmp6(133, &[0; 4])
    }

    pub fn router_advertisement(self) -> Frame {
        self.icmp6(134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    pub fn neighbour_solicitation(self, target: Ipv6Addr) -> Frame {
        self.icmp6(135, &[&[0; 4], target.octets().as_slice()].concat())
    }

    pub fn neighbour_advertisement(self, target: Ipv6Addr) -> Frame {
        self.icmp6(136, &[&[0x60, 0, 0, 0], target.octets().as_slice()].concat())
    }

    pub fn redirect(self, target: Ipv6Addr) -> Frame {
        let target = target.octets();
        self.icmp6(137, &[&[0; 4], target.as_slice(), &target].concat())
    }

    /// The second version, which every host sends.
    pub fn listener_report(self) -> Frame {
        self.icmp6(143, &[0; 4])
    }
}
