//! Keys, lists and transactions.

use cilmark_sync::etcd::{Compare, Error, Op};

use crate::common::Etcd;
use crate::common::machine::alone;

#[test]
fn a_key_is_as_it_was_written_until_it_is_deleted() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        assert_eq!(client.get("k").await.unwrap().1, None);
        let made = client.put("k", "one", None).await.unwrap();
        let written = client.put("k", "two", None).await.unwrap();
        let (header, found) = client.get("k").await.unwrap();
        let found = found.unwrap();
        assert_eq!(header, written);
        assert_eq!((found.key.as_str(), found.value.as_slice()), ("k", &b"two"[..]));
        assert_eq!((found.created, found.modified), (made.revision, written.revision));
        assert_eq!(found.lease, None);
        assert!(client.delete("k").await.unwrap());
        assert!(!client.delete("k").await.unwrap());
        assert_eq!(client.get("k").await.unwrap().1, None);
    });
}

#[test]
fn a_list_comes_in_pages_as_of_one_revision_while_others_write() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        for hundred in 0..250 {
            let put = |i| Op::Put(format!("p/{:05}", hundred * 100 + i), b"v".to_vec(), None);
            client.transact(Vec::new(), (0..100).map(put).collect(), Vec::new()).await.unwrap();
        }
        client.put("q", "", None).await.unwrap();
        let before = client.put("o", "", None).await.unwrap();
        let mut keys = Vec::new();
        let mut pages = Vec::new();
        let header = client
            .list("p/", |page| {
                pages.push(page.len());
                keys.extend(page.into_iter().map(|one| (one.key, one.modified)));
                // A page behind this one would have these, were it as of now.
                for command in ["put p/00000 new", "put p/20000x new", "del p/24999"] {
                    etcd.ctl(command);
                }
            })
            .await
            .unwrap();
        assert_eq!(pages, [10_000, 10_000, 5_000]);
        let wanted: Vec<String> = (0..25_000).map(|i| format!("p/{i:05}")).collect();
        assert!(keys.iter().map(|(key, _)| key).eq(&wanted));
        assert!(keys.iter().all(|(_, modified)| *modified < before.revision));
        assert_eq!(header, before);
        let now = client.header().await.unwrap();
        assert!(now.revision > header.revision);

        // A list of which the rest is gone is told.
        let compact = |_| {
            etcd.ctl("put q new");
            etcd.ctl(&format!("compact {}", now.revision + 1));
        };
        let told = client.list("p/", compact).await;
        assert!(matches!(told, Err(Error::Compacted)), "{told:?}");
    });
}

#[test]
fn a_list_of_more_than_a_message_may_have_comes_in_smaller_pages() {
    const MIB: usize = 1 << 20;
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        for number in 0..80 {
            client.put(&format!("k{number:03}"), vec![number; MIB], None).await.unwrap();
        }
        let mut values = Vec::new();
        client.list("k", |page| values.extend(page.iter().map(|one| one.value[0]))).await.unwrap();
        assert!(values.into_iter().eq(0..80));
    });
}

#[test]
fn a_list_of_nothing_has_a_revision_and_no_pages() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let put = client.put("other", "v", None).await.unwrap();
        assert_eq!(client.list("k", |_| panic!("a page")).await.unwrap(), put);
        let mut all = 0;
        client.list("", |page| all += page.len()).await.unwrap();
        assert_eq!(all, 1);
    });
}

#[test]
fn a_transaction_does_the_one_or_the_other() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let create = async |value: &str| {
            client
                .transact(
                    vec![Compare::IsAbsent("k".into())],
                    vec![Op::Put("k".into(), value.into(), None), Op::Get("k".into())],
                    vec![Op::Get("k".into()), Op::FirstCreated("k".into())],
                )
                .await
                .unwrap()
        };
        let first = create("one").await;
        assert!(first.held);
        assert!(first.found[0].is_empty());
        assert_eq!(first.found[1][0].value, b"one");
        let second = create("two").await;
        assert!(!second.held);
        assert_eq!(second.found[0][0].value, b"one");
        assert_eq!(second.found[1][0].value, b"one");
    });
}
