//! Asking rtnetlink (include/uapi/linux/netlink.h, if_link.h, if_addr.h, rtnetlink.h).
//!
//! Names are bytes to the kernel, and text to the crate that reads its answers, which fails at the first
//! that is none. So attributes that nobody asked for are left out before, and a name becomes text.

use anyhow::Result;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::kernel::netlink::{self, HEADER};
use crate::model::text;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_ALT_IFNAME: u16 = 53;
/// IFNAMSIZ without the final zero.
const NAME_MAX: usize = 15;
/// The bits of an attribute's type that say which one it is.
const TYPE: u16 = 0x3fff;

/// By the type of a message: the bytes before its attributes, and those that are read. Of a link its
/// address, name, parent, master, kind, whether the parent is elsewhere, and its XDP programs; of an address itself; of a
/// route its destination and the devices that it leaves by; of a routing rule its priority, mark, table and mask; of a
/// qdisc its kind; of a filter its kind, chain, where it redirects packets to, and if it is of BPF its program.
const KNOWN: [(u16, usize, &[u16]); 6] = [
    (16, 16, &[1, IFLA_IFNAME, 5, 10, IFLA_LINKINFO, 37, 43]),
    (20, 8, &[1, 2, 8]),
    (24, 12, &[1, 4, 9]),
    (32, 12, &[6, 10, 15, 16]),
    (36, 20, &[TCA_KIND]),
    (44, 20, &[TCA_KIND, TCA_OPTIONS, 11]),
];

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// TCA_BPF_ID.
const KNOWN_OF_BPF: [u16; 1] = [11];

/// Where a filter keeps its actions, by its kind (include/uapi/linux/pkt_cls.h).
const ACTIONS: [(&[u8], u16); 6] = [
    (b"bpf\0", 1),
    (b"matchall\0", 2),
    (b"flower\0", 3),
    (b"basic\0", 3),
    (b"fw\0", 4),
    (b"u32\0", 7),
];

/// An attribute of our own, in place of all that a filter has of actions: the index of the device that the first redirect
/// among them sends packets to.
pub const REDIRECTS_TO: u16 = TYPE;

/// IFLA_INFO_KIND.
const KNOWN_OF_LINKINFO: [u16; 1] = [1];

/// The name that a device is asked for by, its own or an alternative one; only the latter may be long.
pub fn name_attribute(name: &str) -> LinkAttribute {
    let mut bytes = text::to_bytes(name);
    let kind = if bytes.len() > NAME_MAX { IFLA_ALT_IFNAME } else { IFLA_IFNAME };
    bytes.push(0);
    LinkAttribute::Other(DefaultNla::new(kind, bytes))
}

/// Asks the kernel and collects its answers; callers look at each answer again.
pub fn request(query: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
    netlink::request(NETLINK_ROUTE, query, flags, Some(only_known))
}

/// A message without the attributes that nobody reads.
fn only_known(message: &[u8]) -> Vec<u8> {
    let mut known = message.to_vec();
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let found = KNOWN.iter().find(|(of, fixed, _)| *of == kind && message.len() >= HEADER + fixed);
    let Some((kind, fixed, types)) = found else { return known };
    known.truncate(HEADER + fixed);
    let mut of_filter: &[u8] = &[];
    for (attribute, value) in attributes(&message[HEADER + fixed..], types) {
        match (*kind, attribute & TYPE) {
            (16, IFLA_IFNAME) => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                push(&mut known, attribute, &[text::from_bytes(name).as_bytes(), &[0]].concat());
            }
            (16, IFLA_LINKINFO) => {
                push(&mut known, attribute, &nested(value, &KNOWN_OF_LINKINFO));
            }
            (44, TCA_KIND) => {
                of_filter = value;
                push(&mut known, attribute, value);
            }
            (44, TCA_OPTIONS) => {
                // Of another kind the same number is something else.
                if of_filter == b"bpf\0" {
                    push(&mut known, attribute, &nested(value, &KNOWN_OF_BPF));
                }
                if let Some(ifindex) = redirect(of_filter, value) {
                    push(&mut known, REDIRECTS_TO, &ifindex.to_ne_bytes());
                }
            }
            _ => push(&mut known, attribute, value),
        }
    }
    let length = known.len() as u32;
    known[..4].copy_from_slice(&length.to_ne_bytes());
    known
}

/// The device that the options of a filter redirect packets to (include/uapi/linux/tc_act/tc_mirred.h). A copy of a
/// packet that goes elsewhere is no redirect.
fn redirect(kind: &[u8], options: &[u8]) -> Option<u32> {
    let (_, actions) = ACTIONS.iter().find(|(of, _)| *of == kind)?;
    let (_, list) = *attributes(options, &[*actions]).first()?;
    // TCA_ACT_MAX_PRIO actions.
    let numbers: Vec<u16> = (1..=32).collect();
    attributes(list, &numbers).into_iter().find_map(|(_, action)| {
        // TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_MIRRED_PARMS.
        let (_, kind) = *attributes(action, &[1]).first()?;
        let (_, options) = *attributes(action, &[2]).first()?;
        let (_, mirred) = *attributes(options, &[2]).first()?;
        let word = |at: usize| mirred.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
        // TCA_EGRESS_REDIR and TCA_INGRESS_REDIR, behind the fields that all actions have.
        let redirects = kind == b"mirred\0" && matches!(word(20)?, 1 | 3);
        redirects.then(|| word(24)).flatten()
    })
}

/// Of attributes in an attribute, those of these types.
fn nested(value: &[u8], types: &[u16]) -> Vec<u8> {
    let mut known = Vec::new();
    for (attribute, value) in attributes(value, types) {
        push(&mut known, attribute, value);
    }
    known
}

/// The attributes of these types, with their flags.
fn attributes<'a>(mut bytes: &'a [u8], types: &[u16]) -> Vec<(u16, &'a [u8])> {
    let mut found = Vec::new();
    while let [a, b, c, d, ..] = *bytes {
        let (length, kind) = (u16::from_ne_bytes([a, b]).into(), u16::from_ne_bytes([c, d]));
        let Some(value) = bytes.get(4..length) else { break };
        if types.contains(&(kind & TYPE)) {
            found.push((kind, value));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn push(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link with these attributes.
    fn link(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = vec![0; HEADER + 16];
        message[4] = 16;
        attributes.iter().for_each(|(kind, value)| push(&mut message, *kind, value));
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message
    }

    #[test]
    fn what_nobody_reads_is_left_out_and_a_name_becomes_text() {
        let alias = 20;
        let kind = [8, 0, 1, 0, b't', b'u', b'n', 0];
        let data = [5, 0, 2, 0, 0xff, 0, 0, 0];
        let told = link(&[
            (alias, b"\xff\0"),
            (IFLA_IFNAME, b"x\xff\0"),
            (IFLA_LINKINFO, &[kind, data].concat()),
            (1, &[2, 0, 0, 0, 0, 1]),
        ]);
        let known = link(&[
            (IFLA_IFNAME, "x\u{f7ff}\0".as_bytes()),
            (IFLA_LINKINFO, &kind),
            (1, &[2, 0, 0, 0, 0, 1]),
        ]);
        assert_eq!(only_known(&told), known);
    }

    #[test]
    fn what_is_cut_off_ends_there() {
        let whole = link(&[(1, &[2, 0, 0, 0, 0, 1]), (IFLA_IFNAME, b"eth0\0")]);
        for length in HEADER..whole.len() {
            assert!(only_known(&whole[..length]).len() <= length.next_multiple_of(4));
        }
    }
}
