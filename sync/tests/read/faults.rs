//! Publishers that are cut off, stores that are emptied or replaced, and processes that are killed.

use super::*;

#[test]
fn who_was_cut_off_is_stale_and_goes_when_that_has_lasted() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        let short = store.client.grant(Duration::from_secs(2)).await.expect("a lease");
        let long = store.client.grant(Duration::from_secs(600)).await.expect("a lease");
        store.says_until("10.0.0.1", WEB, Some(short)).await;
        store.says_until("10.0.0.2", WEB, Some(short)).await;
        store.says_until("10.0.0.3", WEB, Some(long)).await;
        let host = Host::start_with(&store.etcd, |config| config.stale = Duration::from_secs(3));
        host.until_ready().await;
        store.takes_back("10.0.0.3").await;
        host.until_is("10.0.0.3", None).await;
        until("the lease ends", async || host.own().stale.count == 2).await;
        assert_eq!(host.lines().len(), 2);
        assert_eq!(host.own().stale.named.len(), 2);
        // Somebody is there again.
        store.says("10.0.0.1", DB).await;
        host.until_is("10.0.0.1", Some(DB)).await;
        host.until_is("10.0.0.2", None).await;
        assert_eq!((host.lines().len(), host.own().stale.count), (1, 0));
    });
}

#[test]
fn too_much_at_once_stays_until_the_operator_says_so() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        for last in 1..=30 {
            store.says(&format!("10.0.0.{last}"), WEB).await;
        }
        let host = Host::start(&store.etcd);
        host.until_ready().await;
        store.etcd.ctl(&format!("del --prefix {}", keys::ADDRESSES));
        until("they are held", async || host.own().held.count == 30).await;
        assert_eq!(host.lines().len(), 30);
        store.says("10.0.0.1", WEB).await;
        until("one is back", async || host.own().held.count == 29).await;
        assert!(host.reading.sweep("nobody").is_err());
        assert_eq!(host.reading.sweep("edge").expect("sweep"), 29);
        until("the others go", async || host.lines().len() == 1).await;
    });
}

#[test]
fn what_another_store_lacks_is_stale_and_what_it_has_counts() {
    on_fresh_machine(async || {
        let mut store = Store::own().await;
        store.says("10.0.0.1", WEB).await;
        store.says("10.0.0.2", WEB).await;
        let mut host = Host::start(&store.etcd);
        host.until_ready().await;
        let first = host.own().store;
        store.etcd.replace();
        store.etcd.wait().await;
        store.client = store.etcd.client();
        store.number(2).await;
        store.says("10.0.0.2", DB).await;
        host.until_is("10.0.0.2", Some(DB)).await;
        until("the other one is stale", async || host.own().stale.count == 1).await;
        assert_eq!(host.identity("10.0.0.1"), Some(WEB));
        assert_ne!(host.own().store, first);
        // The same while nobody has looked.
        host.stop();
        store.etcd.replace();
        store.etcd.wait().await;
        store.client = store.etcd.client();
        store.number(2).await;
        host.start_again();
        until("both are stale", async || host.own().stale.count == 2).await;
        assert_eq!(host.lines().len(), 2);
    });
}

#[test]
fn while_etcd_is_away_everything_stays_and_all_is_known_soon_after() {
    on_fresh_machine(async || {
        let mut store = Store::own().await;
        store.says("10.0.0.1", WEB).await;
        store.says("10.0.0.2", WEB).await;
        let host = Host::start(&store.etcd);
        host.until_ready().await;
        store.etcd.kill();
        until("it is away", async || {
            matches!(host.own().connection, cilmark_sync::service::state::Connection::Away { .. })
        })
        .await;
        assert_eq!(host.lines().len(), 2);
        store.etcd.start_again();
        store.etcd.wait().await;
        store.client = store.etcd.client();
        store.takes_back("10.0.0.1").await;
        store.says("10.0.0.3", DB).await;
        // Whoever was away for longer than the history lasts reads all again.
        store.etcd.ctl(&format!("compact {}", store.client.header().await.unwrap().revision));
        host.until_is("10.0.0.1", None).await;
        host.until_is("10.0.0.3", Some(DB)).await;
        assert_eq!((host.lines().len(), host.own().stale.count), (2, 0));
    });
}

#[test]
fn a_process_that_is_killed_again_and_again_leaves_what_etcd_says() {
    on_fresh_machine(async || {
        let store = Store::own().await;
        let mut host = Host::start(&store.etcd);
        let mut random = 7_u32;
        let mut next = move |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 16) % below
        };
        let mut said = std::collections::BTreeMap::new();
        for round in 0..40 {
            for _ in 0..next(30) {
                let address = format!("10.0.{}.{}", next(2), next(20));
                match next(3) {
                    0 if said.remove(&address).is_some() => store.takes_back(&address).await,
                    _ => {
                        let identity = WEB + next(5);
                        store.says(&address, identity).await;
                        said.insert(address, identity);
                    }
                }
            }
            if round % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(next(120).into())).await;
                host.start_again();
            }
        }
        until("all is as etcd says", async || {
            let mut lines: Vec<_> = said.clone().into_iter().collect();
            let mut there = host.lines();
            lines.sort();
            there.sort();
            lines == there
        })
        .await;
        assert_eq!((host.own().stale.count, host.own().held.count), (0, 0));
    });
}
