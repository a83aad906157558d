//! Lists of keys, a page at a time.

use std::time::Duration;

use super::call::{Cause, Method};
use super::messages::{RangeRequest, RangeResponse};
use super::{Client, Error, Header, KeyValue, end_of};

pub(super) const RANGE: Method = Method::repeatable("/etcdserverpb.KV/Range");

/// A page: etcd counts all keys behind it before it answers.
const LIST: Method = Method { answer: Duration::from_secs(15), ..RANGE };

/// How many keys a page has. Many small pages take long (a million keys in pages of 1,000: 197 s, of 10,000: 14 s).
const PAGE: i64 = 10_000;

impl Client {
    /// All keys with a prefix as they were at one revision, sorted by key, a page at a time. `each` gets a page. The
    /// header's revision is that of the list: a watch goes on behind it. A list that takes so long that its revision is
    /// compacted meanwhile is [`Error::Compacted`].
    pub async fn list(
        &self,
        prefix: &str,
        mut each: impl FnMut(Vec<KeyValue>),
    ) -> Result<Header, Error> {
        let mut question = RangeRequest {
            key: prefix.into(),
            range_end: end_of(prefix.as_bytes()),
            limit: PAGE,
            ..Default::default()
        };
        if question.key.is_empty() {
            question.key.push(0);
        }
        let mut of: Option<Header> = None;
        loop {
            let asked = self.try_call(&LIST, question.clone()).await;
            let (header, page): (Header, RangeResponse) = match asked {
                Ok(answer) => answer,
                // Large values: fewer of them at a time.
                Err(failure) if failure.cause == Cause::Length && question.limit > 1 => {
                    question.limit = (question.limit / 4).max(1);
                    continue;
                }
                Err(failure) => return Err(failure.error),
            };
            let of = *of.get_or_insert(header);
            question.revision = of.revision;
            question.limit = (question.limit * 2).min(PAGE);
            if let Some(last) = page.kvs.last() {
                question.key.clone_from(&last.key);
                question.key.push(0);
            }
            let is_last = !page.more || page.kvs.is_empty();
            if !page.kvs.is_empty() {
                each(page.kvs.into_iter().map(KeyValue::from).collect());
            }
            if is_last {
                return Ok(of);
            }
        }
    }
}
