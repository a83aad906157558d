//! A packet from what a person says of it.

use std::net::IpAddr;

use anyhow::{Result, bail};
use crc::{CRC_32_ISCSI, Crc};
use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep, TcpHeader,
};

use super::protocol::icmp6::{NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION};
use super::protocol::{ICMP, ICMP6, SCTP, TCP, UDP};

const HOPS: u8 = 64;
const ECHO_IDENTIFIER: u16 = 1;
/// CRC32c (RFC 9260, appendix A).
const SCTP_CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// A packet, by what a person says of it.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Destination and source of the Ethernet header; `None` for a device without one.
    pub macs: Option<[[u8; 6]; 2]>,
    /// Who sends it.
    pub source: IpAddr,
    /// For whom it is.
    pub destination: IpAddr,
    /// The IP protocol; what is not TCP, UDP, SCTP or ICMP has no header of its own.
    pub protocol: u8,
    /// Of TCP, UDP and SCTP; of an echo the identifier, if not 0.
    pub sport: u16,
    /// Of TCP, UDP and SCTP.
    pub dport: u16,
    /// Of TCP, as in its header.
    pub tcp_flags: u8,
    /// Of ICMP.
    pub icmp_type: u8,
}

impl Frame {
    /// With all lengths and checksums; an error if its addresses are of different families.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let packet = self.network()?;
        let (sport, dport) = (self.sport, self.dport);
        match (self.protocol, self.source.is_ipv4()) {
            (TCP, _) => packet.tcp_header(self.tcp_header()).write(&mut bytes, &[])?,
            (UDP, _) => packet.udp(sport, dport).write(&mut bytes, &[])?,
            (ICMP, _) => {
                packet.icmpv4_raw(self.icmp_type, 0, self.echo()).write(&mut bytes, &[])?;
            }
            (ICMP6, false) => {
                let packet = packet.icmpv6_raw(self.icmp_type, 0, self.echo());
                packet.write(&mut bytes, &self.target())?;
            }
            // Its checksum is over addresses of the other family.
            (ICMP6, true) => {
                let message = [&[self.icmp_type, 0, 0, 0], &self.echo()[..]].concat();
                packet.write(&mut bytes, IpNumber(ICMP6), &message)?;
            }
            (SCTP, _) => packet.write(&mut bytes, IpNumber(SCTP), &self.sctp_header())?,
            (protocol, _) => packet.write(&mut bytes, IpNumber(protocol), &[])?,
        }
        Ok(bytes)
    }

    fn network(&self) -> Result<PacketBuilderStep<IpHeaders>> {
        let headers = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    time_to_live: HOPS,
                    dont_fragment: false,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    hop_limit: HOPS,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, Default::default())
            }
            (source, destination) => {
                bail!("{source} and {destination} are of different families")
            }
        };
        Ok(match self.macs {
            Some([destination, source]) => {
                PacketBuilder::ethernet2(source, destination).ip(headers)
            }
            None => PacketBuilder::ip(headers),
        })
    }

    fn tcp_header(&self) -> TcpHeader {
        let has = |bit: u8| self.tcp_flags >> bit & 1 != 0;
        TcpHeader {
            fin: has(0),
            syn: has(1),
            rst: has(2),
            psh: has(3),
            ack: has(4),
            urg: has(5),
            ..TcpHeader::new(self.sport, self.dport, 1, u16::MAX)
        }
    }

    fn sctp_header(&self) -> Vec<u8> {
        let ports = [self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat();
        let tag = [0; 4];
        let sum = SCTP_CHECKSUM.checksum(&[&ports[..], &tag, &[0; 4]].concat());
        [&ports[..], &tag, &sum.to_le_bytes()].concat()
    }

    /// The identifier of an echo, and its sequence number.
    fn echo(&self) -> [u8; 4] {
        let identifier = if self.sport == 0 { ECHO_IDENTIFIER } else { self.sport };
        let [high, low] = identifier.to_be_bytes();
        [high, low, 0, 1]
    }

    /// Whom a message of neighbour discovery is about.
    fn target(&self) -> Vec<u8> {
        let about = match self.icmp_type {
            NEIGHBOUR_SOLICITATION => self.destination,
            NEIGHBOUR_ADVERTISEMENT => self.source,
            _ => return Vec::new(),
        };
        match about {
            IpAddr::V6(v6) => v6.octets().to_vec(),
            IpAddr::V4(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: [&str; 2] = ["10.1.0.10", "10.2.0.10"];
    const IPV6: [&str; 2] = ["fd00:1::10", "fd00:2::10"];

    fn frame([source, destination]: [&str; 2], protocol: u8, icmp_type: u8) -> Frame {
        Frame {
            macs: Some([[2; 6], [4; 6]]),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            sport: 40000,
            dport: 443,
            tcp_flags: 0x12,
            icmp_type,
        }
    }

    /// Recorded before a library made them.
    #[test]
    fn each_protocol_has_its_lengths_and_checksums() {
        let ethernet = ["0202020202020404040404040800", "02020202020204040404040486dd"];
        let addresses = [
            "0a01000a0a02000a",
            "fd000001000000000000000000000010fd000002000000000000000000000010",
        ];
        for (ends, protocol, kind, ip, transport) in [
            (IPV4, TCP, 0, "4500002800000000400666ba", "9c4001bb00000001000000005012fffffdbf0000"),
            (IPV4, UDP, 0, "4500001c00000000401166bb", "9c4001bb00084dcc"),
            (IPV4, SCTP, 0, "450000200000000040846644", "9c4001bb00000000a39df290"),
            (IPV4, ICMP, 8, "4500001c00000000400166cb", "08005bbe9c400001"),
            (IPV4, ICMP, 3, "4500001c00000000400166cb", "030060be9c400001"),
            (IPV4, 47, 0, "4500001400000000402f66a5", ""),
            (IPV6, TCP, 0, "6000000000140640", "9c4001bb00000001000000005012ffff17b20000"),
            (IPV6, UDP, 0, "6000000000081140", "9c4001bb000867be"),
            (IPV6, SCTP, 0, "60000000000c8440", "9c4001bb00000000a39df290"),
            (IPV6, ICMP, 8, "6000000000080140", "08005bbe9c400001"),
            (IPV6, ICMP6, 128, "6000000000083a40", "8000e9569c400001"),
            (
                IPV6,
                ICMP6,
                135,
                "6000000000183a40",
                "8700e5339c400001fd000002000000000000000000000010",
            ),
            (
                IPV6,
                ICMP6,
                136,
                "6000000000183a40",
                "8800e4349c400001fd000001000000000000000000000010",
            ),
            (IPV6, 47, 0, "6000000000002f40", ""),
        ] {
            let family = usize::from(ends == IPV6);
            let bytes = frame(ends, protocol, kind).bytes().unwrap();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let wanted = [ethernet[family], ip, addresses[family], transport].concat();
            assert_eq!(hex, wanted, "{ends:?} {protocol} {kind}");
        }
    }

    #[test]
    fn a_device_without_ethernet_gets_the_ip_header_first() {
        let bytes = Frame { macs: None, ..frame(IPV4, 47, 0) }.bytes().unwrap();
        assert_eq!((bytes[0], bytes.len()), (0x45, 20));
    }

    #[test]
    fn a_packet_is_of_one_family() {
        assert!(frame([IPV4[0], IPV6[1]], UDP, 0).bytes().is_err());
    }
}
