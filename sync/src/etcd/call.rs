//! Calls: to another member if one does not answer, and what an answer means.

use std::error::Error as StdError;
use std::time::Duration;

use prost::Message;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::connection::{Connection, Gone, causes};
use super::messages::{Answer, ResponseHeader};
use super::{Client, Error, Header};

/// How long an answer may take to begin, most of the time.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// How long it may take from there to its end.
const REST: Duration = Duration::from_secs(30);

/// How long a message may be.
const MESSAGE: usize = 64 << 20;

/// Something that etcd can be asked.
pub(super) struct Method {
    pub path: &'static str,
    /// Asked twice, it comes to the same as once.
    pub is_repeatable: bool,
    /// How long an answer may take to begin.
    pub answer: Duration,
}

impl Method {
    /// One that changes nothing, or the same each time.
    pub const fn repeatable(path: &'static str) -> Method {
        Method { path, is_repeatable: true, answer: ANSWER }
    }

    /// One that must not be asked again while it may have been done.
    pub const fn once(path: &'static str) -> Method {
        Method { path, is_repeatable: false, answer: ANSWER }
    }
}

/// Why a call has failed.
pub(super) struct Failure {
    pub error: Error,
    pub cause: Cause,
}

/// What has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The connection, before anything was sent.
    Connection,
    /// The connection, later: the member may have done what it was asked, or not.
    Midway,
    /// The member, which may have done it, or not. Another one may do better.
    Member,
    /// The answer is longer than a message may be.
    Length,
    /// What was asked.
    Question,
}

impl Client {
    /// Asks whichever member answers.
    pub(super) async fn call<A: Answer>(
        &self,
        method: &Method,
        question: impl Message + Clone + 'static,
    ) -> Result<(Header, A), Error> {
        self.try_call(method, question).await.map_err(|failure| failure.error)
    }

    /// The same; says what has failed.
    pub(super) async fn try_call<A: Answer>(
        &self,
        method: &Method,
        question: impl Message + Clone + 'static,
    ) -> Result<(Header, A), Failure> {
        let by = async |connection: &Connection| {
            ask(connection.channel.clone(), method, question.clone()).await
        };
        let (answer, _): (A, _) = self.by_a_member(method.is_repeatable, by).await?;
        Ok((self.header_of(answer.header())?, answer))
    }

    /// Asks members in turn until one answers, unless one may have done already what is not to be done twice.
    pub(super) async fn by_a_member<T>(
        &self,
        is_repeatable: bool,
        ask: impl AsyncFn(&Connection) -> Result<T, Failure>,
    ) -> Result<(T, Connection), Failure> {
        let members = &self.members;
        let mut attempts = members.count() + 1;
        loop {
            let connection = members.connection().await?;
            let failure = match ask(&connection).await {
                Ok(answer) => {
                    connection.has_answered.set(true);
                    return Ok((answer, connection));
                }
                Err(failure) => self.after(&connection, failure),
            };
            attempts -= 1;
            let may_repeat = match failure.cause {
                Cause::Connection => true,
                Cause::Midway | Cause::Member => is_repeatable,
                Cause::Length | Cause::Question => false,
            };
            if attempts == 0 || !may_repeat {
                return Err(failure);
            }
        }
    }

    /// Has the next call go to another member if this one has failed, and says which one has.
    pub(super) fn after(&self, connection: &Connection, failure: Failure) -> Failure {
        let members = &self.members;
        let cause = failure.cause;
        let why = match failure.error {
            Error::Unavailable(why) if !matches!(cause, Cause::Length | Cause::Question) => why,
            error => {
                connection.has_answered.set(true);
                return Failure { error, cause };
            }
        };
        members.leave(connection);
        // That is how a server refuses a certificate; what it says of it may be lost with the connection.
        let is_refused = cause != Cause::Member && members.is_refused(connection);
        let hint =
            if is_refused { "; does it want a client certificate, or another one?" } else { "" };
        let why = format!("{}: {why}{hint}", members.address(connection));
        Failure { error: Error::Unavailable(why), cause }
    }

    /// What an answer says of its store; an error if that is another one than the first.
    pub(super) fn header_of(&self, header: Option<&ResponseHeader>) -> Result<Header, Error> {
        let header = header.filter(|header| header.cluster_id != 0).ok_or_else(|| {
            let why = "an answer does not say of which store it is (some versions of etcd's grpc-proxy do that; name etcd itself)";
            Error::Other(why.to_owned())
        })?;
        let store = self.store.get().unwrap_or(header.cluster_id);
        if store != header.cluster_id {
            return Err(Error::OtherStore(header.cluster_id));
        }
        self.store.set(Some(store));
        Ok(Header { store, revision: header.revision })
    }
}

async fn ask<A: Answer>(
    channel: Channel,
    method: &Method,
    question: impl Message + 'static,
) -> Result<A, Failure> {
    let mut grpc = grpc(channel);
    let begin = async {
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let codec = ProstCodec::default();
        let path = PathAndQuery::from_static(method.path);
        grpc.server_streaming(Request::new(question), path, codec).await
    };
    let mut answers = in_time(method.answer, begin).await?.into_inner();
    let all = async {
        let answer = answers.message().await?;
        // The end of the stream is read, too: else it would be reset.
        answers.message().await?;
        answer.ok_or_else(|| Status::internal("an answer without a message"))
    };
    in_time(REST, all).await
}

/// A client of a channel that takes long answers.
pub(super) fn grpc(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel).max_decoding_message_size(MESSAGE)
}

/// Does not wait for a member any longer than that.
pub(super) async fn in_time<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Failure> {
    match timeout(time, answer).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => {
            let why = format!("no answer within {} s", time.as_secs());
            Err(Failure { error: Error::Unavailable(why), cause: Cause::Member })
        }
    }
}

/// Nothing was sent to anybody.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, cause: Cause::Question }
    }
}

/// By etcd's codes and messages (etcd api/v3rpc/rpctypes/error.go).
impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        if let Some(source) = status.source() {
            let is_gone = causes(source).any(|cause| cause.is::<Gone>());
            let why = causes(source).last().map(ToString::to_string).unwrap_or_default();
            let cause = if is_gone { Cause::Connection } else { Cause::Midway };
            return Failure { error: Error::Unavailable(why), cause };
        }
        let text = status.message();
        let is = |part: &str| text.contains(part);
        let why = || text.to_owned();
        let (error, cause) = match status.code() {
            Code::NotFound if is("lease not found") => (Error::NoLease, Cause::Question),
            Code::OutOfRange if is("compacted") => (Error::Compacted, Cause::Question),
            Code::OutOfRange if is("too large") => (Error::Other(why()), Cause::Length),
            Code::PermissionDenied | Code::Unauthenticated => {
                (Error::Denied(why()), Cause::Question)
            }
            Code::InvalidArgument if is("user name is empty") => {
                let why = "it wants a user, which is the common name of a client certificate: cert-file, key-file";
                (Error::Denied(why.to_owned()), Cause::Question)
            }
            Code::InvalidArgument if is("invalid user ID") => {
                (Error::Denied(why()), Cause::Question)
            }
            // Somebody has changed users or roles just now.
            Code::InvalidArgument if is("auth store is old") => {
                (Error::Unavailable(why()), Cause::Question)
            }
            Code::ResourceExhausted if is("too many requests") => {
                (Error::Unavailable(why()), Cause::Question)
            }
            Code::ResourceExhausted if is("database space exceeded") => {
                let cure = "compact and defragment it, then disarm its alarm (etcdctl)";
                (Error::Other(format!("{text}; {cure}")), Cause::Question)
            }
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
                (Error::Unavailable(why()), Cause::Member)
            }
            code => (Error::Other(format!("{code:?}: {text}")), Cause::Question),
        };
        Failure { error, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClientFile, Members};
    use super::*;

    fn client() -> Client {
        let file = ClientFile::parse("endpoints: [http://h]", "/".into()).unwrap();
        let members = Members::new(file, &Default::default()).unwrap();
        Client { members: members.into(), store: Default::default() }
    }

    #[test]
    fn an_answer_that_does_not_say_of_which_store_it_is_is_none() {
        let client = client();
        let nameless = ResponseHeader { cluster_id: 0, revision: 1 };
        for header in [None, Some(&nameless)] {
            let error = client.header_of(header).unwrap_err();
            assert!(matches!(&error, Error::Other(why) if why.contains("grpc-proxy")), "{error}");
        }
        let header = ResponseHeader { cluster_id: 7, revision: 1 };
        assert_eq!(client.header_of(Some(&header)).unwrap(), Header { store: 7, revision: 1 });
    }

    #[test]
    fn etcds_codes_and_messages_are_what_they_say() {
        let of = |code, text: &str| Failure::from(Status::new(code, text));
        let is_repeated = |failure: Failure| failure.cause == Cause::Member;
        let no_leader = of(Code::Unavailable, "etcdserver: no leader");
        assert!(matches!(no_leader.error, Error::Unavailable(_)) && is_repeated(no_leader));
        let busy = of(Code::ResourceExhausted, "etcdserver: too many requests");
        assert!(matches!(busy.error, Error::Unavailable(_)) && !is_repeated(busy));
        let full = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full.error, Error::Other(why) if why.contains("compact")));
        let user = of(Code::InvalidArgument, "etcdserver: user name is empty");
        assert!(matches!(user.error, Error::Denied(why) if why.contains("common name")));
        let token = of(Code::Unauthenticated, "etcdserver: invalid auth token");
        assert!(matches!(token.error, Error::Denied(_)));
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert!(matches!(of(Code::OutOfRange, compacted).error, Error::Compacted));
        let future = "etcdserver: mvcc: required revision is a future revision";
        assert!(matches!(of(Code::OutOfRange, future).error, Error::Other(_)));
        let lease = "etcdserver: requested lease not found";
        assert!(matches!(of(Code::NotFound, lease).error, Error::NoLease));
    }
}
