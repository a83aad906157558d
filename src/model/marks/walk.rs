//! Which rules meet the packets of an identity, and what they do to its mark.

use std::collections::{BTreeMap, HashMap};

use super::ruleset::{Action, Chain, Devices, Hook, Rule, Ruleset, Step, Test, Truth};
use super::value::{Bits, Value};
use crate::model::mark::Mark;

/// A packet with the mark of an identity, as it comes out of cilmark's program.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Its mark.
    pub mark: Mark,
    /// The device with the program, whose name rules of bridges and devices know.
    pub device: &'a str,
    /// The devices that rules of IP know it to come from: the same, or what it is a port of.
    pub from: &'a [String],
    /// The devices by which it comes to workloads that ask who has sent it.
    pub to: &'a [String],
}

/// A rule that meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The chain of the rule.
    pub chain: &'a Chain,
    /// The rule.
    pub rule: &'a Rule,
    /// It meets all of them, as far as rules before do not end their way.
    pub is_certain: bool,
    /// It meets such as are for a workload that asks who has sent it, before that does.
    pub is_before_workloads: bool,
    /// What it does.
    pub does: Does,
}

/// What a rule does to a packet with an identity's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Does {
    /// Treats it otherwise than one without a mark; if it is meant for such marks, by their magic.
    TellsApart {
        /// It asks for the magic of identities.
        is_meant: bool,
        /// It is one of those that the rule goes on with; else it is left out.
        is_taken: bool,
    },
    /// Writes other bits than bits 12 to 15 into its mark.
    Sets {
        /// What the mark is then.
        value: u32,
        /// Which bits of that are known.
        known: u32,
        /// With which mark of the connection, if that makes a difference; 0 is one that nobody has set.
        connmark: Option<u32>,
    },
    /// Keeps its mark in that of its connection.
    Saves {
        /// What the connection's mark is then.
        connmark: u32,
    },
}

/// All of the rules that meet it, in the order of their chains.
pub fn hits<'a>(ruleset: &'a Ruleset, packet: Packet<'_>) -> Vec<Hit<'a>> {
    let hit = |((at, rule, does), certainty): ((usize, usize, Does), Certainty)| Hit {
        chain: &ruleset.chains()[at],
        rule: &ruleset.chains()[at].rules[rule],
        is_certain: certainty.is_certain,
        is_before_workloads: certainty.is_before_workloads,
        does,
    };
    found(ruleset, packet, false).into_iter().map(hit).collect()
}

/// Whether no rule does more to it than to keep its mark with its connection. The first that does is enough.
pub fn keeps(ruleset: &Ruleset, packet: Packet<'_>) -> bool {
    found(ruleset, packet, true).keys().all(|(.., does)| matches!(does, Does::Saves { .. }))
}

type Found = BTreeMap<(usize, usize, Does), Certainty>;

fn found(ruleset: &Ruleset, packet: Packet<'_>, is_first_enough: bool) -> Found {
    // A connection has no mark until somebody sets one; then it is what rules state, or what they save.
    let mut connmarks = vec![0];
    for value in ruleset.set_connmarks() {
        let set = value.of(Bits::all(packet.mark.0), Bits::all(0));
        if set.known == u32::MAX && !connmarks.contains(&set.value) && connmarks.len() < 8 {
            connmarks.push(set.value);
        }
    }
    let mut found = BTreeMap::new();
    for connmark in connmarks {
        let visited = HashMap::new();
        let mut walk = Walk {
            ruleset,
            packet,
            connmark,
            visited,
            found: &mut found,
            is_first_enough,
            is_done: false,
        };
        for (at, chain) in ruleset.chains().iter().enumerate() {
            if let Some(start) = walk.start(chain) {
                walk.chain(at, start);
            }
            if walk.is_done {
                return found;
            }
        }
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Certainty {
    is_certain: bool,
    is_before_workloads: bool,
    /// A rule has sent it there for its identity: what is done to it there is meant.
    is_meant: bool,
}

struct Walk<'a, 'f> {
    ruleset: &'a Ruleset,
    packet: Packet<'a>,
    connmark: u32,
    visited: HashMap<usize, Vec<Certainty>>,
    found: &'f mut Found,
    /// Nothing else counts once a rule does more than to keep the mark.
    is_first_enough: bool,
    is_done: bool,
}

impl Certainty {
    fn covers(self, other: Certainty) -> bool {
        self.is_certain >= other.is_certain
            && self.is_before_workloads >= other.is_before_workloads
            && self.is_meant <= other.is_meant
    }

    fn with(self, truth: Truth) -> Certainty {
        Certainty { is_certain: self.is_certain && truth == Truth::Yes, ..self }
    }
}

impl Walk<'_, '_> {
    /// How certain it is that such packets come into a base chain.
    fn start(&self, chain: &Chain) -> Option<Certainty> {
        let is_before_workloads = match chain.hook? {
            // What this host sends has no identity's mark yet.
            Hook::Output => return None,
            Hook::Ingress => {
                let is_other = |device: &String| device != self.packet.device;
                if !chain.devices.is_empty() && chain.devices.iter().all(is_other) {
                    return None;
                }
                true
            }
            Hook::Input => false,
            Hook::Egress => {
                chain.devices.is_empty()
                    || chain.devices.iter().any(|device| self.packet.to.contains(device))
            }
            Hook::Prerouting | Hook::Forward | Hook::Postrouting => true,
        };
        // Of devices by which packets leave, and connections with marks, nobody knows whether there are any.
        let is_certain = chain.hook != Some(Hook::Egress) && self.connmark == 0;
        Some(Certainty { is_certain, is_before_workloads, is_meant: false })
    }

    fn chain(&mut self, at: usize, reached: Certainty) {
        let visited = self.visited.entry(at).or_default();
        if visited.iter().any(|before| before.covers(reached)) {
            return;
        }
        visited.push(reached);
        for index in self.ruleset.relevant(at) {
            if self.rule(at, *index, reached) || self.is_done {
                return;
            }
        }
    }

    /// Whether no such packet comes to the rules behind.
    fn rule(&mut self, at: usize, index: usize, reached: Certainty) -> bool {
        let chain = &self.ruleset.chains()[at];
        let rule = &chain.rules[index];
        let (mark, connmark) = (Bits::all(self.packet.mark.0), Bits::all(self.connmark));
        let mut here = reached;
        let mut truth = Truth::Yes;
        for step in &rule.steps {
            match step {
                Step::Test(test) => {
                    let does_anything = rule.actions().next().is_some();
                    if does_anything && test.tells_apart(mark.value, connmark) {
                        let is_meant = is_meant(test, mark.value, connmark);
                        let is_taken = test.holds(mark, connmark) != Truth::No;
                        self.record(at, index, Does::TellsApart { is_meant, is_taken }, here);
                        here.is_meant |= is_meant;
                    }
                    let holds = self.holds(test, chain, connmark);
                    if holds == Truth::No {
                        return false;
                    }
                    if let Test::To(devices) = test {
                        here.is_before_workloads &= may_be(devices, self.packet.to);
                    }
                    truth = truth.and(holds);
                    here = here.with(holds);
                }
                Step::Act(action) => {
                    if self.act(at, index, action, here) && truth == Truth::Yes {
                        return true;
                    }
                }
            }
        }
        false
    }

    fn holds(&self, test: &Test, chain: &Chain, connmark: Bits) -> Truth {
        match test {
            // Where bridges and devices ask, the device is the packet's own.
            Test::From(devices) if ["bridge", "netdev"].contains(&chain.table.family.as_str()) => {
                devices.hold(&[self.packet.device.to_owned()])
            }
            Test::From(devices) => devices.hold(self.packet.from),
            Test::To(_) => Truth::Maybe,
            test => test.holds(Bits::all(self.packet.mark.0), connmark),
        }
    }

    /// Whether it is done with the packet.
    fn act(&mut self, at: usize, index: usize, action: &Action, here: Certainty) -> bool {
        let chain = &self.ruleset.chains()[at];
        let mark = self.packet.mark.0;
        let target = |name: &str| self.ruleset.find(&chain.table, name);
        match action {
            Action::SetMark(value) => {
                let new = value.of(Bits::all(mark), Bits::all(self.connmark));
                if ((new.value ^ mark) & new.known | !new.known) & !Mark::NOT_OURS != 0 {
                    let sets = |connmark| {
                        let Bits { value, known } = new;
                        Does::Sets { value, known, connmark }
                    };
                    let is_by_connmark = match self.connmark {
                        0 => value.reads_connmark(),
                        // Where it does the same to others, that is told already.
                        _ => !self.found.contains_key(&(at, index, sets(None))),
                    };
                    let connmark = is_by_connmark.then_some(self.connmark);
                    self.record(at, index, sets(connmark), here);
                }
                false
            }
            Action::SetConnMark(value) => {
                let with = |mark| value.of(Bits::all(mark), Bits::all(self.connmark));
                let (saved, without) = (with(mark), with(0));
                if value.reads_mark() && (saved.value ^ without.value) & !Mark::NOT_OURS != 0 {
                    self.record(at, index, Does::Saves { connmark: saved.value }, here);
                }
                false
            }
            Action::Jump(name) => {
                if let Some(target) = target(name) {
                    self.chain(target, here);
                }
                false
            }
            Action::Goto(name) => {
                if let Some(target) = target(name) {
                    self.chain(target, here);
                }
                true
            }
            Action::JumpSomewhere => {
                for target in self.ruleset.targets(&chain.table) {
                    self.chain(target, here);
                }
                false
            }
            Action::Return | Action::End(_) => true,
            Action::Other(_) => false,
        }
    }

    fn record(&mut self, at: usize, index: usize, does: Does, here: Certainty) {
        if here.is_meant {
            return;
        }
        self.is_done |= self.is_first_enough && !matches!(does, Does::Saves { .. });
        let certainty = self.found.entry((at, index, does)).or_insert(here);
        certainty.is_certain |= here.is_certain;
        certainty.is_before_workloads |= here.is_before_workloads;
    }
}

/// Whether a test looks for marks of identities: with another magic the packet is none to it.
fn is_meant(test: &Test, mark: u32, connmark: Bits) -> bool {
    let with =
        |magic: u32| test.holds(Bits::all(mark & !Mark::MAGIC_OF_IDENTITY | magic << 8), connmark);
    (0..0xf).all(|magic| with(magic) != with(0xf))
}

fn may_be(devices: &Devices, to: &[String]) -> bool {
    to.iter().any(|device| devices.contain(device))
}

/// What a mark that a packet's connection has kept makes of a packet without one, where this restores it.
pub fn restored(value: &Value, connmark: u32) -> Bits {
    value.of(Bits::all(0), Bits::all(connmark))
}

#[cfg(test)]
mod tests;
