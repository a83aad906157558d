//! What becomes of keys.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::Stream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::call::{ANSWER, Failure, grpc, in_time};
use super::connection::Connection;
use super::list::RANGE;
use super::messages::{
    Event, EventType, RangeRequest, RangeResponse, WatchAsked, WatchCreateRequest,
    WatchProgressRequest, WatchRequest, WatchResponse,
};
use super::{Client, Error, Header, KeyValue, end_of, text_of};

/// A watch that has heard nothing for so long asks whether it still is one; one that is not answered for so long is over.
const QUIET: Duration = Duration::from_secs(10);

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

/// A stream of changes of the keys with a prefix. What nobody reads stays with etcd, but for a megabyte.
pub struct Watch {
    client: Client,
    connection: Connection,
    questions: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    revisions: Revisions,
    /// When the last answer has come.
    heard: Instant,
    /// When it was asked since whether it still is a watch.
    asked: Option<Instant>,
    is_over: bool,
}

impl Client {
    /// What becomes of keys with this prefix from a revision on, from a member that has a leader.
    /// [`Error::Compacted`] also if the store has not come to the revision before: it was set back to a backup.
    pub async fn watch(&self, prefix: &str, from: i64) -> Result<Watch, Error> {
        let open = async |connection: &Connection| open(connection, prefix, from).await;
        let opened = self.by_a_member(true, open).await.map_err(|failure| failure.error)?;
        let ((questions, answers, created), connection) = opened;
        let header = self.header_of(created.header.as_ref())?;
        if let Some(error) = end_in(&created) {
            return Err(error);
        }
        // A member may be behind the others; their leader is not.
        if header.revision + 1 < from && self.revision_of(prefix).await? + 1 < from {
            return Err(Error::Compacted);
        }
        Ok(Watch {
            client: self.clone(),
            connection,
            questions,
            answers,
            revisions: Revisions::default(),
            heard: Instant::now(),
            asked: None,
            is_over: false,
        })
    }

    /// The revision now, by a key that who may watch a prefix may read.
    async fn revision_of(&self, prefix: &str) -> Result<i64, Error> {
        let key = if prefix.is_empty() { vec![0] } else { prefix.into() };
        let question = RangeRequest { key, count_only: true, ..Default::default() };
        let (header, _): (_, RangeResponse) = self.call(&RANGE, question).await?;
        Ok(header.revision)
    }
}

type Opened = (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>, WatchResponse);

async fn open(connection: &Connection, prefix: &str, from: i64) -> Result<Opened, Failure> {
    let create = WatchCreateRequest {
        key: if prefix.is_empty() { vec![0] } else { prefix.into() },
        range_end: end_of(prefix.as_bytes()),
        start_revision: from,
        progress_notify: true,
        prev_kv: true,
        fragment: true,
    };
    let (questions, receiver) = mpsc::channel(2);
    let create = WatchRequest { asked: Some(WatchAsked::Create(create)) };
    questions.try_send(create).expect("there is room for two");
    let mut request = Request::new(Questions(receiver));
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let mut grpc = grpc(connection.channel.clone());
    in_time(ANSWER, async {
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::default();
        let mut answers = grpc.streaming(request, path, codec).await?.into_inner();
        let created = answers.message().await?.ok_or_else(ended)?;
        Ok((questions, answers, created))
    })
    .await
}

struct Questions(mpsc::Receiver<WatchRequest>);

impl Stream for Questions {
    type Item = WatchRequest;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<WatchRequest>> {
        self.0.poll_recv(context)
    }
}

impl Watch {
    /// The next changes; none, with a newer revision, from time to time. After an error the watch is over: behind
    /// [`Error::Unavailable`] another one may go on from the last revision, behind [`Error::Compacted`] only a new list
    /// tells. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Watched, Error> {
        if self.is_over {
            return Err(Error::Unavailable("the watch is over".to_owned()));
        }
        loop {
            let answer = self.answer().await;
            match answer.and_then(|answer| self.told_by(answer)) {
                Ok(Some(watched)) => return Ok(watched),
                Ok(None) => {}
                Err(error) => {
                    self.is_over = true;
                    return Err(error);
                }
            }
        }
    }

    async fn answer(&mut self) -> Result<WatchResponse, Error> {
        loop {
            let until = self.asked.unwrap_or(self.heard) + QUIET;
            let failure = match timeout_at(until, self.answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    self.heard = Instant::now();
                    self.asked = None;
                    return Ok(answer);
                }
                Ok(Ok(None)) => Failure::from(ended()),
                Ok(Err(status)) => Failure::from(status),
                Err(_) if self.asked.is_none() => {
                    let asked = Some(WatchAsked::Progress(WatchProgressRequest {}));
                    // Where there is no room one lies there that was not sent either.
                    let _ = self.questions.try_send(WatchRequest { asked });
                    self.asked = Some(Instant::now());
                    continue;
                }
                Err(_) => Failure::from(Status::unavailable("the watch gets no answers any more")),
            };
            return Err(self.client.after(&self.connection, failure).error);
        }
    }

    /// What an answer tells, if anything.
    fn told_by(&mut self, answer: WatchResponse) -> Result<Option<Watched>, Error> {
        let header = self.client.header_of(answer.header.as_ref())?;
        if let Some(error) = end_in(&answer) {
            return Err(error);
        }
        let told = self.revisions.of(answer, header.revision);
        Ok(told
            .map(|(revision, changes)| Watched { header: Header { revision, ..header }, changes }))
    }
}

/// Makes whole revisions of the parts that answers come in.
#[derive(Default)]
struct Revisions {
    /// Changes of a revision of which more may follow.
    begun: Vec<Change>,
}

impl Revisions {
    /// The changes up to a revision, if an answer brings any; none where it says how far the watch has come. The header's
    /// revision is that of the store, which may be far ahead of the changes.
    fn of(&mut self, answer: WatchResponse, stored: i64) -> Option<(i64, Vec<Change>)> {
        // What was asked for overtakes changes (etcd before 3.4.25 and 3.5.8, issue 15220): it says that etcd lives, not
        // how far this watch has come.
        if answer.watch_id < 0 || answer.created {
            return None;
        }
        self.begun.extend(answer.events.into_iter().filter_map(change_of));
        let Some(last) = self.begun.last().map(Change::revision) else {
            return (!answer.fragment).then(|| (stored, Vec::new()));
        };
        let (whole, revision) = match answer.fragment {
            true => (self.begun.partition_point(|change| change.revision() < last), last - 1),
            false => (self.begun.len(), last),
        };
        let rest = self.begun.split_off(whole);
        let changes = std::mem::replace(&mut self.begun, rest);
        (whole > 0).then_some((revision, changes))
    }
}

impl Change {
    /// The revision that it was made by.
    pub fn revision(&self) -> i64 {
        match self {
            Change::Put(put) => put.modified,
            Change::Deleted { revision, .. } => *revision,
        }
    }
}

fn change_of(event: Event) -> Option<Change> {
    let kind = event.kind();
    let now = event.kv?;
    Some(match kind {
        EventType::Put => Change::Put(now.into()),
        EventType::Delete => Change::Deleted {
            key: text_of(now.key),
            before: event.prev_kv.map(KeyValue::from),
            revision: now.mod_revision,
        },
    })
}

fn ended() -> Status {
    Status::unavailable("etcd has ended the watch")
}

/// Why an answer is the last one, if it is.
fn end_in(answer: &WatchResponse) -> Option<Error> {
    if answer.compact_revision != 0 {
        return Some(Error::Compacted);
    }
    answer.canceled.then(|| match answer.cancel_reason.as_str() {
        why if why.contains("permission denied") => Error::Denied(why.to_owned()),
        why if why.contains("compacted") => Error::Compacted,
        why => Error::Unavailable(format!("the watch was cancelled: {why}")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::messages;
    use super::*;

    /// An answer with a change of each of these revisions.
    fn answer(revisions: &[i64]) -> WatchResponse {
        let event = |revision: &i64| {
            let kv = messages::KeyValue { mod_revision: *revision, ..Default::default() };
            Event { kv: Some(kv), ..Default::default() }
        };
        WatchResponse { events: revisions.iter().map(event).collect(), ..Default::default() }
    }

    fn told(revisions: &mut Revisions, answer: WatchResponse) -> Option<(i64, Vec<i64>)> {
        let told = revisions.of(answer, 100);
        told.map(|(last, changes)| (last, changes.iter().map(Change::revision).collect()))
    }

    #[test]
    fn changes_are_told_up_to_their_last_revision_and_not_that_of_the_store() {
        let revisions = &mut Revisions::default();
        assert_eq!(told(revisions, answer(&[3, 3, 5])), Some((5, vec![3, 3, 5])));
    }

    #[test]
    fn a_revision_of_which_more_may_follow_waits_for_it() {
        let revisions = &mut Revisions::default();
        let fragment = |of: &[i64]| WatchResponse { fragment: true, ..answer(of) };
        assert_eq!(told(revisions, fragment(&[3])), None);
        assert_eq!(told(revisions, fragment(&[3, 4])), Some((3, vec![3, 3])));
        assert_eq!(told(revisions, fragment(&[4, 5, 6])), Some((5, vec![4, 4, 5])));
        assert_eq!(told(revisions, answer(&[6])), Some((6, vec![6, 6])));
    }

    #[test]
    fn only_progress_of_the_watch_itself_says_how_far_it_has_come() {
        let revisions = &mut Revisions::default();
        assert_eq!(told(revisions, answer(&[])), Some((100, vec![])));
        assert_eq!(told(revisions, WatchResponse { watch_id: -1, ..answer(&[]) }), None);
        assert_eq!(told(revisions, WatchResponse { created: true, ..answer(&[]) }), None);
    }
}
