//! The sockets of the calling thread's network namespace, as /proc/net/tcp and its like list them
//! (Documentation/networking/proc_net_tcp.rst).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::model::protocol::{TCP, UDP};

/// `TCP_LISTEN` of include/net/tcp_states.h.
const LISTEN: &str = "0A";

/// What /proc has, with the protocol.
const TABLES: [(u8, &str); 4] = [(TCP, "tcp"), (TCP, "tcp6"), (UDP, "udp"), (UDP, "udp6")];

/// Whether a TCP socket listens on a port, on whatever address. What can't be read has none.
pub fn listens(port: u16) -> bool {
    let mut does = false;
    let found = for_each(|socket| does |= socket.listens() && socket.local.port() == port);
    found.is_ok() && does
}

/// The TCP sockets that listen, and that others than this host can reach. What can't be read has none.
pub fn listeners() -> Vec<Socket> {
    let mut listeners = Vec::new();
    let found = for_each(|socket| {
        if socket.listens() && !socket.local.ip().is_loopback() {
            listeners.push(socket);
        }
    });
    found.map(|()| listeners).unwrap_or_default()
}

/// The protocols of which somebody has a raw socket, as daemons of routing protocols do. What can't be read has none.
pub fn raw_protocols() -> HashSet<u8> {
    let tables = ["raw", "raw6"].map(|table| fs::read_to_string(path(table)).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(raw_protocol).collect()
}

/// It stands in the place of the port.
fn raw_protocol(line: &str) -> Option<u8> {
    let local = line.split_ascii_whitespace().nth(1)?;
    u8::from_str_radix(local.split_once(':')?.1, 16).ok()
}

/// Of the thread: the process may be in another namespace.
fn path(table: &str) -> String {
    format!("/proc/thread-self/net/{table}")
}

/// A socket of TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// TCP or UDP.
    pub protocol: u8,
    /// Its own end; unspecified where it takes what comes to any address.
    pub local: SocketAddr,
    /// Whom it talks to, or anybody.
    pub remote: Peer,
    /// Its own number, by which processes have it.
    pub inode: u64,
}

impl Socket {
    fn listens(&self) -> bool {
        self.protocol == TCP && self.remote == Peer::Anybody
    }
}

/// The other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Of a connection that is established, or closed by one end; of UDP, the one that it is connected to.
    One(SocketAddr),
    /// It listens, or of UDP takes datagrams of all.
    Anybody,
}

/// Each socket of TCP or UDP that listens or is connected, one after the other. IPv4 in an IPv6 socket counts as IPv4.
pub fn for_each(mut handle: impl FnMut(Socket)) -> Result<()> {
    for (protocol, table) in TABLES {
        let path = path(table);
        let file = match File::open(&path) {
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            file => file.with_context(|| format!("read {path}"))?,
        };
        let lines = BufReader::with_capacity(1 << 16, file);
        read(protocol, lines, &mut handle).with_context(|| format!("read {path}"))?;
    }
    Ok(())
}

fn read(protocol: u8, mut table: impl BufRead, handle: &mut impl FnMut(Socket)) -> io::Result<()> {
    let mut line = String::new();
    table.read_line(&mut line)?;
    loop {
        line.clear();
        if table.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if let Some(socket) = socket(protocol, &line) {
            handle(socket);
        }
    }
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`. `None` of what is neither
/// connected nor listens.
fn socket(protocol: u8, line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (end(fields.next()?)?, end(fields.next()?)?);
    let remote = match (protocol, fields.next()?) {
        // ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT.
        (TCP, "01" | "04" | "05" | "08") | (UDP, "01") => Peer::One(remote),
        // UDP has TCP_CLOSE for what is not connected.
        (TCP, LISTEN) | (UDP, "07") => Peer::Anybody,
        _ => return None,
    };
    let inode = fields.nth(5)?.parse().ok()?;
    Some(Socket { protocol, local, remote, inode })
}

/// An address, each word of it as the CPU has it, and a port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(protocol: u8, state: &str, ends: [&str; 2]) -> Option<Socket> {
        let [local, remote] = ends;
        socket(protocol, &format!("   0: {local} {remote} {state} 0:0 00:0 0 0 0 4711 1 x\n"))
    }

    #[test]
    fn only_a_socket_that_listens_does() {
        let ends = ["00000000:01BB", "00000000:0000"];
        let listens = told(TCP, LISTEN, ends).expect("a socket");
        assert!(listens.listens() && listens.inode == 4711 && listens.local.port() == 443);
        let others = [(TCP, "01"), (UDP, "07"), (UDP, "01")];
        let others = others.map(|(protocol, state)| told(protocol, state, ends).unwrap());
        assert!(others.iter().all(|other| !other.listens()));
        let states = ["02", "03", "06", "07", "0B"].map(|state| told(TCP, state, ends));
        assert_eq!(states, [None; 5]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn ends_of_both_families_are_read_and_what_is_over_is_left_out() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
             0: 010200C0:0016 070200C0:C8FC 01 0:0 00:0 0 0 0 1 1\n\
             1: 00000000:0016 00000000:0000 0A 0:0 00:0 0 0 0 2 1\n\
             2: 010200C0:0016 070200C0:C8FD 06 0:0 00:0 0 0 0 3 1\n\
             3: 0000000000000000FFFF0000010200C0:0050 0000000000000000FFFF0000070200C0:C8FE 08 0:0 00:0 0 0 0 4 1\n\
             4: 000000FD000000000000000001000000:01BB 000000FD000000000000000002000000:C8FF 01 0:0 00:0 0 0 0 5 1\n\
             5: cut\n";
        let mut sockets = Vec::new();
        read(TCP, table.as_bytes(), &mut |socket| sockets.push(socket)).unwrap();
        let told: Vec<String> = sockets
            .iter()
            .map(|it| match it.remote {
                Peer::One(remote) => format!("{} {remote}", it.local),
                Peer::Anybody => format!("{} listens", it.local),
            })
            .collect();
        assert_eq!(
            told,
            [
                "192.0.2.1:22 192.0.2.7:51452",
                "0.0.0.0:22 listens",
                "192.0.2.1:80 192.0.2.7:51454",
                "[fd00::1]:443 [fd00::2]:51455"
            ]
        );
    }

    #[test]
    fn the_protocol_of_a_raw_socket_stands_where_others_have_a_port() {
        let line =
            "  112: 00000000:0070 00000000:0000 07 00000000:00000000 00:00000000 0 0 0 4711 2";
        assert_eq!((raw_protocol(line), raw_protocol("cut off")), (Some(112), None));
    }

    #[test]
    fn a_datagram_socket_is_connected_or_anybodys() {
        let ends = ["00000000:0035", "00000000:0000"];
        let peer = |state| told(UDP, state, ends).map(|socket| socket.remote);
        let nobody = "0.0.0.0:0".parse().unwrap();
        assert_eq!(peer("01"), Some(Peer::One(nobody)));
        assert_eq!((peer("07"), peer("0A")), (Some(Peer::Anybody), None));
    }
}
