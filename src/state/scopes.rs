//! Whose flows are whose: the serials of `cm_flow_table`.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::kernel::abi::{cm_frag_ports, cm_frag4_key, cm_frag6_key, cm_stack_flow, u32_key};
use crate::model::endpoint::Scope;
use crate::state::conntrack::Conntrack;
use crate::state::flow_table::FlowTable;
use crate::state::maps::TypedMap;
use crate::state::pin::Root;
use crate::state::registry::Found;

/// A scope under which there are no flows. Serials come again only when all have been given: then what is
/// still there of the one that had it before is forgotten.
pub fn next(table: &FlowTable, root: &Root) -> Result<Scope> {
    let mut state = table.read()?;
    let come_again = |number: u32| number >= Scope::NOBODY.get();
    let in_use: BTreeSet<Scope> = match come_again(state.last_scope.saturating_add(1)) {
        true => Found::all(root)?.endpoints.iter().map(|it| it.config.scope()).collect(),
        false => BTreeSet::new(),
    };
    let (last, scope) = following(state.last_scope, &in_use);
    state.last_scope = last;
    // First, so that one who is killed meanwhile has not given it.
    table.write(&state)?;
    if come_again(last) {
        forget(root, scope)?;
    }
    Ok(scope)
}

/// What to count on to, and its scope. Numbers beyond 24 bits tell that all have been given, and wrap to the
/// least of these.
fn following(mut last: u32, in_use: &BTreeSet<Scope>) -> (u32, Scope) {
    loop {
        last = last.checked_add(1).unwrap_or(Scope::NOBODY.get() + 1);
        let scope = Scope::of(last);
        if ![Scope::NICS, Scope::NOBODY].contains(&scope) && !in_use.contains(&scope) {
            return (last, scope);
        }
    }
}

/// Deletes all that is kept under a scope in the maps that endpoints share; an endpoint's own go with it.
fn forget(root: &Root, scope: Scope) -> Result<()> {
    if let Some(flows) = Conntrack::open(root, None)? {
        flows.flush(Some(scope))?;
    }
    if let Some(map) = TypedMap::<cm_frag4_key, cm_frag_ports>::open(root, "cm_frags4")? {
        map.delete_all(|key, _| Scope::of_key(key.scope, key.scope_high) == scope)?;
    }
    if let Some(map) = TypedMap::<cm_frag6_key, cm_frag_ports>::open(root, "cm_frags6")? {
        map.delete_all(|key, _| Scope::of_key(key.scope, key.scope_high) == scope)?;
    }
    if let Some(map) = TypedMap::<cm_stack_flow, u32_key>::open(root, "cm_path_flows")? {
        map.delete_all(|key, _| Scope::of_key(key.scope, key.scope_high) == scope)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_given_again_only_when_all_have_been_and_never_while_it_is_in_use() {
        let nobody = BTreeSet::new();
        assert_eq!(following(0, &nobody), (1, Scope::of(1)));
        assert_eq!(following(0xff_fffd, &nobody), (0xff_fffe, Scope::of(0xff_fffe)));
        assert_eq!(following(0xff_fffe, &nobody), (0x100_0001, Scope::of(1)));
        let some = BTreeSet::from([Scope::of(1), Scope::of(2), Scope::NICS]);
        assert_eq!(following(0xff_fffe, &some), (0x100_0003, Scope::of(3)));
        assert_eq!(following(u32::MAX - 1, &nobody), (0x100_0001, Scope::of(1)));
    }
}
