//! A packet from what a person says of it.

use std::net::IpAddr;

/// The numbers of IP protocols that have a header here.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMP6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

const ECHO_IDENTIFIER: u16 = 1;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// A packet with one address of each end, of the same family.
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
    /// With all lengths and checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut frame = Vec::new();
        if let Some([destination, source]) = self.macs {
            frame.extend(destination);
            frame.extend(source);
            frame.extend(if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        }
        frame.extend(self.network(transport.len() as u16));
        frame.extend(transport);
        frame
    }

    fn network(&self, length: u16) -> Vec<u8> {
        const HOPS: u8 = 64;
        let mut header = match self.source {
            IpAddr::V4(_) => {
                let [high, low] = (20 + length).to_be_bytes();
                vec![0x45, 0, high, low, 0, 0, 0, 0, HOPS, self.protocol, 0, 0]
            }
            IpAddr::V6(_) => {
                let [high, low] = length.to_be_bytes();
                vec![0x60, 0, 0, 0, high, low, self.protocol, HOPS]
            }
        };
        header.extend(self.addresses());
        if self.source.is_ipv4() {
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
        }
        header
    }

    fn addresses(&self) -> Vec<u8> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        [octets(self.source), octets(self.destination)].concat()
    }

    fn transport(&self) -> Vec<u8> {
        let ports = [self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat();
        let (mut header, at) = match self.protocol {
            TCP => {
                let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0];
                ([&ports[..], &rest].concat(), 16)
            }
            UDP => ([&ports[..], &[0, 8, 0, 0]].concat(), 6),
            SCTP => {
                let mut header = [&ports[..], &[0; 8]].concat();
                let sum = crc32c(&header).to_le_bytes();
                header[8..].copy_from_slice(&sum);
                return header;
            }
            ICMP | ICMP6 => {
                let identifier = if self.sport == 0 { ECHO_IDENTIFIER } else { self.sport };
                let [high, low] = identifier.to_be_bytes();
                let mut header = vec![self.icmp_type, 0, 0, 0, high, low, 0, 1];
                header.extend(self.target());
                (header, 2)
            }
            _ => return Vec::new(),
        };
        let mut summed = match self.protocol {
            ICMP => Vec::new(),
            _ => self.addresses(),
        };
        if self.protocol != ICMP {
            summed.extend((header.len() as u32).to_be_bytes());
            summed.extend([0, 0, 0, self.protocol]);
        }
        summed.extend(&header);
        let sum = checksum(&summed);
        header[at..at + 2].copy_from_slice(&sum);
        header
    }

    /// Whom a message of neighbour discovery is about.
    fn target(&self) -> Vec<u8> {
        let about = match (self.protocol, self.icmp_type) {
            (ICMP6, NEIGHBOUR_SOLICITATION) => self.destination,
            (ICMP6, NEIGHBOUR_ADVERTISEMENT) => self.source,
            _ => return Vec::new(),
        };
        match about {
            IpAddr::V6(v6) => v6.octets().to_vec(),
            IpAddr::V4(_) => Vec::new(),
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn frame(source: &str, destination: &str, protocol: u8) -> Frame {
        Frame {
            macs: Some([[2; 6], [4; 6]]),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            sport: 40000,
            dport: 443,
            tcp_flags: 0x12,
            icmp_type: 8,
        }
    }

    fn built(builder: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        builder(&mut bytes);
        bytes
    }

    #[test]
    fn another_builder_makes_the_same_with_all_its_sums() {
        let v4 =
            || PacketBuilder::ethernet2([4; 6], [2; 6]).ipv4([10, 1, 0, 10], [10, 2, 0, 10], 64);
        let mut addresses = [[0; 16]; 2];
        for (address, subnet) in addresses.iter_mut().zip([1, 2]) {
            address[..4].copy_from_slice(&[0xfd, 0, 0, subnet]);
            address[15] = 0x10;
        }
        let v6 = || PacketBuilder::ethernet2([4; 6], [2; 6]).ipv6(addresses[0], addresses[1], 64);
        let (a, b) = (("10.1.0.10", "10.2.0.10"), ("fd00:1::10", "fd00:2::10"));
        for (own, theirs) in [
            (frame(a.0, a.1, UDP), built(|to| v4().udp(40000, 443).write(to, &[]).unwrap())),
            (frame(b.0, b.1, UDP), built(|to| v6().udp(40000, 443).write(to, &[]).unwrap())),
            (frame(a.0, a.1, TCP), {
                built(|to| v4().tcp(40000, 443, 1, 0xffff).syn().ack(0).write(to, &[]).unwrap())
            }),
            (frame(b.0, b.1, TCP), {
                built(|to| v6().tcp(40000, 443, 1, 0xffff).syn().ack(0).write(to, &[]).unwrap())
            }),
        ] {
            let transport = if own.source.is_ipv4() { 34 } else { 54 };
            let bytes = own.bytes();
            assert_eq!(bytes[..14], theirs[..14]);
            assert_eq!(bytes[transport..], theirs[transport..], "{own:?}");
            assert_eq!(bytes.len(), theirs.len());
        }
    }

    #[test]
    fn a_checksum_over_a_whole_message_with_it_is_zero() {
        let bytes = frame("10.1.0.10", "10.2.0.10", ICMP).bytes();
        assert_eq!(checksum(&bytes[14..34]), [0, 0]);
        assert_eq!(checksum(&bytes[34..]), [0, 0]);
    }

    #[test]
    fn the_crc_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_device_without_ethernet_gets_the_ip_header_first() {
        let bytes = Frame { macs: None, ..frame("10.1.0.10", "10.2.0.10", 47) }.bytes();
        assert_eq!((bytes[0], bytes.len()), (0x45, 20));
    }
}
