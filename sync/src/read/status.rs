//! How the reading of a cluster is.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Inner;
use super::known::RefusedKeys;
use super::table::{Missing, Number};
use crate::cilium::accept::Refusal;
use crate::etcd::Header;
use crate::service::state::{Cluster, Connection, Lines, NAMED, Phase, Refused, Stale};

/// Of one cluster.
pub(super) struct Status {
    name: String,
    file: PathBuf,
    pub(super) number: Option<Number>,
    pub(super) connection: Connection,
    pub(super) phase: Phase,
    pub(super) header: Option<Header>,
    pub(super) is_cached: bool,
    pub(super) heartbeat: Option<Timestamp>,
    pub(super) refused: RefusedKeys,
    /// What the first list of this process has said of what is missing in it.
    pub(super) first_list: Option<Missing>,
}

impl Status {
    pub(super) fn new(name: &str, file: PathBuf, number: Option<Number>) -> Status {
        let error = "it was not asked yet".to_owned();
        Status {
            name: name.to_owned(),
            file,
            number,
            connection: Connection::Away { since: Timestamp::now(), error },
            phase: Phase::Waiting("its etcd".to_owned()),
            header: None,
            is_cached: false,
            heartbeat: None,
            refused: RefusedKeys::default(),
            first_list: None,
        }
    }

    pub(super) fn number(&self) -> Option<Number> {
        self.number
    }

    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub(super) fn is_listing(&self) -> bool {
        self.phase == Phase::Listing
    }

    pub(super) fn has_listed(&self) -> bool {
        self.first_list.is_some()
    }

    pub(super) fn first_list(&self) -> Missing {
        self.first_list.unwrap_or(Missing::IsStale)
    }

    /// Its etcd answers.
    pub(super) fn is_connected(&mut self) {
        if !matches!(self.connection, Connection::Connected { .. }) {
            self.connection = Connection::Connected { since: Timestamp::now() };
        }
    }

    /// It does not; whether that is news.
    pub(super) fn is_away(&mut self, why: &str) -> bool {
        let since = match &self.connection {
            Connection::Away { error, .. } if error == why => return false,
            Connection::Away { since, .. } => *since,
            Connection::Connected { .. } => Timestamp::now(),
        };
        self.connection = Connection::Away { since, error: why.to_owned() };
        true
    }

    /// For the file that commands read.
    pub(super) fn tell(&self, of: &Inner, own: Number, now: Duration) -> Cluster {
        let number = self.number.filter(|number| of.numbers.get(number) == Some(&self.name));
        let counts = number.map(|number| of.table.counts(number)).unwrap_or_default();
        let mut stale = Lines { count: counts.stale, named: Vec::new() };
        let mut held = Lines { count: counts.held, named: Vec::new() };
        let mut refused = self.refused.counts();
        let hidden = number.map_or(0, |number| of.writer.hidden_of(&of.table, number));
        if let Some(number) = number {
            let lines = of.table.stale_lines(number).take(NAMED);
            stale.named =
                lines.map(|(net, until)| Stale { net, until: moment(until, now) }).collect();
            held.named = of.table.held_lines(number).take(NAMED).collect();
        }
        if hidden > 0 {
            *refused.entry(Refusal::Own).or_default() += hidden;
        }
        let refused_keys = self.refused.named(NAMED);
        Cluster {
            name: self.name.clone(),
            id: self.number,
            is_own: self.number == Some(own) && number.is_some(),
            client_file: self.file.clone(),
            connection: self.connection.clone(),
            phase: self.phase.clone(),
            store: self.header.map(|header| header.store),
            revision: self.header.map_or(0, |header| header.revision),
            is_cached: self.is_cached,
            heartbeat: self.heartbeat,
            addresses: counts.lines.saturating_sub(hidden),
            identities: number.map_or(0, |number| of.labels.count(number)),
            shadowed: counts.shadowed,
            stale,
            held,
            refused,
            refused_keys: refused_keys
                .map(|(key, reason)| Refused { key: key.to_owned(), reason })
                .collect(),
        }
    }
}

/// When the process will have run so long.
fn moment(at: Duration, now: Duration) -> Timestamp {
    let left = SignedDuration::try_from(at.saturating_sub(now)).unwrap_or(SignedDuration::MAX);
    Timestamp::now().checked_add(left).unwrap_or(Timestamp::MAX)
}
