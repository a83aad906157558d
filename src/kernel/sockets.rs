//! The sockets of the calling thread's network namespace.

use std::fs;

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
}
