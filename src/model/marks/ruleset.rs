//! The rules of nftables and iptables, as far as they are about marks.

use std::collections::HashMap;
use std::fmt;

use super::value::{Bits, Value};
use crate::model::mark::Mark;

/// Whether something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// Never.
    No,
    /// For some packets.
    Maybe,
    /// Always.
    Yes,
}

/// Chains of tables of all families.
#[derive(Debug, Default)]
pub struct Ruleset {
    chains: Vec<Chain>,
    places: HashMap<Table, HashMap<String, usize>>,
    relevant: Vec<Vec<usize>>,
    set_connmarks: Vec<Value>,
    written_beside: u32,
}

/// A chain of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// What a chain of the same table is named with: `nft inet fw`, `iptables mangle`.
    pub table: Table,
    /// Its name in the table.
    pub name: String,
    /// Where packets come into it; nowhere, if only other chains jump there.
    pub hook: Option<Hook>,
    /// The devices whose packets come into it, where it is one of devices and they are known.
    pub devices: Vec<String>,
    /// In the order in which they are asked.
    pub rules: Vec<Rule>,
}

/// Whose rules they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// What lists it: `nft`, `iptables`, `ip6tables`, `iptables-legacy`, `ip6tables-legacy`, `ebtables`.
    pub tool: String,
    /// `inet`, `ip`, `bridge`, …; of iptables none, of ebtables `bridge`.
    pub family: String,
    /// Its name.
    pub name: String,
}

/// A point on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Hook {
    /// Of a device, behind cilmark's program.
    Ingress,
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    /// Of a device, before cilmark's program.
    Egress,
}

/// A rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// How its tool shows it.
    pub text: String,
    /// In the order in which they are done.
    pub steps: Vec<Step>,
}

/// What a rule does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Goes on only with some packets.
    Test(Test),
    /// Does something.
    Act(Action),
}

/// Which packets a rule goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Those of which a number is in one of these ranges, both ends included.
    Number {
        /// The number.
        value: Value,
        /// The ranges.
        ranges: Vec<(u32, u32)>,
        /// In none of them, rather.
        is_inverted: bool,
    },
    /// What has come in by such a device.
    From(Devices),
    /// What leaves by such a device.
    To(Devices),
    /// Some, by what is not looked at here.
    Other,
}

/// Names of devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// A `*` at the end stands for anything.
    pub names: Vec<String>,
    /// All others.
    pub is_inverted: bool,
}

/// What a rule does with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sets the packet's mark.
    SetMark(Value),
    /// Sets the mark of its connection.
    SetConnMark(Value),
    /// Goes to another chain of the table, and comes back.
    Jump(String),
    /// And does not come back.
    Goto(String),
    /// Goes to any chain of the table, by a map whose elements are not known.
    JumpSomewhere,
    /// Goes back to where it has come from.
    Return,
    /// Decides about the packet: `accept`, `drop`, …
    End(String),
    /// Does something else that can be seen, as masquerading or TPROXY; the packet may go on.
    Other(String),
}

impl Truth {
    /// Both.
    pub fn and(self, other: Truth) -> Truth {
        self.min(other)
    }

    fn not(self) -> Truth {
        match self {
            Truth::No => Truth::Yes,
            Truth::Maybe => Truth::Maybe,
            Truth::Yes => Truth::No,
        }
    }

    fn inverted_if(self, is_inverted: bool) -> Truth {
        if is_inverted { self.not() } else { self }
    }

    /// Of several packets, whether it holds for all, for some or for none.
    pub fn of_all(all: impl IntoIterator<Item = Truth>) -> Truth {
        let all: Vec<Truth> = all.into_iter().collect();
        let is = |truth: Truth| all.iter().all(|it| *it == truth);
        match (is(Truth::Yes), is(Truth::No)) {
            (true, false) => Truth::Yes,
            (false, true) => Truth::No,
            _ => Truth::Maybe,
        }
    }
}

impl Test {
    /// That a number is one.
    pub fn is(value: Value, number: u32, is_inverted: bool) -> Test {
        Test::Number { value, ranges: vec![(number, number)], is_inverted }
    }

    /// Whether it holds with these marks.
    pub fn holds(&self, mark: Bits, connmark: Bits) -> Truth {
        let Test::Number { value, ranges, is_inverted } = self else { return Truth::Maybe };
        let number = value.of(mark, connmark);
        let (least, greatest) = number.range();
        let is_in = ranges.iter().map(|(low, high)| {
            let is_other = low == high && (number.value ^ low) & number.known != 0;
            match () {
                _ if *low <= least && greatest <= *high => Truth::Yes,
                _ if is_other || greatest < *low || *high < least => Truth::No,
                _ => Truth::Maybe,
            }
        });
        is_in.max().unwrap_or(Truth::No).inverted_if(*is_inverted)
    }

    /// Whether packets with this mark meet it and those without a mark do not, or the other way round.
    pub fn tells_apart(&self, mark: Bits, connmark: Bits) -> bool {
        let Test::Number { value, .. } = self else { return false };
        let nothing = Bits::of(0, mark.known);
        value.reads_mark() && self.holds(mark, connmark) != self.holds(nothing, connmark)
    }
}

impl Devices {
    /// Whether a device is one of them.
    pub fn contain(&self, device: &str) -> bool {
        let is = |name: &String| match name.strip_suffix('*') {
            Some(start) => device.starts_with(start),
            None => device == name,
        };
        self.names.iter().any(is) != self.is_inverted
    }

    /// Whether that is so for all that a packet may be at.
    pub fn hold(&self, devices: &[String]) -> Truth {
        let truth = |device: &String| if self.contain(device) { Truth::Yes } else { Truth::No };
        Truth::of_all(devices.iter().map(truth))
    }
}

impl Rule {
    /// What becomes of a packet that meets all its tests.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.steps.iter().filter_map(|step| match step {
            Step::Act(action) => Some(action),
            Step::Test(_) => None,
        })
    }

    /// Its tests.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.steps.iter().filter_map(|step| match step {
            Step::Test(test) => Some(test),
            Step::Act(_) => None,
        })
    }

    /// Whether other bits than 12 to 15 of a mark are in it.
    fn is_about_identities(&self) -> bool {
        let has_ours = |bits: u32| bits & !Mark::NOT_OURS != 0;
        self.steps.iter().any(|step| match step {
            Step::Test(Test::Number { value, .. }) => has_ours(value.looked_at()),
            Step::Act(Action::SetMark(value)) => has_ours(value.writes(&Value::Mark)),
            // Who restores it has that.
            Step::Act(Action::SetConnMark(_)) => true,
            _ => false,
        })
    }

    /// Whether packets may never come to the rules behind: none of its tests is one that is not looked at here.
    fn may_end_for_all(&self) -> bool {
        let ends =
            |action: &Action| matches!(action, Action::Return | Action::End(_) | Action::Goto(_));
        let is_read = |test: &Test| matches!(test, Test::Number { .. } | Test::From(_));
        self.actions().any(ends) && self.tests().all(is_read)
    }

    /// Whether a mark, of the packet or of its connection, is in it.
    pub fn is_about_marks(&self) -> bool {
        let reads = |value: &Value| value.reads_mark() || value.reads_connmark();
        self.steps.iter().any(|step| match step {
            Step::Test(Test::Number { value, .. }) => reads(value),
            Step::Act(Action::SetMark(_) | Action::SetConnMark(_)) => true,
            _ => false,
        })
    }
}

impl Ruleset {
    /// Of these chains, which are in no order.
    pub fn new(chains: Vec<Chain>) -> Ruleset {
        let mut places: HashMap<Table, HashMap<String, usize>> = HashMap::new();
        for (at, chain) in chains.iter().enumerate() {
            places.entry(chain.table.clone()).or_default().insert(chain.name.clone(), at);
        }
        let actions = chains.iter().flat_map(|chain| &chain.rules).flat_map(Rule::actions);
        let set_connmarks = actions.filter_map(|action| match action {
            Action::SetConnMark(value) => Some(value.clone()),
            _ => None,
        });
        let set_connmarks = set_connmarks.collect();
        let actions = chains.iter().flat_map(|chain| &chain.rules).flat_map(Rule::actions);
        let written = actions.filter_map(|action| match action {
            Action::SetMark(value) => Some(value.writes(&Value::Mark)),
            _ => None,
        });
        // What writes others, too, has an end of the mark.
        let is_beside = |bits: &u32| bits & !Mark::NOT_OURS == 0;
        let written_beside = written.filter(is_beside).fold(0, |all, bits| all | bits);
        let relevant = Vec::new();
        let mut ruleset = Ruleset { chains, places, relevant, set_connmarks, written_beside };
        ruleset.relevant = ruleset.find_relevant();
        ruleset
    }

    /// All of them.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// The place of a chain of a table.
    pub fn find(&self, table: &Table, name: &str) -> Option<usize> {
        self.places.get(table)?.get(name).copied()
    }

    /// The places of the chains of a table that others go to.
    pub fn targets(&self, table: &Table) -> impl Iterator<Item = usize> {
        let places = self.places.get(table).into_iter().flat_map(HashMap::values).copied();
        places.filter(|at| self.chains[*at].hook.is_none())
    }

    /// The rules of the chain at a place that have to do with marks of identities, or end its way for all packets. Of
    /// tens of thousands that balance the load of services there are a few.
    pub fn relevant(&self, at: usize) -> &[usize] {
        &self.relevant[at]
    }

    /// How many of those there are in all chains.
    pub fn size(&self) -> usize {
        self.relevant.iter().map(Vec::len).sum()
    }

    /// Which bits of bits 12 to 15 rules write that leave identities as they are.
    pub fn written_beside(&self) -> u32 {
        self.written_beside
    }

    /// What rules set the marks of connections to.
    pub fn set_connmarks(&self) -> &[Value] {
        &self.set_connmarks
    }

    fn find_relevant(&self) -> Vec<Vec<usize>> {
        let mut is_relevant: Vec<bool> = vec![false; self.chains.len()];
        let leads_on = |chain: &Chain, rule: &Rule, is_relevant: &[bool]| {
            rule.actions().any(|action| match action {
                Action::Jump(name) | Action::Goto(name) => {
                    self.find(&chain.table, name).is_some_and(|at| is_relevant[at])
                }
                Action::JumpSomewhere => self.targets(&chain.table).any(|at| is_relevant[at]),
                _ => false,
            })
        };
        let own: Vec<Vec<bool>> = self
            .chains
            .iter()
            .map(|it| it.rules.iter().map(Rule::is_about_identities).collect())
            .collect();
        loop {
            let before = is_relevant.clone();
            for (at, chain) in self.chains.iter().enumerate().filter(|(at, _)| !before[*at]) {
                let mut rules = chain.rules.iter().zip(&own[at]);
                is_relevant[at] = rules.any(|(rule, own)| *own || leads_on(chain, rule, &before));
            }
            if before == is_relevant {
                break;
            }
        }
        let of_chain = |(at, chain): (usize, &Chain)| {
            let rules = chain.rules.iter().enumerate();
            let counts = |(index, rule): &(usize, &Rule)| {
                own[at][*index] || rule.may_end_for_all() || leads_on(chain, rule, &is_relevant)
            };
            if is_relevant[at] {
                rules.filter(counts).map(|(index, _)| index).collect()
            } else {
                Vec::new()
            }
        };
        self.chains.iter().enumerate().map(of_chain).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Table { tool, family, name } = self;
        match family.is_empty() {
            true => write!(f, "{tool} -t {name}"),
            false => write!(f, "{tool} table {family} {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(test: &Test, mark: u32) -> Truth {
        test.holds(Bits::all(mark), Bits::all(0))
    }

    #[test]
    fn a_test_holds_for_the_marks_in_its_ranges() {
        let masked =
            |is_inverted| Test::is(Value::Mark.and(Value::Number(0xff0000)), 0x40000, is_inverted);
        assert_eq!(truth(&masked(false), 0x0504_0f00), Truth::Yes);
        assert_eq!(truth(&masked(false), 0x04d2_0f00), Truth::No);
        assert_eq!(truth(&masked(true), 0x04d2_0f00), Truth::Yes);
        let ranges = Test::Number {
            value: Value::Mark,
            ranges: vec![(1, 1), (0x100, 0x200)],
            is_inverted: false,
        };
        for (mark, holds) in [(1, true), (2, false), (0x100, true), (0x200, true), (0x201, false)] {
            assert_eq!(truth(&ranges, mark) == Truth::Yes, holds, "{mark:#x}");
        }
        // Of a number between two others these tell, if there are.
        let between =
            Test::Number { value: Value::Mark, ranges: vec![(0x100, 0x2ff)], is_inverted: false };
        let of = |value, known| between.holds(Bits::of(value, known), Bits::all(0));
        assert_eq!(of(0x200, !0xff), Truth::Yes);
        assert_eq!(of(0x200, !0x1ff), Truth::Maybe);
        assert_eq!(of(0x300, !0xff), Truth::No);
        // Of what nobody knows it may hold, unless bits that are known tell otherwise.
        let unknown = Test::is(Value::Unknown.and(Value::Number(0xff)), 1, false);
        assert_eq!(truth(&unknown, 0), Truth::Maybe);
        let never = Test::is(Value::Unknown.and(Value::Number(0xff)), 0x100, false);
        assert_eq!(truth(&never, 0), Truth::No);
    }

    #[test]
    fn a_test_of_the_connection_s_mark_tells_no_packets_apart() {
        let of = |value: Value| Test::is(value.and(Value::Number(0xff0000)), 0x40000, false);
        let tells = |value, mark| of(value).tells_apart(Bits::all(mark), Bits::all(0));
        assert!(tells(Value::Mark, 0x0504_0f00));
        assert!(!tells(Value::Mark, 0x04d2_0f00));
        assert!(!tells(Value::ConnMark, 0x0504_0f00));
    }

    #[test]
    fn devices_are_told_by_their_names_and_by_how_they_begin() {
        let devices = |names: &[&str], is_inverted| Devices {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            is_inverted,
        };
        let at = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        assert_eq!(devices(&["eni*"], false).hold(&at(&["eni3"])), Truth::Yes);
        assert_eq!(devices(&["eni*"], true).hold(&at(&["eni3"])), Truth::No);
        assert_eq!(devices(&["tailscale0"], false).hold(&at(&["veth-web"])), Truth::No);
        assert_eq!(devices(&["br0"], false).hold(&at(&["veth-web", "br0"])), Truth::Maybe);
        assert_eq!(devices(&["br0"], false).hold(&[]), Truth::Maybe, "nobody knows where it is");
    }
}
