//! Identities by labels, where cilmark-sync is away: `attach --labels`, `apply`.

use std::fs;

use serde_json::{Value, json};

use crate::common::World;
use crate::common::world::mount_fresh;

/// A machine whose labels had these numbers last, if it is in a cluster.
fn host(numbers: Option<Value>) -> Option<World> {
    let world = World::new()?;
    mount_fresh("tmpfs", "/var/lib");
    fs::create_dir("/var/lib/cilmark").expect("create a directory");
    if let Some(numbers) = numbers {
        fs::write("/var/lib/cilmark/identities.json", numbers.to_string()).expect("write");
    }
    world.veth("red");
    Some(world)
}

#[test]
fn labels_make_no_identity_on_a_host_of_no_cluster() {
    let Some(world) = host(None) else { return };
    let run = world.cilmark("attach red --labels app=web");
    run.fails(1, &["app=web", "in none", "--id", "cilmark cluster init"]);
    assert_eq!(world.pins(), [""; 0]);
    world.cilmark_ok("attach red --id 300 --labels app=web");
    assert_eq!(world.status("red")["identity"], 300);
}

#[test]
fn with_cilmark_sync_away_labels_have_the_number_that_they_had_last() {
    let Some(world) = host(Some(json!({"app=web,tier=front": 196_701}))) else { return };
    let run = world.cilmark("attach red --role container --labels tier=front,app=web");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("it gets 196701, which they had last"), "{run:?}");
    assert_eq!(world.status("red")["identity"], 196_701);
    // What makes the identity is said again by none of these.
    world.cilmark_ok("attach red --keep --arp-responder");
    assert_eq!(world.status("red")["identity"], 196_701);
    world.cilmark_ok("attach red --id 300");
    assert_eq!(world.status("red")["identity"], 300);
}

#[test]
fn labels_without_a_number_make_an_init_that_enforces() {
    let Some(world) = host(Some(json!({}))) else { return };
    let run = world.cilmark("attach red --labels app=web");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("5 (init)"), "{run:?}");
    let status = world.status("red");
    assert_eq!(status["identity"], 5, "{status}");
    let modes = [&status["ingress_policy"], &status["egress_policy"]];
    assert_eq!(modes, [&json!("enforce"); 2], "{status}");
    // What it was asked to be is another thing.
    assert_eq!(world.cilmark_json("status red --spec")["policy"], Value::Null);
}

#[test]
fn a_file_may_leave_the_identity_to_the_labels() {
    let Some(world) = host(Some(json!({"app=web": 196_701}))) else { return };
    let file = "version = 1\n[[endpoint]]\ndevice = \"red\"\nlabels = { app = \"web\" }\n";
    let apply = || world.cilmark_with_input("apply - --json", file);
    assert_eq!(apply().status, Some(0));
    assert_eq!(world.status("red")["identity"], 196_701);
    let run = apply();
    assert!(run.status == Some(0) && run.stderr.contains("nothing to change"), "{run:?}");
    let exported = world.cilmark_ok("export");
    assert!(exported.contains("app = \"web\"") && !exported.contains("id ="), "{exported}");
    // Another number is another identity.
    fs::write("/var/lib/cilmark/identities.json", json!({"app=web": 196_702}).to_string()).unwrap();
    assert_eq!(apply().status, Some(0));
    assert_eq!(world.status("red")["identity"], 196_702);
}
