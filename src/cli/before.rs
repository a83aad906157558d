//! Programs of others that run before cilmark's, in words.

use crate::kernel::hooks::{HOOKS, HookKind, PRIORITY_FIRST};
use crate::kernel::order::Before;
use crate::kernel::sys::Hook;

/// A line for each hook that has some. The place is that of cilmark's own.
pub fn lines(device: &str, (kind, tc_priority): (HookKind, u32), before: &[Before]) -> Vec<String> {
    let of_hook = |hook: &Hook| {
        let here: Vec<&Before> = before.iter().filter(|it| it.hook == *hook).collect();
        // No filter comes before a TCX program, nor before another one of the first priority.
        let is_filter = kind == HookKind::Clsact;
        let by_tcx =
            here.iter().any(|it| it.kind == HookKind::Tcx) || tc_priority == PRIORITY_FIRST;
        let hint = if is_filter && by_tcx { "--hook tcx --first" } else { "--first" };
        let names: Vec<&str> = here.iter().map(|it| it.name.as_str()).collect();
        let (run, it, them) = match names.len() {
            0 => return None,
            1 => ("runs", "it", "it"),
            _ => ("run", "they", "them"),
        };
        Some(format!(
            "{device}: {} {run} before cilmark on {}: what {it} drops, accepts or redirects cilmark does not \
             see; `attach {hint}` goes before {them}",
            names.join(" and "),
            match hook {
                Hook::Ingress => "ingress",
                Hook::Egress => "egress",
            }
        ))
    };
    HOOKS.iter().filter_map(of_hook).collect()
}
