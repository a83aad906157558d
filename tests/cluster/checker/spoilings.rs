//! That the checker takes what is right, and refuses it when one thing in it is wrong.

use jiff::{Span, Timestamp};

use super::{Complaint, Reader, Why};
use crate::cluster::client::Entry;

/// What makes something wrong of what is right, and what is to be said about it then.
pub struct Spoiling {
    pub what: &'static str,
    pub why: Why,
    spoil: Spoil,
}

type Spoil = Box<dyn Fn(&mut Vec<Entry>)>;

const HEARTBEAT: &str = "cilium/.heartbeat";
const CONFIG: &str = "cilium/cluster-config/";
const ADDRESS: &str = "cilium/state/ip/v1/default/";
const ID: &str = "cilium/state/identities/v1/id/";
const USER: &str = "cilium/state/identities/v1/value/";

/// Changes one entry with this prefix: an address whose identity is the cluster's own, where it is an address.
fn changed(
    what: &'static str,
    why: Why,
    prefix: &'static str,
    change: impl Fn(&mut Entry) + 'static,
) -> Spoiling {
    let spoil = Box::new(move |entries: &mut Vec<Entry>| change(entry_of(entries, prefix)));
    Spoiling { what, why, spoil }
}

/// Takes all entries with this prefix away.
fn lost(what: &'static str, why: Why, prefix: &'static str) -> Spoiling {
    let spoil = move |entries: &mut Vec<Entry>| {
        entry_of(entries, prefix);
        entries.retain(|entry| !entry.key.starts_with(prefix));
    };
    Spoiling { what, why, spoil: Box::new(spoil) }
}

/// Adds an entry like the one with this prefix.
fn added(
    what: &'static str,
    why: Why,
    prefix: &'static str,
    change: impl Fn(&mut Entry) + 'static,
) -> Spoiling {
    let spoil = move |entries: &mut Vec<Entry>| {
        let mut entry = entry_of(entries, prefix).clone();
        change(&mut entry);
        entries.push(entry);
    };
    Spoiling { what, why, spoil: Box::new(spoil) }
}

fn entry_of<'a>(entries: &'a mut [Entry], prefix: &str) -> &'a mut Entry {
    let is_meant =
        |entry: &&mut Entry| entry.key.starts_with(prefix) && !entry.value.contains(":200,");
    entries.iter_mut().find(is_meant).unwrap_or_else(|| panic!("no key {prefix}"))
}

/// Replaces in the value; what is replaced must be there.
fn edit(from: &'static str, to: &'static str) -> impl Fn(&mut Entry) {
    move |entry| {
        let edited = entry.value.replacen(from, to, 1);
        assert_ne!(edited, entry.value, "no `{from}` in it");
        entry.value = edited;
    }
}

/// Gives a field of a pair another value, as JSON.
fn field(name: &'static str, json: &'static str) -> impl Fn(&mut Entry) {
    move |entry| {
        let start = entry.value.find(&format!("\"{name}\":")).expect(name) + name.len() + 3;
        let end = start + entry.value[start..].find([',', '}']).expect("its end");
        entry.value.replace_range(start..end, json);
    }
}

/// All that can be wrong with what a host of cluster `cluster` has written.
pub fn all() -> Vec<Spoiling> {
    vec![
        lost("no heartbeat", Why::NoHeartbeat, HEARTBEAT),
        changed("a heartbeat of 121 seconds ago", Why::OldHeartbeat, HEARTBEAT, |entry| {
            let time: Timestamp = entry.value.parse().expect("a time");
            entry.value = (time - Span::new().seconds(121)).to_string();
        }),
        changed("a heartbeat in words", Why::OldHeartbeat, HEARTBEAT, |entry| {
            entry.value = "now".to_owned();
        }),
        changed("a heartbeat that stays", Why::NoLease, HEARTBEAT, |entry| entry.lease = 0),
        lost("no cluster-config", Why::NoClusterConfig, CONFIG),
        changed("a cluster-config of another name", Why::NoClusterConfig, CONFIG, |entry| {
            entry.key += "2";
        }),
        changed("a broken cluster-config", Why::ClusterConfig, CONFIG, |entry| {
            entry.value.truncate(5);
        }),
        changed("a cluster without a number", Why::Number, CONFIG, field("id", "0")),
        changed("a number above 255", Why::Number, CONFIG, field("id", "256")),
        changed("the reader's number", Why::NumberOfReader, CONFIG, field("id", "9")),
        changed("another number", Why::OutOfRange, CONFIG, field("id", "200")),
        changed("canaries said, not there", Why::NoCanary, CONFIG, |entry| {
            entry.value = r#"{"id":3,"capabilities":{"syncedCanaries":true}}"#.to_owned();
        }),
        changed("a cluster-config that stays", Why::NoLease, CONFIG, |entry| entry.lease = 0),
        changed(
            "an address of another key",
            Why::OtherKey,
            ADDRESS,
            field("IP", "\"10.99.99.99\""),
        ),
        changed("a host with a mask", Why::OtherKey, ADDRESS, field("Mask", "\"/////w==\"")),
        added("a key that is not canonical", Why::OtherKey, ADDRESS, |entry| {
            entry.key = format!("{ADDRESS}FD00::99");
            field("IP", "\"fd00::99\"")(entry);
        }),
        added("IPv4 in IPv6 as a key", Why::OtherKey, ADDRESS, |entry| {
            entry.key = format!("{ADDRESS}::ffff:10.1.1.99");
            field("IP", "\"::ffff:10.1.1.99\"")(entry);
        }),
        added("a prefix", Why::NotAHost, ADDRESS, |entry| {
            entry.key = format!("{ADDRESS}10.99.0.0/16");
            field("IP", "\"10.99.0.0\"")(entry);
            field("Mask", "\"//8AAA==\"")(entry);
        }),
        changed("a mask with a hole", Why::Pair, ADDRESS, field("Mask", "\"/wD/AA==\"")),
        changed("no address", Why::NoAddress, ADDRESS, field("IP", "null")),
        changed("no JSON", Why::Pair, ADDRESS, |entry| entry.value.insert(0, '{')),
        changed("a number in words", Why::Pair, ADDRESS, field("ID", "\"web\"")),
        changed("a number of 40 bits", Why::Pair, ADDRESS, field("ID", "1099511627776")),
        changed("a key index of 9 bits", Why::Pair, ADDRESS, field("Key", "256")),
        changed("a number below the range", Why::OutOfRange, ADDRESS, field("ID", "196607")),
        changed("a number above the range", Why::OutOfRange, ADDRESS, field("ID", "262144")),
        changed("an operator's number", Why::OutOfRange, ADDRESS, field("ID", "1234")),
        changed("a number without labels", Why::UnknownIdentity, ADDRESS, field("ID", "196608")),
        changed("an address that stays", Why::NoLease, ADDRESS, |entry| entry.lease = 0),
        changed("fields in another order", Why::Order, ADDRESS, |entry| {
            field("Metadata", "\"\"")(entry);
            edit("\"Metadata\":\"\"", "\"Metadat\":\"\"")(entry);
            edit("{", r#"{"Metadata":"cilium-global:default:h1:7","#)(entry);
        }),
        changed("a field that is missing", Why::Order, ADDRESS, edit("\"Key\":0,", "")),
        changed("an endpoint of nobody", Why::Metadata, ADDRESS, field("Metadata", "\"\"")),
        changed("labels of no cluster", Why::ClusterLabel, ID, |entry| {
            entry.value = "k8s:app=web;".to_owned();
        }),
        changed("the cluster of another source", Why::ClusterLabel, ID, |entry| {
            entry.value = entry.value.replace("k8s:io.cilium", "any:io.cilium");
        }),
        changed("labels of another cluster", Why::ClusterLabel, ID, |entry| {
            entry.value = entry.value.replace("policy.cluster=", "policy.cluster=not-");
        }),
        added("an identity out of range", Why::OutOfRange, ID, |entry| {
            entry.key = format!("{ID}1234");
        }),
        added("an identity without a number", Why::NoNumber, ID, |entry| {
            entry.key = format!("{ID}web");
        }),
        changed("an identity with a lease", Why::HasLease, ID, |entry| entry.lease = 7),
        changed("labels without their end", Why::LabelsFormat, ID, |entry| {
            entry.value.truncate(entry.value.len() - 1);
        }),
        changed("labels in another order", Why::LabelsFormat, ID, |entry| {
            entry.value = format!("{}k8s:a=b;", entry.value);
        }),
        added("two numbers for the same labels", Why::SecondNumber, ID, |entry| {
            entry.key = format!("{ID}{}", 196_608 + 77);
        }),
        changed("a user of another number", Why::User, USER, |entry| entry.value += "0"),
        changed("a user of unknown labels", Why::User, USER, |entry| {
            entry.key = entry.key.replace("value/k8s:", "value/k8s:x");
        }),
        changed("a user without a name", Why::User, USER, |entry| {
            let node = entry.key.rfind('/').expect("a slash");
            entry.key.truncate(node + 1);
        }),
        changed("a user that stays", Why::NoLease, USER, |entry| entry.lease = 0),
        lost("an identity that nobody uses", Why::NoUser, USER),
        added("a lock that stays", Why::NoLease, ID, |entry| {
            entry.key = format!("cilium/state/identities/v1/locks/{}/7b", entry.value);
            entry.value.clear();
        }),
        added("a node", Why::Node, HEARTBEAT, |entry| {
            entry.key = "cilium/state/nodes/v1/edge/h1".to_owned();
        }),
        added("a key of no meaning", Why::UnknownKey, HEARTBEAT, |entry| {
            entry.key = "cilium/state/ip/v2/default/10.1.1.1".to_owned();
        }),
    ]
}

/// What must be right is, and each spoiling of it is found.
pub fn finds_each(cluster: &str, entries: &[Entry]) {
    let reader = Reader { cluster, own_number: 9, max_clusters: 255, now: Timestamp::now() };
    assert_eq!(reader.read(entries).complaints(), [], "of {entries:#?}");
    for spoiling in all() {
        let mut spoilt = entries.to_vec();
        (spoiling.spoil)(&mut spoilt);
        let complaints = reader.read(&spoilt).complaints();
        let is_meant = |complaint: &Complaint| complaint.why == spoiling.why;
        assert!(complaints.iter().any(is_meant), "{}: {complaints:?}", spoiling.what);
    }
}

/// As a host h1 of cluster `edge`, number 3, would write it.
fn written() -> Vec<Entry> {
    let now = Timestamp::now().to_string();
    let labels = |app: &str| format!("k8s:app={app};k8s:io.cilium.k8s.policy.cluster=edge;");
    let pair = |address: &str, number: u32, endpoint: u16| {
        let value = format!(
            r#"{{"IP":"{address}","Mask":null,"HostIP":"","ID":{number},"Key":0,"Metadata":"cilium-global:default:h1:{endpoint}"}}"#
        );
        (format!("{ADDRESS}{address}"), value, 7)
    };
    let entries = [
        (HEARTBEAT.to_owned(), now, 7),
        (
            format!("{CONFIG}edge"),
            r#"{"id":3,"capabilities":{"maxConnectedClusters":255}}"#.to_owned(),
            7,
        ),
        pair("10.1.1.10", 196_700, 7),
        pair("fd00:1:1::10", 196_700, 7),
        pair("10.1.2.10", 196_999, 8),
        pair("10.1.3.10", 200, 9),
        (format!("{ID}196700"), labels("web"), 0),
        (format!("{ID}196999"), labels("db"), 0),
        (format!("{USER}{}/h1", labels("web")), "196700".to_owned(), 7),
        (format!("{USER}{}/h2", labels("web")), "196700".to_owned(), 8),
        (format!("{USER}{}/h1", labels("db")), "196999".to_owned(), 7),
    ];
    let entry = |(key, value, lease)| Entry { key, value, lease, created: 1, modified: 1 };
    entries.into_iter().map(entry).collect()
}

#[test]
fn checker_takes_what_is_right_and_finds_each_thing_that_is_wrong() {
    finds_each("edge", &written());
}

#[test]
fn checker_is_about_one_reader() {
    let reader = |cluster, own_number, max_clusters| {
        let reader = Reader { cluster, own_number, max_clusters, now: Timestamp::now() };
        let complaints = reader.read(&written()).refused;
        complaints.into_iter().map(|complaint| complaint.why).collect::<Vec<_>>()
    };
    assert_eq!(reader("edge", 1, 255), []);
    assert_eq!(reader("other", 1, 255), [Why::NoClusterConfig]);
    assert_eq!(reader("Edge", 1, 255), [Why::Name, Why::NoClusterConfig]);
    assert_eq!(reader("edge", 3, 255), [Why::NumberOfReader]);
    assert_eq!(reader("edge", 1, 511), [Why::MaxClusters]);
}

#[test]
fn checker_has_the_numbers_of_the_ranges() {
    let ends = |cluster, max_clusters| {
        let range = super::Range::of(cluster, max_clusters);
        (range.first, range.last)
    };
    assert_eq!(ends(0, 255), (256, 65_535));
    assert_eq!(ends(1, 255), (65_536, 131_071));
    assert_eq!(ends(255, 255), (0xff_0000, 0xff_ffff));
    assert_eq!(ends(1, 511), (32_768, 65_535));
    assert_eq!(ends(511, 511), (0xff_8000, 0xff_ffff));
}

#[test]
fn checker_reads_pairs_as_go_does() {
    let range = super::Range::of(2, 255);
    let read = |key: &str, value: &str| {
        super::address(key, value, &range).map(|(prefix, number)| (prefix.to_string(), number))
    };
    let taken = |prefix: &str, number| Ok((prefix.to_owned(), number));
    assert_eq!(
        read("10.1.1.1", r#"{"IP":"::ffff:10.1.1.1","ID":131073}"#),
        taken("10.1.1.1/32", 131_073)
    );
    assert_eq!(read("fd00::1", r#"{"IP":"FD00:0::1","ID":1}"#), taken("fd00::1/128", 6));
    assert_eq!(
        read("fd00::/64", r#"{"IP":"fd00::","Mask":"//////////8AAAAAAAAAAA==","ID":2}"#),
        taken("fd00::/64", 2)
    );
    assert_eq!(read("<nil>", r#"{"ID":2}"#), Err(Why::NoAddress));
}
