//! What is wanted of the figures, with what came of it.

use anyhow::Result;
use cilmark::output;

use super::case::Line;

/// Lines of one kind, of which the dearest counts.
struct Lines<'a>(Vec<&'a Line>);

impl Lines<'_> {
    /// Over the empty program, with the program that it is.
    fn dearest(&self) -> (f64, &'static str) {
        let over = self.0.iter().map(|line| (line.over(), line.program));
        over.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::NAN, "nothing"))
    }
}

/// Prints both.
pub fn print(lines: &[Line]) -> Result<()> {
    output::line("")?;
    for family in [4, 6] {
        let own: Vec<&Line> = lines.iter().filter(|line| line.family == family).collect();
        let select = |wanted: &dyn Fn(&Line) -> bool| {
            Lines(own.iter().copied().filter(|line| wanted(line)).collect())
        };
        let prefix = format!("IPv{family}");
        for text in targets(family, &select) {
            output::line(&format!("{prefix}: {text}"))?;
        }
    }
    Ok(())
}

type Select<'a> = dyn Fn(&dyn Fn(&Line) -> bool) -> Lines<'a> + 'a;

fn targets(family: u8, select: &Select<'_>) -> Vec<String> {
    let is_hot = |line: &Line, flow: &str| {
        line.keys == "hot" && line.flow == flow && line.policy == "enforce" && line.rules == 100
    };
    let most = if family == 4 { 55 } else { 70 };
    let (hot, program) =
        select(&|line| is_hot(line, "established") && line.ipcache == 400).dearest();
    let mut texts = vec![
        format!("established, hot: {hot:.0} ns over empty in {program} (at most {most})"),
        million(select, &is_hot),
    ];
    for flows in [10_000, 1_000_000] {
        texts.push(live_flows(select, flows));
    }
    texts.extend([false, true].map(|prefixes| ipcache(select, prefixes)));
    texts.extend(["new", "denied"].map(|flow| policy(select, flow)));
    let (new, program) = select(&|line| is_hot(line, "new")).dearest();
    let (bare, _) =
        select(&|line| line.keys == "hot" && line.program == "bare LRU update").dearest();
    texts.push(format!(
        "new flow, hot: {new:.0} ns over empty in {program} (at most 250), a bare LRU update {bare:.0}"
    ));
    texts.extend([0, 1 << 16].map(|flows| new_flow(select, flows)));
    texts
}

/// The same program beside a small ipcache and a large one.
fn million(select: &Select<'_>, is_hot: &dyn Fn(&Line, &str) -> bool) -> String {
    let established = select(&|line| is_hot(line, "established"));
    let of = |program: &str, ipcache: u32| {
        let is_it = |line: &&&Line| line.program == program && line.ipcache == ipcache;
        established.0.iter().find(is_it).map_or(f64::NAN, |line| line.over())
    };
    let large = established.0.iter().filter(|line| line.ipcache == 1_000_000);
    let ratios = large.map(|line| (line.over() / of(line.program, 400), line.program));
    let (ratio, program) =
        ratios.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::NAN, "nothing"));
    format!(
        "established, hot, a million ipcache entries: {ratio:.2} of 400 in {program} (at most 1.1)"
    )
}

fn live_flows(select: &Select<'_>, flows: u32) -> String {
    let is_one = |line: &Line| line.keys == "random" && line.flow == "established";
    let (bare, _) =
        select(&|line| is_one(line) && line.flows == flows && line.policy == "off").dearest();
    let (ours, program) =
        select(&|line| is_one(line) && line.flows == flows && line.policy != "off").dearest();
    let most = 1.2 * bare + 30.0;
    format!(
        "{flows} live flows, random: {ours:.0} ns over empty in {program}, a bare LRU lookup \
         {bare:.0} (at most {most:.0})"
    )
}

fn ipcache(select: &Select<'_>, prefixes: bool) -> String {
    let is_one = |line: &Line, name: &str, prefixes: bool| {
        line.program == name && line.ipcache == 1_000_000 && line.prefixes == prefixes
    };
    let is_random = |line: &Line| line.keys == "random";
    let (bare, _) = select(&|line| is_one(line, "bare hash lookup", false)).dearest();
    let (trie, _) = select(&|line| is_one(line, "bare trie lookup", true)).dearest();
    let (ours, _) =
        select(&|line| is_random(line) && is_one(line, "from_netdev", prefixes)).dearest();
    let ratio = ours / bare;
    match prefixes {
        false => format!(
            "a million hosts, random: {ours:.0} ns over empty, a bare hash lookup {bare:.0}: \
             {ratio:.2} (at most 1.2)"
        ),
        true => format!(
            "a million prefixes, random: {ours:.0} ns over empty, a bare hash lookup {bare:.0}: \
             {ratio:.2} (at most 2); a bare trie lookup {trie:.0}"
        ),
    }
}

fn policy(select: &Select<'_>, flow: &str) -> String {
    let of = |rules: u32, program: &str| {
        let is_one = |line: &Line| {
            line.keys == "random"
                && line.flow == flow
                && line.rules == rules
                && line.program == program
        };
        select(&is_one).dearest().0
    };
    let ratios = ["from_container", "from_netdev"]
        .map(|program| (of(16_000, program) / of(10, program), program));
    let [(first, first_program), (second, second_program)] = ratios;
    format!(
        "{flow} flow with 16 000 rules, random: {first:.2} of one with 10 in {first_program}, \
         {second:.2} in {second_program} (at most 1.3)"
    )
}

fn new_flow(select: &Select<'_>, flows: u32) -> String {
    let is_one = |line: &Line| {
        line.keys == "random" && line.flow == "new" && line.flows == flows && line.rules <= 100
    };
    let (bare, _) = select(&|line| is_one(line) && line.policy == "off").dearest();
    let (ours, program) =
        select(&|line| is_one(line) && line.rules == 100 && line.policy != "off").dearest();
    let room = if flows == 0 { "with room" } else { "full" };
    format!(
        "new flow, random, conntrack {room}: {ours:.0} ns over empty in {program}, a bare LRU \
         update {bare:.0}"
    )
}
