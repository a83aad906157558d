//! Changing single flows, which takes the lock of their bucket: by the program `edit_flows`.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use libbpf_rs::MapHandle;

use crate::kernel::abi::{self, cm_flow_edit, cm_flow_edits};
use crate::kernel::sys;
use crate::program::load;

/// The program, over one pair of tables.
pub struct Editor {
    program: OwnedFd,
}

impl Editor {
    /// Over `cm_flows4` and `cm_flows6`, of which the hash has a secret.
    pub fn load(seed: [u64; 8], tables: [&MapHandle; 2]) -> Result<Editor> {
        let program = load::load_flow_editor(seed, tables).context("load what changes flows")?;
        Ok(Editor { program })
    }

    /// Does what is asked for, and gives back what has come of each.
    pub fn run(&self, edits: &[cm_flow_edit]) -> Result<Vec<cm_flow_edit>> {
        let offset = cm_flow_edits::CM_FLOW_EDITS_OFFSET.0 as usize;
        let most = cm_flow_edits::CM_FLOW_EDITS.0 as usize;
        let mut done = Vec::with_capacity(edits.len());
        for edits in edits.chunks(most) {
            let mut packet = vec![0; offset];
            edits.iter().for_each(|edit| packet.extend(abi::bytes_of(edit)));
            let run = sys::test_run(self.program.as_fd(), &packet, &mut Default::default(), 1)
                .context("change flows")?;
            let bytes = run.packet.get(offset..).unwrap_or_default();
            let answers = bytes.chunks_exact(size_of::<cm_flow_edit>());
            ensure!(answers.len() == edits.len(), "the kernel gave {} answers", answers.len());
            for answer in answers {
                done.push(abi::from_bytes(answer)?);
            }
        }
        Ok(done)
    }
}
