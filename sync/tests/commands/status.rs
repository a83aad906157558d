//! `status`, from the service's file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use cilmark::model::cluster::Answer;
use cilmark::model::identity::Identity;
use cilmark::ops::cluster::number::socket;
use cilmark_sync::cilium::accept::Refusal;
use cilmark_sync::service::state::{
    Allocated, Cluster, Conflict, Connection, Lease, Lines, Own, Phase, Published, Stale,
    Unpublished,
};
use jiff::Timestamp;

use super::{cluster, on_fresh_machine, ready, root, service_that_answers, write_state};
use crate::common::directory::Directory;
use crate::common::machine::run;

fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::now() + jiff::SignedDuration::from_secs(seconds)
}

fn clusters() -> Vec<Cluster> {
    let net = |text: &str| text.parse().unwrap();
    let own = Cluster { is_own: true, ..ready("edge", 7) };
    let away = Cluster {
        connection: Connection::Away { since: in_seconds(-600), error: "no route".into() },
        stale: Lines {
            count: 2,
            named: vec![Stale { net: net("10.1.0.1/32"), until: in_seconds(1805) }],
        },
        held: Lines { count: 500, named: vec![net("10.1.0.2/32")] },
        refused: [(Refusal::OutOfRange, 3)].into(),
        ..ready("c1", 1)
    };
    let waits = Cluster { id: None, phase: Phase::Waiting("its canary".into()), ..ready("c2", 0) };
    vec![own, away, waits]
}

fn own() -> Own {
    let address = |text: &str| text.parse().unwrap();
    let identity = Identity(458_753);
    Own {
        node: "h1".into(),
        is_publishing: true,
        published: vec![Published { address: address("10.0.0.1"), identity, device: "red".into() }],
        conflicts: vec![Conflict {
            address: address("10.0.0.2"),
            device: "blue".into(),
            their_identity: Identity(458_754),
            their_node: Some("h2".into()),
            since: in_seconds(-60),
        }],
        unpublished: vec![Unpublished {
            device: "green".into(),
            identity: Identity(1234),
            why: "1234 is not in the cluster's range".into(),
        }],
        allocated: vec![
            Allocated {
                labels: "app=web".into(),
                identity: Some(identity),
                endpoints: 2,
                trouble: None,
            },
            Allocated {
                labels: "app=db".into(),
                identity: None,
                endpoints: 1,
                trouble: Some("no number is free".into()),
            },
        ],
        leases: vec![Lease { id: 0x1234, keys: 5, until: in_seconds(905) }],
        heartbeat: None,
        trouble: Some("another host is called h1 as well".into()),
    }
}

#[test]
fn all_that_is_to_be_known_is_told() {
    on_fresh_machine(async || {
        let directory = Directory::new();
        write_state(clusters(), own());
        let run = cluster(&directory.path().join("none"), "status");
        let lines: Vec<Vec<&str>> =
            run.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..6], ["edge", "(own)", "7", "ready", "for", lines[1][5]]);
        assert_eq!(lines[2][..5], ["c1", "1", "ready", "away", "for"]);
        assert_eq!(lines[2][5..], ["10m", "5", "2", "1", "2", "500", "3"]);
        assert_eq!(lines[3][..3], ["c2", "?", "waits"]);
        for words in [
            "This host is h1: 1 addresses published; leases: 1234 (5 keys, ends in 15m)",
            "app=web  458753    2",
            "app=db   ?         1",
        ] {
            assert!(run.stdout.contains(words), "no `{words}` in {}", run.stdout);
        }
        for words in [
            "cilmark-sync does not run; this is as it was",
            "c1: etcd is away for 10m, and all stays as it was: no route",
            "c1: 500 lines would have gone at once and are held",
            "`cilmark cluster sweep c1`",
            "c1: 2 lines are stale, since their publishers were cut off; the first goes in 30m",
            "c1: 3 refused, out_of_range: the identity is not in the cluster's range",
            "c2: waits for its canary",
            "10.0.0.2 of blue: h2 says that it is 458754, for 60s",
            "green (1234) is not published: 1234 is not in the cluster's range",
            "app=db: no number is free",
            "the ipcache does not have all of it: there is no room",
            "this host publishes nothing: another host is called h1 as well",
        ] {
            assert!(run.stderr.contains(words), "no `{words}` in {}", run.stderr);
        }
        assert_eq!(run.status, Some(0));
    });
}

#[test]
fn json_has_everything_and_whether_the_service_runs() {
    on_fresh_machine(async || {
        let directory = Directory::new();
        let file = directory.path().join("none");
        write_state(clusters(), own());
        let status = cluster(&file, "status --json").json();
        assert_eq!(status["is_running"], false);
        assert_eq!(status["clusters"][1]["held"]["count"], 500);
        assert_eq!(status["clusters"][1]["refused"]["out_of_range"], 3);
        assert_eq!(status["own"]["conflicts"][0]["their_node"], "h2");
        let service = service_that_answers(Answer::Done(0));
        assert_eq!(cluster(&file, "status --json").json()["is_running"], true);
        let run = cluster(&file, "status");
        assert!(!run.stderr.contains("does not run"), "{}", run.stderr);
        cluster(&file, "sweep c1").ok();
        service.join().unwrap();
    });
}

#[test]
fn who_may_not_ask_the_service_sees_whether_it_runs_all_the_same() {
    on_fresh_machine(async || {
        // As if it was process 1.
        write_state(clusters(), own());
        let _listener = UnixListener::bind(socket(&root())).unwrap();
        let only_root = fs::Permissions::from_mode(0o600);
        fs::set_permissions(socket(&root()), only_root).unwrap();
        let binary = env!("CARGO_BIN_EXE_cilmark-sync");
        // An ordinary user may not enter the directory that it was built in.
        fs::write("/run/sync", "").unwrap();
        run(Command::new("mount").args(["--bind", binary, "/run/sync"]));
        let user = ["--reuid=65534", "--clear-groups", "/run/sync", "cluster", "status"];
        let output = Command::new("setpriv").args(user).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !stderr.contains("does not run"), "{stderr}");
    });
}

#[test]
fn a_host_whose_service_has_never_run_is_told_to_start_it() {
    on_fresh_machine(async || {
        let directory = Directory::new();
        let file = directory.write("cluster.toml", "");
        cluster(&file, "status").fails(1, &["has not run since", "systemctl start cilmark-sync"]);
    });
}

#[test]
fn the_state_of_another_version_is_told_as_such() {
    on_fresh_machine(async || {
        let directory = Directory::new();
        write_state(vec![], Own::default());
        std::fs::write("/run/cilmark/cluster.json", "{}").unwrap();
        let run = cluster(&directory.path().join("none"), "status");
        run.fails(1, &["/run/cilmark/cluster.json", "start the service again"]);
    });
}
