//! The steps of a program in the order of its calls.

use crate::kernel::abi::{cm_call, cm_step};

/// As they were called: a call stands before its callees, behind which it was written. What is asked again only to report
/// the packet has been seen.
pub fn in_order_of_calls(steps: &[cm_step]) -> Vec<cm_step> {
    let mut ordered: Vec<cm_step> = Vec::new();
    for step in steps {
        let at = ordered.len().saturating_sub(step.callees as usize);
        for callee in &mut ordered[at..] {
            callee.depth += 1;
        }
        ordered.insert(at, *step);
    }
    let trace = ordered.iter().position(|step| step.call == cm_call::CM_CALL_TRACE);
    let report = ordered.split_off(trace.unwrap_or(ordered.len()));
    let is_new = |step: &cm_step| !ordered.iter().any(|seen| is_same(seen, step));
    let new: Vec<cm_step> = report.into_iter().filter(is_new).collect();
    if new.len() > 1 {
        ordered.extend(new);
    }
    ordered
}

fn is_same(a: &cm_step, b: &cm_step) -> bool {
    (a.call, a.address.bytes, a.values) == (b.call, b.address.bytes, b.values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(call: cm_call, depth: u32, callees: u32) -> cm_step {
        cm_step { call, depth, callees, ..cm_step::default() }
    }

    fn tree(steps: &[cm_step]) -> Vec<(cm_call, u32)> {
        in_order_of_calls(steps).iter().map(|step| (step.call, step.depth)).collect()
    }

    #[test]
    fn a_call_stands_before_its_callees() {
        let lookup = step(cm_call::CM_CALL_IPCACHE_LOOKUP, 3, 0);
        let sender = step(cm_call::CM_CALL_RESOLVE_SRCID, 3, 1);
        let route = step(cm_call::CM_CALL_FIB_LOOKUP, 3, 0);
        let all = step(cm_call::CM_CALL_IS_FOR_HOST, 3, 3);
        assert_eq!(
            tree(&[lookup, sender, route, all]),
            [(all.call, 3), (sender.call, 4), (lookup.call, 5), (route.call, 4)]
        );
    }

    #[test]
    fn what_was_asked_before_is_not_asked_again_for_the_report() {
        let (seen, new) = (cm_call::CM_CALL_IPCACHE_LOOKUP, cm_call::CM_CALL_FIB_LOOKUP);
        let [seen, new] = [seen, new].map(|call| step(call, 1, 0));
        let trace = step(cm_call::CM_CALL_TRACE, 1, 0);
        assert_eq!(tree(&[seen, trace, seen]), [(seen.call, 1)]);
        assert_eq!(
            tree(&[seen, trace, seen, new]),
            [(seen.call, 1), (trace.call, 1), (new.call, 1)]
        );
    }
}
