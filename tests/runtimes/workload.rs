//! What runs in a container or a guest: it sends datagrams outside, one of which its policy allows.

use std::collections::BTreeSet;

use cilmark::model::identity::Identity;
use cilmark::model::mark::Mark;

use super::Host;
use super::host::Seen;
use crate::common::world::wait_for;

/// How many datagrams have to arrive before what did not arrive is believed to be dropped.
const ENOUGH: u32 = 5;

#[derive(Debug, Clone)]
pub struct Workload {
    pub name: String,
    pub identity: u32,
    /// The port that its policy allows.
    pub allowed: u32,
    /// The port that its policy does not allow.
    pub denied: u32,
    /// Where it sends to.
    pub to: &'static str,
}

impl Workload {
    /// The N-th workload: its own name, identity and ports.
    pub fn new(number: u32) -> Workload {
        Workload {
            name: format!("w{number}"),
            identity: 70_000 + number,
            allowed: 7000 + 2 * number,
            denied: 7001 + 2 * number,
            to: "198.51.100.1",
        }
    }

    /// The same by IPv6.
    pub fn by_ipv6(number: u32) -> Workload {
        Workload { to: "2001:db8:100::1", ..Workload::new(number) }
    }

    /// What it runs.
    pub fn command(&self) -> String {
        format!("/bin/workload {} {} {}", self.to, self.allowed, self.denied)
    }

    /// The only rule that it has.
    pub fn rule(&self) -> String {
        format!("allow egress to world udp/{}", self.allowed)
    }

    /// Its keys, as annotations, labels and arguments give them.
    pub fn keys(&self) -> [(&'static str, String); 3] {
        [
            ("cilmark.id", self.identity.to_string()),
            ("cilmark.rules", self.rule()),
            ("cilmark.policy", "enforce".to_owned()),
        ]
    }

    /// The mark that its packets carry.
    pub fn mark(&self) -> u32 {
        Mark::encode(Identity(self.identity)).expect("an identity that a mark holds").0
    }

    /// Claims that all it has sent since the last [`Host::forget`] was stamped, from its first datagram on, and that
    /// nothing came through that its policy does not allow.
    pub fn is_stamped_and_policed(&self, host: &Host) {
        self.sends_from_the_first_with(host, self.mark());
        self.is_policed(host);
    }

    /// Claims that nobody has touched what it sent.
    pub fn is_left_alone(&self, host: &Host) {
        self.sends_from_the_first_with(host, 0);
        wait_for("what a policy would deny", || {
            host.arrived().iter().any(|&(port, _)| port == self.denied)
        });
    }

    /// Claims the same of one that has been sending already, but for its first datagrams.
    pub fn goes_on_stamped_and_policed(&self, host: &Host) {
        wait_for(&format!("more datagrams of {self:?}"), || {
            self.arrivals(host).len() >= ENOUGH as usize
        });
        self.sends_only(host, self.mark());
        self.is_policed(host);
    }

    /// Waits until enough has arrived, from the first datagram on.
    fn sends_from_the_first_with(&self, host: &Host, mark: u32) {
        wait_for(&format!("the first datagrams of {self:?}"), || {
            let arrivals = self.arrivals(host);
            (1..=ENOUGH).all(|number| arrivals.contains(&number))
        });
        self.sends_only(host, mark);
    }

    /// The numbers of those that its policy allows, and that arrived.
    fn arrivals(&self, host: &Host) -> BTreeSet<u32> {
        let arrived = host.arrived().into_iter();
        arrived.filter(|it| it.0 == self.allowed).map(|it| it.1).collect()
    }

    fn sends_only(&self, host: &Host, mark: u32) {
        let ports = [self.allowed, self.denied];
        let is_wrong = |seen: &Seen| ports.contains(&seen.port) && seen.mark != mark;
        let wrong: Vec<Seen> = host.seen().into_iter().filter(is_wrong).collect();
        assert!(wrong.is_empty(), "{self:?} sent, not with mark {mark:#x}: {wrong:x?}");
    }

    fn is_policed(&self, host: &Host) {
        let mut seen = host.seen().into_iter();
        let first = seen.find(|seen| seen.port == self.denied);
        assert_eq!(first, None, "the policy of {self:?} does not allow it");
        let mut arrived = host.arrived().into_iter();
        let first = arrived.find(|&(port, _)| port == self.denied);
        assert_eq!(first, None, "the policy of {self:?} does not allow it");
    }
}
