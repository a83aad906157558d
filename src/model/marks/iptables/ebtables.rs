//! What ebtables writes otherwise than iptables (libebt_mark.c and libebt_nat.c of iptables).

use anyhow::Result;

use super::super::ruleset::Action;
use super::super::value::Value;
use super::options::{Options, number};

/// The tool whose rules are those of bridges.
pub const TOOL: &str = "ebtables";

/// Ebtables writes `--mark ! 0x1` where iptables writes `! --mark 0x1`.
pub fn put_negations_first(words: &mut [String]) {
    for at in 1..words.len() {
        if words[at] == "!" && words[at - 1].starts_with('-') {
            words.swap(at - 1, at);
        }
    }
}

/// Targets of ebtables do something and then what stands in an option of theirs.
pub fn actions(target: &str, options: &Options) -> Result<Vec<Action>> {
    let set = || -> Result<Value> {
        let bits =
            |name: &str| options.get(name).map(|text| number(text).map(Value::Number)).transpose();
        Ok(
            match (
                bits("--mark-set")?,
                bits("--mark-or")?,
                bits("--mark-and")?,
                bits("--mark-xor")?,
            ) {
                (Some(value), ..) => value,
                (_, Some(bits), ..) => Value::Mark.or(bits),
                (_, _, Some(bits), _) => Value::Mark.and(bits),
                (_, _, _, Some(bits)) => Value::Mark.xor(bits),
                _ => Value::Unknown,
            },
        )
    };
    let ends = |option: &str| match options.get(option).unwrap_or("ACCEPT") {
        "CONTINUE" => None,
        "RETURN" => Some(Action::Return),
        end => Some(Action::End(end.to_lowercase())),
    };
    Ok(match target {
        "CONTINUE" => Vec::new(),
        "RETURN" => vec![Action::Return],
        "ACCEPT" | "DROP" => vec![Action::End(target.to_lowercase())],
        "mark" => [Action::SetMark(set()?)].into_iter().chain(ends("--mark-target")).collect(),
        "dnat" | "snat" | "redirect" | "arpreply" => {
            let option = format!("--{target}-target");
            [Action::Other(target.to_owned())].into_iter().chain(ends(&option)).collect()
        }
        chain => vec![Action::Jump(chain.to_owned())],
    })
}
