//! Watches.

use std::fs;
use std::time::Duration;

use cilmark_sync::etcd::{Change, Error, KeyValue, Op, Watch};
use nix::sys::signal::Signal;
use tokio::task::spawn_local;
use tokio::time;

use crate::common::Etcd;
use crate::common::machine::{alone, until};

async fn next_changes(watch: &mut Watch) -> Vec<Change> {
    loop {
        let watched = watch.next().await.expect("a watch that goes on");
        if !watched.changes.is_empty() {
            return watched.changes;
        }
    }
}

fn put_of(change: &Change) -> &KeyValue {
    match change {
        Change::Put(put) => put,
        Change::Deleted { .. } => panic!("{change:?}"),
    }
}

#[test]
fn a_watch_tells_from_a_revision_on_what_becomes_of_keys_and_what_they_were() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        client.put("p/a", "1", None).await.unwrap();
        let from = client.put("p/b", "2", None).await.unwrap().revision;
        client.put("q/c", "3", None).await.unwrap();
        let last = client
            .transact(
                Vec::new(),
                vec![Op::Put("p/a".into(), "4".into(), None), Op::Delete("p/b".into())],
                Vec::new(),
            )
            .await
            .unwrap()
            .header;
        let mut watch = client.watch("p/", from).await.unwrap();
        let mut changes = Vec::new();
        let mut header = last;
        while changes.len() < 3 {
            let watched = watch.next().await.unwrap();
            changes.extend(watched.changes);
            header = watched.header;
        }
        assert_eq!(header, last);
        let revisions: Vec<i64> = changes.iter().map(Change::revision).collect();
        assert_eq!(revisions, [from, last.revision, last.revision]);
        assert_eq!(put_of(&changes[0]).key, "p/b");
        assert_eq!(put_of(&changes[1]).value, b"4");
        let Change::Deleted { key, before: Some(before), .. } = &changes[2] else {
            panic!("{changes:?}");
        };
        assert_eq!((key.as_str(), before.value.as_slice()), ("p/b", &b"2"[..]));
    });
}

#[test]
fn a_watch_goes_on_without_a_gap_over_a_killed_etcd() {
    alone(async || {
        let mut etcd = Etcd::start().await;
        let client = etcd.client();
        let mut last = client.put("k", "0", None).await.unwrap().revision;
        let mut seen = Vec::new();
        let mut watch = client.watch("k", last + 1).await.unwrap();
        for round in 1..=3 {
            client.put("k", format!("{round} before"), None).await.unwrap();
            etcd.kill();
            // What has come before it was killed may still be read.
            let error = loop {
                match watch.next().await {
                    Ok(watched) => {
                        last = watched.header.revision;
                        seen.extend(watched.changes);
                    }
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Unavailable(_)), "{error}");
            assert!(matches!(watch.next().await, Err(Error::Unavailable(_))));
            etcd.start_again();
            until("it writes", async || {
                client.put("k", format!("{round} after"), None).await.is_ok()
            })
            .await;
            watch = client.watch("k", last + 1).await.unwrap();
        }
        let now = client.header().await.unwrap().revision;
        while last < now {
            let watched = watch.next().await.unwrap();
            last = watched.header.revision;
            seen.extend(watched.changes);
        }
        let values: Vec<&str> =
            seen.iter().map(|change| std::str::from_utf8(&put_of(change).value).unwrap()).collect();
        let rounds = [1, 2, 3].map(|round| [format!("{round} before"), format!("{round} after")]);
        assert_eq!(values, rounds.concat());
    });
}

#[test]
fn a_compacted_revision_is_told_at_once_and_to_a_watch_that_is_behind() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let first = client.put("k", "1", None).await.unwrap().revision;
        let second = client.put("k", "2", None).await.unwrap().revision;
        etcd.ctl(&format!("compact {second}"));
        let told = match client.watch("k", first).await {
            Ok(mut watch) => watch.next().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(told, Error::Compacted), "{told}");
        let changes = next_changes(&mut client.watch("k", second).await.unwrap()).await;
        assert_eq!(put_of(&changes[0]).value, b"2");
    });
}

/// So many bytes have come by loopback.
fn received() -> usize {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").expect("devices");
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).expect("lo");
    line.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("bytes")
}

#[test]
fn what_nobody_reads_stays_with_etcd_and_hinders_no_calls() {
    const MIB: usize = 1 << 20;
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let from = client.header().await.unwrap().revision + 1;
        // Of the same connection, and more than it would take if streams were all that is bounded.
        let mut watches = Vec::new();
        for _ in 0..6 {
            watches.push(client.watch("k", from).await.unwrap());
        }
        let before = received();
        for number in 0..32u8 {
            client.put("k", vec![number; MIB], None).await.unwrap();
        }
        let others = received() - before - 32 * MIB;
        assert!(others < watches.len() * 3 * MIB, "{others} bytes lie here");
        let mut values = Vec::new();
        while values.len() < 32 {
            let changes = next_changes(&mut watches[0]).await;
            values.extend(changes.iter().map(|change| put_of(change).value[0]));
        }
        assert!(values.into_iter().eq(0..32));
    });
}

#[test]
fn revisions_come_whole_however_long_they_are() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let from = client.header().await.unwrap().revision + 1;
        let long =
            |byte| (0..3).map(|i| Op::Put(format!("k{i}"), vec![byte; 450 << 10], None)).collect();
        for byte in 0..8 {
            client.transact(Vec::new(), long(byte), Vec::new()).await.unwrap();
        }
        // With what was before, one of them is longer than etcd sends at a time; behind, many come at once.
        let mut watch = client.watch("k", from).await.unwrap();
        let mut next = from;
        while next < from + 8 {
            let watched = watch.next().await.unwrap();
            assert!(watched.header.revision >= next);
            let told: Vec<i64> = watched.changes.iter().map(Change::revision).collect();
            let whole: Vec<i64> =
                (next..=watched.header.revision).flat_map(|one| [one; 3]).collect();
            assert_eq!(told, whole);
            next = watched.header.revision + 1;
        }
    });
}

/// Lets so much time pass for all who wait, but not for etcd.
async fn pass(time: Duration) {
    time::pause();
    time::advance(time).await;
    time::resume();
}

#[test]
fn a_watch_that_has_nothing_to_tell_goes_on_and_one_of_a_stopped_etcd_ends() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let from = client.header().await.unwrap().revision + 1;
        let mut watch = client.watch("k", from).await.unwrap();
        let watching = spawn_local(async move {
            let changes = next_changes(&mut watch).await;
            (watch, changes)
        });
        // Each time it asks, and hears in between that it still is a watch.
        for _ in 0..5 {
            pass(Duration::from_secs(11)).await;
            client.header().await.unwrap();
            client.header().await.unwrap();
        }
        client.put("k", "v", None).await.unwrap();
        let (mut watch, changes) = watching.await.unwrap();
        assert_eq!(put_of(&changes[0]).value, b"v");

        etcd.signal(Signal::SIGSTOP);
        let watching = spawn_local(async move { watch.next().await.unwrap_err() });
        for _ in 0..2 {
            pass(Duration::from_secs(11)).await;
            tokio::task::yield_now().await;
        }
        let error = watching.await.unwrap();
        assert!(matches!(&error, Error::Unavailable(why) if why.contains("no answers")), "{error}");
    });
}
