//! One thing that is to become another, and how it is told.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use crate::model::enforcement::{Mode, Modes};
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::model::prefix::format_prefix;
use crate::model::rule::{Action, Direction, Rule};
use crate::model::rule_list::RuleList;
use crate::model::spec::EndpointSpec;
use crate::ops::rules::at;

/// One thing, before and after: `None` where it is not there.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The name of an identity.
    Name(Identity, Option<(String, Origin)>, Option<(String, Origin)>),
    /// The identity of a prefix.
    Line(IpNet, Option<(Identity, Origin)>, Option<(Identity, Origin)>),
    /// The rules of an identity.
    Rules(Identity, RuleList, RuleList),
    /// An endpoint.
    Endpoint(Box<EndpointChange>),
}

/// What becomes of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointChange {
    /// The device.
    pub device: String,
    /// What was there.
    pub before: Option<EndpointState>,
    /// What is to be there.
    pub after: Option<EndpointState>,
    /// It has to be attached, or attached again; otherwise only its rules change.
    pub attaches: bool,
}

/// What an endpoint is asked to be.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointState {
    /// Without its rules.
    pub spec: EndpointSpec,
    /// Who has attached it.
    pub origin: Origin,
    /// The identity that the spec names.
    pub identity: Identity,
    /// Its own rules.
    pub rules: RuleList,
}

/// What a line of a plan does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// Something comes.
    Add,
    /// Something becomes another.
    Change,
    /// Something goes.
    Remove,
}

/// What a line means for packets, if that is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// More passes.
    Opens,
    /// Less passes.
    Closes,
}

/// A line of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// What it does.
    pub sign: Sign,
    /// To what: `identity`, `ipcache`, `rule`, `endpoint`.
    pub kind: &'static str,
    /// To which: a device, `@identity`, a prefix.
    pub name: String,
    /// How.
    pub text: String,
    /// What that means.
    pub effect: Option<Effect>,
}

impl Change {
    /// The other way round.
    pub fn undone(&self) -> Change {
        match self.clone() {
            Change::Name(identity, before, after) => Change::Name(identity, after, before),
            Change::Line(prefix, before, after) => Change::Line(prefix, after, before),
            Change::Rules(identity, before, after) => Change::Rules(identity, after, before),
            Change::Endpoint(change) => {
                let EndpointChange { device, before, after, attaches } = *change;
                let change = EndpointChange { device, before: after, after: before, attaches };
                Change::Endpoint(Box::new(change))
            }
        }
    }

    /// How it is told, in lines.
    pub fn lines(&self, names: &Names) -> Vec<Line> {
        match self {
            Change::Name(identity, before, after) => {
                let text = |it: &Option<(String, Origin)>| it.as_ref().map(|it| made(&it.0, it.1));
                compared("identity", identity.to_string(), text(before), text(after))
            }
            Change::Line(prefix, before, after) => {
                let text = |it: &Option<(Identity, Origin)>| {
                    it.as_ref().map(|it| made(&names.label(it.0), it.1))
                };
                compared("ipcache", format_prefix(prefix), text(before), text(after))
            }
            Change::Rules(identity, before, after) => {
                of_rules(&at(*identity, names), before, after, names, [true; 2])
            }
            Change::Endpoint(change) => change.lines(names),
        }
    }
}

/// With who has made it, if that is not the file.
fn made(text: &str, origin: Origin) -> String {
    match origin {
        Origin::File => text.to_owned(),
        origin => format!("{text} (by a {origin})"),
    }
}

fn compared(
    kind: &'static str,
    name: String,
    before: Option<String>,
    after: Option<String>,
) -> Vec<Line> {
    let (sign, text) = match (before, after) {
        (None, Some(after)) => (Sign::Add, after),
        (Some(before), None) => (Sign::Remove, before),
        (Some(before), Some(after)) => (Sign::Change, format!("{before} -> {after}")),
        (None, None) => return Vec::new(),
    };
    vec![Line { sign, kind, name, text, effect: None }]
}

/// A change of rules; it opens or closes something where their direction, ingress or egress, is `enforced`.
fn of_rules(
    name: &str,
    before: &RuleList,
    after: &RuleList,
    names: &Names,
    enforced: [bool; 2],
) -> Vec<Line> {
    let [had, has]: [HashSet<Rule>; 2] = [before, after].map(|list| list.rules().collect());
    let line = |sign: Sign, rule: Rule| {
        let counts = enforced[usize::from(rule.direction == Direction::Egress)];
        let opens = (rule.action == Action::Allow) == (sign == Sign::Add);
        let effect = if opens { Effect::Opens } else { Effect::Closes };
        let (name, text) = (name.to_owned(), rule.text(names));
        Line { sign, kind: "rule", name, text, effect: Some(effect).filter(|_| counts) }
    };
    let gone = before.rules().filter(|rule| !has.contains(rule));
    let new = after.rules().filter(|rule| !had.contains(rule));
    let gone = gone.map(|rule| line(Sign::Remove, rule));
    let mut lines: Vec<Line> = gone.chain(new.map(|rule| line(Sign::Add, rule))).collect();
    if lines.is_empty() && before != after {
        let (name, text) =
            (name.to_owned(), "the same, made by another or in another order".to_owned());
        lines.push(Line { sign: Sign::Change, kind: "rule", name, text, effect: None });
    }
    lines
}

impl EndpointChange {
    /// What it is first, while others are still to come: it enforces what it does before or after. `None`: it is that
    /// already.
    pub fn at_first(&self) -> Option<EndpointState> {
        let after = self.after.as_ref()?;
        let Some(before) = &self.before else { return Some(after.clone()) };
        let policy = before.spec.policy.or_stricter(after.spec.policy);
        let spec = EndpointSpec { policy, ..after.spec.clone() };
        let at_first = EndpointState { spec, ..after.clone() };
        let is_that = EndpointState { rules: after.rules.clone(), ..before.clone() } == at_first;
        (!self.relaxes() || !is_that).then_some(at_first)
    }

    /// Whether a direction gets a lower mode.
    pub fn relaxes(&self) -> bool {
        let policies = self.before.as_ref().zip(self.after.as_ref());
        policies.is_some_and(|(before, after)| {
            before.spec.policy.or_stricter(after.spec.policy) != after.spec.policy
        })
    }

    fn lines(&self, names: &Names) -> Vec<Line> {
        let modes = |state: &Option<EndpointState>| {
            state.as_ref().map_or_else(Modes::default, |state| state.spec.policy)
        };
        let effect = of_modes(modes(&self.before), modes(&self.after));
        let line =
            |sign, text| Line { sign, kind: "endpoint", name: self.device.clone(), text, effect };
        let mut lines = match (&self.before, &self.after) {
            (None, Some(after)) => vec![line(Sign::Add, described(after))],
            (Some(before), None) => vec![line(Sign::Remove, described(before))],
            (Some(before), Some(after)) if self.attaches => {
                vec![line(Sign::Change, differences(before, after))]
            }
            _ => Vec::new(),
        };
        if let Some(state) = &self.after {
            let none = RuleList::default();
            let before = self.before.as_ref().map_or(&none, |state| &state.rules);
            let Modes { ingress, egress } = state.spec.policy;
            let enforced = [ingress, egress].map(|mode| mode == Mode::Enforce);
            lines.extend(of_rules(&self.device, before, &state.rules, names, enforced));
        }
        lines
    }
}

fn of_modes(before: Modes, after: Modes) -> Option<Effect> {
    let enforced = |modes: Modes| [modes.ingress, modes.egress].map(|mode| mode == Mode::Enforce);
    let pairs = enforced(before).into_iter().zip(enforced(after));
    let begins = pairs.clone().any(|(before, after)| !before && after);
    let ends = pairs.into_iter().any(|(before, after)| before && !after);
    match (begins, ends) {
        (true, false) => Some(Effect::Closes),
        (false, true) => Some(Effect::Opens),
        _ => None,
    }
}

/// What a spec says, key by key, as a person reads it.
fn fields(state: &EndpointState) -> BTreeMap<String, String> {
    let Ok(Value::Object(fields)) = serde_json::to_value(&state.spec) else {
        return BTreeMap::new();
    };
    let bare = |value: &Value| value.to_string().replace('"', "");
    let text = |value: &Value| match value {
        Value::Array(values) => values.iter().map(bare).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{key} {}", bare(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        value => bare(value),
    };
    let told = fields.iter().filter(|(key, _)| *key != "device" && *key != "rules");
    told.map(|(key, value)| (key.clone(), text(value))).collect()
}

fn described(state: &EndpointState) -> String {
    let fields = fields(state).into_iter().map(|(key, value)| format!("{key} {value}"));
    let text = fields.collect::<Vec<_>>().join("; ");
    made(if text.is_empty() { "with no more than its name" } else { &text }, state.origin)
}

fn differences(before: &EndpointState, after: &EndpointState) -> String {
    let (was, is) = (fields(before), fields(after));
    let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let difference = |key: &String| match (was.get(key), is.get(key)) {
        (was, is) if was == is => None,
        (Some(was), Some(is)) => Some(format!("{key} {was} -> {is}")),
        (None, Some(is)) => Some(format!("{key} {is}")),
        (Some(was), None) => Some(format!("{key} not named, was {was}")),
        (None, None) => None,
    };
    let mut texts: Vec<String> = keys.into_iter().filter_map(difference).collect();
    if before.origin != after.origin {
        texts.push(format!("a {}'s until now", before.origin));
    }
    if texts.is_empty() {
        texts.push("again, since it is not what it was asked to be".to_owned());
    }
    texts.join("; ")
}
