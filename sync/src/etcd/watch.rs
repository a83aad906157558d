//! What becomes of keys.

use super::{Client, Error, Header, KeyValue};

/// What has become of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(KeyValue),
    /// It was deleted, or its lease is over.
    Deleted {
        /// The key.
        key: String,
        /// What it was before, where that is not compacted.
        before: Option<KeyValue>,
        /// The revision that has deleted it.
        revision: i64,
    },
}

/// What a watch tells at a time: whole revisions.
#[derive(Debug)]
pub struct Watched {
    /// Where; its revision is the last that this contains everything of.
    pub header: Header,
    /// In order of their revisions.
    pub changes: Vec<Change>,
}

/// A stream of changes of the keys with a prefix.
pub struct Watch {}

impl Client {
    /// What becomes of keys with this prefix from a revision on, from a member that has a leader.
    pub async fn watch(&self, prefix: &str, from: i64) -> Result<Watch, Error> {
        let _ = (prefix, from);
        todo!()
    }
}

impl Watch {
    /// The next changes; none, with a newer revision, from time to time. After an error the watch is over: behind
    /// [`Error::Unavailable`] another one may go on from the last revision, behind [`Error::Compacted`] only a new list
    /// tells.
    pub async fn next(&mut self) -> Result<Watched, Error> {
        todo!()
    }
}
