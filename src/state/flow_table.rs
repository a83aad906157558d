//! `cm_flow_table`: what the flows of all endpoints have in common. A secret for their hashes, and the serials
//! that tell whose they are.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use libbpf_rs::MapHandle;

use crate::kernel::abi::{
    cm_flow_table, cm_frag_ports, cm_frag4_key, cm_frag6_key, cm_stack_flow, u32_key,
};
use crate::kernel::sys;
use crate::model::endpoint::Scope;
use crate::state::conntrack::Conntrack;
use crate::state::maps::TypedMap;
use crate::state::pin::Root;
use crate::state::registry::Found;

/// The pinned one. Who changes it holds the root's lock.
pub struct FlowTable {
    map: TypedMap<u32_key, cm_flow_table>,
}

impl FlowTable {
    /// `None` if nobody has made it yet.
    pub fn open(root: &Root) -> Result<Option<FlowTable>> {
        Ok(TypedMap::open(root, "cm_flow_table")?.map(|map| FlowTable { map }))
    }

    /// One that was just made.
    pub fn of(map: MapHandle) -> FlowTable {
        FlowTable { map: TypedMap::of(map) }
    }

    /// The secret, which never changes once it is there; zero if whoever made the table was killed.
    pub fn seed(&self) -> Result<[u64; 8]> {
        Ok(self.read()?.seed)
    }

    /// Makes the secret, unless it is there.
    pub fn fill(&self) -> Result<()> {
        let mut table = self.read()?;
        if table.seed != [0; 8] {
            return Ok(());
        }
        for word in &mut table.seed {
            let mut bytes = [0; 8];
            sys::random(&mut bytes).context("ask the kernel for random numbers")?;
            *word = u64::from_ne_bytes(bytes);
        }
        self.write(&table)
    }

    /// A scope under which there are no flows. Serials come again only when all have been given: then what is
    /// still there of the one that had it before is forgotten.
    pub fn next_scope(&self, root: &Root) -> Result<Scope> {
        let mut table = self.read()?;
        let come_again = |number: u32| number >= Scope::NOBODY.get();
        let in_use: BTreeSet<Scope> = match come_again(table.last_scope.saturating_add(1)) {
            true => Found::all(root)?.endpoints.iter().map(|it| it.config.scope()).collect(),
            false => BTreeSet::new(),
        };
        let (last, scope) = following(table.last_scope, &in_use);
        table.last_scope = last;
        // First, so that one who is killed meanwhile has not given it.
        self.write(&table)?;
        if come_again(last) {
            forget(root, scope)?;
        }
        Ok(scope)
    }

    fn read(&self) -> Result<cm_flow_table> {
        Ok(self.map.get(&u32_key(0))?.unwrap_or_default())
    }

    fn write(&self, table: &cm_flow_table) -> Result<()> {
        self.map.set(&u32_key(0), table)
    }
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
