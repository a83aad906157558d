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
        /// To packets of which connections.
        of: Of,
    },
    /// Keeps its mark in that of its connection.
    Saves {
        /// What the connection's mark is then.
        connmark: u32,
    },
}

/// Connections whose packets a rule does something to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// All.
    All,
    /// Those whose own mark nobody has set, and perhaps others.
    Unmarked,
    /// Such as have one.
    Marked,
}

/// How many marks of connections are told from each other.
const MOST_CONNMARKS: usize = 8;

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
    // Bits that are no identity's may be others once a rule has written them.
    let mark = Bits::of(packet.mark.0, !ruleset.written_beside());
    let mut found = BTreeMap::new();
    for connmark in connmarks(ruleset, mark) {
        let visited = HashMap::new();
        let mut walk = Walk {
            ruleset,
            packet,
            mark,
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

/// What a connection may have: no mark until somebody sets one, and then what rules make of that, one after the other.
fn connmarks(ruleset: &Ruleset, mark: Bits) -> Vec<Bits> {
    let mut connmarks = vec![Bits::all(0)];
    let (mut next, mut are_all) = (0, true);
    while let Some(before) = connmarks.get(next).copied() {
        next += 1;
        for value in ruleset.set_connmarks() {
            let set = value.of(mark, before);
            if connmarks.contains(&set) {
                continue;
            }
            match set.known | Mark::NOT_OURS == u32::MAX && connmarks.len() < MOST_CONNMARKS {
                true => connmarks.push(set),
                false => are_all = false,
            }
        }
    }
    if !are_all {
        let written = ruleset.set_connmarks().iter().map(|it| it.writes(&Value::ConnMark));
        connmarks.push(Bits::of(0, !written.fold(0, |all, bits| all | bits)));
    }
    connmarks
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Certainty {
    is_certain: bool,
    is_before_workloads: bool,
    /// A rule has sent it there for its identity: what is done to it there is meant.
    is_meant: bool,
    /// It is known to come from the device with the program, whatever that is a port of.
    is_at_port: bool,
}

struct Walk<'a, 'f> {
    ruleset: &'a Ruleset,
    packet: Packet<'a>,
    mark: Bits,
    connmark: Bits,
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
            && self.is_at_port == other.is_at_port
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
        let is_certain = chain.hook != Some(Hook::Egress) && !self.is_marked();
        let is_at_port = matches!(chain.hook, Some(Hook::Ingress | Hook::Egress))
            || ["bridge", "netdev"].contains(&chain.table.family.as_str());
        Some(Certainty { is_certain, is_before_workloads, is_meant: false, is_at_port })
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
        let (mark, connmark) = (self.mark, self.connmark);
        let mut here = reached;
        let mut truth = Truth::Yes;
        for step in &rule.steps {
            match step {
                Step::Test(test) => {
                    let does_anything = rule.actions().next().is_some();
                    if does_anything && test.tells_apart(mark, connmark) {
                        let is_meant = is_meant(test, mark, connmark);
                        let is_taken = test.holds(mark, connmark) != Truth::No;
                        self.record(at, index, Does::TellsApart { is_meant, is_taken }, here);
                        here.is_meant |= is_meant;
                    }
                    let holds = self.holds(test, reached.is_at_port);
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

    fn holds(&self, test: &Test, is_at_port: bool) -> Truth {
        match test {
            Test::From(devices) if is_at_port => devices.hold(&[self.packet.device.to_owned()]),
            Test::From(devices) => devices.hold(self.packet.from),
            Test::To(_) => Truth::Maybe,
            test => test.holds(self.mark, self.connmark),
        }
    }

    /// Whether it is done with the packet.
    fn act(&mut self, at: usize, index: usize, action: &Action, here: Certainty) -> bool {
        let chain = &self.ruleset.chains()[at];
        let target = |name: &str| self.ruleset.find(&chain.table, name);
        match action {
            Action::SetMark(value) => {
                let Bits { value: new, known } = value.of(self.mark, self.connmark);
                if ((new ^ self.mark.value) & known | !known) & !Mark::NOT_OURS != 0 {
                    let sets = |of| Does::Sets { value: new, known, of };
                    let of = match self.is_marked() {
                        false if value.reads_connmark() => Of::Unmarked,
                        // Where it does the same to others, that is told already.
                        true if !self.found.contains_key(&(at, index, sets(Of::All))) => Of::Marked,
                        _ => Of::All,
                    };
                    self.record(at, index, sets(of), here);
                }
                false
            }
            Action::SetConnMark(value) => {
                let nothing = Bits::of(0, self.mark.known);
                let [saved, without] =
                    [self.mark, nothing].map(|mark| value.of(mark, self.connmark));
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

    fn is_marked(&self) -> bool {
        self.connmark != Bits::all(0)
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
fn is_meant(test: &Test, mark: Bits, connmark: Bits) -> bool {
    let with = |magic: u32| {
        let value = mark.value & !Mark::MAGIC_OF_IDENTITY | magic << 8;
        test.holds(Bits { value, ..mark }, connmark)
    };
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
