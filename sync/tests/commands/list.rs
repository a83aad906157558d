//! `list`: from the ipcache, and from what the service has named.

use cilmark::model::identity::Identity;
use cilmark::ops::cluster::lines::Lines as IpcacheLines;
use cilmark_sync::cilium::accept::Refusal;
use cilmark_sync::service::state::{Cluster, Lines, Own, Refused, Stale};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{cluster, on_fresh_machine, ready, root, write_state};
use crate::common::directory::Directory;

fn write_lines(lines: &[(&str, u32)]) {
    let changes: Vec<_> =
        lines.iter().map(|(net, number)| (net.parse().unwrap(), Some(Identity(*number)))).collect();
    let root = root();
    let _lock = cilmark::ops::prepare(&root, false).unwrap();
    IpcacheLines::of(&root).apply(&changes, None).unwrap();
    let labels = [(Identity(458_753), Some("app=web".to_owned()))];
    cilmark::ops::cluster::labels::apply(&root, &labels).unwrap();
}

#[test]
fn addresses_are_told_with_the_cluster_whose_range_they_are_in() {
    on_fresh_machine(async || {
        let file = Directory::new().path().join("none");
        let own = Cluster { is_own: true, ..ready("edge", 7) };
        write_state(vec![own, ready("c1", 1)], Own::default());
        write_lines(&[
            ("10.1.0.1/32", 65_537),
            ("10.0.0.2/32", 458_753),
            ("10.0.0.1/32", 6),
            ("fd00::/64", 458_754),
        ]);
        let list = cluster(&file, "list").ok();
        let rows: Vec<Vec<&str>> =
            list.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["10.0.0.1", "6", "remote-node", "-"]);
        assert_eq!(rows[2], ["10.0.0.2", "458753", "app=web", "edge"]);
        assert_eq!(rows[3], ["10.1.0.1", "65537", "c1"]);
        assert_eq!(rows[4], ["fd00::/64", "458754", "edge"]);
        let json = cluster(&file, "list edge --json").json();
        assert_eq!(json.as_array().unwrap().len(), 2);
        assert_eq!(
            json[0],
            json!({
                "prefix": "10.0.0.2",
                "identity": 458_753,
                "name": null,
                "labels": "app=web",
                "cluster": "edge",
            })
        );
    });
}

#[test]
fn without_an_ipcache_there_is_nothing_to_list() {
    on_fresh_machine(async || {
        let file = Directory::new().path().join("none");
        write_state(vec![ready("c1", 1)], Own::default());
        assert_eq!(cluster(&file, "list").ok(), "PREFIX  IDENTITY  NAME  CLUSTER\n");
        assert_eq!(cluster(&file, "list --json").json(), json!([]));
    });
}

#[test]
fn what_is_stale_held_or_refused_is_named() {
    on_fresh_machine(async || {
        let file = Directory::new().path().join("none");
        let until = Timestamp::now() + SignedDuration::from_secs(605);
        let net = |text: &str| text.parse().unwrap();
        let troubled = Cluster {
            stale: Lines { count: 1, named: vec![Stale { net: net("10.1.0.1/32"), until }] },
            held: Lines { count: 200, named: vec![net("10.1.0.2/32")] },
            refused: [(Refusal::OtherKey, 1)].into(),
            refused_keys: vec![Refused { key: "cilium/k".into(), reason: Refusal::OtherKey }],
            ..ready("c1", 1)
        };
        write_state(vec![troubled, ready("c2", 2)], Own::default());
        let stale = cluster(&file, "list --stale");
        assert_eq!(stale.stderr, "");
        assert!(stale.ok().ends_with("c1       10.1.0.1  10m\n"));
        let held = cluster(&file, "list c1 --held");
        assert_eq!(held.stderr, "c1: 1 of 200 are named\n");
        assert!(held.ok().ends_with("c1       10.1.0.2\n"));
        let refused = cluster(&file, "list --refused").ok();
        assert!(refused.contains("cilium/k  the key says another address than the value"));
        let refused = cluster(&file, "list --refused --json").json();
        assert_eq!(refused, json!([{"cluster": "c1", "key": "cilium/k", "reason": "other_key"}]));
        assert_eq!(cluster(&file, "list c2 --held --json").json(), json!([]));
    });
}

#[test]
fn a_cluster_that_is_not_read_is_no_empty_list() {
    on_fresh_machine(async || {
        let file = Directory::new().path().join("none");
        write_state(vec![ready("c1", 1)], Own::default());
        for arguments in ["list c9", "list c9 --held"] {
            cluster(&file, arguments).fails(1, &["cluster `c9` is not read; these are: c1"]);
        }
    });
}
