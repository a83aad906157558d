//! A set of rules as `cm_policy` holds it (src/bpf/abi/maps.h): the compiled entries, the blocks that they have,
//! and where no packet looks the list of the rules itself, so that there is no second place that could
//! say something else.

use crate::kernel::abi::{
    self, cm_direction, cm_policy_entry, cm_policy_flags, cm_policy_key, cm_port_block,
    cm_port_blocks,
};
use crate::model::identity::Identity;
use crate::model::origin::{Origin, Origins};
use crate::model::policy::{Entry, Listed, Policy, RuleNumber};
use crate::model::rule::{Action, Direction, L4, Rule};
use crate::model::rule_list::Made;
use crate::model::wire::{CM_LISTED, CM_PORT_BLOCKS, CM_RULE_OF_IDENTITY};

const LISTED: u8 = CM_LISTED as u8;
const PORT_BLOCKS: u8 = CM_PORT_BLOCKS as u8;
const FINAL: u8 = cm_policy_flags::CM_POLICY_FINAL.0 as u8;
const OF_IDENTITY: u8 = CM_RULE_OF_IDENTITY as u8;

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Every entry of the map.
pub fn encode(policy: &Policy) -> Vec<(cm_policy_key, cm_policy_entry)> {
    let listed = policy.rules().iter().enumerate();
    let listed = listed.map(|(place, listed)| {
        let holders = listed.origins.bits() | if listed.of_identity { OF_IDENTITY } else { 0 };
        let entry = cm_policy_entry { holders, ..entry(listed.number, &listed.rule) };
        (key_beside(place as u32, LISTED), entry)
    });
    let compiled = policy.compile();
    let of_directions = DIRECTIONS.map(|direction| {
        let entries = compiled.iter().filter(|entry| entry.direction == direction);
        let tells_host = policy.rules().iter().any(|listed| tells_host(&listed.rule, direction));
        encode_direction(direction, &entries.collect::<Vec<_>>(), tells_host)
    });
    listed.chain(of_directions.into_iter().flatten()).collect()
}

/// Whether a rule of a direction could tell this host from the world.
fn tells_host(rule: &Rule, direction: Direction) -> bool {
    rule.direction == direction && [Identity::HOST, Identity::WORLD].contains(&rule.peer)
}

fn encode_direction(
    direction: Direction,
    compiled: &[&Entry],
    tells_host: bool,
) -> Vec<(cm_policy_key, cm_policy_entry)> {
    let is_any = |entry: &Entry| entry.identity == Rule::ANY;
    let denies = |entry: &Entry| entry.decides.rule.action == Action::Deny;
    let (mut of_peers, mut of_any, mut any_denies) = (0, 0, false);
    for entry in compiled {
        match is_any(entry) {
            true => of_any |= entry.block,
            false => of_peers |= entry.block,
        }
        any_denies |= is_any(entry) && denies(entry);
    }
    let one_port = cm_port_block::CM_PORT_BLOCK_PORT.0;
    let settles = |entry: &Entry| match is_any(entry) {
        true => entry.block == one_port && of_peers & !one_port == 0,
        false => denies(entry) || !any_denies,
    };
    let blocks =
        cm_port_blocks { of_peers, of_any, tells_host: tells_host.into(), ..Default::default() };
    let blocks = abi::from_bytes(abi::bytes_of(&blocks)).expect("as large as an entry");
    let blocks = (key_beside(direction_number(direction).into(), PORT_BLOCKS), blocks);
    let told = if tells_host { cm_policy_flags::CM_POLICY_TELLS_HOST.0 as u8 } else { 0 };
    let entries = compiled.iter().map(|found| {
        let mut entry = entry(found.decides.number, &found.decides.rule);
        entry.flags |= told | if settles(found) { FINAL } else { 0 };
        (key(found), entry)
    });
    [blocks].into_iter().chain(entries).collect()
}

/// The rules of a set, in order; `None` if no set looks like that.
pub fn decode(entries: &[(cm_policy_key, cm_policy_entry)]) -> Option<Vec<Listed>> {
    let listed = entries.iter().filter(|(key, _)| key.direction == LISTED);
    let rules: Option<Vec<(u32, Listed)>> =
        listed.map(|(key, entry)| Some((key.identity, to_listed(entry)?))).collect();
    let mut rules = rules?;
    rules.sort_by_key(|(place, _)| *place);
    Some(rules.into_iter().map(|(_, listed)| listed).collect())
}

/// Where no packet looks.
fn key_beside(place: u32, direction: u8) -> cm_policy_key {
    cm_policy_key { identity: place, direction, ..Default::default() }
}

fn key(entry: &Entry) -> cm_policy_key {
    cm_policy_key {
        identity: entry.identity.0,
        block: cm_port_block(entry.block),
        port: entry.port,
        protocol: entry.protocol,
        direction: direction_number(entry.direction),
    }
}

fn direction_number(direction: Direction) -> u8 {
    let number = match direction {
        Direction::Ingress => cm_direction::CM_INGRESS,
        Direction::Egress => cm_direction::CM_EGRESS,
    };
    number.0 as u8
}

/// A rule of an identity, which has no number.
pub fn of_made(made: &Made) -> cm_policy_entry {
    cm_policy_entry { holders: made.origins.bits(), ..entry(RuleNumber(0), &made.rule) }
}

/// `None` if no rule is stored like that.
pub fn to_made(entry: &cm_policy_entry) -> Option<Made> {
    to_listed(entry).map(|listed| Made { rule: listed.rule, origins: listed.origins })
}

fn entry(number: RuleNumber, rule: &Rule) -> cm_policy_entry {
    let (first_port, last_port) = rule.l4.range().unwrap_or_default();
    let flags = [
        (rule.action == Action::Deny, cm_policy_flags::CM_POLICY_DENIES),
        (rule.direction == Direction::Egress, cm_policy_flags::CM_POLICY_EGRESS),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag.0);
    cm_policy_entry {
        rule: number.0,
        peer: rule.peer.0,
        first_port,
        last_port,
        protocol: rule.l4.protocol().unwrap_or(0),
        parts: u8::from(rule.l4.protocol().is_some()) + u8::from(rule.l4.range().is_some()),
        flags: flags as u8,
        holders: 0,
    }
}

/// `None` if no rule is stored like that.
fn to_listed(entry: &cm_policy_entry) -> Option<Listed> {
    let range = (entry.first_port, entry.last_port);
    let l4 = match entry.parts {
        0 => L4::from_parts(None, None),
        1 => L4::from_parts(Some(entry.protocol), None),
        2 => L4::from_parts(Some(entry.protocol), Some(range)),
        _ => None,
    };
    let has = |flag: cm_policy_flags| u32::from(entry.flags) & flag.0 != 0;
    let egress = has(cm_policy_flags::CM_POLICY_EGRESS);
    let rule = Rule {
        action: if has(cm_policy_flags::CM_POLICY_DENIES) { Action::Deny } else { Action::Allow },
        direction: if egress { Direction::Egress } else { Direction::Ingress },
        peer: Identity(entry.peer),
        l4: l4?,
    };
    let origins = match entry.holders {
        0 => Origin::Command.into(),
        holders => Origins::from_bits(holders),
    };
    let of_identity = entry.holders & OF_IDENTITY != 0;
    Some(Listed { number: RuleNumber(entry.rule), rule, origins, of_identity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Names;
    use crate::model::rule_list::RuleList;

    #[test]
    fn every_port_block_of_an_entry_is_one_that_the_datapath_asks_for() {
        let blocks = [
            cm_port_block::CM_PORT_BLOCK_PORT,
            cm_port_block::CM_PORT_BLOCK_16,
            cm_port_block::CM_PORT_BLOCK_256,
            cm_port_block::CM_PORT_BLOCK_4096,
            cm_port_block::CM_PORT_BLOCK_PROTOCOL,
            cm_port_block::CM_PORT_BLOCK_ALL,
        ];
        let rules =
            ["allow ingress from 9 tcp/1-65534", "allow egress to any tcp", "deny egress to 5"];
        let mut found: Vec<u32> =
            policy(&rules).compile().iter().map(|entry| entry.block).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, blocks.map(|block| block.0));
    }

    fn policy(texts: &[&str]) -> Policy {
        let rules = texts.iter().map(|text| Rule::parse(text, &Names::default()).unwrap());
        Policy::default().replaced_by(&rules.collect::<Vec<_>>(), &Policy::default())
    }

    #[test]
    fn every_kind_of_rule_comes_back_from_its_set_in_order_with_who_has_made_it() {
        let own = policy(&[
            "allow ingress from any",
            "deny egress to 4294967295 tcp",
            "allow egress to any proto/0",
            "allow ingress from 9 sctp/0-65535",
            "deny ingress from 9 icmp6/255",
        ]);
        let names = Names::default();
        let others = ["allow ingress from any", "allow ingress from 9"];
        let others = others.map(|text| Rule::parse(text, &names).unwrap());
        let (mut made, mut of_identity) = (own.own(), RuleList::default());
        made.add(&others, Origin::Hook);
        of_identity.add(&others, Origin::File);
        let policy = own.made_of(&made, &of_identity, &Policy::default());
        let mut entries = encode(&policy);
        entries.reverse();
        assert_eq!(decode(&entries).as_deref(), Some(policy.rules()));
        assert_eq!(decode(&encode(&Policy::default())), Some(vec![]));
    }

    /// Which entries for port 80 settle it: (of a peer, of any).
    fn settling(texts: &[&str]) -> (bool, bool) {
        let entries = encode(&policy(texts)).into_iter();
        let settles = |entry: cm_policy_entry| entry.flags & 4 != 0;
        let at_80 = entries.filter(|(key, _)| key.port == 80 && key.block.0 == 1);
        let (any, peer): (Vec<_>, Vec<_>) = at_80.partition(|(key, _)| key.identity == 0);
        (settles(peer[0].1), settles(any[0].1))
    }

    #[test]
    fn an_entry_settles_it_where_no_other_can_decide_otherwise() {
        let allows = ["allow ingress from 9 tcp/80", "allow ingress from any tcp/80"];
        assert_eq!(settling(&allows), (true, true));
        let with = |rule| settling(&[allows[0], allows[1], rule]);
        assert_eq!(with("allow ingress from 8 tcp/90"), (true, true));
        assert_eq!(with("deny ingress from 8 tcp"), (true, false));
        assert_eq!(with("deny ingress from any udp"), (false, true));
        assert_eq!(with("deny egress to any"), (true, true));
        let denies = ["deny ingress from 9 tcp/80", "deny ingress from any tcp/80"];
        assert_eq!(settling(&denies), (true, true));
    }

    #[test]
    fn what_no_rule_looks_like_is_refused() {
        let udp = cm_policy_entry { protocol: 17, parts: 2, ..Default::default() };
        let listed = to_listed(&udp).expect("a rule, of a version that knew no origins");
        assert_eq!((listed.origins, listed.of_identity), (Origin::Command.into(), false));
        for entry in [
            cm_policy_entry { parts: 3, ..udp },
            cm_policy_entry { first_port: 9, last_port: 8, ..udp },
            cm_policy_entry { protocol: 47, ..udp },
            cm_policy_entry { protocol: 1, last_port: 1, ..udp },
        ] {
            assert!(to_listed(&entry).is_none(), "{entry:?}");
        }
    }
}
