//! A client of etcd's API version 3 (etcd api/etcdserverpb/rpc.proto), of the part that Cilium's format takes.
//!
//! Every answer carries the number of the store; one of another store than the first is [`Error::OtherStore`], since
//! revisions of one say nothing of another.

mod client_file;
mod lease;
mod list;
mod messages;
mod mutex;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;

pub use client_file::ClientFile;
pub use lease::LeaseId;
pub use mutex::Mutex;
pub use watch::{Change, Watch, Watched};

/// Addresses of names that no resolver knows, such as `c1.mesh.cilium.io`.
pub type Resolve = BTreeMap<String, IpAddr>;

/// A connection to one store, by whichever of its members answers. Clones share it.
#[derive(Clone)]
pub struct Client {}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The number of the store (etcd's cluster ID).
    pub store: u64,
    /// The revision of the store when it answered.
    pub revision: i64,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key; of one that is not UTF-8 what is not is replaced.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that has made the key.
    pub created: i64,
    /// The revision that has written it last.
    pub modified: i64,
    /// The lease that it goes with.
    pub lease: Option<LeaseId>,
}

/// What a transaction asks first. All of it has to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key is not there.
    IsAbsent(String),
    /// The key was made by this revision.
    CreatedAt(String, i64),
    /// The key was written last by this revision.
    ModifiedAt(String, i64),
    /// The key has this lease.
    HasLease(String, LeaseId),
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Reads a key.
    Get(String),
    /// Reads the first key with this prefix by revision of creation.
    FirstCreated(String),
    /// Writes a key.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// Deletes a key.
    Delete(String),
}

/// What has come of a transaction.
#[derive(Debug)]
pub struct Done {
    /// Where.
    pub header: Header,
    /// Whether all comparisons held.
    pub held: bool,
    /// What each [`Op::Get`] and [`Op::FirstCreated`] has found, in order; the others have an empty list.
    pub found: Vec<Vec<KeyValue>>,
}

/// Why etcd did not do what it was asked.
#[derive(Debug)]
pub enum Error {
    /// No member has answered, or none that has a leader.
    Unavailable(String),
    /// The user of the certificate may not do this.
    Denied(String),
    /// The lease is over.
    NoLease,
    /// The revision is compacted: what has happened since is not known.
    Compacted,
    /// Another store answers than before: its number.
    OtherStore(u64),
    /// Whatever else.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unavailable(why) => write!(f, "etcd does not answer: {why}"),
            Error::Denied(why) => write!(f, "etcd refuses it: {why}"),
            Error::NoLease => write!(f, "the lease is over"),
            Error::Compacted => write!(f, "the revision is compacted"),
            Error::OtherStore(number) => write!(f, "another store answers: {number:x}"),
            Error::Other(why) => write!(f, "etcd: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl Client {
    /// Of a client file as Cilium has them. Nobody is asked yet, so that etcd may be away. Certificates are read again for
    /// each connection.
    pub fn new(file: &Path, resolve: &Resolve) -> Result<Client> {
        let _ = (file, resolve);
        todo!()
    }

    /// Forgets which store this is: the next answer says it. Who calls this has taken it that all is new.
    pub fn accept_any_store(&self) {
        todo!()
    }

    /// The revision now.
    pub async fn header(&self) -> Result<Header, Error> {
        todo!()
    }

    /// One key.
    pub async fn get(&self, key: &str) -> Result<(Header, Option<KeyValue>), Error> {
        let _ = key;
        todo!()
    }

    /// All keys with a prefix as they were at one revision, sorted by key, a page at a time. `each` gets a page. The
    /// header's revision is that of the list: a watch goes on behind it.
    pub async fn list(
        &self,
        prefix: &str,
        each: impl FnMut(Vec<KeyValue>),
    ) -> Result<Header, Error> {
        let _ = (prefix, each);
        todo!()
    }

    /// Writes a key.
    pub async fn put(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        lease: Option<LeaseId>,
    ) -> Result<Header, Error> {
        let _ = (key, value.into(), lease);
        todo!()
    }

    /// Deletes a key; whether it was there.
    pub async fn delete(&self, key: &str) -> Result<bool, Error> {
        let _ = key;
        todo!()
    }

    /// Does `then` if all comparisons hold, `otherwise` if not, in one step.
    pub async fn transact(
        &self,
        compare: Vec<Compare>,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    ) -> Result<Done, Error> {
        let _ = (compare, then, otherwise);
        todo!()
    }
}
