//! What a program has read of a packet, in words.

use crate::kernel::abi::{cm_address, cm_event};
use crate::model::protocol;
use crate::model::rule::L4;
use crate::model::wire::{self, CM_PROGRAM_NAMES};

/// The flags of TCP, from the lowest bit on.
pub const FLAGS: [&str; 6] = ["fin", "syn", "rst", "psh", "ack", "urg"];

/// An address with its port, if it has one.
pub fn socket(address: &str, port: u16) -> String {
    match port {
        0 => address.to_owned(),
        port if address.contains(':') => format!("[{address}]:{port}"),
        port => format!("{address}:{port}"),
    }
}

/// An address; `None` where there is none.
pub fn address(address: cm_address) -> Option<String> {
    address.to_ip().map(|ip| ip.to_string())
}

/// Host byte order; 0 for ICMP, where the identifier of an echo stands in its place.
pub fn port(event: &cm_event, port: u16) -> u16 {
    if protocol::has_types(event.protocol) { 0 } else { u16::from_be(port) }
}

/// The program that has met it.
pub fn program(event: &cm_event) -> &'static str {
    wire::name(CM_PROGRAM_NAMES, event.program.0).unwrap_or("?")
}

/// `tcp`, `icmp/8`, `proto/47`, `arp`, `ethertype 0x88cc`; a later fragment has no more than this.
pub fn protocol(event: &cm_event) -> String {
    let name = match u16::from_be(event.ethertype) {
        0x0806 => "arp".to_owned(),
        0x0800 | 0x86dd if protocol::has_types(event.protocol) => {
            L4::IcmpType { protocol: event.protocol, kind: event.icmp_type }.to_string()
        }
        0x0800 | 0x86dd => L4::Protocol(event.protocol).to_string(),
        ethertype => format!("ethertype {ethertype:#06x}"),
    };
    if event.fragment != 0 { format!("{name} fragment") } else { name }
}

/// Protocol, flags of TCP, and both ends.
pub fn parsed(event: &cm_event) -> String {
    let (Some(source), Some(destination)) = (address(event.source), address(event.destination))
    else {
        return protocol(event);
    };
    let flags = match event.protocol {
        protocol::TCP => format!(" {}", flag_names(event.tcp_flags)),
        _ => String::new(),
    };
    format!(
        "{}{flags} {} -> {}",
        protocol(event),
        socket(&source, u16::from_be(event.sport)),
        socket(&destination, u16::from_be(event.dport))
    )
}

/// `syn,ack`, or `none`: as it is read.
fn flag_names(flags: u8) -> String {
    let set = FLAGS.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1);
    let names: Vec<&str> = set.map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}
