//! What becomes of numbers that are held.

use std::fs;
use std::time::Duration;

use cilmark::model::identity::Identity;
use cilmark::ops::cluster::{memory, run_directory};
use cilmark_sync::cilium::keys;
use tokio::time::timeout;

use crate::common::Etcd;
use crate::common::allocators::{Allocating, all, cilium, id, user};
use crate::common::host::{on_fresh_machine, root};
use crate::common::machine::until;

const SHORT: Duration = Duration::from_secs(1);

#[test]
fn a_number_that_is_deleted_while_it_is_used_comes_back_at_once() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::start("n1", etcd.client());
        let web = host.number("app=web").await;
        client.delete(&keys::identity(Identity(web))).await.unwrap();
        until("it is back", async || id(&client, web).await == Some(cilium("app=web"))).await;
        assert_eq!(host.held("app=web"), Some(web));
    });
}

#[test]
fn a_store_that_was_emptied_or_is_another_gets_the_same_numbers_again() {
    on_fresh_machine(async || {
        let mut etcd = Etcd::start().await;
        let host = Allocating::start("n1", etcd.client());
        let other = Allocating::start("n2", etcd.client());
        let numbers = [host.number("app=web").await, host.number("app=db").await];
        assert_eq!(other.number("app=web").await, numbers[0]);
        let is_back = async |etcd: &Etcd| {
            let client = etcd.client();
            until("all is back", async || {
                id(&client, numbers[0]).await == Some(cilium("app=web"))
                    && id(&client, numbers[1]).await == Some(cilium("app=db"))
                    && all(&client, keys::USERS).await.len() == 3
            })
            .await;
            assert_eq!(all(&client, keys::IDENTITIES).await.len(), 2);
        };
        etcd.ctl("del --prefix cilium/");
        is_back(&etcd).await;
        etcd.replace();
        etcd.wait().await;
        is_back(&etcd).await;
        assert_eq!([host.held("app=web"), host.held("app=db")], numbers.map(Some));
    });
}

#[test]
fn a_number_that_is_for_others_by_now_is_left_to_them() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::start("n1", etcd.client());
        let web = host.number("app=web").await;
        client.put(&keys::identity(Identity(web)), cilium("app=other"), None).await.unwrap();
        until("it has another one", async || host.held("app=web").is_some_and(|it| it != web))
            .await;
        let now = host.held("app=web").unwrap();
        assert_eq!(id(&client, web).await, Some(cilium("app=other")));
        assert_eq!(id(&client, now).await, Some(cilium("app=web")));
        let user = user(&client, "app=web", "n1").await.unwrap();
        assert_eq!(user.value, now.to_string().as_bytes());
        assert_eq!(host.allocator.last(&"app=web".parse().unwrap()), Some(Identity(now)));
    });
}

#[test]
fn when_a_lease_is_over_numbers_are_used_under_another() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::start("n1", etcd.client());
        let web = host.number("app=web").await;
        let before = user(&client, "app=web", "n1").await.unwrap().lease.unwrap();
        client.revoke(before).await.unwrap();
        until("it is used again", async || user(&client, "app=web", "n1").await.is_some()).await;
        assert_ne!(user(&client, "app=web", "n1").await.unwrap().lease, Some(before));
        assert_eq!(host.held("app=web"), Some(web));
    });
}

#[test]
fn a_number_is_used_until_the_last_endpoint_has_been_gone_for_a_while() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::with_grace("n1", etcd.client(), SHORT);
        host.has_endpoints(&[("app=web", 5), ("app=web", 5), ("app=db", 5)]);
        until("both have a number", async || host.allocator.numbers().borrow().len() == 2).await;
        let web = host.held("app=web").unwrap();
        let counts: Vec<usize> = host.allocated().iter().map(|it| it.endpoints).collect();
        assert_eq!(counts, [1, 2]);
        host.has_endpoints(&[("app=web", web)]);
        until("nobody uses the one", async || user(&client, "app=db", "n1").await.is_none()).await;
        assert!(user(&client, "app=web", "n1").await.is_some());
        until("it says so", async || host.held("app=db").is_none()).await;
        assert_eq!(host.held("app=web"), Some(web));
        host.has_endpoints(&[]);
        until("nobody uses any", async || all(&client, keys::USERS).await.is_empty()).await;
        // The numbers stay for whoever is next, until they are collected.
        assert_eq!(id(&client, web).await, Some(cilium("app=web")));
        assert_eq!(host.number("app=web").await, web);
    });
}

#[test]
fn what_another_node_uses_is_left_alone_when_this_one_lets_go() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::with_grace("n1", etcd.client(), SHORT);
        let other = Allocating::start("n2", etcd.client());
        let web = other.number("app=web").await;
        assert_eq!(host.number("app=web").await, web);
        let theirs = user(&client, "app=web", "n2").await;
        // Somebody else has written this node's key.
        let key = keys::user(&cilium("app=db"), "n1");
        host.number("app=db").await;
        client.put(&key, "140000", None).await.unwrap();
        until("it lets go", async || user(&client, "app=web", "n1").await.is_none()).await;
        until("it holds none", async || host.allocator.numbers().borrow().is_empty()).await;
        assert_eq!(user(&client, "app=web", "n2").await, theirs);
        assert!(client.get(&key).await.unwrap().1.is_some());
    });
}

#[test]
fn a_restart_holds_what_was_held_and_writes_nothing() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::start("n1", etcd.client());
        let web = host.number("app=web").await;
        let before = all(&client, keys::ALL).await;
        drop(host);
        let host = Allocating::start("n1", etcd.client());
        until("it is held", async || host.held("app=web") == Some(web)).await;
        assert_eq!(host.number("app=web").await, web);
        assert_eq!(all(&client, keys::USERS).await.as_slice(), &before[1..]);
        drop(host);
        // What nobody wants any more goes after it, too.
        let _host = Allocating::with_grace("n1", etcd.client(), SHORT);
        until("nobody uses it", async || all(&client, keys::USERS).await.is_empty()).await;
    });
}

#[test]
fn what_labels_had_last_is_known_without_etcd_and_is_what_they_get_again() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::start("n1", etcd.client());
        let web = host.number("app=web").await;
        drop(host);
        // The host goes down, and so does the store.
        fs::remove_dir_all(run_directory(&root("n1"))).unwrap();
        etcd.ctl("del --prefix cilium/");
        let remembered = memory::read(&root("n1")).unwrap().unwrap();
        assert_eq!(remembered.get("app=web"), Some(&Identity(web)));
        let host = Allocating::start("n1", etcd.client());
        assert_eq!(host.allocator.last(&"app=web".parse().unwrap()), Some(Identity(web)));
        assert_eq!(host.number("app=web").await, web);
        assert_eq!(id(&client, web).await, Some(cilium("app=web")));
    });
}

#[test]
fn endpoints_that_are_there_get_a_number_without_being_asked_for_and_keep_theirs() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let host = Allocating::start("n1", etcd.client());
        host.has_endpoints(&[("app=web", 5), ("app=db", 150_000)]);
        until("both have one", async || host.allocator.numbers().borrow().len() == 2).await;
        assert_eq!(host.held("app=db"), Some(150_000));
        assert_eq!(id(&etcd.client(), 150_000).await, Some(cilium("app=db")));
        assert!((131_072..=196_607).contains(&host.held("app=web").unwrap()));
    });
}

#[test]
fn a_withdrawal_takes_what_this_node_uses_and_leaves_what_others_do() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::start("n1", etcd.client());
        let other = Allocating::start("n2", etcd.client());
        host.has_endpoints(&[("app=web", 5)]);
        let web = other.number("app=web").await;
        assert_eq!(host.number("app=web").await, web);
        host.number("app=db").await;
        assert_eq!(host.allocator.withdraw().await.unwrap(), 2);
        let left = all(&client, keys::USERS).await;
        assert_eq!(left, user(&client, "app=web", "n2").await.into_iter().collect::<Vec<_>>());
        // It makes none again.
        client.delete(&keys::identity(Identity(web))).await.unwrap();
        until("the other one makes it", async || id(&client, web).await.is_some()).await;
        assert!(user(&client, "app=web", "n1").await.is_none());
    });
}

#[test]
fn a_node_that_could_not_leave_holds_its_numbers_on() {
    on_fresh_machine(async || {
        let mut etcd = Etcd::start().await;
        let client = etcd.client();
        let host = Allocating::start("n1", etcd.client());
        host.has_endpoints(&[("app=web", 5)]);
        let web = host.number("app=web").await;
        etcd.kill();
        let left = timeout(Duration::from_secs(1), host.allocator.withdraw()).await;
        assert!(!matches!(left, Ok(Ok(_))), "nobody is there to withdraw anything");
        etcd.start_again();
        etcd.wait().await;
        host.number("app=db").await;
        assert!(user(&client, "app=web", "n1").await.is_some());
        // It was withdrawn, and then something else has failed.
        host.allocator.withdraw().await.unwrap();
        assert!(user(&client, "app=web", "n1").await.is_none());
        host.allocator.stay();
        until("it holds it again", async || host.held("app=web") == Some(web)).await;
        assert!(user(&client, "app=web", "n1").await.is_some());
    });
}
