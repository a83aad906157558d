//! `cm_flow_table`: what the flows of all endpoints have in common. A secret for their hashes, and the serials
//! that tell whose they are.

use anyhow::{Context, Result};
use libbpf_rs::MapHandle;

use crate::kernel::abi::{cm_flow_table, u32_key};
use crate::kernel::sys;
use crate::state::maps::TypedMap;
use crate::state::pin::Root;

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

    pub(super) fn read(&self) -> Result<cm_flow_table> {
        Ok(self.map.get(&u32_key(0))?.unwrap_or_default())
    }

    pub(super) fn write(&self, table: &cm_flow_table) -> Result<()> {
        self.map.set(&u32_key(0), table)
    }
}
