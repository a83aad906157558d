//! A client of etcd's API version 3 (etcd api/etcdserverpb/rpc.proto), of the part that Cilium's format takes. etcd is 3.4 or
//! newer, which answers when a watch asks whether it still is one.
//!
//! Every answer carries the number of the store; one of another store than the first is [`Error::OtherStore`], since
//! revisions of one say nothing of another.

mod call;
mod client_file;
mod connection;
mod lease;
mod list;
mod messages;
mod mutex;
mod watch;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;

use call::Method;
use connection::Members;
use list::RANGE;
use messages::{
    Compared, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, Request, RequestOp, Response, ResponseOp, SortOrder, SortTarget, TxnRequest,
    TxnResponse,
};

pub use client_file::ClientFile;
pub use lease::LeaseId;
pub use mutex::Mutex;
pub use watch::{Change, Watch, Watched};

/// Addresses of names that no resolver knows, such as `c1.mesh.cilium.io`.
pub type Resolve = BTreeMap<String, IpAddr>;

/// A connection to one store, by whichever of its members answers. Clones share it, but each is told by itself when another
/// store answers.
#[derive(Clone)]
pub struct Client {
    members: Rc<Members>,
    /// The number of the store that has answered first.
    store: Cell<Option<u64>>,
}

const PUT: Method = Method::once("/etcdserverpb.KV/Put");
const DELETE: Method = Method::once("/etcdserverpb.KV/DeleteRange");
const TRANSACT: Method = Method::once("/etcdserverpb.KV/Txn");

/// A key that every user of Cilium's roles may read; it need not be there.
const READABLE: &str = "cilium/.heartbeat";

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
        let members = Members::new(ClientFile::read(file)?, resolve)?;
        Ok(Client { members: Rc::new(members), store: Cell::new(None) })
    }

    /// Forgets which store this is, for this clone: the next answer says it. Who calls this has taken it that all is new.
    pub fn accept_any_store(&self) {
        self.store.set(None);
    }

    /// The revision now.
    pub async fn header(&self) -> Result<Header, Error> {
        self.get(READABLE).await.map(|(header, _)| header)
    }

    /// One key.
    pub async fn get(&self, key: &str) -> Result<(Header, Option<KeyValue>), Error> {
        let (header, found): (_, RangeResponse) = self.call(&RANGE, one(key)).await?;
        Ok((header, found.kvs.into_iter().next().map(KeyValue::from)))
    }

    /// Writes a key.
    pub async fn put(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        lease: Option<LeaseId>,
    ) -> Result<Header, Error> {
        let question = put(key, value.into(), lease);
        let (header, _): (_, PutResponse) = self.call(&PUT, question).await?;
        Ok(header)
    }

    /// Deletes a key; whether it was there.
    pub async fn delete(&self, key: &str) -> Result<bool, Error> {
        let question = DeleteRangeRequest { key: key.into() };
        let (_, answer): (_, DeleteRangeResponse) = self.call(&DELETE, question).await?;
        Ok(answer.deleted > 0)
    }

    /// Does `then` if all comparisons hold, `otherwise` if not, in one step. After [`Error::Unavailable`] it may have been
    /// done: nobody asks twice.
    pub async fn transact(
        &self,
        compare: Vec<Compare>,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    ) -> Result<Done, Error> {
        let question = TxnRequest {
            compare: compare.into_iter().map(messages::Compare::from).collect(),
            success: then.into_iter().map(RequestOp::from).collect(),
            failure: otherwise.into_iter().map(RequestOp::from).collect(),
        };
        let (header, answer): (_, TxnResponse) = self.call(&TRANSACT, question).await?;
        let found = answer.responses.into_iter().map(found_by).collect();
        Ok(Done { header, held: answer.succeeded, found })
    }
}

fn one(key: &str) -> RangeRequest {
    RangeRequest { key: key.into(), ..Default::default() }
}

fn put(key: &str, value: Vec<u8>, lease: Option<LeaseId>) -> PutRequest {
    PutRequest { key: key.into(), value, lease: lease.map_or(0, |lease| lease.0) }
}

fn found_by(response: ResponseOp) -> Vec<KeyValue> {
    match response.response {
        Some(Response::Range(range)) => range.kvs.into_iter().map(KeyValue::from).collect(),
        _ => Vec::new(),
    }
}

/// The first key behind all that have this prefix; a zero is behind all keys.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX);
    let Some(last) = kept else {
        return vec![0];
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end
}

/// Without a copy where it is UTF-8.
fn text_of(key: Vec<u8>) -> String {
    String::from_utf8(key).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into())
}

impl From<messages::KeyValue> for KeyValue {
    fn from(of: messages::KeyValue) -> KeyValue {
        KeyValue {
            key: text_of(of.key),
            value: of.value,
            created: of.create_revision,
            modified: of.mod_revision,
            lease: (of.lease != 0).then_some(LeaseId(of.lease)),
        }
    }
}

impl From<Compare> for messages::Compare {
    fn from(compare: Compare) -> messages::Compare {
        use messages::CompareTarget::{Create, Lease, Mod, Version};
        let (key, target, compared) = match compare {
            Compare::IsAbsent(key) => (key, Version, Compared::Version(0)),
            Compare::CreatedAt(key, at) => (key, Create, Compared::CreateRevision(at)),
            Compare::ModifiedAt(key, at) => (key, Mod, Compared::ModRevision(at)),
            Compare::HasLease(key, lease) => (key, Lease, Compared::Lease(lease.0)),
        };
        messages::Compare {
            result: messages::CompareResult::Equal as i32,
            target: target as i32,
            key: key.into(),
            compared: Some(compared),
        }
    }
}

impl From<Op> for RequestOp {
    fn from(op: Op) -> RequestOp {
        let request = match op {
            Op::Get(key) => Request::Range(one(&key)),
            Op::FirstCreated(prefix) => Request::Range(RangeRequest {
                range_end: end_of(prefix.as_bytes()),
                key: prefix.into(),
                limit: 1,
                sort_order: SortOrder::Ascend as i32,
                sort_target: SortTarget::Create as i32,
                ..Default::default()
            }),
            Op::Put(key, value, lease) => Request::Put(put(&key, value, lease)),
            Op::Delete(key) => Request::DeleteRange(DeleteRangeRequest { key: key.into() }),
        };
        RequestOp { request: Some(request) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_all_keys_that_have_it() {
        assert_eq!(end_of(b"a/"), b"a0");
        assert_eq!(end_of(b"a\xff\xff"), b"b");
        assert_eq!(end_of(b""), [0]);
        assert_eq!(end_of(b"\xff"), [0]);
    }
}
