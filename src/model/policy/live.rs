//! What rules would say of a flow that is up, were they enforced: what stands before the rules has its say first, as in
//! `check_flow()` of the datapath.

use std::net::SocketAddr;

use super::effect::Setting;
use super::{Decision, RuleNumber};
use crate::model::endpoint::Role;
use crate::model::enforcement::{FailsafePort, Mode};
use crate::model::identity::Identity;
use crate::model::protocol::{self, TCP, UDP};
use crate::model::rule::{Action, Direction, L4, Rule};
use crate::model::serial::named;

/// A flow, seen from an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveFlow {
    /// IP protocol.
    pub protocol: u8,
    /// The endpoint's own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Of the first packet; `None` if nobody knows who began.
    pub direction: Option<Direction>,
    /// A workload's, under an address of this host.
    pub masqueraded: bool,
    /// No entry is going to tell who began it: its next packet begins it anew, of whichever end that is.
    pub begins_anew: bool,
}

/// What becomes of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This rule denies it.
    Deny(RuleNumber),
    /// No rule is about it, so that it is dropped with reason 133.
    NoRule,
    /// Nobody can tell.
    Unknown(Why),
    /// It passes.
    Allow(By),
}

/// What a verdict is called, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A rule denies it.
    Deny,
    /// No rule allows it.
    NoRule,
    /// It can't be told.
    Unknown,
    /// It passes.
    Allow,
}

named!(Kind, "verdict": Deny = "deny", NoRule = "no-rule", Unknown = "unknown", Allow = "allow");

/// By what a flow passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// This rule.
    Rule(RuleNumber),
    /// A port that no rule closes.
    Failsafe,
    /// It is a workload's, under an address of this host.
    Masqueraded,
    /// It is a workload's question for a lease.
    Dhcp,
    /// Its direction has no policy.
    Off,
}

/// Why nobody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Who began it is not known, and it matters.
    Originator,
    /// Its sender says by a flow label who it is.
    FlowLabel,
    /// The rules allow what its originator sends, and not what the other end does, which may send first.
    FirstPacket,
    /// It comes translated, and whether the identity of its sender comes with it depends on the device that it came in by.
    Translated,
    /// It may be a trusted proxy's, which rules are not about.
    Proxy,
}

impl Verdict {
    /// What it is called.
    pub fn kind(self) -> Kind {
        match self {
            Verdict::Deny(_) => Kind::Deny,
            Verdict::NoRule => Kind::NoRule,
            Verdict::Unknown(_) => Kind::Unknown,
            Verdict::Allow(_) => Kind::Allow,
        }
    }
}

impl LiveFlow {
    /// The port or ICMP type that rules are asked about, if the flow has this direction.
    pub fn service(&self, direction: Direction) -> u16 {
        let responder = match direction {
            Direction::Ingress => self.local,
            Direction::Egress => self.remote,
        };
        let is_ipv4 = responder.is_ipv4();
        match self.protocol {
            protocol if protocol == protocol::icmp_of(is_ipv4) => {
                protocol::echo_of(is_ipv4).0.into()
            }
            // That of the other family has no types here.
            protocol if protocol::has_types(protocol) => 0xffff,
            protocol if protocol::has_ports(protocol) => responder.port(),
            _ => 0,
        }
    }

    /// The narrowest rule that allows it, for a peer who is known.
    pub fn allow(&self, direction: Direction, peer: Identity) -> Option<Rule> {
        let (protocol, service) = (self.protocol, self.service(direction));
        let l4 = if protocol::has_ports(protocol) {
            L4::Ports { protocol, first: service, last: service }
        } else if protocol::has_types(protocol) && service <= 0xff {
            L4::IcmpType { protocol, kind: service as u8 }
        } else {
            L4::Protocol(protocol)
        };
        (peer != Rule::ANY).then_some(Rule { action: Action::Allow, direction, peer, l4 })
    }

    /// Who has begun it, as far as its ports tell: the end with a port that clients get is the client.
    pub fn direction_by_ports(&self) -> Option<Direction> {
        let (local, remote) = (self.local.port(), self.remote.port());
        [protocol::PRIVILEGED, protocol::EPHEMERAL].into_iter().find_map(|limit| {
            match (local < limit, remote < limit) {
                (true, false) => Some(Direction::Ingress),
                (false, true) => Some(Direction::Egress),
                _ => None,
            }
        })
    }

    /// What becomes of it, if a direction with any mode enforces. `peer` tells who is at the other end, by who began;
    /// `decide` what the rules say of a direction, a peer, a protocol and a service, as [`super::decide`] does.
    pub fn verdict(
        &self,
        setting: &Setting,
        peer: impl Fn(Direction) -> Result<Identity, Why>,
        mut decide: impl FnMut(Direction, Identity, u8, u16) -> Decision,
    ) -> Verdict {
        let mut of = |direction| self.verdict_on(direction, setting, &peer, &mut decide);
        if self.masqueraded {
            let verdict = Verdict::Allow(By::Masqueraded);
            return self.if_any_end_may_send(verdict, Direction::Egress, of);
        }
        let Some(direction) = self.direction else {
            let [one, other] = [Direction::Ingress, Direction::Egress].map(&mut of);
            return match (one.kind(), other.kind()) {
                (Kind::Deny | Kind::NoRule, Kind::Deny) => other,
                (one_is, other_is) if one_is == other_is => one,
                (Kind::Deny, Kind::NoRule) => one,
                _ => Verdict::Unknown(Why::Originator),
            };
        };
        self.if_any_end_may_send(of(direction), direction, of)
    }

    /// A verdict on what its originator sends, if what the other end sends passes, too. Of echoes and unanswered requests
    /// for leases it begins nothing, and the originator sends again.
    fn if_any_end_may_send(
        &self,
        verdict: Verdict,
        direction: Direction,
        mut of: impl FnMut(Direction) -> Verdict,
    ) -> Verdict {
        let is_settled = match verdict {
            // What answers from a failsafe port of TCP needs no entry.
            Verdict::Allow(By::Failsafe) => self.protocol == TCP && direction == Direction::Ingress,
            Verdict::Allow(By::Dhcp) => true,
            Verdict::Allow(_) => protocol::has_types(self.protocol),
            _ => true,
        };
        if !self.begins_anew || is_settled || of(direction.other()).kind() == Kind::Allow {
            return verdict;
        }
        Verdict::Unknown(Why::FirstPacket)
    }

    fn verdict_on(
        &self,
        direction: Direction,
        setting: &Setting,
        peer: impl Fn(Direction) -> Result<Identity, Why>,
        decide: impl FnOnce(Direction, Identity, u8, u16) -> Decision,
    ) -> Verdict {
        let service = self.service(direction);
        let failsafe = match direction {
            Direction::Ingress => &setting.failsafe.ingress,
            Direction::Egress => &setting.failsafe.egress,
        };
        if setting.modes[usize::from(direction == Direction::Egress)] == Mode::Off {
            return Verdict::Allow(By::Off);
        }
        if failsafe.contains(&FailsafePort { protocol: self.protocol, port: service }) {
            return Verdict::Allow(By::Failsafe);
        }
        let peer = match peer(direction) {
            Ok(peer) => peer,
            Err(why) => return Verdict::Unknown(why),
        };
        if setting.role == Role::Container && self.asks_for_lease(direction, peer) {
            return Verdict::Allow(By::Dhcp);
        }
        match decide(direction, peer, self.protocol, service) {
            Decision::Allow(rule) => Verdict::Allow(By::Rule(rule)),
            Decision::Deny(rule) => Verdict::Deny(rule),
            Decision::NoMatch => Verdict::NoRule,
        }
    }

    /// `is_lease_request()` of the datapath: to a server on the link, or to this host.
    fn asks_for_lease(&self, direction: Direction, peer: Identity) -> bool {
        let ports = [self.local.port(), self.remote.port()];
        let (local, remote) = (self.local.ip(), self.remote.ip());
        let is_dhcp = match (local, remote) {
            (std::net::IpAddr::V4(_), std::net::IpAddr::V4(to)) => {
                ports == [68, 67] && (to.is_broadcast() || peer == Identity::HOST)
            }
            (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
                let is_of_link = to.is_unicast_link_local() || to.segments()[0] == 0xff02;
                ports == [546, 547] && from.is_unicast_link_local() && is_of_link
            }
            _ => false,
        };
        self.protocol == UDP && direction == Direction::Egress && is_dhcp
    }
}

#[cfg(test)]
mod tests {
    use super::super::decide;
    use super::super::tests::policy;
    use super::*;
    use crate::model::enforcement::Failsafe;
    use crate::model::identity::Names;
    use crate::model::protocol::{ICMP, ICMP6};

    fn flow(protocol: u8, local: &str, remote: &str, direction: Option<Direction>) -> LiveFlow {
        let end = |text: &str| text.parse().expect("an address and a port");
        let (local, remote) = (end(local), end(remote));
        LiveFlow { protocol, local, remote, direction, masqueraded: false, begins_anew: false }
    }

    fn setting(role: Role) -> Setting {
        Setting {
            role,
            modes: [Mode::Enforce; 2],
            failsafe: match role {
                Role::Netdev => Failsafe::standard(),
                Role::Container => Failsafe::default(),
            },
            refuses_host: false,
            is_router: false,
            has_addresses: true,
        }
    }

    fn verdict(flow: &LiveFlow, setting: &Setting, rules: &[&str]) -> Verdict {
        verdict_of(flow, setting, rules, Ok(Identity(300)))
    }

    fn verdict_of(
        flow: &LiveFlow,
        setting: &Setting,
        rules: &[&str],
        peer: Result<Identity, Why>,
    ) -> Verdict {
        let rules = policy(rules);
        flow.verdict(
            setting,
            |_| peer,
            |direction, peer, protocol, service| {
                decide(rules.rules(), direction, peer, protocol, service)
            },
        )
    }

    const HERE: &str = "192.0.2.1";
    const THERE: &str = "198.51.100.7";

    #[test]
    fn a_flow_is_asked_about_as_what_its_originator_began() {
        use Direction::{Egress, Ingress};
        let (at, of) =
            (|port: u16| format!("{HERE}:{port}"), |port: u16| format!("{THERE}:{port}"));
        let nic = setting(Role::Netdev);
        let rules = ["allow ingress from 300 tcp/443", "deny egress to 300 tcp/25"];
        for (protocol, local, remote, direction, wanted) in [
            (TCP, at(443), of(50000), Ingress, Verdict::Allow(By::Rule(RuleNumber(16)))),
            (TCP, at(443), of(50000), Egress, Verdict::NoRule),
            (TCP, at(50000), of(25), Egress, Verdict::Deny(RuleNumber(17))),
            (TCP, at(22), of(50000), Ingress, Verdict::Allow(By::Failsafe)),
            (TCP, at(50000), of(22), Egress, Verdict::NoRule),
            (UDP, at(50000), of(53), Egress, Verdict::Allow(By::Failsafe)),
            (47, at(0), of(0), Egress, Verdict::NoRule),
        ] {
            let flow = flow(protocol, &local, &remote, Some(direction));
            assert_eq!(verdict(&flow, &nic, &rules), wanted, "{flow:?}");
        }
        let masqueraded =
            LiveFlow { masqueraded: true, ..flow(TCP, &at(1), &of(25), Some(Egress)) };
        assert_eq!(verdict(&masqueraded, &nic, &rules), Verdict::Allow(By::Masqueraded));
    }

    #[test]
    fn what_begins_anew_is_allowed_only_where_either_end_may_send_first() {
        use Direction::{Egress, Ingress};
        let (at, of) =
            (|port: u16| format!("{HERE}:{port}"), |port: u16| format!("{THERE}:{port}"));
        let nic = setting(Role::Netdev);
        let off = Setting { modes: [Mode::Enforce, Mode::Off], ..nic.clone() };
        let out = ["allow egress to any"];
        let both = ["allow egress to any", "allow ingress from 300 tcp/50000"];
        for (protocol, local, remote, direction, setting, rules, wanted) in [
            (TCP, at(50000), of(443), Egress, &nic, &out[..], Kind::Unknown),
            (TCP, at(50000), of(443), Egress, &nic, &both, Kind::Allow),
            (TCP, at(50000), of(443), Egress, &off, &[], Kind::Unknown),
            (TCP, at(50000), of(443), Egress, &nic, &[], Kind::NoRule),
            (TCP, at(22), of(50000), Ingress, &nic, &[], Kind::Allow),
            (UDP, at(50000), of(53), Egress, &nic, &[], Kind::Unknown),
            (ICMP, at(7), of(8), Egress, &nic, &out, Kind::Allow),
            (47, at(0), of(0), Egress, &nic, &out, Kind::Unknown),
        ] {
            let known = flow(protocol, &local, &remote, Some(direction));
            let flow = LiveFlow { begins_anew: true, ..known };
            assert_eq!(verdict(&flow, setting, rules).kind(), wanted, "{flow:?} {rules:?}");
            let masqueraded = LiveFlow { masqueraded: true, ..flow };
            let is_open = rules.len() == 2 || local == at(22);
            let wanted = if is_open || protocol == ICMP { Kind::Allow } else { Kind::Unknown };
            assert_eq!(verdict(&masqueraded, setting, rules).kind(), wanted, "{masqueraded:?}");
        }
    }

    #[test]
    fn of_whom_nobody_knows_the_originator_both_directions_are_asked() {
        let unknown = flow(TCP, &format!("{HERE}:40000"), &format!("{THERE}:50000"), None);
        let nic = setting(Role::Netdev);
        for (rules, wanted) in [
            (&[][..], Kind::NoRule),
            (&["allow ingress from any"], Kind::Unknown),
            (&["allow ingress from any", "allow egress to any"], Kind::Allow),
            (&["deny ingress from any"], Kind::Deny),
            (&["deny egress to any"], Kind::Deny),
            (&["deny egress to any", "allow ingress from any"], Kind::Unknown),
        ] {
            assert_eq!(verdict(&unknown, &nic, rules).kind(), wanted, "{rules:?}");
        }
        let off = Setting { modes: [Mode::Off, Mode::Enforce], ..nic };
        assert_eq!(verdict(&unknown, &off, &[]), Verdict::Unknown(Why::Originator));
        let known = LiveFlow { direction: Some(Direction::Ingress), ..unknown };
        assert_eq!(verdict(&known, &off, &[]), Verdict::Allow(By::Off));
    }

    #[test]
    fn who_says_by_a_flow_label_who_he_is_is_not_known() {
        let flow = flow(TCP, "[fd00::1]:443", "[fd00::2]:50000", Some(Direction::Ingress));
        let verdict = verdict_of(&flow, &setting(Role::Netdev), &[], Err(Why::FlowLabel));
        assert_eq!(verdict, Verdict::Unknown(Why::FlowLabel));
    }

    #[test]
    fn a_workloads_lease_needs_no_rule() {
        for (local, remote, peer, wanted) in [
            ("10.0.0.2:68", "255.255.255.255:67", 2, Kind::Allow),
            ("10.0.0.2:68", "10.0.0.1:67", 1, Kind::Allow),
            ("10.0.0.2:68", "10.9.0.1:67", 2, Kind::NoRule),
            ("[fe80::2]:546", "[ff02::1:2]:547", 2, Kind::Allow),
            ("[fd00::2]:546", "[ff02::1:2]:547", 2, Kind::NoRule),
        ] {
            let flow = flow(UDP, local, remote, Some(Direction::Egress));
            let of = |setting: &Setting| verdict_of(&flow, setting, &[], Ok(Identity(peer))).kind();
            assert_eq!(of(&setting(Role::Container)), wanted, "{local} {remote}");
            let nic = Setting { failsafe: Failsafe::default(), ..setting(Role::Netdev) };
            assert_eq!(of(&nic), Kind::NoRule);
        }
    }

    #[test]
    fn the_rule_that_would_allow_a_flow_names_no_more_than_that() {
        let names = Names::default();
        for (protocol, ends, direction, wanted) in [
            (TCP, [HERE, THERE], Direction::Egress, "allow egress to 300 tcp/2"),
            (TCP, [HERE, THERE], Direction::Ingress, "allow ingress from 300 tcp/1"),
            (ICMP, [HERE, THERE], Direction::Egress, "allow egress to 300 icmp/8"),
            (
                ICMP6,
                ["[fd00::1]", "[fd00::2]"],
                Direction::Ingress,
                "allow ingress from 300 icmp6/128",
            ),
            (ICMP6, [HERE, THERE], Direction::Ingress, "allow ingress from 300 icmp6"),
            (47, [HERE, THERE], Direction::Egress, "allow egress to 300 proto/47"),
        ] {
            let flow = flow(
                protocol,
                &format!("{}:1", ends[0]),
                &format!("{}:2", ends[1]),
                Some(direction),
            );
            let rule = flow.allow(direction, Identity(300)).expect("a rule");
            assert_eq!(rule.text(&names), wanted);
            assert_eq!(flow.allow(direction, Rule::ANY), None);
            let text = [wanted];
            assert_eq!(verdict(&flow, &setting(Role::Container), &text).kind(), Kind::Allow);
        }
    }

    #[test]
    fn the_end_with_the_port_of_a_client_has_begun() {
        use Direction::{Egress, Ingress};
        for (local, remote, wanted) in [
            (443, 50000, Some(Ingress)),
            (50000, 443, Some(Egress)),
            (2000, 443, Some(Egress)),
            (5432, 40000, Some(Ingress)),
            (40000, 50000, None),
            (22, 25, None),
        ] {
            let flow = flow(TCP, &format!("{HERE}:{local}"), &format!("{THERE}:{remote}"), None);
            assert_eq!(flow.direction_by_ports(), wanted, "{local} {remote}");
        }
    }
}
