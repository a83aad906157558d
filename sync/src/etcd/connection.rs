//! Connections: one at a time, to whichever member answers.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::fmt;
use std::future::{Ready, ready};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tonic::codegen::Service;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

use super::{ClientFile, Error, Resolve};

/// How long a member may take to be connected to.
const CONNECT: Duration = Duration::from_secs(2);

/// A ping goes out when nothing has come for so long while somebody waits for an answer. etcd hangs up on clients that ping
/// more often than each 5 s, or while nobody waits (`--grpc-keepalive-min-time`).
const PING: Duration = Duration::from_secs(15);

/// How long the answer to a ping may take.
const PONG: Duration = Duration::from_secs(7);

/// How much of one answer may be on its way or lie here unread.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same of all answers together: watches that nobody reads must leave room for calls.
const CONNECTION_WINDOW: u32 = 32 << 20;

/// The members of a store.
pub(super) struct Members {
    file: ClientFile,
    resolve: Resolve,
    /// In random order, so that not all hosts ask the same one.
    uris: Vec<Uri>,
    /// The one to try next.
    next: Cell<usize>,
    current: RefCell<Option<Connection>>,
    made: Cell<u64>,
    /// Held by who connects.
    connecting: Mutex<()>,
    /// When no member could be connected to last, and why.
    failed: RefCell<Option<(Instant, String)>>,
}

/// A connection to a member. Once it is lost it stays so.
#[derive(Clone)]
pub(super) struct Connection {
    pub channel: Channel,
    /// Whether it has ever brought an answer.
    pub has_answered: Rc<Cell<bool>>,
    number: u64,
    member: usize,
}

impl Members {
    pub fn new(file: ClientFile, resolve: &Resolve) -> Result<Members> {
        let mut uris: Vec<Uri> = file
            .endpoints
            .iter()
            .map(|endpoint| endpoint.parse().with_context(|| format!("endpoint {endpoint}")))
            .collect::<Result<_>>()?;
        let random = RandomState::new();
        uris.sort_by_cached_key(|uri| random.hash_one(uri));
        Ok(Members {
            file,
            resolve: resolve.clone(),
            uris,
            next: Cell::new(0),
            current: RefCell::new(None),
            made: Cell::new(0),
            connecting: Mutex::new(()),
            failed: RefCell::new(None),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.uris.len()
    }

    /// The connection that there is, or one to the first member that lets itself be connected to.
    pub async fn connection(&self) -> Result<Connection, Error> {
        let asked = Instant::now();
        let _connecting = self.connecting.lock().await;
        if let Some(current) = &*self.current.borrow() {
            return Ok(current.clone());
        }
        // Who has waited while another one tried in vain would try in vain, too.
        if let Some((_, why)) = self.failed.borrow().as_ref().filter(|(when, _)| *when >= asked) {
            return Err(Error::Unavailable(why.clone()));
        }
        let mut reasons = Vec::new();
        for _ in 0..self.count() {
            let member = self.next.get();
            let why = match timeout(CONNECT, self.connect(&self.uris[member])).await {
                Ok(Ok(channel)) => {
                    let number = self.made.get();
                    self.made.set(number + 1);
                    let connection =
                        Connection { channel, has_answered: Rc::default(), number, member };
                    *self.current.borrow_mut() = Some(connection.clone());
                    return Ok(connection);
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer to the attempt to connect".to_owned(),
            };
            reasons.push(format!("{}: {why}", self.address_of(member)));
            self.next.set((member + 1) % self.count());
        }
        let why = reasons.join("; ");
        *self.failed.borrow_mut() = Some((Instant::now(), why.clone()));
        Err(Error::Unavailable(why))
    }

    /// Whom a connection goes to.
    pub fn address(&self, connection: &Connection) -> &str {
        self.address_of(connection.member)
    }

    /// Whether a connection that is lost was one by TLS that has never brought an answer.
    pub fn is_refused(&self, connection: &Connection) -> bool {
        let is_tls = self.uris[connection.member].scheme_str() == Some("https");
        is_tls && !connection.has_answered.get()
    }

    fn address_of(&self, member: usize) -> &str {
        self.uris[member].authority().map_or("", |authority| authority.as_str())
    }

    /// Has the next call go to another member, or to the same one by another connection if there is one member.
    pub fn leave(&self, connection: &Connection) {
        let mut current = self.current.borrow_mut();
        if current.as_ref().is_some_and(|one| one.number == connection.number) {
            *current = None;
            self.next.set((connection.member + 1) % self.count());
        }
    }

    async fn connect(&self, uri: &Uri) -> Result<Channel> {
        let mut endpoint = Endpoint::from(uri.clone())
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        if uri.scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(self.tls()?).map_err(deepest)?;
        }
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or_default();
        let stream = match self.resolve.get(host) {
            Some(address) => TcpStream::connect((*address, port)).await?,
            None => TcpStream::connect((host.trim_matches(['[', ']']), port)).await?,
        };
        stream.set_nodelay(true)?;
        endpoint.connect_with_connector(Once(Some(stream))).await.map_err(deepest)
    }

    /// By what the files have now, so that certificates can be replaced.
    fn tls(&self) -> Result<ClientTlsConfig> {
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &self.file.trusted_ca_file {
            tls = tls.ca_certificate(Certificate::from_pem(self.file.contents(ca)?));
        }
        if let (Some(certificate), Some(key)) = (&self.file.cert_file, &self.file.key_file) {
            let identity =
                Identity::from_pem(self.file.contents(certificate)?, self.file.contents(key)?);
            tls = tls.identity(identity);
        }
        Ok(tls)
    }
}

/// A connection that is there already, for tonic to take. It would connect again by itself when that is lost, by the
/// certificates of then, and to the same member.
struct Once(Option<TcpStream>);

/// The connection was lost before the call.
#[derive(Debug)]
pub(super) struct Gone;

impl Service<Uri> for Once {
    type Response = TokioIo<TcpStream>;
    type Error = Gone;
    type Future = Ready<Result<Self::Response, Gone>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or(Gone))
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it has closed the connection")
    }
}

impl StdError for Gone {}

/// What an error comes from; what lies above it says "transport error".
fn deepest(error: tonic::transport::Error) -> anyhow::Error {
    anyhow::Error::msg(causes(&error).last().map(ToString::to_string).unwrap_or_default())
}

/// An error and what it comes from, and so on.
pub(super) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn StdError + 'static) = *error;
        error.source()
    })
}
