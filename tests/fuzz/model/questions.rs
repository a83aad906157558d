//! Questions to many by UDP, and who answers them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::flows::Ports;
use super::host::is_multicast;
use super::rules::{Rule, Service};
use super::verdict::Case;
use super::wire::UDP;
use super::{Change, Direction, Judgement, Machine, Must};

/// For so long an answer passes for certain; after five seconds, or earlier if the question was repeated, none does.
const CERTAIN: Duration = Duration::from_secs(3);

/// Who has asked, and between which ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    scope: u16,
    direction: Direction,
    asker: IpAddr,
    ports: (u16, u16),
}

#[derive(Debug, Clone)]
pub struct Question {
    epoch: u32,
    at: Instant,
    pub is_certain: bool,
}

impl Question {
    fn is_certain_now(&self, epoch: u32) -> bool {
        self.is_certain && self.epoch == epoch && self.at.elapsed() < CERTAIN
    }
}

fn turned(direction: Direction) -> Direction {
    match direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    }
}

impl Machine {
    /// Adds to what becomes of a packet that it may be answered, if it asks many.
    pub fn note_question(&self, case: &Case<'_>, judgement: &mut Judgement) {
        let &Case { endpoint, direction, ip, ports, arrival, .. } = case;
        let Ports::Pair { source, destination } = ports else { return };
        let is_many = is_multicast(ip.destination);
        // The broadcast address of a network, or of nobody.
        let may_be_many =
            ip.destination.is_ipv4() && endpoint.has_ethernet && arrival.frame[0] & 1 == 1
                || ip.destination == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        if ip.protocol != UDP || source == 0 || !(is_many || may_be_many) {
            return;
        }
        let own = judgement.change.iter().find_map(|change| match change {
            Change::Flow(key, flow) => Some((key, flow)),
            _ => None,
        });
        let Some((key, flow)) = own else { return };
        if flow.direction != direction
            || flow.is_masqueraded
            || flow.is_lease
            || flow.is_audited(endpoint)
        {
            return;
        }
        let is_new = !self.flows.contains_key(key);
        let scope = super::flows::scope(endpoint);
        let key = Key { scope, direction, asker: ip.source, ports: (source, destination) };
        // What is known of a flow need not be looked at again.
        let was_certain =
            self.questions.get(&key).is_some_and(|before| before.is_certain_now(self.epoch));
        let question = Question {
            epoch: self.epoch,
            at: Instant::now(),
            is_certain: is_many && (is_new || was_certain),
        };
        judgement.change.push(Change::Question(key, question));
    }

    /// Whether a packet that no rule allows answers a question; `None` if nobody has asked.
    pub fn answers_a_question(&self, case: &Case<'_>) -> Option<bool> {
        let &Case { endpoint, direction, ip, ports, .. } = case;
        let Ports::Pair { source, destination } = ports else { return None };
        if ip.protocol != UDP {
            return None;
        }
        let scope = super::flows::scope(endpoint);
        let direction = turned(direction);
        let key = Key { scope, direction, asker: ip.destination, ports: (destination, source) };
        self.questions.get(&key).map(|question| question.is_certain_now(self.epoch))
    }

    /// What becomes of a new flow that the rules do not allow, if it may be an answer.
    pub fn unless_answers(
        &self,
        case: &Case<'_>,
        claimed: Option<u32>,
        service: Service,
        judgement: Judgement,
    ) -> Judgement {
        let &Case { endpoint, direction, ip, arrival, .. } = case;
        if judgement.must == Must::Pass && judgement.why != "audited" {
            return judgement;
        }
        let Some(is_certain) = self.answers_a_question(case) else { return judgement };
        let remote = if direction == Direction::Egress { ip.destination } else { ip.source };
        let peers = self.peers(endpoint, direction, remote, claimed, arrival);
        let denied = |peer: &u32| {
            endpoint
                .rules
                .iter()
                .any(|rule: &Rule| !rule.allows && rule.matches(direction, *peer, service))
        };
        let count = peers.iter().filter(|peer| denied(peer)).count();
        let is_of_host = !endpoint.is_container
            && direction == Direction::Ingress
            && self.is_listed_host(remote);
        match count {
            0 if is_certain && !is_of_host && judgement.must != Must::Either => {
                Judgement::pass("answers a question to many")
            }
            count if count == peers.len() && judgement.must != Must::Either => judgement,
            _ => Judgement::either("may answer a question to many"),
        }
    }
}
