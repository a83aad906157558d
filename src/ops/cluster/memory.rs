//! Which numbers labels had last on this host: with etcd away, workloads start with these. Its file says that this host is
//! in a cluster.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{files, state_directory};
use crate::model::identity::Identity;
use crate::state::pin::Root;

/// By labels as text (`app=web,tier=front`).
pub type Memory = BTreeMap<String, Identity>;

fn file(root: &Root) -> PathBuf {
    state_directory(root).join("identities.json")
}

/// `None` on a host of no cluster.
pub fn read(root: &Root) -> Result<Option<Memory>> {
    let path = file(root);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(format!("read {}", path.display())),
    };
    let memory = serde_json::from_slice(&text);
    memory.map(Some).with_context(|| {
        format!("{} is not as cilmark-sync writes it; remove it, and start that", path.display())
    })
}

/// Writes all of it, in one step.
pub fn write(root: &Root, memory: &Memory) -> Result<()> {
    files::write(&file(root), &serde_json::to_vec_pretty(memory)?)
}

/// This host is in no cluster any more.
pub fn forget(root: &Root) -> Result<()> {
    let path = file(root);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
