//! The rules of `ip rule` in this namespace that ask for a mark (include/uapi/linux/fib_rules.h).

use std::fmt;

use anyhow::Result;
use log::debug;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::rtnetlink::request;
use crate::model::mark::Mark;
use crate::model::marks::layouts::Routing;

/// A rule that asks for the mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpRule {
    is_ipv6: bool,
    priority: u32,
    mark: u32,
    mask: u32,
    is_inverted: bool,
    action: String,
}

impl IpRule {
    /// Whether a packet with this mark meets the rule and one without a mark does not, or the other way round.
    pub fn tells_apart(&self, mark: Mark) -> bool {
        let matches = |mark: u32| (mark ^ self.mark) & self.mask == 0;
        matches(mark.0) != matches(0)
    }

    /// What it asks for, and where it stands.
    pub fn routing(&self) -> Routing {
        Routing { mark: self.mark, mask: self.mask, priority: self.priority }
    }

    /// Whether it is for marks of identities, and not for others that look like one: it asks for their magic.
    pub fn is_meant(&self) -> bool {
        self.mask & self.mark & Mark::MAGIC_OF_IDENTITY == Mark::MAGIC_OF_IDENTITY
    }

    /// `None` if it takes any mark.
    fn from_message(message: &RuleMessage) -> Option<IpRule> {
        let (mut priority, mut mark, mut mask) = (0, None, None);
        let mut table = u32::from(message.header.table);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(it) => priority = *it,
                RuleAttribute::FwMark(it) => mark = Some(*it),
                RuleAttribute::FwMask(it) => mask = Some(*it),
                RuleAttribute::Table(it) => table = *it,
                _ => {}
            }
        }
        let mask = mask.or(mark.map(|_| u32::MAX))?;
        let action = match (message.header.action, table) {
            (RuleAction::ToTable, 253) => "lookup default".to_owned(),
            (RuleAction::ToTable, 254) => "lookup main".to_owned(),
            (RuleAction::ToTable, 255) => "lookup local".to_owned(),
            (RuleAction::ToTable, table) => format!("lookup {table}"),
            (action, _) => format!("{action:?}").to_lowercase(),
        };
        Some(IpRule {
            is_ipv6: message.header.family == AddressFamily::Inet6,
            priority,
            mark: mark.unwrap_or_default(),
            mask,
            is_inverted: message.header.flags.contains(RuleFlags::Invert),
            action,
        })
    }
}

impl fmt::Display for IpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IpRule { priority, mark, mask, action, .. } = self;
        let family = if self.is_ipv6 { "-6 " } else { "" };
        let not = if self.is_inverted { "not " } else { "" };
        write!(f, "`ip {family}rule` {priority} ({not}fwmark {mark:#x}/{mask:#x} {action})")
    }
}

/// All of both families. What the kernel can't tell, as one without routing policies, counts as none.
pub fn with_marks() -> Vec<IpRule> {
    [AddressFamily::Inet, AddressFamily::Inet6].into_iter().flat_map(of_family).collect()
}

fn of_family(family: AddressFamily) -> Vec<IpRule> {
    let read = || -> Result<Vec<IpRule>> {
        let mut query = RuleMessage::default();
        query.header.family = family;
        let answers = request(RouteNetlinkMessage::GetRule(query), NLM_F_DUMP)?;
        let rules = answers.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRule(rule) => IpRule::from_message(rule),
            _ => None,
        });
        Ok(rules.collect())
    };
    read().unwrap_or_else(|error| {
        debug!("the rules of `ip rule` for {family:?}: {error:#}");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Identity;

    fn rule(mark: u32, mask: u32) -> IpRule {
        let action = "lookup main".to_owned();
        IpRule { is_ipv6: false, priority: 7, mark, mask, is_inverted: false, action }
    }

    fn tells_apart(rule: &IpRule, identity: u32) -> bool {
        rule.tells_apart(Mark::encode(Identity(identity)).unwrap())
    }

    #[test]
    fn a_rule_tells_those_apart_whose_marks_have_its_bits() {
        let tailscale = rule(0x40000, 0xff0000);
        for (identity, is_told) in [(1284, true), (260, true), (4, true), (1234, false), (5, false)]
        {
            assert_eq!(tells_apart(&tailscale, identity), is_told, "{identity}");
        }
        assert!(tells_apart(&rule(0x04d2_0f00, u32::MAX), 1234));
        assert!(!tells_apart(&rule(0x04d2_0f00, u32::MAX), 1235));
        // What asks for no mark, and who is told from what has none.
        assert!(!tells_apart(&rule(0, 0xff0000), 256));
        assert!(tells_apart(&rule(0, 0xff0000), 257));
    }
}
