//! The packet that `explain` is asked about.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::cli::event::FLAGS;
use crate::model::frame::Frame;
use crate::model::protocol;
use crate::model::rule::L4;
use crate::ops::explain::Packet;

#[derive(clap::Args)]
#[group(id = "explained_packet")]
pub struct Args {
    /// Its source address
    #[arg(long, value_name = "ADDR", required_unless_present = "packet", requires = "dst")]
    src: Option<IpAddr>,
    /// Its destination address
    #[arg(long, value_name = "ADDR", required_unless_present = "packet", requires = "src")]
    dst: Option<IpAddr>,
    /// tcp, udp, sctp, icmp, icmp6 or a number; by default tcp if there are ports, else an echo
    #[arg(long, value_name = "PROTO", value_parser = parse_protocol)]
    proto: Option<u8>,
    /// Its source port, or the identifier of an echo request
    #[arg(long, value_name = "PORT")]
    sport: Option<u16>,
    /// Its destination port, which tcp, udp and sctp must have
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    /// Of tcp: fin, syn, rst, psh, ack, urg with commas between them, or none; by default syn
    #[arg(long, value_name = "FLAGS", value_parser = parse_flags)]
    tcp_flags: Option<u8>,
    /// Of icmp and icmp6: its number; by default that of an echo request
    #[arg(long, value_name = "N")]
    icmp_type: Option<u8>,
    /// The whole packet in hexadecimal: from the Ethernet header on, or from the IP header on a
    /// device without one
    #[arg(
        long,
        value_name = "HEX",
        value_parser = parse_hex,
        conflicts_with_all = ["src", "dst", "proto", "sport", "dport", "tcp_flags", "icmp_type"]
    )]
    packet: Option<Bytes>,
}

#[derive(Debug, Clone)]
struct Bytes(Vec<u8>);

const SYN: u8 = 1 << 1;
const SOME_PORT: u16 = 40000;

impl Args {
    /// The packet.
    pub fn packet(&self) -> Result<Packet> {
        if let Some(Bytes(bytes)) = &self.packet {
            return Ok(Packet::Bytes(bytes.clone()));
        }
        let (source, destination) = self.src.zip(self.dst).context("no address")?;
        let protocol = self.protocol(source.is_ipv4());
        let has_ports = protocol::has_ports(protocol);
        ensure!(
            !has_ports || self.dport.is_some(),
            "a packet of tcp, udp or sctp has a destination port; say --dport"
        );
        self.check_parts(protocol, source.is_ipv4())?;
        let (echo, _) = protocol::echo_of(source.is_ipv4());
        Ok(Packet::Frame(Frame {
            macs: None,
            source,
            destination,
            protocol,
            sport: self.sport.unwrap_or(if has_ports { SOME_PORT } else { 0 }),
            dport: self.dport.unwrap_or(0),
            tcp_flags: self.tcp_flags.unwrap_or(SYN),
            icmp_type: self.icmp_type.unwrap_or(echo),
        }))
    }

    /// What the packet has no place for would be an answer about another one.
    fn check_parts(&self, protocol: u8, is_ipv4: bool) -> Result<()> {
        let is_icmp = protocol::has_types(protocol);
        let has_ports = protocol::has_ports(protocol);
        for (given, flag, fits, of) in [
            (self.sport.is_some(), "--sport", has_ports || is_icmp, "tcp, udp, sctp and echoes"),
            (self.dport.is_some(), "--dport", has_ports, "tcp, udp and sctp"),
            (self.tcp_flags.is_some(), "--tcp-flags", protocol == protocol::TCP, "tcp"),
            (self.icmp_type.is_some(), "--icmp-type", is_icmp, "icmp and icmp6"),
        ] {
            ensure!(
                !given || fits,
                "{flag} is for {of}, and this packet is {}; leave it out, or say another --proto",
                L4::Protocol(protocol)
            );
        }
        ensure!(
            !is_icmp || protocol == protocol::icmp_of(is_ipv4),
            "{} is not for addresses of this family; leave out --proto, or give others",
            L4::Protocol(protocol)
        );
        Ok(())
    }

    fn protocol(&self, is_ipv4: bool) -> u8 {
        let icmp = protocol::icmp_of(is_ipv4);
        let has_ports = self.dport.is_some() || self.sport.is_some();
        self.proto.unwrap_or(match self.icmp_type.is_none() && has_ports {
            true => protocol::TCP,
            false => icmp,
        })
    }
}

fn parse_protocol(text: &str) -> Result<u8, String> {
    protocol::by_name(text).or_else(|| text.parse().ok()).ok_or_else(|| {
        format!("`{text}` is no protocol; write tcp, udp, sctp, icmp, icmp6 or a number")
    })
}

fn parse_flags(text: &str) -> Result<u8, String> {
    if text == "none" {
        return Ok(0);
    }
    text.split(',').try_fold(0, |flags, name| {
        let bit = FLAGS.iter().position(|known| *known == name.to_ascii_lowercase());
        let bit = bit.ok_or_else(|| {
            format!("`{name}` is no flag; write {} or none, such as syn,ack", FLAGS.join(", "))
        })?;
        Ok(flags | 1 << bit)
    })
}

fn parse_hex(text: &str) -> Result<Bytes, String> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).ok_or_else(|| format!("`{c}` is no hexadecimal digit")))
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err("half a byte is missing: two digits make one".to_owned());
    }
    Ok(Bytes(digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()))
}
