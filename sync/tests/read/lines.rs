//! What is said comes, and goes when it is said no longer.

use super::*;

#[test]
fn what_a_cluster_says_is_in_the_ipcache_and_what_it_takes_back_is_not() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        store.says("10.0.0.1", WEB).await;
        store.says("fd00::1", WEB).await;
        store.says("10.5.0.0/16", DB).await;
        store.says("10.0.0.9", 1).await;
        store.says("10.0.0.8", 70_000).await;
        let labels = "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=edge;";
        let web = keys::identity(Identity(WEB));
        store.client.put(&web, labels, None).await.expect("put");
        let host = Host::start(&store.etcd);
        host.until_ready().await;
        let expected = [("10.0.0.1", WEB), ("10.0.0.9", 6), ("10.5.0.0/16", DB), ("fd00::1", WEB)];
        let expected = expected.map(|(prefix, identity)| (prefix.to_owned(), identity));
        assert_eq!(host.lines(), expected);
        let label = || {
            let names = ops::identities::names(&host.root).expect("read the names");
            names.label(Identity(WEB))
        };
        assert_eq!(label(), "131073 (app=web)");
        let own = host.own();
        assert_eq!((own.addresses, own.identities, own.phase), (4, 1, Phase::Ready));
        assert_eq!(own.refused.values().sum::<usize>(), 1);
        assert_eq!(own.refused_keys[0].key, key("10.0.0.8"));

        store.says("10.0.0.1", DB).await;
        store.says("10.0.0.2", WEB).await;
        store.says("10.0.0.8", WEB).await;
        host.until_is("10.0.0.1", Some(DB)).await;
        host.until_is("10.0.0.2", Some(WEB)).await;
        host.until_is("10.0.0.8", Some(WEB)).await;
        assert_eq!(host.own().refused, [].into());
        // What no longer counts says nothing.
        store.says("10.0.0.8", 70_000).await;
        store.takes_back("10.0.0.1").await;
        store.takes_back("10.5.0.0/16").await;
        store.client.put(&web, labels.replace("web", "www"), None).await.expect("put");
        host.until_is("10.0.0.1", None).await;
        host.until_is("10.5.0.0/16", None).await;
        host.until_is("10.0.0.8", None).await;
        until("the labels change", async || label() == "131073 (app=www)").await;
        assert!(store.client.delete(&web).await.expect("delete"));
        until("the labels go", async || label() == "131073").await;
    });
}

#[test]
fn a_restart_without_a_change_writes_and_bumps_nothing() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        for last in 1..50 {
            store.says(&format!("10.0.0.{last}"), WEB + last % 3).await;
        }
        store.says("10.0.0.200", 200).await;
        let mut host = Host::start(&store.etcd);
        host.until_ready().await;
        let (lines, changes) = (host.lines(), host.changes());
        assert_eq!(lines.len(), 50);
        host.stop();
        host.start_again();
        host.until_ready().await;
        assert_eq!((host.lines(), host.changes()), (lines, changes));
        // And what has changed meanwhile is found.
        host.stop();
        store.takes_back("10.0.0.1").await;
        store.takes_back("10.0.0.200").await;
        store.says("10.0.0.2", 255).await;
        host.start_again();
        host.until_ready().await;
        host.until_is("10.0.0.1", None).await;
        host.until_is("10.0.0.200", None).await;
        assert_eq!(host.identity("10.0.0.2"), Some(255));
        assert_eq!(host.lines().len(), 48);
    });
}

#[test]
fn whoever_overrides_a_line_gives_it_back_and_what_was_flushed_comes_again() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        for last in 1..=4 {
            store.says(&format!("10.0.0.{last}"), WEB).await;
        }
        let host = Host::start(&store.etcd);
        host.until_ready().await;
        let net = |text: &str| IpNet::from(text.parse::<std::net::IpAddr>().expect("an address"));
        let set = |root: &Root, net: &IpNet| ops::ipcache::set(root, net, Identity(300));
        host.command(move |root| set(root, &net("10.0.0.1"))).await;
        // Also what was there before the cluster's, and what changes meanwhile.
        host.command(move |root| set(root, &net("10.0.0.9"))).await;
        store.says("10.0.0.1", DB).await;
        store.says("10.0.0.9", DB).await;
        store.says("10.0.0.2", DB).await;
        host.until_is("10.0.0.2", Some(DB)).await;
        assert_eq!([host.identity("10.0.0.1"), host.identity("10.0.0.9")], [None; 2]);
        for address in ["10.0.0.1", "10.0.0.9"] {
            host.command(move |root| ops::ipcache::delete(root, &net(address))).await;
            host.until_is(address, Some(DB)).await;
        }
        assert_eq!(host.command(ops::ipcache::flush).await, 5);
        until("all lines come again", async || host.lines().len() == 5).await;
    });
}

#[test]
fn what_is_said_of_this_hosts_own_addresses_does_not_count() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        run(std::process::Command::new("ip").args("addr add 10.0.0.1/32 dev lo".split(' ')));
        store.says("10.0.0.1", WEB).await;
        store.says("10.0.0.2", WEB).await;
        let host = Host::start(&store.etcd);
        host.until_is("10.0.0.2", Some(WEB)).await;
        assert_eq!(host.lines().len(), 1);
        assert_eq!(host.own().refused.values().sum::<usize>(), 1);
        run(std::process::Command::new("ip").args("addr add 10.0.0.2/32 dev lo".split(' ')));
        run(std::process::Command::new("ip").args("addr del 10.0.0.1/32 dev lo".split(' ')));
        host.until_is("10.0.0.2", None).await;
        host.until_is("10.0.0.1", Some(WEB)).await;
        assert!(device::local_addresses().is_ok());
    });
}

#[test]
fn what_this_host_says_itself_is_no_line_and_takes_anothers_place() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        let said_by = |node: &str| {
            let metadata = metadata(node, 1);
            value("10.0.0.1", WEB)
                .replace(r#""Metadata":"""#, &format!(r#""Metadata":"{metadata}""#))
        };
        let says = async |value: String| {
            store.client.put(&key("10.0.0.1"), value, None).await.expect("put");
        };
        let host = Host::start(&store.etcd);
        host.until_ready().await;
        says(said_by("n2")).await;
        host.until_is("10.0.0.1", Some(WEB)).await;
        says(said_by("n1")).await;
        host.until_is("10.0.0.1", None).await;
        assert_eq!(host.own().refused.values().sum::<usize>(), 0);
        says(said_by("n2")).await;
        host.until_is("10.0.0.1", Some(WEB)).await;
    });
}

#[test]
fn what_a_cluster_has_said_is_stale_once_its_number_is_refused() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        let other = Store::start("c5", 5, &[]).await;
        other.says("10.0.0.5", OTHER).await;
        let host = Host::start(&store.etcd);
        host.add_remote("c5", &other.etcd);
        host.until_is("10.0.0.5", Some(OTHER)).await;
        other.number(2).await;
        until("it is stale", async || host.cluster("c5").unwrap().stale.count == 1).await;
        assert_eq!(host.identity("10.0.0.5"), Some(OTHER));
        other.number(5).await;
        until("it is said again", async || host.cluster("c5").unwrap().stale.count == 0).await;
        assert_eq!(host.identity("10.0.0.5"), Some(OTHER));
    });
}

#[test]
fn other_clusters_come_and_go_with_their_files() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        store.says("10.0.0.1", WEB).await;
        let host = Host::start(&store.etcd);
        host.until_ready().await;
        // In the same etcd, as a cache of KVStoreMesh has several.
        let cached = |number: u16| {
            format!(r#"{{"id":{number},"capabilities":{{"syncedCanaries":true,"cached":true}}}}"#)
        };
        let put = async |key: &str, value: String| {
            store.client.put(key, value, None).await.expect("put");
        };
        let file = host.add_remote("c5", &store.etcd);
        until("it waits for its configuration", async || {
            let phase = host.cluster("c5").map(|cluster| cluster.phase);
            phase == Some(Phase::Waiting("cilium/cluster-config/c5".to_owned()))
        })
        .await;
        put("cilium/cluster-config/c5", cached(2)).await;
        until("its number is another's", async || {
            matches!(host.cluster("c5").unwrap().phase, Phase::Refused(why) if why.contains("edge"))
        })
        .await;
        put("cilium/cluster-config/c5", cached(5)).await;
        for prefix in ["10.0.0.1", "10.0.0.2"] {
            put(&format!("cilium/cache/ip/v1/c5/{prefix}"), value(prefix, OTHER)).await;
        }
        until("it waits for a canary", async || {
            matches!(host.cluster("c5").unwrap().phase, Phase::Waiting(what) if what.contains("synced"))
        })
        .await;
        assert_eq!(host.lines().len(), 1);
        for what in ["ip", "identities"] {
            put(&format!("cilium/synced/c5/cilium/cache/{what}/v1"), String::new()).await;
        }
        host.until_is("10.0.0.2", Some(OTHER)).await;
        assert_eq!(host.identity("10.0.0.1"), Some(WEB), "the own cluster wins");
        assert_eq!(host.cluster("c5").unwrap().shadowed, 1);
        store.takes_back("10.0.0.1").await;
        host.until_is("10.0.0.1", Some(OTHER)).await;
        // A third one has no number of its own.
        put("cilium/cluster-config/c6", cached(5)).await;
        host.add_remote("c6", &store.etcd);
        until("the second one is refused", async || {
            let phase = host.cluster("c6").map(|cluster| cluster.phase);
            matches!(phase, Some(Phase::Refused(why)) if why.contains("number 5 is that of cluster c5"))
        })
        .await;
        // Another number: what it has said under the old one is said no longer.
        put("cilium/cluster-config/c5", cached(7)).await;
        put("cilium/cache/ip/v1/c5/10.0.0.3", value("10.0.0.3", 7 << 16 | 1)).await;
        host.until_is("10.0.0.3", Some(7 << 16 | 1)).await;
        host.until_is("10.0.0.1", None).await;
        std::fs::remove_file(file).expect("remove the file");
        host.until_is("10.0.0.3", None).await;
        assert!(host.cluster("c5").is_none());
        until("nothing is left", async || host.lines().is_empty()).await;
    });
}
