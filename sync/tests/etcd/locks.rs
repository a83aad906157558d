//! Locks.

use std::cell::{Cell, RefCell};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use cilmark_sync::etcd::{Client, Error, LeaseId, Mutex, Op};
use tokio::task::spawn_local;

use crate::common::Etcd;
use crate::common::machine::{PATIENCE, alone, until};

async fn leased(client: &Client) -> LeaseId {
    client.grant(Duration::from_secs(600)).await.expect("a lease")
}

async fn keys(client: &Client, prefix: &str) -> usize {
    let mut count = 0;
    client.list(prefix, |page| count += page.len()).await.expect("a list");
    count
}

#[test]
fn who_wants_a_lock_gets_it_one_after_the_other_in_the_order_of_coming() {
    alone(async || {
        let etcd = Etcd::start().await;
        let order = Rc::new(RefCell::new(Vec::new()));
        let is_held = Rc::new(Cell::new(false));
        let client = etcd.client();
        let first = Mutex::lock(&client, "locks/a", leased(&client).await, PATIENCE).await.unwrap();
        let mut tasks = Vec::new();
        for number in 1..=5 {
            let (own, order, is_held) = (etcd.client(), order.clone(), is_held.clone());
            tasks.push(spawn_local(async move {
                let lease = leased(&own).await;
                let lock = Mutex::lock(&own, "locks/a", lease, PATIENCE).await.unwrap();
                assert!(!is_held.replace(true), "two have it");
                order.borrow_mut().push(number);
                own.put("x", "", None).await.unwrap();
                is_held.set(false);
                lock.unlock().await.unwrap();
            }));
            let comers = number + 1;
            until("it waits", async || keys(&client, "locks/a/").await == comers).await;
        }
        // A lock of another path has nothing to do with it.
        Mutex::lock(&client, "locks/aa", leased(&client).await, PATIENCE).await.unwrap();
        assert!(order.borrow().is_empty());
        first.unlock().await.unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.borrow(), [1, 2, 3, 4, 5]);
        assert_eq!(keys(&client, "locks/a/").await, 0);
    });
}

#[test]
fn a_lock_is_lost_with_its_lease_and_what_it_guards_is_not_done_then() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let lease = leased(&client).await;
        let lock = Mutex::lock(&client, "locks/a", lease, PATIENCE).await.unwrap();
        let write = async |value: &str| {
            let put = Op::Put("k".into(), value.into(), None);
            client.transact(vec![lock.is_held()], vec![put], Vec::new()).await.unwrap().held
        };
        assert!(write("held").await);
        // Where Cilium's agents and their garbage collector look for it.
        let key = client.get(&format!("locks/a/{:x}", lease.0)).await.unwrap().1.unwrap();
        assert_eq!((key.value.as_slice(), key.lease), (&b""[..], Some(lease)));
        client.revoke(lease).await.unwrap();
        let next = Mutex::lock(&client, "locks/a", leased(&client).await, PATIENCE).await.unwrap();
        assert!(!write("lost").await);
        assert_eq!(client.get("k").await.unwrap().1.unwrap().value, b"held");
        let other = next.is_held();
        lock.unlock().await.unwrap();
        assert!(client.transact(vec![other], Vec::new(), Vec::new()).await.unwrap().held);

        // Who waits is told, too.
        let waiting = leased(&client).await;
        let (waits, revokes) =
            tokio::join!(Mutex::lock(&client, "locks/a", waiting, PATIENCE), async {
                until("it waits", async || keys(&client, "locks/a/").await == 2).await;
                client.revoke(waiting).await.unwrap();
                next.unlock().await
            });
        revokes.unwrap();
        assert!(matches!(waits, Err(Error::NoLease)));
    });
}

#[test]
fn whose_patience_ends_leaves_nothing_behind() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let lock = Mutex::lock(&client, "locks/a", leased(&client).await, PATIENCE).await.unwrap();
        let patience = Duration::from_millis(300);
        let refused = Mutex::lock(&client, "locks/a", leased(&client).await, patience).await;
        assert!(matches!(refused, Err(Error::Unavailable(_))));
        assert_eq!(keys(&client, "locks/a/").await, 1);
        assert!(client.transact(vec![lock.is_held()], Vec::new(), Vec::new()).await.unwrap().held);
    });
}

/// etcd's own client, whose lock Cilium takes, too.
struct Theirs(Child);

impl Theirs {
    fn lock(etcd: &Etcd, path: &str) -> Theirs {
        let mut command = etcd.try_ctl(&format!("lock {path}"));
        Theirs(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("run etcdctl"))
    }

    fn unlock(mut self) {
        let interrupt = ["-INT", &self.0.id().to_string()].map(str::to_owned);
        assert!(Command::new("kill").args(interrupt).status().expect("run kill").success());
        self.0.wait().expect("wait");
    }
}

#[test]
fn locks_of_etcds_own_client_and_ours_wait_for_each_other() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let theirs = Theirs::lock(&etcd, "locks/a");
        until("they have it", async || keys(&client, "locks/a/").await == 1).await;
        let lease = leased(&client).await;
        let short = Mutex::lock(&client, "locks/a", lease, Duration::from_millis(300)).await;
        assert!(matches!(short, Err(Error::Unavailable(_))));
        let (ours, ()) = tokio::join!(Mutex::lock(&client, "locks/a", lease, PATIENCE), async {
            until("ours waits", async || keys(&client, "locks/a/").await == 2).await;
            theirs.unlock();
        });
        let ours = ours.unwrap();

        let theirs = Theirs::lock(&etcd, "locks/a");
        until("they wait", async || keys(&client, "locks/a/").await == 2).await;
        assert!(client.transact(vec![ours.is_held()], Vec::new(), Vec::new()).await.unwrap().held);
        ours.unlock().await.unwrap();
        until("they have it", async || keys(&client, "locks/a/").await == 1).await;
        theirs.unlock();
        until("it is free", async || keys(&client, "locks/a/").await == 0).await;
    });
}
