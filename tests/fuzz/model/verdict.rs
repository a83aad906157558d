//! What an endpoint's policy makes of an IP packet.

use std::net::{IpAddr, Ipv4Addr};

use super::flows::{self, Flow, FragmentKey, Kept, Key, Ports};
use super::host::{is_for_another, is_from_stack, is_link_local, is_multicast};
use super::rules::{Service, allow};
use super::wire::{Fragment, Ip, TCP, Transport, UDP, is_extension};
use super::{Arrival, Change, Direction, Endpoint, Judgement, Machine, Must, Program};

/// What is known of a packet when the policy is asked.
pub struct Case<'a> {
    pub endpoint: &'a Endpoint,
    program: Program,
    pub direction: Direction,
    pub ip: &'a Ip,
    pub ports: Ports,
    pub arrival: &'a Arrival<'a>,
}

impl Machine {
    pub fn police(
        &self,
        endpoint: &Endpoint,
        program: Program,
        ip: &Ip,
        arrival: &Arrival<'_>,
    ) -> Judgement {
        if !endpoint.has_policy() {
            return Judgement::pass("no policy");
        }
        let direction = program.direction();
        let mut ip = ip.clone();
        if ip.fragment == Fragment::Later && ip.transport != Transport::Unreadable {
            match self.first_of(endpoint, direction, &ip) {
                Some(kept) if !kept.is_certain => {
                    return Judgement::either("a later fragment of an uncertain first one");
                }
                Some(kept) => {
                    ip.protocol = kept.protocol;
                    ip.transport = kept.transport.clone();
                }
                None => return self.police_orphan(endpoint, program, &ip, arrival),
            }
        }
        let (ip, ports) = (&ip, Ports::of(&ip));
        let case = Case { endpoint, program, direction, ip, ports, arrival };
        let mut judgement = if flows::has_flow(ip) {
            let mut judgement = self.police_flow(&case);
            self.note_question(&case, &mut judgement);
            judgement
        } else {
            let alone = self.police_alone(&case);
            self.unless_passed_by(endpoint, program, ip, arrival, alone)
        };
        let is_policed = judgement.why != NOT_ITS_OWN;
        if flows::is_readable_first(ip) && judgement.must != Must::Drop && is_policed {
            let kept = Kept::from_first(endpoint, direction, ip).into_iter();
            judgement.change.extend(kept.map(|(key, kept)| Change::Fragment(key, kept)));
        }
        judgement
    }

    /// What the first fragment of a later one was. IPv6: if that names an extension header, the first one's
    /// chain tells the protocol.
    fn first_of(&self, endpoint: &Endpoint, direction: Direction, ip: &Ip) -> Option<&Kept> {
        let find =
            |protocol| self.fragments.get(&FragmentKey::of(endpoint, direction, ip, protocol));
        match find(ip.protocol)? {
            kept if ip.is_v6() && is_extension(ip.protocol) && kept.is_certain => {
                find(kept.protocol)
            }
            kept => Some(kept),
        }
    }

    /// A later fragment whose first one was dropped, or has not come.
    fn police_orphan(
        &self,
        endpoint: &Endpoint,
        program: Program,
        ip: &Ip,
        arrival: &Arrival<'_>,
    ) -> Judgement {
        let why = "a later fragment whose first has not passed";
        let judgement = if endpoint.enforces(program.direction()) {
            Judgement::new(Must::Drop, why)
        } else if endpoint.enforces(Direction::Ingress) || endpoint.enforces(Direction::Egress) {
            // The other direction's rules may have dropped the first one, as a flow's answer.
            Judgement::either(why)
        } else {
            Judgement::pass(why)
        };
        self.unless_passed_by(endpoint, program, ip, arrival, judgement)
    }

    fn police_alone(&self, case: &Case<'_>) -> Judgement {
        if case.ip.transport == Transport::Unreadable {
            let why = match case.ip.fragment {
                Fragment::Whole => "headers that end early",
                _ => "a first fragment whose headers end early",
            };
            return Judgement::drop_if(case.endpoint.enforces(case.direction), why);
        }
        self.judge_message(case.endpoint, case.program, case.ip, case.arrival)
    }

    /// A NIC's policy has no say in what is not the host's.
    fn unless_passed_by(
        &self,
        endpoint: &Endpoint,
        program: Program,
        ip: &Ip,
        arrival: &Arrival<'_>,
        judgement: Judgement,
    ) -> Judgement {
        if endpoint.is_container {
            return judgement;
        }
        match self.is_policed(endpoint, program, ip, arrival) {
            Some(true) => judgement,
            Some(false) => Judgement::pass(NOT_ITS_OWN),
            None => Judgement::either("nobody's"),
        }
    }

    fn police_flow(&self, case: &Case<'_>) -> Judgement {
        let &Case { endpoint, program, direction, ip, arrival, .. } = case;
        let sent = direction == Direction::Egress;
        let key = Key::of(endpoint, sent, ip, case.ports);
        let mut is_left_over = false;
        let found = self.flows.get(&key).filter(|flow| {
            let is_generated_here = arrival.ingress_ifindex == 0;
            let is_taken_back = flow.is_masqueraded && is_generated_here;
            is_left_over = program == Program::ToNetdev
                && flow.direction == Direction::Egress
                && !flow.is_masqueraded
                && !is_from_stack(arrival);
            let is_void = flow.is_audited(endpoint) && endpoint.enforces(flow.direction);
            !flow.is_certain
                || !(flow.is_replaced_by(ip, direction)
                    || is_void
                    || (program == Program::ToNetdev && is_taken_back))
        });
        match found {
            Some(flow) if !flow.is_certain => {
                // It stays so, whatever happens.
                let mut judgement = Judgement::either("a packet of an uncertain flow");
                judgement.change.push(Change::Flow(key, flow.clone()));
                judgement
            }
            Some(_) if is_left_over => {
                // Its place is masquerade's from now on, or from the next packet that is not plain.
                let mut judgement = Judgement::pass("under a name that was the host's");
                let mut flow = Flow::new(direction, self.epoch).passing(endpoint, true, None);
                flow.is_certain = false;
                judgement.change.push(Change::Flow(key, flow));
                judgement
            }
            Some(flow) => self.police_known(case, key, flow),
            None => {
                let is_in_use = self.flows.get(&key).is_some_and(|flow| flow.is_in_use(endpoint));
                let new = self.police_new(case, key.clone(), is_in_use);
                if !endpoint.is_container {
                    match self.is_policed(endpoint, program, ip, arrival) {
                        Some(true) => {}
                        Some(false) => return self.passes_by(case, key),
                        None => return Judgement { must: Must::Either, why: "nobody's", ..new },
                    }
                }
                new
            }
        }
    }

    /// Not the host's. Under its address it is a workload's, and the answer shall pass.
    fn passes_by(&self, case: &Case<'_>, key: Key) -> Judgement {
        let &Case { endpoint, program, ip, arrival, .. } = case;
        let mut judgement = Judgement::pass(NOT_ITS_OWN);
        if program != Program::ToNetdev
            || ip.fragment == Fragment::Later
            || is_echo_reply(case.ports)
            || endpoint.bridge.is_some_and(|mac| arrival.frame[6..12] != mac)
            || is_multicast(ip.source)
        {
            return judgement;
        }
        let is_hosts = self.has_address(endpoint, ip.source);
        if is_hosts != Some(false) {
            let flow = Flow::new(Direction::Egress, self.epoch);
            let mut flow = flow.passing(endpoint, true, None);
            flow.is_masqueraded = true;
            // What came in by this very NIC was not masqueraded.
            flow.is_certain = is_hosts.is_some() && arrival.ingress_ifindex != endpoint.ifindex;
            flow.advance(ip, Direction::Egress);
            judgement.change.push(Change::Flow(key, flow));
        }
        judgement
    }

    fn police_new(&self, case: &Case<'_>, key: Key, is_in_use: bool) -> Judgement {
        let &Case { endpoint, program, direction, ip, arrival, .. } = case;
        if self.is_failsafe_answer(case) {
            return Judgement::pass("a failsafe port's answer");
        }
        let claimed = self.claim(endpoint, program, ip, arrival);
        let service = flows::service(ip, case.ports, false);
        let lease = self.lease(case);
        if let Some(mut judgement) = lease {
            if program == Program::FromContainer {
                let flow = Flow::new(direction, self.epoch);
                let mut flow = flow.passing(endpoint, true, claimed);
                flow.is_lease = true;
                judgement.change.push(Change::Flow(key, flow));
            }
            return judgement;
        }
        let mut judgement = if self.is_failsafe(endpoint, direction, service) {
            self.to_failsafe(direction, &key)
        } else {
            self.ask(endpoint, (direction, direction), ip, arrival, claimed, service)
        };
        judgement = self.unless_answers(case, claimed, service, judgement);
        if is_echo_reply(case.ports)
            || flows::begins_nothing(ip)
            || judgement.why == "answers a question to many"
        {
            return judgement;
        }
        let is_audited = judgement.why == "audited";
        if judgement.must != Must::Drop && !(is_audited && (flows::is_midstream(ip) || is_in_use)) {
            let flow = Flow::new(direction, self.epoch);
            let mut flow = flow.passing(endpoint, !is_audited, claimed);
            flow.advance(ip, direction);
            judgement.change.push(Change::Flow(key, flow));
        }
        judgement
    }

    fn police_known(&self, case: &Case<'_>, key: Key, flow: &Flow) -> Judgement {
        let &Case { endpoint, direction, ip, .. } = case;
        let mut flow = flow.clone();
        let is_reply = flow.direction != direction;
        let mut judgement = if flow.is_masqueraded {
            Judgement::pass("a masqueraded flow's")
        } else if flow.is_lease && (is_reply || self.lease(case).is_some()) {
            flow.epoch = self.epoch;
            Judgement::pass("about a lease")
        } else if self.lease(case).is_some() {
            return Judgement { must: Must::Either, ..self.police_new(case, key, false) };
        } else if flow.epoch == self.epoch
            && (is_reply || flow.has_passed(endpoint))
            && !self.claims_another(case, &flow)
        {
            Judgement::pass(if flow.is_audited(endpoint) { "audited" } else { "a known flow's" })
        } else {
            match self.judge_again(case, &key, &mut flow) {
                Again::Judged(judgement) => judgement,
                Again::Unkept(judgement) => return self.unless_left(case, judgement),
                Again::New => return self.police_new(case, key, false),
            }
        };
        judgement = self.unless_left(case, judgement);
        flow.advance(ip, direction);
        judgement.change.push(Change::Flow(key, flow));
        judgement
    }

    /// A flow may have come to somebody else.
    fn unless_left(&self, case: &Case<'_>, judgement: Judgement) -> Judgement {
        let is_hosts = self.is_policed(case.endpoint, case.program, case.ip, case.arrival);
        if judgement.must == Must::Drop && !case.endpoint.is_container && is_hosts != Some(true) {
            return Judgement::either("of a flow that was the host's");
        }
        judgement
    }

    /// About a flow whose entry is stale, or that has not passed this NIC yet.
    fn judge_again(&self, case: &Case<'_>, key: &Key, flow: &mut Flow) -> Again {
        let &Case { endpoint, program, direction, ip, arrival, .. } = case;
        let is_reply = flow.direction != direction;
        let service = flows::service(ip, case.ports, is_reply);
        let others = match flow.epoch == self.epoch {
            true => Must::Pass,
            false => self.ask_others(endpoint, key.remote, flow, arrival, service),
        };
        if flow.said.is_empty() {
            return Again::New;
        }
        let has_passed = flow.has_passed(endpoint);
        let mut judgement = Judgement::pass("an answer of a flow of other NICs");
        if !is_reply || has_passed {
            if direction == Direction::Ingress && !is_reply {
                let claimed = self.claim(endpoint, program, ip, arrival);
                *flow = flow.clone().passing(endpoint, true, claimed);
            }
            judgement = if self.is_failsafe(endpoint, flow.direction, service) {
                self.to_failsafe(flow.direction, key)
            } else {
                let directions = (flow.direction, direction);
                let claims = flow.claims();
                let claims = if claims.is_empty() { vec![None] } else { claims };
                let ask = |claimed| self.ask(endpoint, directions, ip, arrival, claimed, service);
                merge(claims.into_iter().map(ask))
            };
            let is_allowed = judgement.why != "audited";
            let claimed = flow.said.get(&endpoint.id).and_then(|said| said.claimed);
            *flow = flow.clone().passing(endpoint, is_allowed, claimed);
        }
        // What a NIC that enforces denies is no answer at others any more; elsewhere it is that NIC's to drop.
        if others != Must::Pass && is_reply && judgement.must != Must::Drop {
            let enforces = endpoint.enforces(flow.direction) || endpoint.enforces(direction);
            judgement = match others {
                _ if self.is_failsafe_answer(case) => Judgement::pass("a failsafe port's answer"),
                _ if !enforces => Judgement::pass("denied by another NIC, and audited here"),
                Must::Drop => Judgement::new(Must::Drop, "an answer that another NIC denies"),
                _ => Judgement::either("an answer that another NIC may deny"),
            };
        }
        match others {
            Must::Drop => return Again::Unkept(judgement),
            Must::Pass => {}
            _ => flow.is_certain = false,
        }
        // A reply can't tell whether the sender still claims the same.
        match flow.claims()[..] {
            [None] => flow.epoch = self.epoch,
            _ if !is_reply => flow.epoch = self.epoch,
            [_] => {}
            _ => flow.is_certain = false,
        }
        Again::Judged(judgement)
    }

    /// Whether the other NICs that a flow has passed let it pass still.
    pub fn ask_others(
        &self,
        endpoint: &Endpoint,
        remote: IpAddr,
        flow: &mut Flow,
        arrival: &Arrival<'_>,
        service: Service,
    ) -> Must {
        let mut all = Must::Pass;
        let of = flow.direction;
        for nic in self.nics.values().filter(|nic| nic.id != endpoint.id) {
            if !flow.has_passed(nic) {
                continue;
            }
            // Who sends is found out as the NIC does that asks.
            let known = |claimed| {
                let by_its_own = self.peers(nic, of, remote, claimed, arrival);
                by_its_own.into_iter().chain(self.peers(endpoint, of, remote, claimed, arrival))
            };
            let peers = flow.claims().into_iter().flat_map(known);
            let mut says = peers.map(|peer| allow(&nic.rules, nic.mode(of), of, peer, service));
            let first = says.next().expect("at least one peer");
            let is_open = says.any(|another| another != first);
            let claimed = flow.said[&nic.id].claimed;
            if self.is_failsafe(nic, of, service) || (first && !is_open) {
                *flow = flow.clone().passing(nic, true, claimed);
            } else if !is_open && !nic.enforces(of) {
                *flow = flow.clone().passing(nic, false, claimed);
            } else if !is_open {
                all = Must::Drop;
            } else if !nic.enforces(of) {
                flow.is_certain = false;
            } else if all == Must::Pass {
                all = Must::Either;
            }
        }
        all
    }

    /// Whether a workload's peer, who has begun a flow, says to be somebody else by now. What this host sends in it
    /// says nothing.
    fn claims_another(&self, case: &Case<'_>, flow: &Flow) -> bool {
        let &Case { endpoint, program, direction, ip, arrival, .. } = case;
        let is_asked = endpoint.is_container && direction == Direction::Ingress;
        is_asked
            && flow.direction == direction
            && arrival.ingress_ifindex != 0
            && flow
                .said
                .get(&endpoint.id)
                .is_some_and(|said| said.claimed != self.claim(endpoint, program, ip, arrival))
    }

    /// What a workload asks its link for a lease, or this host, and the answer, if it has asked all of its link.
    fn lease(&self, case: &Case<'_>) -> Option<Judgement> {
        let &Case { endpoint, program, ip, ports, arrival, .. } = case;
        let Ports::Pair { source, destination } = ports else { return None };
        let (client, server) = if ip.is_v6() { (546, 547) } else { (68, 67) };
        let is_sent = program == Program::FromContainer;
        let ends = if is_sent { (client, server) } else { (server, client) };
        if !endpoint.is_container || ip.protocol != UDP || (source, destination) != ends {
            return None;
        }
        let pass = Some(Judgement::pass("about a lease"));
        if is_sent {
            return match (ip.source, ip.destination) {
                (source, IpAddr::V6(to)) if is_link_local(source) => {
                    let is_near = to.is_unicast_link_local() || to.octets()[..2] == [0xff, 2];
                    pass.filter(|_| is_near)
                }
                (_, IpAddr::V6(_)) => None,
                (_, to) if to == IpAddr::V4(Ipv4Addr::BROADCAST) => pass,
                (_, to) if is_multicast(to) || is_for_another(endpoint, arrival.frame) => None,
                (_, to) if self.is_routed_on(to) => None,
                _ => Some(Judgement::either("asks this host for a lease")),
            };
        }
        if ip.is_v6() && !is_link_local(ip.source) {
            return None;
        }
        let nobody = (!ip.is_v6()).then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let asked = nobody.into_iter().chain([ip.destination]);
        let requests = asked.filter_map(|local| self.flows.get(&Key::of_request(endpoint, local)));
        let requests: Vec<&Flow> =
            requests.filter(|flow| flow.is_lease || !flow.is_certain).collect();
        match requests.iter().any(|flow| flow.is_certain) {
            true => pass,
            false if requests.is_empty() => None,
            false => Some(Judgement::either("an answer to who may have asked for a lease")),
        }
    }

    pub fn is_failsafe(&self, endpoint: &Endpoint, direction: Direction, to: Service) -> bool {
        let ports = match direction {
            Direction::Ingress => &endpoint.failsafe_ingress,
            Direction::Egress => &endpoint.failsafe_egress,
        };
        to.number.is_some_and(|number| ports.contains(&(to.protocol, number)))
    }

    fn to_failsafe(&self, direction: Direction, key: &Key) -> Judgement {
        if direction == Direction::Ingress && self.is_listed_host(key.remote) {
            return Judgement::either("to a failsafe port, from whom the ipcache calls the host");
        }
        Judgement::pass("to a failsafe port")
    }

    /// Without conntrack, so that no flood of flows closes them; but nothing begins there.
    fn is_failsafe_answer(&self, case: &Case<'_>) -> bool {
        let Ports::Pair { source, .. } = case.ports else { return false };
        case.direction == Direction::Egress
            && case.ip.protocol == TCP
            && !case.ip.flags().opens()
            && case.endpoint.failsafe_ingress.contains(&(TCP, source))
    }
}

/// What becomes of a flow that is asked about again.
enum Again {
    Judged(Judgement),
    /// Nothing of this is kept.
    Unkept(Judgement),
    New,
}

/// What is open is what differs.
fn merge(mut judgements: impl Iterator<Item = Judgement>) -> Judgement {
    let first = judgements.next().expect("at least one claim");
    match judgements.any(|other| (other.must, other.why) != (first.must, first.why)) {
        true => Judgement::either("of an open claim"),
        false => first,
    }
}

/// It begins no flow.
fn is_echo_reply(ports: Ports) -> bool {
    matches!(ports, Ports::Echo { is_request: false, .. })
}

pub const NOT_ITS_OWN: &str = "not the host's";
