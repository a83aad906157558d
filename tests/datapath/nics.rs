//! Several NICs of one root, which share the flows of the host.

use super::policing::*;
use super::*;
use crate::common::Lab;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Packet};

/// Two of them, on which the host has the same addresses.
fn nics(lab: &Lab, policies: [Policing; 2]) -> [Endpoint<'_>; 2] {
    let mut number = 0;
    policies.map(|policy| {
        number += 1;
        let nic = lab.netdev(1).id(number).slot(number as u8 - 1);
        nic.address(OWN4).address(OWN6).policy(policy).load()
    })
}

fn received(peer: IpAddr, own: IpAddr, port: u16, flags: &str) -> Packet {
    Frame::ip(peer, own).segment(4000, port, flags).forwarded()
}

#[test]
fn the_rules_of_one_are_not_those_of_another() {
    let Some(lab) = Lab::new() else { return };
    let [first, second] = nics(&lab, [enforcing(), enforcing()]);
    lab.rules(&first, &["allow ingress from any tcp/80"]);
    lab.rules(&second, &["allow ingress from any tcp/81"]);
    for (peer, own) in PEER_TO_OWN {
        for (nic, open, closed) in [(&first, 80, 81), (&second, 81, 80)] {
            nic.from_netdev(received(peer, own, closed, "S")).is_dropped(POLICY);
            nic.from_netdev(received(peer, own, open, "S")).passes();
            lab.flush_conntrack();
        }
    }
}
