//! A rule of a policy, and the grammar in which it is written, listed and explained.
//!
//! ```text
//! allow|deny  ingress from|egress to  PEER  [L4]
//!
//! allow ingress from 1234 tcp/443        deny egress to world
//! allow ingress from any icmp/8          allow egress to db udp/5000-5999
//! ```
//! The peer always stands in the fourth place and the L4 behind it, so that no name of an identity
//! can be taken for something else.

mod l4;
pub mod next;

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
pub use l4::L4;

use self::l4::FORMS;
use super::identity::{Identity, Names};
use super::serial::named;

/// What a rule does with the flows that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// They pass, unless another rule denies them.
    Allow,
    /// They are dropped, whatever other rules say.
    Deny,
}

/// The direction of a flow's first packet, as the endpoint sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

named!(Direction, "direction": Ingress = "ingress", Egress = "egress");

impl Direction {
    /// That of the answers.
    pub fn other(self) -> Direction {
        match self {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        }
    }
}

/// A rule: whose flows, in which direction, and what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What becomes of them.
    pub action: Action,
    /// Which way they go.
    pub direction: Direction,
    /// Who is at the other end.
    pub peer: Identity,
    /// What they are.
    pub l4: L4,
}

impl Rule {
    /// The peer of rules for everybody.
    pub const ANY: Identity = Identity(0);

    /// Reads a rule.
    pub fn parse(text: &str, names: &Names) -> Result<Rule> {
        parse_words(&text.split_whitespace().collect::<Vec<_>>(), names)
            .with_context(|| format!("rule `{}`", text.trim()))
    }

    /// Whether it matches all flows that another one does.
    pub fn covers(&self, other: &Rule) -> bool {
        self.meet(other) == Some((other.peer, other.l4))
    }

    /// The peer and L4 of the flows that both match; `None` if there are none.
    pub fn meet(&self, other: &Rule) -> Option<(Identity, L4)> {
        let peer = match (self.peer, other.peer) {
            (Rule::ANY, peer) | (peer, Rule::ANY) => peer,
            (a, b) => Some(a).filter(|_| a == b)?,
        };
        let l4 = self.l4.meet(other.l4)?;
        (self.direction == other.direction).then_some((peer, l4))
    }

    /// Writes the rule as [`Rule::parse`] reads it with the same names.
    pub fn text(&self, names: &Names) -> String {
        let preposition = preposition(self.direction);
        let peer = peer_text(self.peer, names);
        match self.l4 {
            L4::Any => format!("{} {} {preposition} {peer}", self.action, self.direction),
            l4 => format!("{} {} {preposition} {peer} {l4}", self.action, self.direction),
        }
    }
}

fn parse_words(words: &[&str], names: &Names) -> Result<Rule> {
    let (action, direction, given, peer, rest) = match words {
        [action, direction, preposition, peer, rest @ ..] => {
            (action.parse()?, direction.parse()?, *preposition, *peer, rest)
        }
        _ => bail!(
            "incomplete: write `allow ingress from PEER` or `deny egress to PEER`, and behind \
             it {FORMS}"
        ),
    };
    let wanted = preposition(direction);
    ensure!(
        given == wanted,
        "`{given}` can't stand behind `{direction}`: `ingress` goes with `from`, `egress` with `to`"
    );
    let l4 = match rest {
        [] => L4::Any,
        [l4] => l4.parse()?,
        [_, extra, ..] => bail!("`{extra}` is too much: a rule ends with one of {FORMS}"),
    };
    Ok(Rule { action, direction, peer: parse_peer(peer, names)?, l4 })
}

fn preposition(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

fn parse_peer(text: &str, names: &Names) -> Result<Identity> {
    match text {
        "any" => Ok(Rule::ANY),
        // It is the number of `any` here, and who writes the name does not mean everybody.
        "unknown" => bail!("nobody is `unknown` to a policy: write `any`, or `world`"),
        _ => names.parse(text),
    }
}

/// The name, if it reads back as this identity: whoever writes to the map of names may break the
/// rules for them.
fn peer_text(peer: Identity, names: &Names) -> String {
    let reads_back = |name: &&str| {
        !name.contains(char::is_whitespace)
            && parse_peer(name, names).is_ok_and(|identity| identity == peer)
    };
    match names.name(peer).filter(reads_back) {
        _ if peer == Rule::ANY => "any".to_owned(),
        Some(name) => name.to_owned(),
        None => peer.to_string(),
    }
}

impl FromStr for Action {
    type Err = Error;

    fn from_str(text: &str) -> Result<Action> {
        match text {
            "allow" => Ok(Action::Allow),
            "deny" => Ok(Action::Deny),
            _ => bail!("`{text}` is not how a rule begins: write `allow` or `deny`"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::protocol::{ICMP, ICMP6, SCTP, TCP, UDP};
    use proptest::prelude::*;

    /// What the rules of the tests are about: few enough to meet.
    pub(crate) fn any_rule(
        peers: &'static [u32],
        ranges: impl Strategy<Value = (u16, u16)>,
    ) -> impl Strategy<Value = Rule> {
        let l4 = prop_oneof![
            1 => Just(L4::Any),
            2 => prop::sample::select(vec![TCP, UDP, ICMP, 47]).prop_map(L4::Protocol),
            6 => (prop::sample::select(vec![TCP, UDP, SCTP]), ranges)
                .prop_map(|(protocol, (a, b))| {
                    L4::Ports { protocol, first: a.min(b), last: a.max(b) }
                }),
            2 => (prop::sample::select(vec![ICMP, ICMP6]), any::<u8>())
                .prop_map(|(protocol, kind)| L4::IcmpType { protocol, kind }),
        ];
        let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
        let direction = prop_oneof![Just(Direction::Ingress), Just(Direction::Egress)];
        (action, direction, prop::sample::select(peers), l4).prop_map(
            |(action, direction, peer, l4)| Rule { action, direction, peer: Identity(peer), l4 },
        )
    }

    fn names() -> Names {
        let names =
            [(1234, "db"), (300, "tcp"), (301, "to"), (302, "any"), (303, "a b"), (304, "77")];
        Names::new(names.map(|(identity, name)| (Identity(identity), name.to_owned())))
    }

    #[test]
    fn every_form_is_written_as_it_is_read() {
        for text in [
            "allow ingress from any",
            "deny egress to world",
            "allow ingress from db tcp/443",
            "allow egress to db udp/5000-5999",
            "deny ingress from 99 sctp",
            "allow ingress from any icmp/8",
            "allow ingress from host icmp6/255",
            "allow ingress from remote-node icmp",
            "deny egress to 4294967295 icmp6",
            "allow egress to tcp tcp",
            "allow egress to to proto/47",
            "allow egress to any proto/0",
            "allow egress to any tcp/0-65535",
        ] {
            assert_eq!(Rule::parse(text, &names()).unwrap().text(&names()), text);
        }
    }

    #[test]
    fn other_spellings_come_to_the_same_rule() {
        for (spelling, text) in [
            ("  allow\tingress  from 0x4d2 tcp/080 ", "allow ingress from db tcp/80"),
            ("allow ingress from 0 tcp/80-80", "allow ingress from any tcp/80"),
            ("allow ingress from 2 proto/6", "allow ingress from world tcp"),
            ("allow ingress from 2 proto/58", "allow ingress from world icmp6"),
        ] {
            assert_eq!(Rule::parse(spelling, &names()).unwrap().text(&names()), text);
        }
    }

    #[test]
    fn an_error_names_the_bad_word_and_the_cure() {
        for (text, bad, hint) in [
            ("", "incomplete", "allow ingress from PEER"),
            ("allow ingress", "incomplete", "deny egress to PEER"),
            ("permit ingress from any", "`permit`", "`allow` or `deny`"),
            ("allow in from any", "`in`", "`ingress` or `egress`"),
            ("allow ingress to any", "`to`", "`ingress` goes with `from`"),
            ("allow egress from any", "`from`", "`egress` with `to`"),
            ("allow egress to nobody", "`nobody`", "cilmark identity list"),
            ("allow ingress from unknown", "`unknown`", "`any`"),
            ("allow ingress from any tcp/90-80", "`tcp/90-80`", "80-90"),
            ("allow ingress from any tcp/65536", "`tcp/65536`", "0 to 65535"),
            ("allow ingress from any udp/", "`udp/`", "0 to 65535"),
            ("allow ingress from any udp/+5", "`udp/+5`", "0 to 65535"),
            ("allow ingress from any tcp/1-2-3", "`tcp/1-2-3`", "80-90"),
            ("allow ingress from any tcp/80,90", "`tcp/80,90`", "80-90"),
            ("allow ingress from any icmp/256", "`icmp/256`", "0 to 255"),
            ("allow ingress from any icmp6/1-2", "`icmp6/1-2`", "one type"),
            ("allow ingress from any icmpv6/128", "`icmpv6/128`", "`icmp6`"),
            ("allow ingress from any proto", "`proto`", "0 to 255"),
            ("allow ingress from any proto/256", "`proto/256`", "0 to 255"),
            ("allow ingress from any 80/tcp", "`80/tcp`", "`tcp/80`"),
            ("allow ingress from any 80", "`80`", "`tcp/80`"),
            ("allow ingress from any gre", "`gre`", "proto/47"),
            ("allow ingress from any tcp 80", "`80`", "tcp/80"),
        ] {
            let error = format!("{:#}", Rule::parse(text, &names()).unwrap_err());
            assert!(error.contains(bad) && error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_that_would_be_read_otherwise_is_not_written() {
        for identity in [302, 303, 304] {
            let text = format!("deny egress to {identity}");
            assert_eq!(Rule::parse(&text, &names()).unwrap().text(&names()), text);
        }
    }

    proptest! {
        #[test]
        fn every_rule_reads_back(
            rule in any_rule(&[0, 1, 2, 77, 300, 302, 303, 304, 1234, u32::MAX], any::<(u16, u16)>())
        ) {
            prop_assert_eq!(Rule::parse(&rule.text(&names()), &names()).unwrap(), rule);
            prop_assert_eq!(L4::from_parts(rule.l4.protocol(), rule.l4.range()), Some(rule.l4));
        }
    }
}
