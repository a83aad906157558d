//! What a Cilium agent of another cluster takes from an etcd, written from what is known of Cilium 1.19 and not from
//! cilmark-sync: pkg/clustermesh (who is read, and when), pkg/ipcache/kvstore.go, pkg/identity, pkg/allocator. The agent itself
//! cannot run in tests.
//!
//! Beside what Cilium refuses there is what it takes and a publisher still owes: leases, hosts instead of prefixes, fields in
//! Cilium's order, one number for a set of labels.

mod pair;
pub mod spoilings;

use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::{Span, Timestamp};
use serde_json::Value;

use super::client::Entry;

/// Older, and the reader takes the writer for gone.
const HEARTBEAT_LASTS: i64 = 2 * 60;
/// Of what a reader waits for a canary, if the cluster says that it has them.
const CANARIES: [&str; 4] =
    ["cilium/state/nodes/v1", "cilium/state/services/v1", ADDRESSES, IDENTITIES];
const ADDRESSES: &str = "cilium/state/ip/v1";
const IDENTITIES: &str = "cilium/state/identities/v1";

/// What else there may be, with a lease.
const OTHERS: [&str; 5] = [
    "cilium/.",
    "cilium/cluster-config/",
    "cilium/synced/",
    "cilium/state/identities/v1/value/",
    "cilium/state/identities/v1/locks/",
];

/// Why something does not count, or should not be as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    // The cluster as a whole.
    Name,
    NoHeartbeat,
    OldHeartbeat,
    NoClusterConfig,
    ClusterConfig,
    Number,
    NumberOfReader,
    MaxClusters,
    NoCanary,
    // One line of it.
    Pair,
    NoAddress,
    OtherKey,
    OutOfRange,
    NoNumber,
    ClusterLabel,
    // What a publisher owes.
    NoLease,
    HasLease,
    NotAHost,
    Order,
    Metadata,
    UnknownIdentity,
    LabelsFormat,
    SecondNumber,
    User,
    NoUser,
    Node,
    UnknownKey,
}

/// A key, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    pub why: Why,
    pub key: String,
}

/// An agent that reads a cluster.
pub struct Reader<'a> {
    /// The cluster, by the name that the agent's client file has.
    pub cluster: &'a str,
    /// The number of the agent's own cluster.
    pub own_number: u16,
    /// How many clusters it connects: 255 or 511.
    pub max_clusters: u16,
    pub now: Timestamp,
}

/// What it has read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Lines of its ipcache: numbers as they come into force.
    pub addresses: BTreeMap<IpNet, u32>,
    /// Labels of identities.
    pub identities: BTreeMap<u32, String>,
    /// What it has left out, or why it has taken nothing.
    pub refused: Vec<Complaint>,
    /// What it has taken, and should be otherwise.
    pub owed: Vec<Complaint>,
}

impl Answer {
    fn refuse(&mut self, why: Why, key: &str) {
        self.refused.push(Complaint { why, key: key.to_owned() });
    }

    fn owe(&mut self, why: Why, key: &str) {
        self.owed.push(Complaint { why, key: key.to_owned() });
    }

    /// All that is wrong.
    pub fn complaints(&self) -> Vec<Complaint> {
        let mut complaints = [self.refused.clone(), self.owed.clone()].concat();
        complaints.sort();
        complaints
    }
}

/// The numbers of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    first: u32,
    last: u32,
}

impl Range {
    pub fn of(cluster: u16, max_clusters: u16) -> Range {
        let shift = if max_clusters == 511 { 15 } else { 16 };
        let first = match cluster {
            0 => 256,
            cluster => u32::from(cluster) << shift,
        };
        Range { first, last: ((u32::from(cluster) + 1) << shift) - 1 }
    }

    pub fn contains(&self, number: u32) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

impl Reader<'_> {
    /// What this agent takes of all that is in an etcd.
    pub fn read(&self, entries: &[Entry]) -> Answer {
        let mut answer = Answer::default();
        let range = self.range(entries, &mut answer);
        // Nothing counts of a cluster that is not ready.
        let Some(range) = range.filter(|_| answer.refused.is_empty()) else { return answer };
        for entry in entries {
            self.take(entry, &range, &mut answer);
        }
        self.compare(entries, &range, &mut answer);
        answer
    }

    /// The cluster's range, if it is one to read.
    fn range(&self, entries: &[Entry], answer: &mut Answer) -> Option<Range> {
        let find = |key: &str| entries.iter().find(|entry| entry.key == key);
        if !is_name(self.cluster) {
            answer.refuse(Why::Name, self.cluster);
        }
        let heartbeat = "cilium/.heartbeat";
        match find(heartbeat).map(|entry| entry.value.parse::<Timestamp>()) {
            None => answer.refuse(Why::NoHeartbeat, heartbeat),
            Some(Ok(time)) if time + Span::new().seconds(HEARTBEAT_LASTS) >= self.now => {}
            Some(_) => answer.refuse(Why::OldHeartbeat, heartbeat),
        }
        let key = format!("cilium/cluster-config/{}", self.cluster);
        let Some(config) = find(&key) else {
            answer.refuse(Why::NoClusterConfig, &key);
            return None;
        };
        let Ok(config) = serde_json::from_str::<Value>(&config.value) else {
            answer.refuse(Why::ClusterConfig, &key);
            return None;
        };
        let capabilities = &config["capabilities"];
        let max_clusters = capabilities["maxConnectedClusters"].as_u64().unwrap_or(255);
        if self.max_clusters == 511 && max_clusters != 511 {
            answer.refuse(Why::MaxClusters, &key);
        }
        let number = config["id"].as_u64().unwrap_or(0);
        if !(1..=u64::from(self.max_clusters)).contains(&number) {
            answer.refuse(Why::Number, &key);
            return None;
        }
        if number == u64::from(self.own_number) {
            answer.refuse(Why::NumberOfReader, &key);
        }
        if capabilities["syncedCanaries"] == true {
            for prefix in CANARIES {
                let canary = format!("cilium/synced/{}/{prefix}", self.cluster);
                if find(&canary).is_none() {
                    answer.refuse(Why::NoCanary, &canary);
                }
            }
        }
        Some(Range::of(number as u16, self.max_clusters))
    }

    /// One key.
    fn take(&self, entry: &Entry, range: &Range, answer: &mut Answer) {
        let key = entry.key.as_str();
        let leased = |answer: &mut Answer| {
            if entry.lease == 0 {
                answer.owe(Why::NoLease, key);
            }
        };
        if let Some(rest) = key.strip_prefix("cilium/state/ip/v1/default/") {
            leased(answer);
            self.take_address(entry, rest, range, answer);
        } else if let Some(rest) = key.strip_prefix("cilium/state/identities/v1/id/") {
            self.take_identity(entry, rest, range, answer);
        } else if key.starts_with("cilium/state/nodes/") {
            // Agents make routes, tunnels and health probes for it.
            answer.owe(Why::Node, key);
        } else if OTHERS.iter().any(|prefix| key.starts_with(prefix)) {
            leased(answer);
        } else {
            answer.owe(Why::UnknownKey, key);
        }
    }

    fn take_address(&self, entry: &Entry, rest: &str, range: &Range, answer: &mut Answer) {
        let key = entry.key.as_str();
        match address(rest, &entry.value, range) {
            Ok((prefix, number)) => {
                answer.addresses.insert(prefix, number);
            }
            Err(why) => return answer.refuse(why, key),
        }
        // A Cilium after 1.19 reads a prefix as its first address.
        if rest.contains('/') {
            answer.owe(Why::NotAHost, key);
        }
        if !pair::is_in_order(&entry.value) {
            answer.owe(Why::Order, key);
        }
        if !pair::has_metadata(&entry.value) {
            answer.owe(Why::Metadata, key);
        }
    }

    fn take_identity(&self, entry: &Entry, rest: &str, range: &Range, answer: &mut Answer) {
        let key = entry.key.as_str();
        match identity(rest, &entry.value, self.cluster, range) {
            Ok(number) => {
                answer.identities.insert(number, entry.value.clone());
            }
            Err(why) => return answer.refuse(why, key),
        }
        if !is_sorted(&entry.value) {
            answer.owe(Why::LabelsFormat, key);
        }
        // With one, it would go while others use it.
        if entry.lease != 0 {
            answer.owe(Why::HasLease, key);
        }
    }

    /// What lines say of each other.
    fn compare(&self, entries: &[Entry], range: &Range, answer: &mut Answer) {
        let mut owed = Vec::new();
        for (prefix, number) in &answer.addresses {
            if range.contains(*number) && !answer.identities.contains_key(number) {
                owed.push((Why::UnknownIdentity, prefix.to_string()));
            }
        }
        let mut numbers = BTreeMap::new();
        for (number, labels) in &answer.identities {
            if numbers.insert(labels.as_str(), *number).is_some() {
                owed.push((Why::SecondNumber, number.to_string()));
            }
        }
        let mut used = Vec::new();
        for entry in entries {
            let Some(rest) = entry.key.strip_prefix("cilium/state/identities/v1/value/") else {
                continue;
            };
            // Labels may have slashes, a node's name has none.
            let user = rest.rsplit_once('/').filter(|(_, node)| !node.is_empty());
            let number = user.and_then(|(labels, _)| numbers.get(labels));
            match number.filter(|number| entry.value == number.to_string()) {
                Some(number) => used.push(*number),
                None => owed.push((Why::User, entry.key.clone())),
            }
        }
        // Without one, the next collection of garbage takes the number away.
        for number in answer.addresses.values() {
            if answer.identities.contains_key(number) && !used.contains(number) {
                owed.push((Why::NoUser, number.to_string()));
            }
        }
        owed.sort();
        owed.dedup();
        for (why, key) in owed {
            answer.owe(why, &key);
        }
    }
}

/// What an address says, by the key behind its prefix and the value: host (1) is another node there (6).
pub fn address(rest: &str, value: &str, range: &Range) -> Result<(IpNet, u32), Why> {
    let pair = pair::read(value)?;
    if pair.key != rest {
        return Err(Why::OtherKey);
    }
    match pair.number {
        1 => Ok((pair.prefix, 6)),
        number if number < 256 || range.contains(number) => Ok((pair.prefix, number)),
        _ => Err(Why::OutOfRange),
    }
}

/// What an identity says, by the same.
pub fn identity(rest: &str, labels: &str, cluster: &str, range: &Range) -> Result<u32, Why> {
    let number: u32 = rest.parse().map_err(|_| Why::NoNumber)?;
    if !range.contains(number) {
        return Err(Why::OutOfRange);
    }
    let own = format!("k8s:io.cilium.k8s.policy.cluster={cluster}");
    match labels.split(';').any(|label| label == own) {
        true => Ok(number),
        false => Err(Why::ClusterLabel),
    }
}

/// 1 to 32 of a-z, 0-9 and dashes, none of them at an end.
fn is_name(name: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&name.len())
        && name.bytes().all(of_name)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name != "default"
}

/// Labels as Cilium writes them: `source:key=value;`, sorted by their keys.
fn is_sorted(labels: &str) -> bool {
    let Some(list) = labels.strip_suffix(';') else { return false };
    let key = |label: &str| {
        let (source, rest) = label.split_once(':')?;
        let (key, _) = rest.split_once('=')?;
        (!source.is_empty() && !key.is_empty()).then(|| key.to_owned())
    };
    let keys: Option<Vec<String>> = list.split(';').map(key).collect();
    keys.is_some_and(|keys| keys.is_sorted_by(|one, next| one < next))
}
