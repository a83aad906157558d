//! What has to be known of clusters' stores when the process starts again: how far each was read. Revisions of one store say
//! nothing of another.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cilmark::ops::cluster::run_directory;
use cilmark::state::pin::Root;
use log::warn;
use serde::{Deserialize, Serialize};

use crate::etcd::Header;

/// Of each cluster, by name.
pub(super) struct Facts {
    file: PathBuf,
    known: BTreeMap<String, Fact>,
    is_changed: bool,
}

/// Up to where a store was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Fact {
    store: u64,
    revision: i64,
}

impl Facts {
    /// As they were left. Without them lists are of other stores, and what they lack becomes stale.
    pub(super) fn read(root: &Root) -> Facts {
        let file = run_directory(root).join("read.json");
        let text = fs::read(&file).ok();
        let known = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Facts { file, known, is_changed: false }
    }

    /// Whether a list that a store gives now lacks only what was deleted.
    pub(super) fn are_followed_by(&self, cluster: &str, header: Header) -> bool {
        self.known
            .get(cluster)
            .is_some_and(|it| it.store == header.store && it.revision <= header.revision)
    }

    /// Everything up to there is known.
    pub(super) fn set(&mut self, cluster: &str, header: Header) {
        let fact = Fact { store: header.store, revision: header.revision };
        if self.known.insert(cluster.to_owned(), fact) != Some(fact) {
            self.is_changed = true;
        }
    }

    pub(super) fn forget(&mut self, cluster: &str) {
        self.is_changed |= self.known.remove(cluster).is_some();
    }

    /// Writes them, if they have changed.
    pub(super) fn write(&mut self) {
        if self.is_changed {
            // Again with the next change only: a disk that is full must not fill the log.
            self.is_changed = false;
            if let Err(error) = self.write_now() {
                warn!("{error:#}");
            }
        }
    }

    fn write_now(&self) -> Result<()> {
        let next = self.file.with_extension("json.new");
        if let Some(directory) = self.file.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        fs::write(&next, serde_json::to_vec(&self.known)?)
            .with_context(|| format!("write {}", next.display()))?;
        fs::rename(&next, &self.file).with_context(|| format!("write {}", self.file.display()))
    }
}
