//! How a rule goes on that stands at the end of a line.

use crate::cli::completions::line::Line;
use crate::cli::guide::complete::Value;
use crate::cli::policy::split;
use crate::model::protocol;
use crate::model::rule::next::{Next, next};
use crate::ops::rules::list;
use crate::ops::targets::{Targets, resolve};

/// Options whose values stand among the words of rules.
const OPTIONS: [&str; 3] = ["--confirm", "--bpffs", "--netns"];

/// What may come next. The word itself may have several, in quotes.
pub fn values(line: &Line, path: &str, current: &str) -> Vec<Value> {
    let (begun, _) = current.rsplit_once(char::is_whitespace).unwrap_or_default();
    let kept =
        if begun.is_empty() && !current.starts_with(' ') { "" } else { &current[..=begun.len()] };
    let given = given(&line.words, path);
    let words: Vec<String> = given.rules.iter().cloned().chain([begun.to_owned()]).collect();
    let rule = split(&words).pop().unwrap_or_default();
    let rule: Vec<&str> = rule.split_whitespace().collect();
    let values = match path {
        "policy del" => of_those_that_are_there(line, given.target, &rule),
        _ => of_grammar(line, &rule),
    };
    values
        .into_iter()
        .map(|value| Value { text: format!("{kept}{}", value.text), ..value })
        .collect()
}

struct Given<'a> {
    target: Option<&'a str>,
    rules: Vec<String>,
}

/// The words of rules that stand there already, and what they are for.
fn given<'a>(words: &'a [String], path: &str) -> Given<'a> {
    let before = words.split_last().map_or(&[][..], |(_, before)| before);
    if !path.starts_with("policy") {
        let from =
            before.iter().rposition(|word| word == "--rule").map_or(before.len(), |at| at + 1);
        return Given { target: None, rules: before[from..].to_vec() };
    }
    let command = path.rsplit(' ').next().unwrap_or_default();
    let mut words = before.iter().skip_while(|word| *word != command).skip(1);
    let mut values = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            option if OPTIONS.contains(&option) => _ = words.next(),
            option if option.starts_with('-') => {}
            value => values.push(value),
        }
    }
    let mut values = values.into_iter();
    Given { target: values.next(), rules: values.map(str::to_owned).collect() }
}

fn of_grammar(line: &Line, rule: &[&str]) -> Vec<Value> {
    let plain = |words: Vec<&str>| words.into_iter().map(Value::plain).collect();
    match next(rule) {
        Next::Words(words) => plain(words),
        Next::Peer => line.peers(),
        Next::L4 => {
            let mut values: Vec<Value> = plain(protocol::names());
            values.extend(protocol::names().iter().map(|name| Value::plain(format!("{name}/"))));
            values.push(Value::plain("proto/"));
            values.extend(of_grammar(line, &[]));
            values
        }
        Next::End => of_grammar(line, &[]),
    }
}

/// The next words of those rules that begin so.
fn of_those_that_are_there(line: &Line, target: Option<&str>, rule: &[&str]) -> Vec<Value> {
    let there = there(line, target).unwrap_or_default();
    let mut values = Vec::new();
    for text in &there {
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_complete = there.iter().any(|it| it.split_whitespace().eq(rule.iter().copied()));
        if let Some(rest) = words.strip_prefix(rule) {
            values.extend(rest.first().copied());
        }
        // The next one.
        if is_complete {
            values.extend(words.first().copied());
        }
    }
    values.into_iter().map(Value::plain).collect()
}

fn there(line: &Line, target: Option<&str>) -> Option<Vec<String>> {
    let (root, netns) = line.place()?;
    let names = line.names();
    let rules = match target?.parse().ok()? {
        Targets::Identity(identity) => {
            list::of_identity(root, resolve(root, &identity).ok()?).ok()?.rules
        }
        targets => list::list(root, &targets, netns).ok()?.rules,
    };
    Some(rules.iter().map(|it| it.rule.text(&names)).collect())
}
