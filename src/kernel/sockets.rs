//! The sockets of the calling thread's network namespace.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

/// `TCP_LISTEN` of include/net/tcp_states.h.
const LISTEN: &str = "0A";

/// Whether a TCP socket listens on a port, on whatever address. What can't be read has none.
pub fn listens(port: u16) -> bool {
    // Of the thread: the process may be in another namespace.
    ["tcp", "tcp6"].iter().any(|family| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{family}"));
        table.is_ok_and(|table| has_listener(&table, port))
    })
}

/// `sl local_address rem_address st …`, an address in hexadecimal with its port behind a colon.
fn has_listener(table: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().is_some_and(|local| local.ends_with(&port));
        local && fields.nth(1) == Some(LISTEN)
    })
}

/// A TCP socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Host byte order.
    pub port: u16,
    /// Its own, by which processes have it.
    pub inode: u64,
}

/// Those that others than this host can reach.
pub fn listeners() -> Vec<Listener> {
    let tables = ["tcp", "tcp6"].map(|family| {
        // Of the thread, as above.
        fs::read_to_string(format!("/proc/thread-self/net/{family}")).unwrap_or_default()
    });
    tables.iter().flat_map(|table| table.lines().skip(1).filter_map(listener)).collect()
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`.
fn listener(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().take(10).collect();
    let [_, local, _, LISTEN, _, _, _, _, _, inode] = fields[..] else { return None };
    let (address, port) = local.split_once(':')?;
    let listener =
        Listener { port: u16::from_str_radix(port, 16).ok()?, inode: inode.parse().ok()? };
    (!is_loopback(address)?).then_some(listener)
}

/// Of words in hexadecimal, each as the machine has it in memory.
fn is_loopback(address: &str) -> Option<bool> {
    let words = (0..address.len()).step_by(8).map(|at| {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(u32::from_be_bytes(word.to_ne_bytes()))
    });
    match words.collect::<Option<Vec<u32>>>()?[..] {
        [v4] => Some(Ipv4Addr::from_bits(v4).is_loopback()),
        [a, b, c, d] => {
            let bits = [a, b, c, d].iter().fold(0, |bits, word| bits << 32 | u128::from(*word));
            Some(Ipv6Addr::from_bits(bits).to_canonical().is_loopback())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_listens_does() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     0: 00000000:01BB 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:9C40 0100007F:01BB 01 00000000:00000000\n";
        assert_eq!([443, 40000, 4].map(|port| has_listener(table, port)), [true, false, false]);
    }

    #[test]
    fn who_listens_for_itself_alone_is_reached_by_nobody_else() {
        let line = |address: &str, state: &str| {
            let line =
                format!("   0: {address}:0016 00000000:0000 {state} 0:0 00:0 0 0 0 4711 1 x");
            listener(&line).map(|listener| (listener.port, listener.inode))
        };
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let v6 = |last: [u8; 4]| format!("{}{}", "0".repeat(24), word(last));
        assert_eq!(line("00000000", "0A"), Some((22, 4711)));
        assert_eq!(line(&word([10, 0, 0, 1]), "0A"), Some((22, 4711)));
        assert_eq!(line(&v6([0; 4]), "0A"), Some((22, 4711)));
        let unreachable =
            [(word([127, 0, 0, 1]), "0A"), (v6([0, 0, 0, 1]), "0A"), (v6([0; 4]), "01")];
        for (address, state) in unreachable {
            assert_eq!(line(&address, state), None, "{address} {state}");
        }
    }
}
