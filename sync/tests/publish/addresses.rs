//! Addresses of endpoints.

use std::time::Duration;

use cilmark_sync::cilium::keys;
use cilmark_sync::etcd::{Client, KeyValue, LeaseId};
use cilmark_sync::publish::MOST_KEYS;
use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::common::Etcd;
use crate::common::host::{Host, config, key_of, on_fresh_machine, said, until_said};
use crate::common::machine::until;

const A: &str = "10.0.0.1";
const B: &str = "fd00::b";
const WEB: u32 = 131_073;
const DB: u32 = 131_074;

async fn all(client: &Client) -> Vec<KeyValue> {
    let mut all = Vec::new();
    client.list(keys::ADDRESSES, |page| all.extend(page)).await.expect("list");
    all
}

/// Deletes or writes a key as somebody else.
async fn lease_of(client: &Client, address: &str) -> LeaseId {
    key_of(client, address).await.expect("a key").lease.expect("a lease")
}

#[test]
fn what_comes_is_there_with_a_lease_what_changes_changes_and_what_goes_is_gone() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 7);
        host.comes(B, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        until_said(&client, B, Some((WEB, "n1"))).await;
        let lease = lease_of(&client, A).await;
        let rest = client.rest_of(lease).await.unwrap().unwrap();
        assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&rest), "{rest:?}");
        host.comes(A, DB, 7);
        until_said(&client, A, Some((DB, "n1"))).await;
        assert_eq!(lease_of(&client, A).await, lease);
        host.goes(A);
        until_said(&client, A, None).await;
        assert_eq!(said(&client, B).await, Some((WEB, "n1".to_owned())));
        until("it says so", async || host.own().published.len() == 1).await;
        assert_eq!(host.own().published[0].identity.0, WEB);
    });
}

#[test]
fn the_newest_birth_wins_and_the_older_one_comes_back_when_that_goes() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut one = Host::start(&config("n1"), etcd.client());
        let mut other = Host::start(&config("n2"), etcd.client());
        one.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        other.comes(A, DB, 7);
        until_said(&client, A, Some((DB, "n2"))).await;
        until("the first one says so", async || one.own().conflicts.len() == 1).await;
        let conflict = one.own().conflicts.remove(0);
        assert_eq!((conflict.their_identity.0, conflict.their_node.as_deref()), (DB, Some("n2")));
        assert_eq!(one.own().published, []);
        // Whatever else it does, it leaves the other's key alone.
        let theirs = key_of(&client, A).await;
        one.comes(A, 131_080, 7);
        one.comes(B, WEB, 7);
        until_said(&client, B, Some((WEB, "n1"))).await;
        assert_eq!(key_of(&client, A).await, theirs);
        other.goes(A);
        until_said(&client, A, Some((131_080, "n1"))).await;
        until("nothing is in conflict", async || one.own().conflicts.is_empty()).await;
        // And a new birth here takes it again from there.
        other.comes(A, DB, 8);
        until_said(&client, A, Some((DB, "n2"))).await;
        one.comes(A, WEB, 9);
        until_said(&client, A, Some((WEB, "n1"))).await;
    });
}

#[test]
fn who_was_overwritten_deletes_nothing_when_its_endpoint_goes() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut one = Host::start(&config("n1"), etcd.client());
        let mut other = Host::start(&config("n2"), etcd.client());
        one.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        other.comes(A, DB, 7);
        until("it was overwritten", async || one.own().conflicts.len() == 1).await;
        let theirs = key_of(&client, A).await;
        one.goes(A);
        one.comes(B, WEB, 7);
        until_said(&client, B, Some((WEB, "n1"))).await;
        assert_eq!(key_of(&client, A).await, theirs);
        // Nor does it when it leaves.
        one.publisher.withdraw().await.unwrap();
        assert_eq!(key_of(&client, A).await, theirs);
    });
}

#[test]
fn an_own_key_that_somebody_deletes_comes_back_at_once() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        let before = key_of(&client, A).await.unwrap();
        client.delete(&before.key).await.unwrap();
        until_said(&client, A, Some((WEB, "n1"))).await;
        assert!(key_of(&client, A).await.unwrap().created > before.created);
    });
}

#[test]
fn a_restart_takes_up_its_lease_and_writes_nothing_that_is_right() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 7);
        host.comes(B, WEB, 7);
        until("all is there", async || host.own().published.len() == 2).await;
        let before = all(&client).await;
        let wanted = host.kill();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.resume(wanted);
        until("all is there", async || host.own().published.len() == 2).await;
        assert_eq!(all(&client).await, before);
        // What has gone meanwhile goes when it is back.
        let mut wanted = host.kill();
        wanted.lines.remove(&A.parse().unwrap());
        let mut host = Host::start(&config("n1"), etcd.client());
        host.resume(wanted);
        until_said(&client, A, None).await;
        assert_eq!(key_of(&client, B).await.as_ref(), before.last());
    });
}

#[test]
fn who_was_overwritten_waits_also_after_a_restart() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut one = Host::start(&config("n1"), etcd.client());
        let mut other = Host::start(&config("n2"), etcd.client());
        one.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        other.comes(A, DB, 7);
        until("it was overwritten", async || one.own().conflicts.len() == 1).await;
        let theirs = key_of(&client, A).await;
        let wanted = one.kill();
        let mut one = Host::start(&config("n1"), etcd.client());
        one.resume(wanted);
        until("it waits", async || one.own().conflicts.len() == 1).await;
        assert_eq!(key_of(&client, A).await, theirs);
        other.goes(A);
        until_said(&client, A, Some((WEB, "n1"))).await;
    });
}

#[test]
fn the_keys_of_a_lease_that_is_over_come_again_under_another() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        let lease = lease_of(&client, A).await;
        client.revoke(lease).await.unwrap();
        until_said(&client, A, Some((WEB, "n1"))).await;
        assert_ne!(lease_of(&client, A).await, lease);
        until("the heartbeat is back", async || {
            client.get(keys::HEARTBEAT).await.unwrap().1.is_some()
        })
        .await;
    });
}

#[test]
fn a_lease_is_kept_as_long_as_the_process_runs_and_no_longer() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut config = config("n1");
        config.lease = Duration::from_secs(10);
        let mut host = Host::start(&config, etcd.client());
        host.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        let lease = lease_of(&client, A).await;
        let rest = async || client.rest_of(lease).await.unwrap();
        until("it runs down", async || rest().await.unwrap() <= Duration::from_secs(9)).await;
        until("it is kept", async || rest().await.unwrap() >= Duration::from_secs(9)).await;
        drop(host);
        until_said(&client, A, None).await;
        assert_eq!(rest().await, None);
    });
}

#[test]
fn more_keys_than_a_lease_may_have_get_further_ones() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut host = Host::start(&config("n1"), etcd.client());
        let count = MOST_KEYS + 100;
        for number in 0..count {
            host.comes(&format!("10.1.{}.{}", number / 256, number % 256), WEB, 7);
        }
        until("all is there", async || host.own().published.len() == count).await;
        let everything = all(&client).await;
        assert_eq!(everything.len(), count);
        let leases = host.own().leases;
        assert_eq!(leases.len(), 2);
        for lease in leases {
            let has = |key: &&KeyValue| key.lease == Some(LeaseId(lease.id));
            let keys = everything.iter().filter(has).count();
            assert!(keys <= MOST_KEYS && keys == lease.keys, "{keys} keys, {lease:?}");
        }
    });
}

#[test]
fn a_store_that_is_another_or_was_emptied_gets_all_of_it() {
    on_fresh_machine(async || {
        let mut etcd = Etcd::start().await;
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 7);
        host.comes(B, DB, 8);
        until_said(&etcd.client(), B, Some((DB, "n1"))).await;
        etcd.ctl("del --prefix cilium/");
        until_said(&etcd.client(), A, Some((WEB, "n1"))).await;
        until_said(&etcd.client(), B, Some((DB, "n1"))).await;
        etcd.replace();
        etcd.wait().await;
        until_said(&etcd.client(), A, Some((WEB, "n1"))).await;
        until_said(&etcd.client(), B, Some((DB, "n1"))).await;
        until("it says so", async || host.own().published.len() == 2).await;
    });
}

#[test]
fn the_newest_state_is_written_once_etcd_is_back() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        etcd.signal(Signal::SIGSTOP);
        host.comes(B, WEB, 8);
        until("it says that etcd is away", async || host.own().trouble.is_some()).await;
        host.goes(A);
        host.comes(B, DB, 8);
        etcd.signal(Signal::SIGCONT);
        until_said(&client, A, None).await;
        until_said(&client, B, Some((DB, "n1"))).await;
        until("it says that all is well", async || host.own().trouble.is_none()).await;
    });
}

#[test]
fn a_withdrawal_takes_all_that_is_own_while_its_lease_lives() {
    on_fresh_machine(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let mut host = Host::start(&config("n1"), etcd.client());
        let mut other = Host::start(&config("n2"), etcd.client());
        host.comes(A, WEB, 7);
        other.comes(B, DB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        until_said(&client, B, Some((DB, "n2"))).await;
        let lease = lease_of(&client, A).await;
        assert!(host.publisher.withdraw().await.unwrap() >= 2);
        assert_eq!(key_of(&client, A).await, None);
        assert_eq!(said(&client, B).await, Some((DB, "n2".to_owned())));
        assert!(client.rest_of(lease).await.unwrap().is_some());
        let mut own = Vec::new();
        client.list(keys::ALL, |page| own.extend(page)).await.unwrap();
        own.retain(|key| key.lease == Some(lease));
        assert_eq!(own, []);
        assert!(host.publisher.withdraw().await.is_err());
    });
}

#[test]
fn a_host_that_could_not_leave_publishes_on() {
    on_fresh_machine(async || {
        let mut etcd = Etcd::start().await;
        let client = etcd.client();
        let mut host = Host::start(&config("n1"), etcd.client());
        host.comes(A, WEB, 7);
        until_said(&client, A, Some((WEB, "n1"))).await;
        etcd.kill();
        until("it knows that etcd is away", async || host.own().trouble.is_some()).await;
        let left = timeout(Duration::from_secs(1), host.publisher.withdraw()).await;
        assert!(!matches!(left, Ok(Ok(_))), "nobody is there to withdraw anything");
        etcd.start_again();
        etcd.wait().await;
        host.comes(B, DB, 7);
        until_said(&client, B, Some((DB, "n1"))).await;
        assert_eq!(said(&client, A).await, Some((WEB, "n1".to_owned())));
        // It was withdrawn, and then something else has failed.
        host.publisher.withdraw().await.unwrap();
        assert_eq!(key_of(&client, A).await, None);
        host.publisher.stay();
        until_said(&client, A, Some((WEB, "n1"))).await;
        until_said(&client, B, Some((DB, "n1"))).await;
    });
}
