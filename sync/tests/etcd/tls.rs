//! TLS, and users, who are the common names of certificates.

use cilmark_sync::etcd::{Client, Error};

use crate::common::Etcd;
use crate::common::certificates::Authority;
use crate::common::machine::{alone, until};
use crate::common::server::TLS;

/// Has users with roles as clustermesh-apiserver has them.
fn with_roles(etcd: &Etcd) {
    for command in [
        "user add root --no-password",
        "user grant-role root root",
        "role add remote",
        "role grant-permission remote read cilium/.heartbeat",
        "role grant-permission remote --prefix read cilium/state/",
        "user add remote --no-password",
        "user grant-role remote remote",
        "put cilium/state/k v",
        "put cilium/other v",
        "auth enable",
    ] {
        etcd.ctl(command);
    }
}

async fn reads(client: &Client) -> bool {
    client.get("cilium/state/k").await.is_ok()
}

#[test]
fn the_user_is_the_common_name_and_may_do_what_its_role_says() {
    alone(async || {
        let authority = Authority::new();
        let etcd = Etcd::start_with_tls(&authority, &["127.0.0.1"]).await;
        with_roles(&etcd);
        assert_eq!(etcd.client().get("cilium/other").await.unwrap().1.unwrap().value, b"v");

        authority.issue(&etcd.directory, "remote", "remote", &[]);
        let remote = TLS.replace("/client.", "/remote.");
        let client = etcd.client_by(&format!("endpoints: ['{}']\n{remote}", etcd.url()), &[]);
        let mut keys = Vec::new();
        let header = client.list("cilium/state/", |page| keys.extend(page)).await.unwrap();
        assert_eq!((keys.len(), keys[0].key.as_str()), (1, "cilium/state/k"));
        assert_eq!(client.header().await.unwrap(), header);
        client.watch("cilium/state/", header.revision + 1).await.unwrap();
        let denied = [
            client.get("cilium/other").await.err(),
            client.list("cilium/", |_| panic!("a page")).await.err(),
            client.put("cilium/state/k", "v", None).await.err(),
            client.delete("cilium/state/k").await.err(),
            client.watch("cilium/", header.revision + 1).await.err(),
        ];
        for (number, error) in denied.into_iter().enumerate() {
            assert!(matches!(error, Some(Error::Denied(_))), "{number}: {error:?}");
        }
        // Nobody knows this one.
        authority.issue(&etcd.directory, "remote", "stranger", &[]);
        let client = etcd.client_by(&format!("endpoints: ['{}']\n{remote}", etcd.url()), &[]);
        let error = client.get("cilium/state/k").await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error}");
    });
}

#[test]
fn a_server_of_another_name_or_authority_is_not_believed() {
    alone(async || {
        let authority = Authority::new();
        let etcd = Etcd::start_with_tls(&authority, &["127.0.0.1", "c1.mesh.cilium.io"]).await;
        let names = [("c1.mesh.cilium.io", "127.0.0.1"), ("c2.mesh.cilium.io", "127.0.0.1")];
        let by = |name: &str| {
            etcd.client_by(&format!("endpoints: ['https://{name}:2379']\n{TLS}"), &names)
        };
        by("c1.mesh.cilium.io").header().await.unwrap();
        let error = by("c2.mesh.cilium.io").header().await.unwrap_err();
        assert!(
            matches!(&error, Error::Unavailable(why) if why.contains("certificate not valid for name")),
            "{error}"
        );

        let client = etcd.client();
        Authority::new().write(&etcd.directory);
        let error = client.header().await.unwrap_err();
        assert!(
            matches!(&error, Error::Unavailable(why) if why.contains("invalid peer certificate")),
            "{error}"
        );
    });
}

#[test]
fn who_has_no_certificate_is_told_so() {
    alone(async || {
        let authority = Authority::new();
        let etcd = Etcd::start_with_tls(&authority, &["127.0.0.1"]).await;
        let client =
            etcd.client_by(&format!("endpoints: ['{}']\ntrusted-ca-file: ca.crt", etcd.url()), &[]);
        let error = client.header().await.unwrap_err();
        assert!(
            matches!(&error, Error::Unavailable(why) if why.to_lowercase().contains("certificate")),
            "{error}"
        );
    });
}

#[test]
fn certificates_are_read_again_for_the_next_connection() {
    alone(async || {
        let authority = Authority::new();
        let mut etcd = Etcd::start_with_tls(&authority, &["127.0.0.1"]).await;
        let client = etcd.client();
        client.put("cilium/state/k", "v", None).await.unwrap();

        // All of them, also the authority's own.
        let next = Authority::new();
        next.write(&etcd.directory);
        next.issue(&etcd.directory, "server", "etcd", &["127.0.0.1"]);
        next.issue(&etcd.directory, "client", "root", &[]);
        assert!(reads(&client).await, "the connection that there is goes on");
        etcd.start_again();
        until("it reads", async || reads(&client).await).await;

        // One that is not there for a moment is no end.
        let key = etcd.directory.path().join("client.key");
        let kept = std::fs::read(&key).unwrap();
        std::fs::remove_file(&key).unwrap();
        etcd.start_again();
        let error = client.get("k").await.unwrap_err();
        assert!(error.to_string().contains("client.key"), "{error}");
        std::fs::write(&key, kept).unwrap();
        until("it reads", async || reads(&client).await).await;
    });
}
