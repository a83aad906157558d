//! Leases.

use std::time::Duration;

use cilmark_sync::etcd::{Change, Error, LeaseId};

use crate::common::Etcd;
use crate::common::machine::{alone, until};

#[test]
fn a_lease_lasts_as_long_as_it_is_kept_and_its_keys_go_with_it() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let lease = client.grant(Duration::from_secs(2)).await.unwrap();
        let other = client.grant(Duration::from_millis(599_001)).await.unwrap();
        assert_eq!(client.rest_of(other).await.unwrap(), Some(Duration::from_secs(599)));
        let put = client.put("k", "v", Some(lease)).await.unwrap();
        assert_eq!(client.get("k").await.unwrap().1.unwrap().lease, Some(lease));
        assert_eq!(client.keep(lease).await.unwrap(), Duration::from_secs(2));

        let mut watch = client.watch("k", put.revision + 1).await.unwrap();
        let watched = watch.next().await.unwrap();
        let [Change::Deleted { key, before: Some(before), revision }] = &watched.changes[..] else {
            panic!("{watched:?}");
        };
        assert_eq!(
            (key.as_str(), before.lease, *revision),
            ("k", Some(lease), watched.header.revision)
        );
        // Who has seen the end of a key can ask whether its lease has ended it.
        assert_eq!(client.rest_of(lease).await.unwrap(), None);
        assert!(matches!(client.keep(lease).await, Err(Error::NoLease)));
        assert!(matches!(client.put("k", "v", Some(lease)).await, Err(Error::NoLease)));
        assert_eq!(client.get("k").await.unwrap().1, None);
        assert!(client.rest_of(other).await.unwrap().is_some());
    });
}

#[test]
fn a_lease_is_over_when_it_is_revoked_and_one_that_never_was_is_too() {
    alone(async || {
        let etcd = Etcd::start().await;
        let client = etcd.client();
        let lease = client.grant(Duration::from_secs(600)).await.unwrap();
        client.put("k", "v", Some(lease)).await.unwrap();
        client.revoke(lease).await.unwrap();
        assert_eq!(client.get("k").await.unwrap().1, None);
        for over in [lease, LeaseId(12345)] {
            assert_eq!(client.rest_of(over).await.unwrap(), None);
            assert!(matches!(client.keep(over).await, Err(Error::NoLease)));
            assert!(matches!(client.revoke(over).await, Err(Error::NoLease)));
        }
    });
}

#[test]
fn a_lease_and_its_keys_outlive_a_restart_of_etcd() {
    alone(async || {
        let mut etcd = Etcd::start().await;
        let client = etcd.client();
        let lease = client.grant(Duration::from_secs(600)).await.unwrap();
        client.put("k", "v", Some(lease)).await.unwrap();
        etcd.start_again();
        until("the lease is kept", async || client.keep(lease).await.is_ok()).await;
        assert!(client.get("k").await.unwrap().1.is_some());
    });
}
