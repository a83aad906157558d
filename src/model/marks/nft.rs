//! What `nft --json list ruleset` prints (libnftables-json(5)).

mod show;

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result};
use serde_json::Value as Json;

use super::ruleset::{Action, Chain, Devices, Hook, Rule, Step, Table, Test};
use super::value::Value;
use show::show;

/// The rules, sets and maps of all tables.
#[derive(Debug, Default)]
pub struct Listing {
    objects: Vec<Json>,
    elements: HashMap<(Table, String), Vec<Json>>,
    /// Names that marks have.
    names: HashMap<String, u32>,
}

/// A set or map whose elements are asked for by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `set` or `map`.
    pub kind: &'static str,
    /// Where it is.
    pub table: Table,
    /// Its name.
    pub name: String,
}

/// A table, parts of whose rules only iptables or ebtables can show.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Foreign {
    /// `ip`, `ip6` or `bridge`.
    pub family: String,
    /// `filter`, `mangle`, …
    pub table: String,
}

/// The devices of a chain, as nft shows it: `… hook ingress device "red" priority …`, `… devices = { a, b } priority …`.
pub fn devices(chain: &str) -> Vec<String> {
    let devices = || {
        let line = chain.lines().find(|line| line.trim_start().starts_with("type "))?;
        let (_, behind) = line.split_once(" device")?;
        Some(behind.split_once(" priority")?.0.trim_start_matches('s'))
    };
    let names = devices().unwrap_or_default().split([' ', '=', '{', '}', ',', '"']);
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

impl Listing {
    /// A listing, with or without the elements of sets that have names.
    pub fn parse(text: &str) -> Result<Listing> {
        let mut listing = Listing::default();
        listing.add(text)?;
        Ok(listing)
    }

    /// Reads marks by these names, too: nft prints those that rt_marks of iproute2 has.
    pub fn with_names(self, names: HashMap<String, u32>) -> Listing {
        Listing { names, ..self }
    }

    /// Another one, such as of a set.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let mut parsed: Json = serde_json::from_str(text).context("nft has printed no JSON")?;
        let objects = parsed.get_mut("nftables").and_then(Json::as_array_mut);
        let objects = std::mem::take(objects.context("nft has printed no list `nftables`")?);
        for object in &objects {
            let Some((kind @ ("set" | "map"), it)) = only(object) else { continue };
            if let Some(elements) = it["elem"].as_array() {
                let named = Named::of(kind, it);
                self.elements.insert((named.table, named.name), elements.clone());
            }
        }
        self.objects.extend(objects);
        Ok(())
    }

    /// The sets and maps with marks or devices in their keys, whose elements are not known yet.
    pub fn unknown_sets(&self) -> Vec<Named> {
        let is_looked_at = |kind: &Json| {
            kind.as_str().is_some_and(|kind| ["mark", "ifname", "iface_index"].contains(&kind))
        };
        let has_such_keys = |it: &Json| match &it["type"] {
            Json::Array(kinds) => kinds.iter().any(is_looked_at),
            kind => is_looked_at(kind),
        };
        let sets = self.objects.iter().filter_map(|object| match only(object) {
            Some((kind @ ("set" | "map"), it)) if has_such_keys(it) => Some(Named::of(kind, it)),
            _ => None,
        });
        sets.filter(|it| !self.elements.contains_key(&(it.table.clone(), it.name.clone())))
            .collect()
    }

    /// The tables with parts that only iptables or ebtables can show.
    pub fn of_iptables(&self) -> BTreeSet<Foreign> {
        let rules = self.objects.iter().filter_map(|object| match only(object) {
            Some(("rule", rule)) => Some(rule),
            _ => None,
        });
        let has_xt = |rule: &&Json| {
            let statements = rule["expr"].as_array().into_iter().flatten();
            let mut xt = statements.filter_map(|it| it.get("xt"));
            match rule["family"] == "bridge" {
                // What ebtables has besides marks need not be read.
                true => xt.any(|it| it["name"].as_str().is_none_or(|name| name.contains("mark"))),
                false => xt.next().is_some(),
            }
        };
        let foreign =
            |rule: &Json| Foreign { family: text(&rule["family"]), table: text(&rule["table"]) };
        rules.filter(has_xt).map(foreign).collect()
    }

    /// The chains, but for those of tables whose rules iptables or ebtables shows.
    pub fn chains(&self, but_for: &BTreeSet<Foreign>) -> Vec<Chain> {
        let is_left_out = |it: &Json, table: &Json| {
            let foreign = Foreign { family: text(&it["family"]), table: text(table) };
            but_for.contains(&foreign) || foreign.family == "arp"
        };
        let dormant: Vec<Table> =
            self.of_kind("table").filter(|it| is_dormant(it)).map(|it| table(it, "name")).collect();
        let mut chains: Vec<Chain> = Vec::new();
        let mut places = HashMap::new();
        for it in self.of_kind("chain") {
            let table = table(it, "table");
            if is_left_out(it, &it["table"]) || dormant.contains(&table) {
                continue;
            }
            let devices = match &it["dev"] {
                Json::Array(devices) => devices.iter().map(text).collect(),
                Json::String(device) => vec![device.clone()],
                _ => Vec::new(),
            };
            let name = text(&it["name"]);
            places.insert((table.clone(), name.clone()), chains.len());
            chains.push(Chain { table, name, hook: hook(it), devices, rules: Vec::new() });
        }
        for it in self.of_kind("rule") {
            let Some(at) = places.get(&(table(it, "table"), text(&it["chain"]))) else { continue };
            let chain = &mut chains[*at];
            chain.rules.extend(self.rules(&chain.table, it));
        }
        chains
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Json> {
        self.objects.iter().filter_map(move |object| object.get(kind))
    }

    /// A rule; one for each element of a verdict map, if it has one.
    fn rules(&self, table: &Table, rule: &Json) -> Vec<Rule> {
        let mut rules = vec![Vec::new()];
        for statement in rule["expr"].as_array().into_iter().flatten() {
            let Some((kind, it)) = only(statement) else { continue };
            let arms = match kind {
                "vmap" => self.arms(table, it),
                kind => vec![self.steps(table, kind, it)],
            };
            let add = |before: &Vec<Step>, arm: &Vec<Step>| [before.clone(), arm.clone()].concat();
            rules = rules
                .iter()
                .flat_map(|before| arms.iter().map(move |arm| add(before, arm)))
                .collect();
        }
        let handle = rule["handle"].as_u64().unwrap_or_default();
        let shown = |steps: &[Step]| {
            let chain = text(&rule["chain"]);
            format!("{chain}: {} # handle {handle}", show(steps))
        };
        rules.into_iter().map(|steps| Rule { text: shown(&steps), steps }).collect()
    }

    fn arms(&self, table: &Table, map: &Json) -> Vec<Vec<Step>> {
        let elements = self.elements(table, &map["data"]);
        let arm = |element: &Json| {
            let [key, verdict] = element.as_array()?.as_slice() else { return None };
            let mut steps: Vec<Step> =
                self.tests(table, "==", &map["key"], key).into_iter().map(Step::Test).collect();
            steps.push(Step::Act(verdict_of(verdict)?));
            Some(steps)
        };
        match elements {
            Some(elements) => elements.iter().filter_map(arm).collect(),
            // Which chain it goes to is not known, nor whether it does.
            None => vec![vec![Step::Test(Test::Other), Step::Act(Action::JumpSomewhere)]],
        }
    }

    /// Those of a set that has a name, or that stands in the rule.
    fn elements(&self, table: &Table, set: &Json) -> Option<Vec<Json>> {
        match set {
            Json::String(name) => {
                let name = name.strip_prefix('@')?.to_owned();
                self.elements.get(&(table.clone(), name)).cloned()
            }
            set => set["set"].as_array().cloned(),
        }
    }

    fn steps(&self, table: &Table, kind: &str, it: &Json) -> Vec<Step> {
        let act = |action| vec![Step::Act(action)];
        match kind {
            "match" => {
                let op = it["op"].as_str().unwrap_or_default();
                let tests = self.tests(table, op, &it["left"], &it["right"]);
                tests.into_iter().map(Step::Test).collect()
            }
            "mangle" => {
                let set = match self.value(&it["key"]) {
                    Value::Mark => Action::SetMark(self.value(&it["value"])),
                    Value::ConnMark => Action::SetConnMark(self.value(&it["value"])),
                    _ => Action::Other("set".to_owned()),
                };
                let narrows = may_be_missing(&it["value"]).then_some(Step::Test(Test::Other));
                narrows.into_iter().chain([Step::Act(set)]).collect()
            }
            "counter" | "log" | "last" | "comment" => Vec::new(),
            "accept" | "drop" | "return" | "jump" | "goto" | "continue" => {
                let verdict = serde_json::json!({ kind: it });
                verdict_of(&verdict).map(Step::Act).into_iter().collect()
            }
            "reject" | "masquerade" | "snat" | "dnat" | "redirect" | "queue" | "fwd" => {
                act(Action::End(kind.to_owned()))
            }
            "tproxy" | "notrack" | "flow" | "dup" | "set" | "map" | "meter" | "synproxy" => {
                act(Action::Other(kind.to_owned()))
            }
            _ => vec![Step::Test(Test::Other)],
        }
    }

    /// Those of a match. Of keys of several parts each that is a mark or a device is looked at; the others narrow it.
    fn tests(&self, table: &Table, op: &str, left: &Json, right: &Json) -> Vec<Test> {
        let Some(keys) = left["concat"].as_array() else {
            return vec![self.test(table, op, left, right)];
        };
        if op == "!=" {
            return vec![Test::Other];
        }
        let elements = self.elements(table, right).unwrap_or_else(|| vec![right.clone()]);
        let of_part = |(at, key): (usize, &Json)| {
            let part = |element: &Json| value_of(element)["concat"].get(at).cloned();
            let parts = elements.iter().map(part).collect::<Option<Vec<_>>>()?;
            let test = self.test(table, "==", key, &serde_json::json!({ "set": parts }));
            Some(test).filter(|test| *test != Test::Other)
        };
        keys.iter().enumerate().filter_map(of_part).chain([Test::Other]).collect()
    }

    fn test(&self, table: &Table, op: &str, left: &Json, right: &Json) -> Test {
        let is_inverted = op == "!=";
        let elements = self.elements(table, right);
        if let Some(key @ ("iif" | "iifname" | "oif" | "oifname")) = left["meta"]["key"].as_str() {
            let all = elements.unwrap_or_else(|| vec![right.clone()]);
            let name = |it: &Json| value_of(it).as_str().map(str::to_owned);
            let names = all.iter().map(name).collect::<Option<Vec<String>>>();
            // The name of a set whose elements nobody knows is none of a device.
            let is_known = |names: &Vec<String>| !names.iter().any(|it| it.starts_with('@'));
            let Some(names) = names.filter(is_known).filter(|_| ["==", "!=", "in"].contains(&op))
            else {
                return Test::Other;
            };
            let devices = Devices { names, is_inverted };
            return if key.starts_with('i') { Test::From(devices) } else { Test::To(devices) };
        }
        let value = self.value(left);
        if !value.reads_mark() && !value.reads_connmark() {
            return Test::Other;
        }
        let ranges = match elements {
            Some(elements) => elements.iter().map(|it| self.range(it)).collect(),
            None => self.range(right).map(|range| vec![range]),
        };
        let Some(ranges) = ranges else { return Test::Other };
        let [(low, high)] = ranges[..] else { return Test::Number { value, ranges, is_inverted } };
        let ranges = match op {
            "<" => low.checked_sub(1).map(|end| (0, end)).into_iter().collect(),
            "<=" => vec![(0, high)],
            ">" => high.checked_add(1).map(|start| (start, u32::MAX)).into_iter().collect(),
            ">=" => vec![(low, u32::MAX)],
            // One of the bits.
            "in" if low == high => {
                let value = value.and(Value::Number(low));
                return Test::is(value, 0, true);
            }
            _ => ranges,
        };
        Test::Number { value, ranges, is_inverted }
    }
}

impl Named {
    fn of(kind: &str, it: &Json) -> Named {
        let kind = if kind == "map" { "map" } else { "set" };
        Named { kind, table: table(it, "table"), name: text(&it["name"]) }
    }

    /// What `nft --json --file -` is asked for its elements with. Names are whatever somebody has given the kernel, and
    /// among the arguments of nft they would be commands.
    pub fn question(&self) -> String {
        let Named { kind, table, name } = self;
        let named =
            serde_json::json!({ "family": table.family, "table": table.name, "name": name });
        serde_json::json!({ "nftables": [{ "list": { *kind: named } }] }).to_string()
    }
}

/// An object's only member.
fn only(object: &Json) -> Option<(&str, &Json)> {
    object.as_object()?.iter().next().map(|(key, value)| (key.as_str(), value))
}

/// An element's value, which stands deeper where it has a comment, a counter or a timeout.
fn value_of(element: &Json) -> &Json {
    element.get("elem").map_or(element, |it| &it["val"])
}

fn text(json: &Json) -> String {
    json.as_str().unwrap_or_default().to_owned()
}

fn table(it: &Json, key: &str) -> Table {
    Table { tool: "nft".to_owned(), family: text(&it["family"]), name: text(&it[key]) }
}

fn is_dormant(table: &Json) -> bool {
    match &table["flags"] {
        Json::Array(flags) => flags.iter().any(|flag| flag == "dormant"),
        flag => flag == "dormant",
    }
}

fn hook(chain: &Json) -> Option<Hook> {
    Some(match chain["hook"].as_str()? {
        "ingress" => Hook::Ingress,
        "prerouting" => Hook::Prerouting,
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        "output" => Hook::Output,
        "postrouting" => Hook::Postrouting,
        "egress" => Hook::Egress,
        _ => return None,
    })
}

/// Whether a value is one of which some packets have none, such as a port, or a map's: then the rule ends before.
fn may_be_missing(value: &Json) -> bool {
    const ALWAYS_THERE: [&str; 5] = ["meta", "ct", "numgen", "jhash", "symhash"];
    match value {
        Json::Object(_) => only(value).is_some_and(|(kind, it)| match kind {
            "&" | "|" | "^" | "<<" | ">>" => may_be_missing(it),
            kind => !ALWAYS_THERE.contains(&kind),
        }),
        Json::Array(operands) => operands.iter().any(may_be_missing),
        _ => false,
    }
}

fn verdict_of(verdict: &Json) -> Option<Action> {
    let (kind, it) = only(verdict)?;
    Some(match kind {
        "accept" | "drop" => Action::End(kind.to_owned()),
        "return" => Action::Return,
        "jump" => Action::Jump(text(&it["target"])),
        "goto" => Action::Goto(text(&it["target"])),
        _ => return None,
    })
}

impl Listing {
    fn value(&self, json: &Json) -> Value {
        if let Some(number) = self.number(json) {
            return Value::Number(number);
        }
        let Some((kind, it)) = only(json) else { return Value::Unknown };
        let operands = || it.as_array().into_iter().flatten().map(|it| self.value(it));
        let shift = |sign: i32| {
            let by = self.number(&it[1]).map_or(Value::Unknown, |by| {
                Value::Shift(Box::new(self.value(&it[0])), sign * by.min(32) as i32)
            });
            Some(by)
        };
        match kind {
            "meta" if it["key"] == "mark" => Some(Value::Mark),
            "ct" if it["key"] == "mark" => Some(Value::ConnMark),
            "&" => operands().reduce(Value::and),
            "|" => operands().reduce(Value::or),
            "^" => operands().reduce(Value::xor),
            "<<" => shift(1),
            ">>" => shift(-1),
            _ => None,
        }
        .unwrap_or(Value::Unknown)
    }

    fn number(&self, json: &Json) -> Option<u32> {
        match json {
            Json::Number(number) => u32::try_from(number.as_u64()?).ok(),
            Json::String(text) => match text.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => text.parse().ok().or_else(|| self.names.get(text).copied()),
            },
            _ => None,
        }
    }

    /// What an element of a set covers, or what a value is compared with.
    fn range(&self, json: &Json) -> Option<(u32, u32)> {
        let json = value_of(json);
        if let Some([low, high]) = json["range"].as_array().map(Vec::as_slice) {
            return Some((self.number(low)?, self.number(high)?));
        }
        if let Some(prefix) = json.get("prefix") {
            let free = u32::MAX.checked_shr(self.number(&prefix["len"])?).unwrap_or(0);
            let start = self.number(&prefix["addr"])? & !free;
            return Some((start, start | free));
        }
        self.number(json).map(|number| (number, number))
    }
}

#[cfg(test)]
mod tests;
