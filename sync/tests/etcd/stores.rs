//! Whether it is the same store.

use std::process::Command;

use cilmark_sync::etcd::Error;

use crate::common::Etcd;
use crate::common::machine::{alone, run, until};

#[test]
fn another_store_in_the_place_of_the_first_is_told_until_it_is_accepted() {
    alone(async || {
        let mut etcd = Etcd::start().await;
        let client = etcd.client();
        let before = client.put("k", "v", None).await.unwrap();
        let mut watch = client.watch("k", before.revision + 1).await.unwrap();
        etcd.replace();
        assert!(matches!(watch.next().await, Err(Error::Unavailable(_))));
        etcd.wait().await;
        let mut told = None;
        until("it says so", async || {
            told = client.get("k").await.err();
            matches!(told, Some(Error::OtherStore(_)))
        })
        .await;
        let Some(Error::OtherStore(number)) = told else { panic!("{told:?}") };
        assert_ne!(number, before.store);
        // Nobody can take it for the first one, by whichever call.
        assert!(matches!(client.watch("k", 1).await, Err(Error::OtherStore(it)) if it == number));
        assert!(matches!(client.list("k", |_| panic!("a page")).await, Err(Error::OtherStore(_))));
        assert!(matches!(client.get("k").await, Err(Error::OtherStore(_))));
        let other = client.clone();
        client.accept_any_store();
        assert_eq!(client.header().await.unwrap().store, number);
        assert_eq!(client.get("k").await.unwrap().1, None);
        // Who has the other clone has something to forget, too.
        assert!(matches!(other.get("k").await, Err(Error::OtherStore(_))));
        other.accept_any_store();
        other.get("k").await.unwrap();
    });
}

#[test]
fn a_store_that_was_set_back_to_a_backup_is_told_to_who_watches() {
    alone(async || {
        let mut etcd = Etcd::start().await;
        let client = etcd.client();
        client.put("k", "1", None).await.unwrap();
        etcd.kill();
        let data = etcd.data();
        let backup = etcd.directory.path().join("backup");
        run(Command::new("cp").arg("-a").args([&data, &backup]));
        etcd.start_again();
        etcd.wait().await;
        let last = client.put("k", "2", None).await.unwrap();
        etcd.kill();
        run(Command::new("rm").arg("-r").arg(&data));
        run(Command::new("mv").args([&backup, &data]));
        etcd.start_again();
        etcd.wait().await;
        let told = client.watch("k", last.revision + 1).await.err();
        assert!(matches!(told, Some(Error::Compacted)), "{told:?}");
        // The next revision of a store that has all of them is no such thing.
        let now = client.header().await.unwrap().revision;
        client.watch("k", now + 1).await.unwrap();
    });
}
