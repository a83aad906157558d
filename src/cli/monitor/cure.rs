//! The rule that is missing for a packet to pass.

use std::collections::BTreeMap;

use crate::datapath::abi::{cm_direction, cm_event};
use crate::datapath::conntrack::Conntrack;
use crate::datapath::pin::Root;
use crate::datapath::registry::Endpoint;
use crate::model::endpoint::{EndpointId, Role};
use crate::model::identity::Identity;
use crate::model::rule::{Action, Direction, L4, Rule};

/// Where endpoints have their flows, as far as anybody has asked.
#[derive(Default)]
pub struct Cures {
    flows: BTreeMap<EndpointId, Option<(Conntrack, u16)>>,
}

impl Cures {
    /// The narrowest rule that allows the flow of a packet that no rule allows.
    pub fn missing_rule(&mut self, root: &Root, id: EndpointId, event: &cm_event) -> Option<Rule> {
        let flows = self.flows.entry(id).or_insert_with(|| open(root, id)).as_ref();
        let began =
            flows.and_then(|(flows, scope)| flows.direction_of(event, *scope).ok().flatten());
        missing_rule(event, began)
    }

    /// Forgets what it knows.
    pub fn forget(&mut self) {
        self.flows.clear();
    }
}

fn open(root: &Root, id: EndpointId) -> Option<(Conntrack, u16)> {
    let endpoint = Endpoint::read(root, id).ok()?;
    let owner = (endpoint.config.ct_local != 0).then_some(id);
    let scope = if endpoint.role() == Some(Role::Container) { id.get() } else { 0 };
    Some((Conntrack::open(root, owner).ok()??, scope))
}

/// `began` is the direction of the flow, if it is known, and else that of the packet.
fn missing_rule(event: &cm_event, began: Option<Direction>) -> Option<Rule> {
    let (packet, peer) = match event.direction {
        cm_direction::CM_INGRESS => (Direction::Ingress, event.source_identity),
        _ => (Direction::Egress, event.destination_identity),
    };
    let direction = began.unwrap_or(packet);
    let service = if direction == packet { event.dport } else { event.sport };
    let l4 = match (event.protocol, u16::from_be(service)) {
        // A later fragment has no port.
        (protocol @ (6 | 17 | 132), port) if port != 0 => {
            L4::Ports { protocol, first: port, last: port }
        }
        // The answers to an echo belong to who asked.
        (protocol @ 1, _) if direction != packet => L4::IcmpType { protocol, kind: 8 },
        (protocol @ 58, _) if direction != packet => L4::IcmpType { protocol, kind: 128 },
        (protocol @ (1 | 58), _) => L4::IcmpType { protocol, kind: event.icmp_type },
        (protocol, _) => L4::Protocol(protocol),
    };
    // 0 would be everybody.
    (peer != 0).then_some(Rule { action: Action::Allow, direction, peer: Identity(peer), l4 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Names;

    #[test]
    fn the_rule_is_about_the_flow_and_not_about_the_packet() {
        let event = |direction, protocol| cm_event {
            direction,
            protocol,
            source_identity: 300,
            destination_identity: 301,
            sport: 443_u16.to_be(),
            dport: 50_000_u16.to_be(),
            ..cm_event::default()
        };
        for (direction, protocol, began, rule) in [
            (cm_direction::CM_INGRESS, 6, None, "allow ingress from 300 tcp/50000"),
            (cm_direction::CM_INGRESS, 6, Some(Direction::Egress), "allow egress to 300 tcp/443"),
            (cm_direction::CM_EGRESS, 17, None, "allow egress to 301 udp/50000"),
            (
                cm_direction::CM_EGRESS,
                17,
                Some(Direction::Ingress),
                "allow ingress from 301 udp/443",
            ),
            (cm_direction::CM_INGRESS, 1, Some(Direction::Egress), "allow egress to 300 icmp/8"),
            (
                cm_direction::CM_EGRESS,
                58,
                Some(Direction::Ingress),
                "allow ingress from 301 icmp6/128",
            ),
            (cm_direction::CM_EGRESS, 1, None, "allow egress to 301 icmp/0"),
            (cm_direction::CM_EGRESS, 47, None, "allow egress to 301 proto/47"),
        ] {
            let missing = missing_rule(&event(direction, protocol), began).unwrap();
            assert_eq!(missing.text(&Names::default()), rule);
        }
        let nobody = cm_event { source_identity: 0, ..event(cm_direction::CM_INGRESS, 6) };
        assert!(missing_rule(&nobody, None).is_none());
    }
}
