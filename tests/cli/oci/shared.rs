//! Containers that share a network: `--network container:X`, and pods.

use serde_json::json;

use super::{Container, id, world};

#[test]
fn they_have_one_identity_and_it_goes_with_the_last() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let [first, second, third] =
        ["c1", "c2", "c3"].map(|name| Container::new(name, "red").with(id(300)));
    first.created();
    second.created();
    third.created();
    let status = world.status("red");
    assert_eq!(
        (&status["owner"], &status["birth"]["sharers"]),
        (&json!("c1"), &json!(["c2", "c3"]))
    );
    first.stopped();
    let status = world.status("red");
    assert_eq!((&status["owner"], &status["identity"]), (&json!("c2"), &json!(300)));
    assert_eq!(status["birth"]["sharers"], json!(["c3"]), "{status}");
    third.stopped();
    assert_eq!(world.status("red")["owner"], "c2");
    second.stopped();
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn another_identity_is_refused_and_the_first_stays() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let first = Container::new("c1", "red").with(id(300));
    first.created();
    let run = Container::new("c2", "red").with(id(301)).create("");
    run.fails(1, &["c2", "c1", "300", "301", "one identity"]);
    // One that names none is in a network that has one.
    let silent = Container::new("c3", "red");
    silent.created();
    let status = world.status("red");
    assert_eq!((&status["identity"], &status["owner"]), (&json!(300), &json!("c1")), "{status}");
    Container::new("c2", "red").stopped();
    assert_eq!(world.status("red")["identity"], 300);
    first.stopped();
    silent.stopped();
    assert_eq!(world.pins(), [""; 0]);
}
