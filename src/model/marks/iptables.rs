//! What `iptables-save` and `ip6tables-save` print (extensions/libxt_mark.c, libxt_MARK.c, libxt_connmark.c,
//! libxt_CONNMARK.c, libxt_TPROXY.c and libxt_socket.c of iptables), and `ebtables-save` (libebt_mark.c, libebt_mark_m.c).

mod ebtables;
mod options;

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

use super::ruleset::{Action, Chain, Devices, Hook, Rule, Step, Table, Test};
use super::value::Value;
use options::{Options, masked, number};

/// The chains of all tables that are printed.
pub fn parse(tool: &str, saved: &str) -> Result<Vec<Chain>> {
    let is_ebtables = tool == ebtables::TOOL;
    let family = if is_ebtables { "bridge" } else { "" };
    let mut chains: Vec<Chain> = Vec::new();
    let mut table = None;
    // Of the table that is being read.
    let mut places: HashMap<String, usize> = HashMap::new();
    for line in &lines(saved) {
        let line = line.trim();
        let first = line.chars().next();
        match first {
            None | Some('#') => {}
            Some('*') => {
                let name = line[1..].to_owned();
                table = Some(Table { tool: tool.to_owned(), family: family.to_owned(), name });
                places.clear();
            }
            Some(':') => {
                let table = table.clone().with_context(|| format!("`{line}` is in no table"))?;
                let name = line[1..].split(' ').next().unwrap_or_default().to_owned();
                let hook = line.split(' ').nth(1).filter(|policy| *policy != "-").and(hook(&name));
                places.insert(name.clone(), chains.len());
                chains.push(Chain { table, name, hook, devices: Vec::new(), rules: Vec::new() });
            }
            _ if line == "COMMIT" => table = None,
            _ => {
                let words = words(line)?;
                let start = words.iter().position(|word| word == "-A");
                let start = start.with_context(|| format!("`{line}` is no rule"))?;
                let name =
                    words.get(start + 1).with_context(|| format!("`{line}` has no chain"))?;
                let place = places.get(name).filter(|_| table.is_some());
                let place = place.with_context(|| format!("`{line}` is in no chain"))?;
                let mut of_rule = words[start + 2..].to_vec();
                if is_ebtables {
                    ebtables::put_negations_first(&mut of_rule);
                }
                let rule = rule(line, &of_rule, is_ebtables).with_context(|| format!("`{line}`"));
                chains[*place].rules.push(rule?);
            }
        }
    }
    Ok(chains)
}

/// The lines, of which one that ends inside of quotes goes on with the next: the kernel takes any bytes for comments.
fn lines(saved: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut is_open = false;
    for next in saved.split_inclusive('\n') {
        match lines.last_mut() {
            Some(line) if is_open => line.push_str(next),
            _ => lines.push(next.to_owned()),
        }
        let is_rule = is_open || next.starts_with(['-', '[']);
        is_open = is_rule && words(lines.last().map_or("", |line| line)).is_err();
    }
    lines
}

fn hook(chain: &str) -> Option<Hook> {
    Some(match chain {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    })
}

/// Parted at spaces outside quotes, in which a backslash quotes.
fn words(line: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), None::<String>, false);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' if !is_quoted => words.extend(word.take()),
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' if is_quoted => {
                let quoted = letters.next().context("a line that ends in a backslash")?;
                word.get_or_insert_default().push(quoted);
            }
            letter => word.get_or_insert_default().push(letter),
        }
    }
    ensure!(!is_quoted, "a quote is not closed in `{line}`");
    words.extend(word);
    Ok(words)
}

fn rule(line: &str, words: &[String], is_ebtables: bool) -> Result<Rule> {
    let mut steps = Vec::new();
    let mut target = None;
    let mut is_inverted = false;
    let mut words = words.iter().peekable();
    let mut options = Options::default();
    while let Some(word) = words.next() {
        // A comment tests nothing, and may be anything.
        if word == "--comment" && target.is_none() {
            words.next();
            continue;
        }
        // The values of an option: what follows, up to the next option.
        let mut values = Vec::new();
        while let Some(value) = words.next_if(|next| !next.starts_with('-') && *next != "!") {
            values.push(value.clone());
        }
        let value = values.first().cloned().unwrap_or_default();
        let devices = || {
            let name = value.strip_suffix('+').map_or(value.clone(), |start| format!("{start}*"));
            Devices { names: vec![name], is_inverted }
        };
        match word.as_str() {
            "!" => {
                is_inverted = true;
                continue;
            }
            "-i" => steps.push(Step::Test(Test::From(devices()))),
            "-o" => steps.push(Step::Test(Test::To(devices()))),
            "-m" => options = Options { module: value, ..Options::default() },
            "-j" | "-g" => {
                options = Options { module: value.clone(), ..Options::default() };
                target = Some((word == "-g", value));
            }
            "--mark" if is_ebtables || ["mark", "connmark"].contains(&options.module.as_str()) => {
                // `/0x1` of ebtables: some of these bits.
                let (number, mask, is_inverted) = match value.strip_prefix('/') {
                    Some(mask) => (0, number(mask)?, !is_inverted),
                    None => masked(&value).map(|(number, mask)| (number, mask, is_inverted))?,
                };
                let is_connmark = options.module == "connmark";
                let of = if is_connmark { Value::ConnMark } else { Value::Mark };
                let of = if mask == u32::MAX { of } else { of.and(Value::Number(mask)) };
                steps.push(Step::Test(Test::is(of, number, is_inverted)));
            }
            "--restore-skmark" => {
                steps.extend([Step::Test(Test::Other), Step::Act(Action::SetMark(Value::Unknown))]);
            }
            _ if target.is_some() => options.values.push((word.clone(), value)),
            _ => steps.push(Step::Test(Test::Other)),
        }
        is_inverted = false;
    }
    match target {
        Some((_, name)) if is_ebtables => {
            steps.extend(ebtables::actions(&name, &options)?.into_iter().map(Step::Act));
        }
        Some((is_goto, name)) => {
            steps.extend(action(is_goto, &name, &options)?.map(Step::Act));
        }
        None => {}
    }
    Ok(Rule { text: line.to_owned(), steps })
}

fn action(is_goto: bool, target: &str, options: &Options) -> Result<Option<Action>> {
    let set = |base: Value| -> Result<Option<Value>> {
        let set = options.masked("--set-xmark")?;
        Ok(set.map(|(value, mask)| Value::masked_set(base, mask, Value::Number(value))))
    };
    Ok(Some(match target {
        "MARK" => match set(Value::Mark)? {
            Some(value) => Action::SetMark(value),
            None => Action::SetMark(Value::Unknown),
        },
        "CONNMARK" => {
            let (nfmask, ctmask) = (options.mask("--nfmask")?, options.mask("--ctmask")?);
            let shift = match (options.get("--left-shift-mark"), options.get("--right-shift-mark"))
            {
                (Some(by), _) => number(by)? as i32,
                (_, Some(by)) => -(number(by)? as i32),
                _ => 0,
            };
            let moved = |value: Value| match shift {
                0 => value,
                by => Value::Shift(Box::new(value), by),
            };
            // net/netfilter/xt_connmark.c: what is copied is taken through one mask and xored behind the other.
            if options.get("--restore-mark").is_some() {
                let kept = moved(Value::ConnMark.and(Value::Number(ctmask)));
                Action::SetMark(Value::masked_set(Value::Mark, nfmask, kept))
            } else if options.get("--save-mark").is_some() {
                let kept = moved(Value::Mark.and(Value::Number(nfmask)));
                Action::SetConnMark(Value::masked_set(Value::ConnMark, ctmask, kept))
            } else {
                Action::SetConnMark(set(Value::ConnMark)?.unwrap_or(Value::Unknown))
            }
        }
        "TPROXY" => match options.masked("--tproxy-mark")? {
            Some((value, mask)) => {
                Action::SetMark(Value::masked_set(Value::Mark, mask, Value::Number(value)))
            }
            None => Action::Other(target.to_owned()),
        },
        // The second is of xtables-addons.
        "HMARK" | "IPMARK" => Action::SetMark(Value::Unknown),
        "SET" if options.get("--map-mark").is_some() => Action::SetMark(Value::Unknown),
        "RETURN" => Action::Return,
        "ACCEPT" | "DROP" | "REJECT" | "QUEUE" | "NFQUEUE" | "DNAT" | "SNAT" | "MASQUERADE"
        | "REDIRECT" | "NETMAP" => Action::End(target.to_lowercase()),
        // They only say that the packet was there.
        "LOG" | "NFLOG" | "TRACE" => return Ok(None),
        "AUDIT" | "CHECKSUM" | "CLASSIFY" | "CONNSECMARK" | "CT" | "DSCP" | "ECN" | "HL"
        | "IDLETIMER" | "LED" | "NOTRACK" | "RATEEST" | "SECMARK" | "SET" | "SYNPROXY"
        | "TCPMSS" | "TCPOPTSTRIP" | "TEE" | "TOS" | "TTL" => Action::Other(target.to_owned()),
        chain if is_goto => Action::Goto(chain.to_owned()),
        chain => Action::Jump(chain.to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# Generated by iptables-save v1.8.9 on Mon
*mangle
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:cali-x - [0:0]
[3:180] -A PREROUTING -i eni+ -m comment --comment "a \"q\" -j DROP" -m mark ! --mark 0x1 -j cali-x
-A PREROUTING -p tcp -m socket --transparent --restore-skmark -g cali-x
-A cali-x -m connmark --mark 0x1/0xf -j RETURN
-A cali-x -j MARK --set-xmark 0x40000/0xff0000
-A cali-x ! -o eth0 -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff00 --left-shift-mark 8
-A cali-x -p tcp -j TPROXY --on-port 80 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1
-A cali-x -j LOG --log-prefix "no way"
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j DNAT --to-destination 192.0.2.1:80
COMMIT
"#;

    fn steps(chain: &str, index: usize) -> Vec<Step> {
        let chains = parse("iptables", SAVED).unwrap();
        chains.into_iter().find(|it| it.name == chain).unwrap().rules.remove(index).steps
    }

    #[test]
    fn chains_are_in_their_tables_and_on_their_hooks() {
        let chains = parse("iptables", SAVED).unwrap();
        let named: Vec<_> =
            chains.iter().map(|it| (it.table.name.as_str(), it.name.as_str(), it.hook)).collect();
        assert_eq!(
            named,
            [
                ("mangle", "PREROUTING", Some(Hook::Prerouting)),
                ("mangle", "OUTPUT", Some(Hook::Output)),
                ("mangle", "cali-x", None),
                ("nat", "PREROUTING", Some(Hook::Prerouting)),
            ]
        );
        assert_eq!(chains[3].rules.len(), 1, "of the other table");
    }

    #[test]
    fn matches_are_read_and_what_is_none_of_ours_is_other() {
        let from = Devices { names: vec!["eni*".to_owned()], is_inverted: false };
        assert_eq!(
            steps("PREROUTING", 0),
            [
                Step::Test(Test::From(from)),
                Step::Test(Test::is(Value::Mark, 1, true)),
                Step::Act(Action::Jump("cali-x".to_owned())),
            ]
        );
        let masked = Value::ConnMark.and(Value::Number(0xf));
        assert_eq!(
            steps("cali-x", 0),
            [Step::Test(Test::is(masked, 1, false)), Step::Act(Action::Return)]
        );
        let socket = steps("PREROUTING", 1);
        assert!(socket.contains(&Step::Act(Action::SetMark(Value::Unknown))), "{socket:?}");
        assert_eq!(socket.last(), Some(&Step::Act(Action::Goto("cali-x".to_owned()))));
    }

    #[test]
    fn targets_are_read_as_the_kernel_carries_them_out() {
        use crate::model::marks::value::Bits;
        let Some(Step::Act(Action::SetConnMark(saved))) = steps("cali-x", 2).pop() else {
            panic!("it saves the mark");
        };
        assert_eq!(saved.of(Bits::all(0x1234), Bits::all(0xabcd)), Bits::all(0x34cd));
        let Some(Step::Act(Action::SetMark(set))) = steps("cali-x", 1).pop() else {
            panic!("it sets the mark");
        };
        assert_eq!(set.of(Bits::all(0x04d2_0f00), Bits::all(0)), Bits::all(0x0404_0f00));
        let Some(Step::Act(Action::SetMark(set))) = steps("cali-x", 3).pop() else {
            panic!("TPROXY sets the mark");
        };
        assert_eq!(set.of(Bits::all(0x10), Bits::all(0)), Bits::all(0x11));
        assert_eq!(steps("cali-x", 4), [], "a log does nothing");
    }

    #[test]
    fn a_newline_in_a_comment_is_of_the_comment() {
        let saved = "*mangle\n:X - [0:0]\n-A X -m comment --comment \"a\n-A X -j DROP\nb\" -j ACCEPT\n-A X -j RETURN\nCOMMIT\n";
        let chains = parse("iptables", saved).unwrap();
        let steps: Vec<_> = chains[0].rules.iter().flat_map(|it| it.steps.clone()).collect();
        let accept = Action::End("accept".to_owned());
        assert_eq!(steps, [Step::Act(accept), Step::Act(Action::Return)]);
    }

    #[test]
    fn a_comment_may_be_what_is_an_option_elsewhere() {
        let saved = "*mangle\n:X - [0:0]\n-A X -m comment --comment -i -m mark --mark 0x1 -j ACCEPT\nCOMMIT\n";
        let steps = parse("iptables", saved).unwrap().remove(0).rules.remove(0).steps;
        let marked = Step::Test(Test::is(Value::Mark, 1, false));
        assert_eq!(steps, [marked, Step::Act(Action::End("accept".to_owned()))]);
    }

    #[test]
    fn rules_of_bridges_are_read() {
        let saved = "*filter
:FORWARD ACCEPT
:mine ACCEPT
-A FORWARD -p IPv4 -i ! veth+ --mark ! 0x1/0xff -j mine
-A FORWARD --mark /0x6 -j DROP
-A mine -j mark --mark-or 0x5 --mark-target CONTINUE
-A mine -j mark --mark-set 0x5 --mark-target ACCEPT
-A mine -j dnat --to-dst 00:11:22:33:44:55 --dnat-target RETURN
";
        let chains = parse("ebtables", saved).unwrap();
        let named: Vec<_> = chains.iter().map(|it| (it.name.as_str(), it.hook)).collect();
        assert_eq!(named, [("FORWARD", Some(Hook::Forward)), ("mine", None)]);
        assert_eq!(chains[0].table.family, "bridge");
        let steps: Vec<_> = chains.into_iter().flat_map(|it| it.rules).map(|it| it.steps).collect();
        let end = |end: &str| Step::Act(Action::End(end.to_owned()));
        let set = |value| Step::Act(Action::SetMark(value));
        let and = |bits| Value::Mark.and(Value::Number(bits));
        let from = Devices { names: vec!["veth*".to_owned()], is_inverted: true };
        assert_eq!(
            steps,
            [
                vec![
                    Step::Test(Test::Other),
                    Step::Test(Test::From(from)),
                    Step::Test(Test::is(and(0xff), 1, true)),
                    Step::Act(Action::Jump("mine".to_owned())),
                ],
                vec![Step::Test(Test::is(and(6), 0, true)), end("drop")],
                vec![set(Value::Mark.or(Value::Number(5)))],
                vec![set(Value::Number(5)), end("accept")],
                vec![Step::Act(Action::Other("dnat".to_owned())), Step::Act(Action::Return)],
            ]
        );
    }

    #[test]
    fn what_is_no_output_of_iptables_save_is_refused() {
        for text in [
            "-A X -j ACCEPT",
            "*nat\n-A X -j ACCEPT",
            ":X - [0:0]",
            "*nat\nhello",
            "*nat\n:X - [0:0]\n-A X -m mark --mark hello -j DROP",
            "*nat\n:X - [0:0]\n-A X -m comment --comment \"a",
        ] {
            assert!(parse("iptables", text).is_err(), "{text}");
        }
    }
}
