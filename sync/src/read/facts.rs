//! What has to be known of clusters' stores when the process starts again: how far each was read. Revisions of one store say
//! nothing of another.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use cilmark::ops::cluster::{files, run_directory};
use cilmark::state::pin::Root;
use log::warn;
use serde::{Deserialize, Serialize};

use super::table::Missing;
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
    /// Lines of another store may be in the ipcache, too: a list was not read to its end.
    #[serde(default)]
    is_mixed: bool,
    /// Lines are in the ipcache that it does not say, and that were not deleted.
    #[serde(default)]
    has_stale: bool,
}

impl Fact {
    fn of(header: Header) -> Fact {
        let Header { store, revision } = header;
        Fact { store, revision, is_mixed: false, has_stale: false }
    }
}

impl Facts {
    /// As they were left. Without them lists are of other stores, and what they lack becomes stale.
    pub(super) fn read(root: &Root) -> Facts {
        let file = run_directory(root).join("read.json");
        let text = fs::read(&file).ok();
        let known = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Facts::left(file, known)
    }

    /// Which lines were stale is not known: to the first list they look like those of another store.
    fn left(file: PathBuf, mut known: BTreeMap<String, Fact>) -> Facts {
        known.values_mut().for_each(|fact| fact.is_mixed |= fact.has_stale);
        Facts { file, known, is_changed: false }
    }

    /// A list begins: what is missing in it? The cluster may have lines from before.
    pub(super) fn begin(&mut self, cluster: &str, header: Header, has_lines: bool) -> Missing {
        let is_followed = self.known.get(cluster).is_some_and(|it| {
            it.store == header.store && it.revision <= header.revision && !it.is_mixed
        });
        let missing = if is_followed { Missing::IsGone } else { Missing::IsStale };
        let is_mixed = has_lines && missing == Missing::IsStale;
        self.put(cluster, Fact { is_mixed, ..Fact::of(header) });
        missing
    }

    /// Everything up to there is known.
    pub(super) fn set(&mut self, cluster: &str, header: Header) {
        self.put(cluster, Fact::of(header));
    }

    fn put(&mut self, cluster: &str, fact: Fact) {
        let before = self.known.get(cluster);
        let fact = Fact { has_stale: before.is_some_and(|before| before.has_stale), ..fact };
        self.is_changed |= before != Some(&fact);
        self.known.insert(cluster.to_owned(), fact);
    }

    /// Whether a cluster has lines that are stale; the next process is to know if it has.
    pub(super) fn set_stale(&mut self, cluster: &str, has_stale: bool) {
        let Some(fact) = self.known.get_mut(cluster) else { return };
        if fact.has_stale != has_stale {
            fact.has_stale = has_stale;
            self.is_changed = true;
            if has_stale {
                self.write();
            }
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
        files::write(&self.file, &serde_json::to_vec(&self.known)?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn none() -> Facts {
        Facts { file: Path::new("/").to_owned(), known: BTreeMap::new(), is_changed: false }
    }

    /// In the next process.
    fn again(facts: Facts) -> Facts {
        Facts::left(facts.file, facts.known)
    }

    fn at(store: u64, revision: i64) -> Header {
        Header { store, revision }
    }

    #[test]
    fn only_a_later_list_of_the_same_store_lacks_what_was_deleted() {
        let mut facts = none();
        assert_eq!(facts.begin("c1", at(7, 100), true), Missing::IsStale);
        facts.set("c1", at(7, 110));
        assert_eq!(facts.begin("c1", at(7, 109), true), Missing::IsStale, "set back");
        facts.set("c1", at(7, 109));
        assert_eq!(facts.begin("c1", at(7, 109), true), Missing::IsGone);
        assert_eq!(facts.begin("c1", at(8, 500), true), Missing::IsStale);
    }

    #[test]
    fn a_list_that_was_not_read_to_its_end_leaves_lines_of_two_stores() {
        let mut facts = none();
        facts.begin("c1", at(7, 100), false);
        assert_eq!(facts.begin("c1", at(7, 100), true), Missing::IsGone, "of one store alone");
        facts.begin("c1", at(8, 5), true);
        assert_eq!(facts.begin("c1", at(8, 6), true), Missing::IsStale);
        facts.set("c1", at(8, 6));
        assert_eq!(facts.begin("c1", at(8, 7), true), Missing::IsGone);
    }

    #[test]
    fn the_first_list_of_a_process_lets_no_line_go_where_some_were_stale() {
        let mut facts = none();
        facts.set("c1", at(7, 100));
        facts.set_stale("c1", true);
        facts.set("c1", at(7, 101));
        assert_eq!(facts.begin("c1", at(7, 102), true), Missing::IsGone, "it knows which ones");
        let mut facts = again(facts);
        assert_eq!(facts.begin("c1", at(7, 103), true), Missing::IsStale);
        facts.set("c1", at(7, 103));
        facts.set_stale("c1", false);
        assert_eq!(again(facts).begin("c1", at(7, 104), true), Missing::IsGone);
    }
}
