//! Programs of others that run before cilmark's, in words.

use crate::kernel::hooks::{HOOKS, HookKind, PRIORITY_FIRST};
use crate::kernel::order::Other;
use crate::kernel::sys::Hook;

/// What runs before cilmark on a hook.
pub struct Before {
    /// Which hook.
    pub hook: Hook,
    /// What it is, and what follows: a clause.
    pub says: String,
    /// The flags of `attach` that go before it.
    pub flags: &'static str,
    /// Of it: `it`, or `them`.
    pub them: &'static str,
}

/// One for each hook that has some. The place is that of cilmark's own.
pub fn before((kind, tc_priority): (HookKind, u32), others: &[Other]) -> Vec<Before> {
    let of_hook = |hook: &Hook| {
        let here: Vec<&Other> = others.iter().filter(|it| it.hook == *hook).collect();
        // No filter comes before a TCX program, nor before another one of the first priority.
        let is_filter = kind == HookKind::Clsact;
        let by_tcx =
            here.iter().any(|it| it.kind == HookKind::Tcx) || tc_priority == PRIORITY_FIRST;
        let flags = if is_filter && by_tcx { "--hook tcx --first" } else { "--first" };
        let (they_run, is_one) = they_run(&here)?;
        let (drops, them) = match is_one {
            true => ("it drops, accepts or redirects", "it"),
            false => ("they drop, accept or redirect", "them"),
        };
        let says = format!(
            "{they_run} before cilmark on {hook}: cilmark does not see packets that {drops}"
        );
        Some(Before { hook: *hook, says, flags, them })
    };
    HOOKS.iter().filter_map(of_hook).collect()
}

/// Programs of the entry points of the datapath (src/bpf/cilmark.bpf.c).
const OURS: [&str; 4] = ["from_container", "to_container", "from_netdev", "to_netdev"];

/// Whether it has the name of one of ours.
pub fn is_cilmarks(other: &Other) -> bool {
    OURS.contains(&other.name.as_str())
}

fn name(other: &Other) -> String {
    match is_cilmarks(other) {
        true => format!("{} (cilmark of another root)", other.name),
        false => other.name.clone(),
    }
}

/// `a runs` or `a and b run`, and whether it is one; `None` of nobody.
pub fn they_run(others: &[&Other]) -> Option<(String, bool)> {
    let names: Vec<String> = others.iter().map(|it| name(it)).collect();
    match &names[..] {
        [] => None,
        [one] => Some((format!("{one} runs"), true)),
        _ => Some((format!("{} run", names.join(" and ")), false)),
    }
}
