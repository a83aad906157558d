//! `init`: whose store it is, what it writes, and what it leaves.

use std::fs;

use serde_json::json;

use super::{client_file, cluster, on_fresh_machine};

use crate::common::Etcd;
use crate::common::directory::Directory;

const KEY: &str = "cilium/cluster-config/edge";
const SAYS: &str = r#"{"id":7,"capabilities":{"maxConnectedClusters":255}}"#;

#[test]
fn a_new_cluster_is_in_etcd_and_in_the_file() {
    on_fresh_machine(async || {
        let (etcd, directory) = (Etcd::start().await, Directory::new());
        let (etcd_config, file) = (client_file(&etcd), directory.path().join("new/cluster.toml"));
        let told = cluster(&file, &format!("init edge --id 7 --node h1 --etcd {etcd_config}")).ok();
        assert_eq!(etcd.ctl(&format!("get {KEY} --print-value-only")).trim(), SAYS);
        let text = fs::read_to_string(&file).unwrap();
        let expected =
            format!("name = \"edge\"\nid = 7\netcd = \"{etcd_config}\"\nnode = \"h1\"\n");
        assert_eq!(text, expected);
        for word in ["is written", "The cluster is new", "etcdctl role add", "host-h1", "Next: "] {
            assert!(told.contains(word), "no `{word}` in {told}");
        }
        let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    });
}

#[test]
fn it_can_be_repeated_and_changes_nothing_then() {
    on_fresh_machine(async || {
        let (etcd, directory) = (Etcd::start().await, Directory::new());
        let file = directory.path().join("cluster.toml");
        let init = format!("init edge --id 7 --node h1 --etcd {} --json", client_file(&etcd));
        let first = cluster(&file, &init).json();
        assert_eq!((&first["is_new"], &first["cluster_config"]), (&json!(true), &json!("written")));
        let more = "publish_host = true\n[resolve]\n\"a.b\" = \"192.0.2.1\"\n";
        let text = fs::read_to_string(&file).unwrap() + more;
        fs::write(&file, &text).unwrap();
        let again = cluster(&file, &init).json();
        assert_eq!((&again["is_new"], &again["cluster_config"]), (&json!(false), &json!("there")));
        assert_eq!(again["node"], "h1");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    });
}

#[test]
fn a_file_that_says_otherwise_is_left_as_it_is() {
    on_fresh_machine(async || {
        let (etcd, directory) = (Etcd::start().await, Directory::new());
        let file = directory.path().join("cluster.toml");
        let etcd_config = client_file(&etcd);
        let text = format!("name = \"edge\"\nid = 7\nnode = \"h1\"\netcd = \"{etcd_config}\"\n");
        fs::write(&file, &text).unwrap();
        for (arguments, word) in [
            ("other --id 7", "name is edge, not other"),
            ("edge --id 8", "id is 7, not 8"),
            ("edge --id 7 --node h2", "node is h1, not h2"),
            ("edge --id 7 --max-clusters 511", "max_clusters is 255, not 511"),
            ("edge --id 7 --remotes /r", "remotes is , not /r"),
        ] {
            let run = cluster(&file, &format!("init {arguments} --etcd {etcd_config}"));
            run.fails(1, &["says otherwise", word, "nothing is changed"]);
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        assert_eq!(etcd.ctl("get --prefix cilium/"), "");
    });
}

#[test]
fn a_store_of_another_cluster_or_of_nobody_knows_is_refused() {
    on_fresh_machine(async || {
        let (etcd, directory) = (Etcd::start().await, Directory::new());
        let file = directory.path().join("cluster.toml");
        let init = format!("init edge --id 7 --node h1 --etcd {}", client_file(&etcd));
        for (put, word) in [
            (
                "cilium/cluster-config/other {\"id\":3}",
                "another cluster's: it has cilium/cluster-config/other",
            ),
            ("cilium/cluster-config/edge {\"id\":3}", "cluster edge has number 3 in etcd"),
            (
                "cilium/cluster-config/edge {\"id\":7,\"capabilities\":{\"maxConnectedClusters\":511}}",
                "made for 511 clusters",
            ),
            ("cilium/cluster-config/edge x", "not Cilium's JSON"),
            ("cilium/state/ip/v1/default/10.0.0.1 x", "not empty"),
            ("cilium/state/identities/v1/id/458753 k8s:app=web;", "not empty"),
        ] {
            etcd.ctl(&format!("put {put}"));
            cluster(&file, &init).fails(1, &[word]);
            assert!(!file.exists(), "{put}");
            etcd.ctl("del --prefix cilium/");
        }
        cluster(&file, &init).ok();
    });
}

#[test]
fn a_cluster_whose_hosts_were_all_away_is_known_by_its_identities() {
    on_fresh_machine(async || {
        let (etcd, directory) = (Etcd::start().await, Directory::new());
        let file = directory.path().join("cluster.toml");
        etcd.ctl("put cilium/state/identities/v1/id/458753 k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge;");
        let init = format!("init edge --id 7 --node h1 --etcd {} --json", client_file(&etcd));
        assert_eq!(cluster(&file, &init).json()["cluster_config"], "written");
    });
}

#[test]
fn an_etcd_that_does_not_answer_changes_nothing() {
    on_fresh_machine(async || {
        let directory = Directory::new();
        let etcd_config = directory.write("etcd.config", "endpoints: ['http://127.0.0.9:2379']\n");
        let file = directory.path().join("cluster.toml");
        let etcd_config = etcd_config.display();
        let run = cluster(&file, &format!("init edge --id 7 --node h1 --etcd {etcd_config}"));
        run.fails(1, &["etcd does not answer", "127.0.0.9"]);
        assert!(!file.exists());
    });
}
