//! Each program on single packets, in the kernel (BPF_PROG_TEST_RUN). One file for each concept.
//!
//! The kernel builds the packet: at least 14 bytes, all linear, no tag outside the frame, and no IP
//! header cut short right behind the Ethernet header. What needs one of these is `e2e`'s.

mod agreement;
mod arp;
mod cluster_lines;
mod conntrack;
mod dhcp;
mod events;
mod explain;
mod flow_label;
mod fragments;
mod generations;
mod host_firewall;
mod icmp;
mod ipcache;
mod ipcache_index;
mod l3;
mod local_delivery;
mod netdev;
mod nics;
mod parsing;
mod policy_property;
mod prefixes;
mod pruning;
mod questions;
mod races;
mod random_frames;
mod resolution;
mod room;
mod rules;
mod scopes;
mod source;
mod stamping;
mod unconfigured;
mod verdicts;
mod void_rules;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A workload's addresses, or a NIC's.
const OWN4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x10);
/// Somebody else's.
const PEER4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 10);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x10);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x10);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The same packet in both families.
const OWN_TO_PEER: [(IpAddr, IpAddr); 2] =
    [(IpAddr::V4(OWN4), IpAddr::V4(PEER4)), (IpAddr::V6(OWN6), IpAddr::V6(PEER6))];
const PEER_TO_OWN: [(IpAddr, IpAddr); 2] =
    [(IpAddr::V4(PEER4), IpAddr::V4(OWN4)), (IpAddr::V6(PEER6), IpAddr::V6(OWN6))];

/// An identity, and its mark by DESIGN's own numbers.
const ID: u32 = 1234;
const ID_MARK: u32 = 0x04d2_0f00;
/// One of more than 16 bits.
const WIDE_ID: u32 = 199_472;
const WIDE_MARK: u32 = 0x0b30_0f03;

/// A mark of each of our magics, with payload around it.
const OUR_MARKS: [u32; 7] = [
    0x1f90_0200, // TO_PROXY
    0x0b30_0a03, // PROXY_INGRESS
    0x0b30_0b03, // PROXY_EGRESS
    0x0000_0c00, // HOST
    0x0000_0d00, // DECRYPT
    0x0b30_0e03, // ENCRYPT
    0x0b30_0f03, // IDENTITY
];
/// Marks of others: Tailscale, a multicast listener report's garbage, kube-proxy, SNAT_DONE old and
/// new, magics that nobody has defined.
const FOREIGN_MARKS: [u32; 8] =
    [0x0008_0000, 0xd4, 0x4000, 0x8000, 0x0300, 0x1500, 0x0100, 0xffff_09ff];

/// Bits that belong to others in every mark.
const NOT_OURS: u32 = 0xf000;
