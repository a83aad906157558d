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

/// How often a chain is gone through, before what comes there more has a connection's mark that nobody knows: whoever may
/// write rules may let these be very many.
const MOST_VISITS: usize = 32;

/// All of the rules that meet it, in the order of their chains.
pub fn hits<'a>(ruleset: &'a Ruleset, packet: Packet<'_>) -> Vec<Hit<'a>> {
    hits_of(ruleset, found(ruleset, packet, connmarks, false))
}

/// The rules that give a packet a mark that has none, and comes by whatever device, if its connection has kept this one.
pub fn restoring(ruleset: &Ruleset, connmark: u32) -> Vec<Hit<'_>> {
    let packet = Packet { mark: Mark(0), device: "", from: &[], to: &[] };
    let mut hits =
        hits_of(ruleset, found(ruleset, packet, |_, _| vec![Bits::all(connmark)], false));
    hits.retain(|hit| {
        let restores =
            |action: &Action| matches!(action, Action::SetMark(it) if it.reads_connmark());
        matches!(hit.does, Does::Sets { .. }) && hit.rule.actions().any(restores)
    });
    hits
}

/// Whether no rule does more to it than to keep its mark with its connection. The first that does is enough.
pub fn keeps(ruleset: &Ruleset, packet: Packet<'_>) -> bool {
    let found = found(ruleset, packet, connmarks, true);
    found.keys().all(|(.., does)| matches!(does, Does::Saves { .. }))
}

type Found = BTreeMap<(usize, usize, Does), Certainty>;

fn hits_of(ruleset: &Ruleset, found: Found) -> Vec<Hit<'_>> {
    let hit = |((at, rule, does), certainty): ((usize, usize, Does), Certainty)| Hit {
        chain: &ruleset.chains()[at],
        rule: &ruleset.chains()[at].rules[rule],
        is_certain: certainty.is_certain,
        is_before_workloads: certainty.is_before_workloads,
        does,
    };
    found.into_iter().map(hit).collect()
}

fn found(
    ruleset: &Ruleset,
    packet: Packet<'_>,
    connmarks: impl Fn(&Ruleset, Bits) -> Vec<Bits>,
    is_first_enough: bool,
) -> Found {
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
                walk.chain(at, start, connmark);
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
            match is_known(set) && connmarks.len() < MOST_CONNMARKS {
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

/// Whether all of it is known that may be an identity's.
fn is_known(bits: Bits) -> bool {
    bits.known | Mark::NOT_OURS == u32::MAX
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

/// That packets have come to a chain.
struct Visit {
    reached: Certainty,
    /// The mark of their connection when they came, and when they went on behind the chain.
    connmarks: [Bits; 2],
}

/// The mark of a packet's connection in a chain.
struct ConnMark {
    /// Of those that come to the next rule.
    now: Bits,
    /// Of those that have gone back before, if any have.
    gone: Option<Bits>,
}

struct Walk<'a, 'f> {
    ruleset: &'a Ruleset,
    packet: Packet<'a>,
    mark: Bits,
    /// As the packet comes into a chain of a hook.
    connmark: Bits,
    visited: HashMap<usize, Vec<Visit>>,
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

impl ConnMark {
    fn go(&mut self, connmark: Bits) {
        self.gone = Some(self.gone.map_or(connmark, |gone| gone.or(connmark)));
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

    /// What the connection's mark is behind it.
    fn chain(&mut self, at: usize, reached: Certainty, mut connmark: Bits) -> Bits {
        let visited = self.visited.entry(at).or_default();
        if visited.len() >= MOST_VISITS {
            connmark = Bits::of(0, 0);
        }
        let is_covered = |it: &&Visit| it.connmarks[0] == connmark && it.reached.covers(reached);
        if let Some(before) = visited.iter().find(is_covered) {
            return before.connmarks[1];
        }
        let visit = visited.len();
        visited.push(Visit { reached, connmarks: [connmark; 2] });
        let mut connmark = ConnMark { now: connmark, gone: None };
        let mut rules = self.ruleset.relevant(at).iter();
        let has_ended =
            rules.any(|index| self.rule(at, *index, reached, &mut connmark) || self.is_done);
        if !has_ended {
            connmark.go(connmark.now);
        }
        let behind = connmark.gone.unwrap_or(connmark.now);
        if let Some(visit) = self.visited.get_mut(&at).and_then(|it| it.get_mut(visit)) {
            visit.connmarks[1] = behind;
        }
        behind
    }

    /// Whether no such packet comes to the rules behind.
    fn rule(&mut self, at: usize, index: usize, reached: Certainty, of_all: &mut ConnMark) -> bool {
        let chain = &self.ruleset.chains()[at];
        let rule = &chain.rules[index];
        let (mark, mut connmark) = (self.mark, of_all.now);
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
                    let holds = self.holds(test, connmark, reached.is_at_port);
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
                    let before = connmark;
                    let is_done = self.act(at, index, action, &mut connmark, here);
                    if matches!(action, Action::Return | Action::Goto(_)) {
                        of_all.go(connmark);
                        connmark = before;
                    }
                    if is_done && truth == Truth::Yes {
                        return true;
                    }
                    of_all.now = match truth {
                        Truth::Yes => connmark,
                        _ => of_all.now.or(connmark),
                    };
                }
            }
        }
        false
    }

    fn holds(&self, test: &Test, connmark: Bits, is_at_port: bool) -> Truth {
        match test {
            Test::From(devices) if is_at_port => devices.hold(&[self.packet.device.to_owned()]),
            Test::From(devices) => devices.hold(self.packet.from),
            Test::To(_) => Truth::Maybe,
            test => test.holds(self.mark, connmark),
        }
    }

    /// Whether it is done with the packet.
    fn act(
        &mut self,
        at: usize,
        index: usize,
        action: &Action,
        connmark: &mut Bits,
        here: Certainty,
    ) -> bool {
        let chain = &self.ruleset.chains()[at];
        let target = |name: &str| self.ruleset.find(&chain.table, name);
        match action {
            Action::SetMark(value) => {
                let Bits { value: new, known } = value.of(self.mark, *connmark);
                if ((new ^ self.mark.value) & known | !known) & !Mark::NOT_OURS != 0 {
                    let sets = |of| Does::Sets { value: new, known, of };
                    let of = match self.is_marked() {
                        // Rules before have made another of it.
                        _ if *connmark != self.connmark => Of::All,
                        false if value.reads_connmark() => Of::Unmarked,
                        // Where it does the same to others, that is told already.
                        true if !self.found.contains_key(&(at, index, sets(Of::All))) => Of::Marked,
                        _ => Of::All,
                    };
                    let is_known = !value.reads_connmark() || is_known(*connmark);
                    let here = Certainty { is_certain: here.is_certain && is_known, ..here };
                    self.record(at, index, sets(of), here);
                }
                false
            }
            Action::SetConnMark(value) => {
                let nothing = Bits::of(0, self.mark.known);
                let [saved, without] = [self.mark, nothing].map(|mark| value.of(mark, *connmark));
                if value.reads_mark() && (saved.value ^ without.value) & !Mark::NOT_OURS != 0 {
                    self.record(at, index, Does::Saves { connmark: saved.value }, here);
                }
                *connmark = saved;
                false
            }
            Action::Jump(name) => {
                if let Some(target) = target(name) {
                    *connmark = self.chain(target, here, *connmark);
                }
                false
            }
            Action::Goto(name) => {
                if let Some(target) = target(name) {
                    *connmark = self.chain(target, here, *connmark);
                }
                true
            }
            Action::JumpSomewhere => {
                let before = *connmark;
                for target in self.ruleset.targets(&chain.table) {
                    *connmark = connmark.or(self.chain(target, here, before));
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

#[cfg(test)]
mod tests;
