//! Certificates, users and roles, as `init` prints them: who may do what.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::doctor::{bad, findings};
use super::{cluster, on_fresh_machine, write_state};
use crate::common::Etcd;
use crate::common::certificates::Authority;
use crate::common::directory::Directory;
use cilmark_sync::service::state::Own;

/// Etcd by TLS, in which cluster edge has its roles, and users host-h1 and remote, by what `init` has printed.
async fn with_roles(authority: &Authority) -> (Etcd, Directory) {
    let (etcd, directory) =
        (Etcd::start_with_tls(authority, &["127.0.0.1"]).await, Directory::new());
    let file = directory.path().join("cluster.toml");
    let arguments =
        format!("init edge --id 7 --node h1 --etcd {}", as_user(&etcd, authority, "root"));
    let told = cluster(&file, &format!("{arguments} --json")).json();
    for of in ["cluster", "host"] {
        for command in told["commands"][of].as_array().unwrap() {
            etcd.ctl(command.as_str().unwrap().strip_prefix("etcdctl ").unwrap());
        }
    }
    fs::remove_file(file).unwrap();
    (etcd, directory)
}

/// A client file of a user.
fn as_user(etcd: &Etcd, authority: &Authority, user: &str) -> String {
    authority.issue(&etcd.directory, user, user, &[]);
    let text = format!(
        "endpoints: ['{}']\ntrusted-ca-file: ca.crt\ncert-file: {user}.crt\nkey-file: {user}.key\n",
        etcd.url()
    );
    etcd.directory.write(&format!("{user}.config"), text).display().to_string()
}

fn config(directory: &Directory, client_file: &str, more: &str) -> PathBuf {
    let text = format!("name = \"edge\"\nid = 7\nnode = \"h1\"\netcd = \"{client_file}\"\n{more}");
    directory.write("cluster.toml", text)
}

fn of<'a>(findings: &'a [Value], check: &str) -> Vec<&'a Value> {
    findings.iter().filter(|it| it["check"] == check).collect()
}

#[test]
fn a_host_has_the_permissions_that_it_needs() {
    on_fresh_machine(async || {
        let authority = Authority::new();
        let (etcd, directory) = with_roles(&authority).await;
        let file = directory.path().join("cluster.toml");
        let client_file = as_user(&etcd, &authority, "host-h1");
        let init = format!("init edge --id 7 --node h1 --etcd {client_file} --json");
        assert_eq!(cluster(&file, &init).json()["cluster_config"], "there");
        write_state(vec![], Own::default());
        let (all, _) = findings(&file, "");
        let permissions = of(&all, "permissions");
        assert!(matches!(permissions[..], [it] if it["level"] == "ok"), "{all:#?}");
        assert!(bad(&all).iter().all(|it| it["check"] == "service" || it["check"] == "heartbeat"));
        let certificates = of(&all, "certificate");
        assert_eq!(certificates.len(), 2, "{all:#?}");
        assert!(
            certificates[0]["says"].as_str().unwrap().contains("host-h1.crt (host-h1) is valid")
        );

        // And no others: it is no reader's business, but the cluster's configuration of others is not its own.
        let ctl = |user: &str, arguments: &str| {
            let mut command = Command::new("etcdctl");
            let path = etcd.directory.path().display();
            command.env("ETCDCTL_API", "3").args([
                format!("--endpoints={}", etcd.url()),
                format!("--cacert={path}/ca.crt"),
                format!("--cert={path}/{user}.crt"),
                format!("--key={path}/{user}.key"),
            ]);
            let output = command.args(arguments.split(' ')).output().unwrap();
            output.status.success()
        };
        as_user(&etcd, &authority, "remote");
        for (user, arguments, may) in [
            ("host-h1", "put cilium/state/ip/v1/default/10.0.0.1 x", true),
            ("host-h1", "put cilium/state/identities/v1/id/458753 x", true),
            ("host-h1", "put cilium/state/identities/v1/value/x/h1 x", true),
            ("host-h1", "put cilium/state/identities/v1/locks/x/1 x", true),
            ("host-h1", "put cilium/cluster-config/edge {\"id\":7}", true),
            ("host-h1", "put cilium/.heartbeat x", true),
            ("host-h1", "put cilium/.cilmark-node/h1 x", true),
            ("host-h1", "get --prefix cilium/", true),
            ("host-h1", "put cilium/cluster-config/other x", false),
            ("host-h1", "put cilium/state/nodes/v1/edge/h1 x", false),
            ("host-h1", "put other x", false),
            ("host-h1", "get --prefix c", false),
            ("remote", "get cilium/.heartbeat", true),
            ("remote", "get --prefix cilium/state/ip/v1/default/", true),
            ("remote", "get --prefix cilium/state/nodes/v1/edge/", true),
            ("remote", "get cilium/cluster-config/edge", true),
            ("remote", "get --prefix cilium/synced/edge/", true),
            ("remote", "get cilium/.cilmark-node/h1", false),
            ("remote", "put cilium/state/ip/v1/default/10.0.0.1 x", false),
            ("remote", "put cilium/.heartbeat x", false),
        ] {
            assert_eq!(ctl(user, arguments), may, "{user} {arguments}");
        }
    });
}

#[test]
fn a_reader_is_told_what_it_may_not_do() {
    on_fresh_machine(async || {
        let authority = Authority::new();
        let (etcd, directory) = with_roles(&authority).await;
        let client_file = as_user(&etcd, &authority, "remote");
        let file = directory.path().join("cluster.toml");
        let init = cluster(&file, &format!("init edge --id 7 --node h1 --etcd {client_file}"));
        init.fails(1, &["may not read all of cilium/", "it needs the role cilmark-host"]);
        assert!(!file.exists());

        let file = config(&directory, &client_file, "");
        let (all, has_failed) = findings(&file, "");
        let permissions = of(&all, "permissions");
        let [it] = permissions[..] else { panic!("{all:#?}") };
        let says = it["says"].as_str().unwrap();
        assert!(has_failed && it["level"] == "problem", "{all:#?}");
        for key in
            ["cilium/state/ip/v1/default/", "cilium/state/identities/v1/id/", "cilium/.heartbeat"]
        {
            assert!(says.contains(key), "no {key} in {says}");
        }
        let (all, _) = findings(&config(&directory, &client_file, "publish = false\n"), "");
        assert!(of(&all, "permissions").is_empty(), "{all:#?}");
    });
}

#[test]
fn who_may_not_read_is_told_which_prefix() {
    on_fresh_machine(async || {
        let authority = Authority::new();
        let (etcd, directory) = with_roles(&authority).await;
        let client_file = as_user(&etcd, &authority, "remote");
        etcd.ctl("role revoke-permission --prefix remote cilium/state/");
        etcd.ctl("role grant-permission --prefix remote read cilium/state/ip/v1/default/");
        let (all, has_failed) = findings(&config(&directory, &client_file, ""), "");
        let denied: Vec<&str> = of(&all, "list")
            .into_iter()
            .filter(|it| it["level"] == "problem")
            .map(|it| it["says"].as_str().unwrap())
            .collect();
        assert!(has_failed, "{all:#?}");
        for word in ["nodes", "services", "identities"] {
            assert!(denied.iter().any(|it| it.starts_with(word)), "{word}: {denied:?}");
        }
    });
}

#[test]
fn certificates_that_nobody_takes_are_told() {
    on_fresh_machine(async || {
        let authority = Authority::new();
        let (etcd, directory) = with_roles(&authority).await;
        let client_file = as_user(&etcd, &authority, "host-h1");
        let file = config(&directory, &client_file, "");
        Authority::new().issue(&etcd.directory, "host-h1", "host-h1", &[]);
        let (all, has_failed) = findings(&file, "");
        let connection = of(&all, "connection");
        assert!(has_failed && connection.len() == 1, "{all:#?}");
        fs::write(etcd.directory.path().join("host-h1.crt"), "none").unwrap();
        let (all, _) = findings(&file, "");
        let told = bad(&all).into_iter().any(|it| {
            it["check"] == "certificate" && it["says"].as_str().unwrap() == "host-h1.crt is none"
        });
        assert!(told, "{all:#?}");
    });
}
