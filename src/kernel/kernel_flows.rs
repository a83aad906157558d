//! The kernel's own conntrack, by ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h): the
//! flows of this network namespace.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use log::debug;
use netlink_packet_core::{
    DecodeError, NlasIterator, parse_ip, parse_u8, parse_u16_be, parse_u32_be,
};

pub use crate::kernel::netlink::Answer;
use crate::kernel::netlink::netfilter::{self, Listed};
use crate::model::protocol::{TCP, UDP, echo_of, has_ports, has_types};

/// How many flows the namespace has; there only where nf_conntrack is loaded.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_ZONE: u16 = 18;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;

/// `enum ip_conntrack_status`.
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_ASSURED: u32 = 1 << 2;
const IPS_DYING: u32 = 1 << 9;

/// `enum tcp_conntrack`.
const TCP_CONNTRACK_ESTABLISHED: u8 = 3;
const TCP_CONNTRACK_LAST_ACK: u8 = 6;

/// What the kernel gives a connection whose handshake it has not seen (`tcp_new()` in
/// net/netfilter/nf_conntrack_proto_tcp.c).
const IP_CT_TCP_FLAG_BE_LIBERAL: u8 = 1 << 3;

/// A TCP connection that is established, or closing by one end; a flow of any other protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFlow {
    /// IP protocol. Of ICMP only echoes are flows.
    pub protocol: u8,
    /// As its first packet came, before any translation.
    pub original: Tuple,
    /// As its answers come, before that is undone: from the real responder, to the address that it sees.
    pub reply: Tuple,
    /// Its first packet is not the one that conntrack saw first, and perhaps of the other end.
    pub midstream: bool,
    /// Both ends have spoken; of TCP always.
    pub is_answered: bool,
    /// Until the kernel forgets it, if no packet comes.
    pub seconds_left: Option<u32>,
}

impl KernelFlow {
    /// Whether an endpoint that begins to enforce takes such a flow over.
    pub fn may_be_adopted(&self) -> bool {
        matches!(self.protocol, TCP | UDP) && self.is_answered
    }
}

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Address and port. Of an echo its identifier, and one more at the end that is asked, as in cilmark's own keys.
    pub source: SocketAddr,
    /// The same.
    pub destination: SocketAddr,
}

/// The flows of TCP and UDP that both ends have spoken in, of the calling thread's network namespace.
pub fn read() -> Result<Vec<KernelFlow>> {
    let mut flows = Vec::new();
    for_each(|flow| match flow {
        Answer::Again => flows.clear(),
        Answer::One(flow) if flow.may_be_adopted() => flows.push(flow),
        Answer::One(_) => {}
    })?;
    Ok(flows)
}

/// Each flow of the calling thread's network namespace, one after the other, and whether any is tracked there. Where
/// nf_conntrack has none, or is not loaded, nobody is asked: asking would load modules.
pub fn for_each(mut handle: impl FnMut(Answer<KernelFlow>)) -> Result<bool> {
    let count = fs::read_to_string(COUNT).unwrap_or_default();
    if matches!(count.trim(), "" | "0") {
        debug!("the kernel tracks no connections here");
        return Ok(false);
    }
    netfilter::for_each(|answer| match answer {
        Answer::Again => handle(Answer::Again),
        Answer::One(Some(flow)) => handle(Answer::One(flow)),
        Answer::One(None) => {}
    })
    .context("ask the kernel's conntrack")?;
    Ok(true)
}

/// `None` if it is over, has not begun, or is another network's.
impl Listed for Option<KernelFlow> {
    /// `IPCTNL_MSG_CT_GET` of `NFNL_SUBSYS_CTNETLINK`.
    const GET: u16 = 1 << 8 | 1;

    fn read(attributes: &[u8]) -> Result<Option<KernelFlow>, DecodeError> {
        flow(attributes)
    }
}

/// What a flow's attributes say, as far as it matters.
#[derive(Default)]
struct Facts {
    original: Half,
    reply: Half,
    status: u32,
    tcp_state: u8,
    tcp_flags: u8,
    seconds_left: Option<u32>,
    in_a_zone: bool,
}

/// A tuple, as far as it was read.
#[derive(Default)]
struct Half {
    protocol: u8,
    addresses: [Option<IpAddr>; 2],
    ports: [u16; 2],
    /// Of ICMP, with the identifier of an echo.
    kind: Option<u8>,
    echo: u16,
}

impl Half {
    fn tuple(&self) -> Option<Tuple> {
        let [source, destination] = self.addresses;
        let (source, destination) = (source?, destination?);
        let (asker, asked) = (self.echo, self.echo.wrapping_add(1));
        let [from, to] = match self.kind {
            Some(kind) if kind == echo_of(source.is_ipv4()).0 => [asker, asked],
            Some(_) => [asked, asker],
            None if has_ports(self.protocol) => self.ports,
            // GRE has its keys there.
            None => [0, 0],
        };
        Some(Tuple {
            source: SocketAddr::new(source, from),
            destination: SocketAddr::new(destination, to),
        })
    }
}

fn flow(attributes: &[u8]) -> Result<Option<KernelFlow>, DecodeError> {
    let mut facts = Facts::default();
    each(attributes, |kind, value| {
        match kind {
            CTA_TUPLE_ORIG => read_half(value, &mut facts.original, &mut facts.in_a_zone)?,
            CTA_TUPLE_REPLY => read_half(value, &mut facts.reply, &mut facts.in_a_zone)?,
            CTA_STATUS => facts.status = parse_u32_be(value)?,
            CTA_PROTOINFO => read_tcp(value, &mut facts)?,
            CTA_TIMEOUT => facts.seconds_left = Some(parse_u32_be(value)?),
            CTA_ZONE => facts.in_a_zone = true,
            _ => {}
        }
        Ok(())
    })?;
    let protocol = facts.original.protocol;
    let tuples = facts.original.tuple().zip(facts.reply.tuple());
    Ok(tuples.filter(|_| is_up(&facts)).map(|(original, reply)| KernelFlow {
        protocol,
        original,
        reply,
        midstream: protocol == TCP && facts.tcp_flags & IP_CT_TCP_FLAG_BE_LIBERAL != 0,
        is_answered: facts.status & IPS_SEEN_REPLY != 0,
        seconds_left: facts.seconds_left,
    }))
}

/// Neither end is done. Addresses in a zone may be those of another network.
fn is_up(facts: &Facts) -> bool {
    let under_way = match facts.original.protocol {
        TCP => {
            let open = TCP_CONNTRACK_ESTABLISHED..=TCP_CONNTRACK_LAST_ACK;
            let by_both = IPS_ASSURED | IPS_SEEN_REPLY;
            facts.status & by_both == by_both && open.contains(&facts.tcp_state)
        }
        protocol if has_types(protocol) => {
            let is_ipv4 = facts.original.addresses[0].is_some_and(|source| source.is_ipv4());
            facts.original.kind == Some(echo_of(is_ipv4).0)
        }
        _ => true,
    };
    under_way && facts.status & IPS_DYING == 0 && !facts.in_a_zone
}

fn read_half(bytes: &[u8], half: &mut Half, in_a_zone: &mut bool) -> Result<(), DecodeError> {
    each(bytes, |kind, value| match kind {
        CTA_TUPLE_IP => each(value, |kind, value| {
            match kind {
                CTA_IP_V4_SRC | CTA_IP_V6_SRC => half.addresses[0] = Some(parse_ip(value)?),
                CTA_IP_V4_DST | CTA_IP_V6_DST => half.addresses[1] = Some(parse_ip(value)?),
                _ => {}
            }
            Ok(())
        }),
        CTA_TUPLE_PROTO => each(value, |kind, value| {
            match kind {
                CTA_PROTO_NUM => half.protocol = parse_u8(value)?,
                CTA_PROTO_SRC_PORT => half.ports[0] = parse_u16_be(value)?,
                CTA_PROTO_DST_PORT => half.ports[1] = parse_u16_be(value)?,
                CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => half.echo = parse_u16_be(value)?,
                CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => half.kind = Some(parse_u8(value)?),
                _ => {}
            }
            Ok(())
        }),
        CTA_TUPLE_ZONE => {
            *in_a_zone = true;
            Ok(())
        }
        _ => Ok(()),
    })
}

fn read_tcp(bytes: &[u8], facts: &mut Facts) -> Result<(), DecodeError> {
    each(bytes, |kind, value| match kind {
        CTA_PROTOINFO_TCP => each(value, |kind, value| {
            match kind {
                CTA_PROTOINFO_TCP_STATE => facts.tcp_state = parse_u8(value)?,
                // And which of them are meant.
                CTA_PROTOINFO_TCP_FLAGS_ORIGINAL => {
                    facts.tcp_flags = value.first().copied().unwrap_or_default();
                }
                _ => {}
            }
            Ok(())
        }),
        _ => Ok(()),
    })
}

/// Goes through attributes that follow each other.
fn each(
    attributes: &[u8],
    mut read: impl FnMut(u16, &[u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    NlasIterator::new(attributes).try_for_each(|attribute| {
        let attribute = attribute?;
        read(attribute.kind(), attribute.value())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: impl AsRef<[u8]>) -> Vec<u8> {
        let value = value.as_ref();
        let length = (value.len() + 4) as u16;
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn half(kind: u16, protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let addresses = [attribute(CTA_IP_V4_SRC, from.0), attribute(CTA_IP_V4_DST, to.0)];
        let ports = [
            attribute(CTA_PROTO_NUM, [protocol]),
            attribute(CTA_PROTO_SRC_PORT, from.1.to_be_bytes()),
            attribute(CTA_PROTO_DST_PORT, to.1.to_be_bytes()),
        ];
        let ip = attribute(CTA_TUPLE_IP, addresses.concat());
        attribute(kind, [ip, attribute(CTA_TUPLE_PROTO, ports.concat())].concat())
    }

    /// A flow of 10.0.0.2, masqueraded, with more attributes than its tuples.
    fn parsed(protocol: u8, status: u32, more: &[Vec<u8>]) -> Option<KernelFlow> {
        let (here, there, outside) = ([10, 0, 0, 2], [192, 0, 2, 7], [192, 0, 2, 1]);
        let bytes = [
            half(CTA_TUPLE_ORIG, protocol, (here, 4000), (there, 53)),
            half(CTA_TUPLE_REPLY, protocol, (there, 53), (outside, 1024)),
            attribute(CTA_STATUS, status.to_be_bytes()),
            attribute(CTA_TIMEOUT, 119_u32.to_be_bytes()),
            more.concat(),
        ];
        flow(&bytes.concat()).expect("well-formed")
    }

    fn tcp(state: u8, flags: u8) -> Vec<u8> {
        let facts = [
            attribute(CTA_PROTOINFO_TCP_STATE, [state]),
            attribute(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, [flags, 0xff]),
        ];
        attribute(CTA_PROTOINFO, attribute(CTA_PROTOINFO_TCP, facts.concat()))
    }

    const ANSWERED: u32 = 1 << 3 | IPS_SEEN_REPLY;

    #[test]
    fn both_tuples_of_a_flow_are_read() {
        let flow = parsed(UDP, ANSWERED, &[]).expect("it is up");
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(flow.original.source, end("10.0.0.2:4000"));
        assert_eq!(flow.original.destination, end("192.0.2.7:53"));
        assert_eq!(flow.reply.source, end("192.0.2.7:53"));
        assert_eq!(flow.reply.destination, end("192.0.2.1:1024"));
        assert_eq!((flow.protocol, flow.midstream, flow.seconds_left), (UDP, false, Some(119)));
    }

    #[test]
    fn what_dies_is_not_up_and_what_has_no_answer_says_so() {
        assert!(!parsed(UDP, 1 << 3, &[]).expect("it is up").is_answered);
        assert_eq!(parsed(UDP, ANSWERED | IPS_DYING, &[]), None);
    }

    #[test]
    fn of_what_has_no_ports_only_echoes_have_numbers() {
        let tunnel = parsed(47, ANSWERED, &[]).expect("it is up");
        assert_eq!([tunnel.original.source.port(), tunnel.original.destination.port()], [0, 0]);
        let echo = |kind: u16, from: [u8; 4], to: [u8; 4], message: u8| {
            let addresses = [attribute(CTA_IP_V4_SRC, from), attribute(CTA_IP_V4_DST, to)];
            let facts = [
                attribute(CTA_PROTO_NUM, [1]),
                attribute(CTA_PROTO_ICMP_ID, 0xffff_u16.to_be_bytes()),
                attribute(CTA_PROTO_ICMP_TYPE, [message]),
            ];
            let ip = attribute(CTA_TUPLE_IP, addresses.concat());
            attribute(kind, [ip, attribute(CTA_TUPLE_PROTO, facts.concat())].concat())
        };
        let of = |request: u8| {
            let bytes = [
                echo(CTA_TUPLE_ORIG, [10, 0, 0, 2], [192, 0, 2, 7], request),
                echo(CTA_TUPLE_REPLY, [192, 0, 2, 7], [10, 0, 0, 2], 0),
                attribute(CTA_STATUS, ANSWERED.to_be_bytes()),
            ];
            flow(&bytes.concat()).expect("well-formed")
        };
        let ping = of(8).expect("it is up");
        assert_eq!([ping.original.source.port(), ping.original.destination.port()], [0xffff, 0]);
        assert_eq!([ping.reply.source.port(), ping.reply.destination.port()], [0, 0xffff]);
        assert_eq!(of(13), None, "a timestamp");
    }

    #[test]
    fn a_connection_is_up_from_its_handshake_to_the_last_acknowledgement() {
        for state in 0..10 {
            let is_up = |status| parsed(TCP, status, &[tcp(state, 0)]).is_some();
            assert_eq!(is_up(ANSWERED | IPS_ASSURED), (3..=6).contains(&state), "{state}");
            assert!(!is_up(ANSWERED), "{state}, by one end's word");
        }
    }

    #[test]
    fn a_connection_without_a_handshake_began_nobody_knows_where() {
        let midstream = |flags| {
            let flow = parsed(TCP, ANSWERED | IPS_ASSURED, &[tcp(3, flags)]);
            flow.expect("it is up").midstream
        };
        assert_eq!([0x03, 0x0a].map(midstream), [false, true]);
    }

    #[test]
    fn a_zone_is_another_network() {
        let zone = attribute(CTA_ZONE, 7_u16.to_be_bytes());
        assert_eq!(parsed(UDP, ANSWERED, &[zone]), None);
        let one_way = attribute(CTA_TUPLE_ORIG, attribute(CTA_TUPLE_ZONE, 7_u16.to_be_bytes()));
        assert_eq!(parsed(UDP, ANSWERED, &[one_way]), None);
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let bytes = half(CTA_TUPLE_ORIG, UDP, ([10, 0, 0, 2], 1), ([10, 0, 0, 3], 2));
        assert!(flow(&bytes[..bytes.len() - 4]).is_err());
        assert!(flow(&attribute(CTA_STATUS, [0; 3])).is_err());
    }
}
