//! One cluster's etcd, followed: a list of all that it says, and then what becomes of that.

use std::convert::Infallible;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use cilmark::model::identity::Identity;
use ipnet::IpNet;
use log::{debug, info, warn};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::known::Leases;
use super::status::Status;
use super::table::{How, Missing, Number};
use super::{Inner, Reading};
use crate::cilium::accept::Refusal;
use crate::cilium::cluster_config::ClusterConfig;
use crate::cilium::keys::{self, Places};
use crate::cilium::pair::{Pair, node_of};
use crate::cilium::range::Range;
use crate::cilium::{accept, labels};
use crate::etcd::{Change, Client, Error, Header, KeyValue, Watched};
use crate::service::state::Phase;

/// The first pause after a failure, doubled with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Short enough that all agree soon after etcd is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a cluster's configuration is asked for: Cilium's roles allow its key alone, which can't be watched as a prefix.
const BETWEEN_CONFIGS: Duration = Duration::from_secs(2);
/// The same of what is not there yet.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);
/// The heartbeat is written each minute.
const CONFIGS_A_HEARTBEAT: u32 = 10;

/// Follows a cluster.
pub(super) struct Reader {
    reading: Rc<Reading>,
    name: String,
    file: PathBuf,
    is_own: bool,
    leases: Leases,
    /// Where it goes on; `None`: with a list.
    position: Option<Position>,
}

/// Up to where everything is known.
struct Position {
    config: ClusterConfig,
    number: Number,
    range: Range,
    places: Places,
    store: u64,
    addresses: i64,
    identities: i64,
}

/// Why a session has ended.
enum End {
    Etcd(Error),
    /// The cluster's configuration is another one.
    Again,
    /// It is not read: why.
    Refused(String),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Etcd(error)
    }
}

impl Reader {
    pub(super) fn new(reading: Rc<Reading>, name: &str, file: PathBuf, is_own: bool) -> Reader {
        let leases = Leases::default();
        Reader { reading, name: name.to_owned(), file, is_own, leases, position: None }
    }

    /// Follows until it is dropped.
    pub(super) async fn run(mut self) {
        let mut client = None;
        let mut pause = FIRST_PAUSE;
        loop {
            if client.is_none() {
                match Client::new(&self.file, &self.reading.config.resolve) {
                    Ok(new) => client = Some(new),
                    Err(error) => self.is_away(&format!("{error:#}")),
                }
            }
            if let Some(client) = &client {
                let Err(end) = self.session(client, &mut pause).await;
                self.after(client, end);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn after(&mut self, client: &Client, end: End) {
        match end {
            End::Etcd(Error::OtherStore(store)) => {
                info!("cluster {}: another store answers, {store:x}: all is read again", self.name);
                client.accept_any_store();
                self.position = None;
            }
            End::Etcd(Error::Compacted) => {
                info!("cluster {}: what has changed is compacted: all is read again", self.name);
                self.position = None;
            }
            End::Etcd(error) => self.is_away(&error.to_string()),
            End::Again => {
                info!("cluster {}: its configuration has changed: all is read again", self.name);
                self.position = None;
            }
            End::Refused(why) => {
                self.position = None;
                // What the own one has said stays until somebody has mended its configuration, which any of its hosts may break.
                if !self.is_own {
                    self.ends();
                }
                self.status(|status| {
                    let phase = Phase::Refused(why);
                    if status.phase != phase
                        && let Phase::Refused(why) = &phase
                    {
                        warn!("cluster {} is not read: {why}", self.name);
                    }
                    status.phase = phase;
                });
            }
        }
    }

    /// Nobody follows any more what it has said: that becomes stale.
    fn ends(&self) {
        let inner = &mut *self.reading.inner.borrow_mut();
        let now = self.reading.now();
        let numbers = inner.numbers.iter().filter(|(_, name)| **name == self.name);
        for number in numbers.map(|(number, _)| *number).collect::<Vec<_>>() {
            inner.table.cut_off(number, now);
        }
        if let Some(status) = inner.clusters.get_mut(&self.name) {
            status.first_list.get_or_insert(Missing::IsStale);
        }
        inner.end_adopted(now);
        inner.note_stale();
        self.reading.changed.notify_one();
    }

    fn is_away(&self, why: &str) {
        let is_news = self.status(|status| status.is_away(why)).unwrap_or_default();
        if is_news {
            warn!("cluster {}: {why}", self.name);
        }
    }

    fn is_connected(&self, header: Header) {
        self.status(|status| {
            status.is_connected();
            // Of the list and of watches, where there are any.
            status.header.get_or_insert(header);
        });
    }

    /// Nothing where the cluster is being forgotten.
    fn status<T>(&self, change: impl FnOnce(&mut Status) -> T) -> Option<T> {
        self.reading.inner.borrow_mut().clusters.get_mut(&self.name).map(change)
    }

    fn is_waiting_for(&self, what: &str) {
        self.status(|status| status.phase = Phase::Waiting(what.to_owned()));
    }

    /// Lists, unless that was done, and watches.
    async fn session(&mut self, client: &Client, pause: &mut Duration) -> Result<Infallible, End> {
        if self.position.is_none() {
            self.position = Some(self.list(client).await?);
        }
        let Some(position) = &self.position else { return Err(End::Again) };
        let mut addresses =
            client.watch(&position.places.addresses, position.addresses + 1).await?;
        let mut identities =
            client.watch(&position.places.identities, position.identities + 1).await?;
        self.status(|status| {
            status.is_connected();
            status.phase = Phase::Ready;
        });
        *pause = FIRST_PAUSE;
        let mut looks = interval(BETWEEN_CONFIGS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut until_heartbeat = 0;
        loop {
            tokio::select! {
                watched = addresses.next() => self.addresses(client, watched?).await?,
                watched = identities.next() => self.identities(watched?),
                _ = looks.tick() => {
                    self.look(client, until_heartbeat == 0).await?;
                    until_heartbeat = (until_heartbeat + 1) % CONFIGS_A_HEARTBEAT;
                }
            }
        }
    }

    /// Whether the cluster's configuration is still the same. One that is gone says nothing: it has a lease.
    async fn look(&mut self, client: &Client, with_heartbeat: bool) -> Result<(), End> {
        let (_, config) = client.get(&keys::cluster_config(&self.name)).await?;
        let Some(position) = &self.position else { return Ok(()) };
        if let Some(config) = config
            && ClusterConfig::read(&config.value).is_ok_and(|config| config != position.config)
        {
            return Err(End::Again);
        }
        if with_heartbeat && let Ok((_, Some(heartbeat))) = client.get(keys::HEARTBEAT).await {
            let time = str::from_utf8(&heartbeat.value).ok().and_then(|text| text.parse().ok());
            self.status(|status| status.heartbeat = time.or(status.heartbeat));
        }
        Ok(())
    }

    /// All that the cluster says.
    async fn list(&mut self, client: &Client) -> Result<Position, End> {
        let (header, config, number, range) = self.config(client).await?;
        let places = Places::of(&self.name, &config.capabilities);
        for canary in [&places.addresses_synced, &places.identities_synced].into_iter().flatten() {
            self.wait_for(client, canary).await?;
        }
        self.status(|status| {
            status.phase = Phase::Listing;
            status.is_cached = config.capabilities.cached;
            status.refused.forget(&places.addresses);
            status.refused.forget(&places.identities);
            status.number = Some(number);
        });
        let missing = {
            let inner = &mut *self.reading.inner.borrow_mut();
            inner.table.begin(number);
            inner.labels.begin(number);
            let has_lines = inner.table.counts(number).lines > 0;
            inner.facts.begin(&self.name, header, has_lines)
        };
        let identities = client
            .list(&places.identities, |page| {
                let mut inner = self.reading.inner.borrow_mut();
                page.iter().for_each(|key| self.set_labels(&mut inner, key, &range, &places));
                self.reading.changed.notify_one();
            })
            .await?;
        let addresses = client
            .list(&places.addresses, |page| {
                let mut inner = self.reading.inner.borrow_mut();
                page.iter().for_each(|key| self.set_line(&mut inner, key, &range, &places));
                self.reading.changed.notify_one();
            })
            .await?;
        let position = Position {
            config,
            number,
            range,
            store: addresses.store,
            addresses: addresses.revision,
            identities: identities.revision,
            places,
        };
        self.end_list(&position, missing);
        Ok(position)
    }

    /// What was missing in the list goes, and so does what the cluster has said under another number.
    fn end_list(&self, position: &Position, missing: Missing) {
        let inner = &mut *self.reading.inner.borrow_mut();
        let now = self.reading.now();
        let header = Header { store: position.store, revision: position.addresses };
        inner.table.end(position.number, missing, now);
        inner.labels.end(position.number);
        inner.facts.set(&self.name, header);
        let is_another = |(number, name): &(&Number, &String)| {
            **name == self.name && **number != position.number
        };
        let others = inner.numbers.iter().filter(is_another).map(|(number, _)| *number);
        for before in others.collect::<Vec<_>>() {
            inner.let_go(before, &self.name);
        }
        if let Some(status) = inner.clusters.get_mut(&self.name) {
            status.header = Some(header);
            status.first_list.get_or_insert(missing);
        }
        inner.end_adopted(now);
        inner.note_stale();
        self.reading.changed.notify_one();
    }

    /// The cluster's configuration, once it is there, and its number, which nobody else has.
    async fn config(&self, client: &Client) -> Result<(Header, ClusterConfig, Number, Range), End> {
        let (header, value) = self.wait_for(client, &keys::cluster_config(&self.name)).await?;
        let max_clusters = self.reading.config.max_clusters;
        let config = ClusterConfig::read(&value).map_err(|error| {
            End::Refused(format!("{} can't be read: {error:#}", keys::cluster_config(&self.name)))
        })?;
        let (number, range) =
            config.check(max_clusters).map_err(|error| End::Refused(format!("{error:#}")))?;
        let own = self.reading.config.id;
        if self.is_own && number != own {
            return Err(End::Refused(format!(
                "its etcd says that its number is {number}, and this host's configuration says {own}"
            )));
        }
        let inner = &mut *self.reading.inner.borrow_mut();
        match inner.numbers.get(&number) {
            Some(other) if *other != self.name => {
                let why = format!("its number {number} is that of cluster {other}");
                return Err(End::Refused(why));
            }
            Some(_) => {}
            None => _ = inner.numbers.insert(number, self.name.clone()),
        }
        Ok((header, config, number, range))
    }

    /// The value of a key, once it is there.
    async fn wait_for(&self, client: &Client, key: &str) -> Result<(Header, Vec<u8>), End> {
        loop {
            let (header, found) = client.get(key).await?;
            self.is_connected(header);
            if let Some(found) = found {
                return Ok((header, found.value));
            }
            self.is_waiting_for(key);
            sleep(BETWEEN_ATTEMPTS).await;
        }
    }

    fn set_line(&self, inner: &mut Inner, key: &KeyValue, range: &Range, places: &Places) {
        let Some(rest) = key.key.strip_prefix(&places.addresses) else { return };
        let Some(status) = inner.clusters.get_mut(&self.name) else { return };
        let Some(number) = status.number else { return };
        let config = &self.reading.config;
        let pair = Pair::read(&key.value).map_err(|_| Refusal::Malformed);
        let is_this_hosts = self.is_own
            && pair.as_ref().is_ok_and(|it| node_of(&it.metadata) == Some(config.node.as_str()));
        let said = pair.and_then(|pair| accept::pair_of(rest, &pair, range, &config.limits));
        match said {
            // It says what the endpoint says, until that has gone: then others' lines count at once.
            Ok((prefix, _)) if is_this_hosts => {
                status.refused.remove(&key.key);
                inner.table.delete(number, prefix, How::OnPurpose, self.reading.now());
            }
            Ok((prefix, identity)) => {
                status.refused.remove(&key.key);
                inner.table.upsert(number, prefix, identity);
            }
            Err(why) => {
                debug!("cluster {}: {}: {why}", self.name, key.key);
                status.refused.insert(&key.key, why);
                // What the key has said before is said no longer.
                if let Some(prefix) = prefix_of(rest) {
                    inner.table.delete(number, prefix, How::OnPurpose, self.reading.now());
                }
            }
        }
    }

    fn set_labels(&self, inner: &mut Inner, key: &KeyValue, range: &Range, places: &Places) {
        let Some(rest) = key.key.strip_prefix(&places.identities) else { return };
        let Some(status) = inner.clusters.get_mut(&self.name) else { return };
        let Some(number) = status.number else { return };
        match accept::identity(rest, &key.value, &self.name, range) {
            Ok((identity, text)) => {
                status.refused.remove(&key.key);
                inner.labels.set(number, identity, &labels::readable(&text));
            }
            Err(why) => {
                debug!("cluster {}: {}: {why}", self.name, key.key);
                status.refused.insert(&key.key, why);
                if let Ok(identity) = rest.parse() {
                    inner.labels.delete(number, Identity(identity));
                }
            }
        }
    }

    /// Changes of addresses. Nothing of them counts before it is known of each how it ended.
    async fn addresses(&mut self, client: &Client, watched: Watched) -> Result<(), End> {
        let ended = watched.changes.iter().filter_map(|change| match change {
            Change::Deleted { before, .. } => Some(before.as_ref()),
            Change::Put(_) => None,
        });
        let mut how = self.leases.how_ended(client, ended).await?.into_iter();
        let Some(position) = &mut self.position else { return Ok(()) };
        position.addresses = watched.header.revision;
        let header = Header { store: position.store, revision: position.addresses };
        let Some(position) = &self.position else { return Ok(()) };
        let now = self.reading.now();
        let inner = &mut *self.reading.inner.borrow_mut();
        for change in &watched.changes {
            match change {
                Change::Put(key) => self.set_line(inner, key, &position.range, &position.places),
                Change::Deleted { key, .. } => {
                    let how = how.next().unwrap_or(How::OnPurpose);
                    if let Some(status) = inner.clusters.get_mut(&self.name) {
                        status.refused.remove(key);
                    }
                    let rest = key.strip_prefix(&position.places.addresses);
                    if let Some(prefix) = rest.and_then(prefix_of) {
                        inner.table.delete(position.number, prefix, how, now);
                    }
                }
            }
        }
        inner.facts.set(&self.name, header);
        if let Some(status) = inner.clusters.get_mut(&self.name) {
            status.header = Some(header);
        }
        if !watched.changes.is_empty() {
            self.reading.changed.notify_one();
        }
        Ok(())
    }

    fn identities(&mut self, watched: Watched) {
        let Some(position) = &mut self.position else { return };
        position.identities = watched.header.revision;
        let Some(position) = &self.position else { return };
        let inner = &mut *self.reading.inner.borrow_mut();
        for change in &watched.changes {
            match change {
                Change::Put(key) => self.set_labels(inner, key, &position.range, &position.places),
                Change::Deleted { key, .. } => {
                    if let Some(status) = inner.clusters.get_mut(&self.name) {
                        status.refused.remove(key);
                    }
                    let rest = key.strip_prefix(&position.places.identities);
                    if let Some(Ok(identity)) = rest.map(str::parse) {
                        inner.labels.delete(position.number, Identity(identity));
                    }
                }
            }
        }
        if !watched.changes.is_empty() {
            self.reading.changed.notify_one();
        }
    }
}

/// What a key says of which prefix it is. Another text of the same prefix is nobody's key: what becomes of it says nothing.
fn prefix_of(rest: &str) -> Option<IpNet> {
    let (net, bits) = match rest.parse::<IpNet>() {
        Ok(net) => (net, Some(net.prefix_len())),
        Err(_) => (IpNet::from(rest.parse::<std::net::IpAddr>().ok()?), None),
    };
    (net == net.trunc() && keys::is_text_of(rest, net.addr(), bits)).then_some(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_a_prefix_or_nothing() {
        for (rest, net) in [
            ("10.1.1.1", Some("10.1.1.1/32")),
            ("fd00::1", Some("fd00::1/128")),
            ("10.2.0.0/16", Some("10.2.0.0/16")),
            ("10.2.0.1/16", None),
            ("FD00::1", None),
            ("fd00:0::1", None),
            ("10.2.0.0/016", None),
            ("web", None),
            ("", None),
        ] {
            assert_eq!(prefix_of(rest), net.map(|net| net.parse().unwrap()), "{rest}");
        }
    }
}
