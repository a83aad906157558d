//! A rule's steps as nft writes them.

use super::super::ruleset::{Action, Devices, Step, Test};

/// The parts that are about marks and devices, and what is done, as nft writes them.
pub fn show(steps: &[Step]) -> String {
    let mut words: Vec<String> = Vec::new();
    for step in steps {
        let word = match step {
            Step::Test(Test::Number { value, ranges, is_inverted }) => {
                let range = |(low, high): &(u32, u32)| match low == high {
                    true => format!("{low:#x}"),
                    false => format!("{low:#x}-{high:#x}"),
                };
                let all: Vec<String> = ranges.iter().take(8).map(range).collect();
                let more = if ranges.len() > 8 { ", …" } else { "" };
                let ranges = match &all[..] {
                    [only] => only.clone(),
                    all => format!("{{ {}{more} }}", all.join(", ")),
                };
                format!("{value} {} {ranges}", if *is_inverted { "!=" } else { "==" })
            }
            Step::Test(Test::From(devices)) => shown_devices("iifname", devices),
            Step::Test(Test::To(devices)) => shown_devices("oifname", devices),
            Step::Test(Test::Other) => "…".to_owned(),
            Step::Act(Action::SetMark(value)) => format!("meta mark set {value}"),
            Step::Act(Action::SetConnMark(value)) => format!("ct mark set {value}"),
            Step::Act(Action::Jump(chain)) => format!("jump {chain}"),
            Step::Act(Action::Goto(chain)) => format!("goto {chain}"),
            Step::Act(Action::JumpSomewhere) => "vmap".to_owned(),
            Step::Act(Action::Return) => "return".to_owned(),
            Step::Act(Action::End(what) | Action::Other(what)) => what.clone(),
        };
        if word != "…" || words.last().is_none_or(|last| last != "…") {
            words.push(word);
        }
    }
    words.join(" ")
}

fn shown_devices(key: &str, devices: &Devices) -> String {
    let not = if devices.is_inverted { "!= " } else { "" };
    match &devices.names[..] {
        [name] => format!("{key} {not}{name}"),
        names => format!("{key} {not}{{ {} }}", names.join(", ")),
    }
}
