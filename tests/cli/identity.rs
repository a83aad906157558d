//! Names of identities: declared, listed, and used wherever an identity is read or printed.

use serde_json::json;

use crate::common::World;

#[test]
fn names_are_declared_replaced_listed_and_deleted() {
    let Some(world) = World::new() else { return };
    assert_eq!(world.cilmark_json("identity list"), json!([]));
    for line in ["301 web", "300 db", "301 web-2"] {
        world.cilmark_ok(&format!("identity set {line}"));
    }
    assert_eq!(
        world.cilmark_json("identity list"),
        json!([{"identity": 300, "name": "db"}, {"identity": 301, "name": "web-2"}])
    );
    assert_eq!(
        world.cilmark_ok("identity list"),
        "IDENTITY  NAME\n300       db\n301       web-2\n"
    );
    world.cilmark("identity set 302 db").fails(1, &["`db`", "300", "identity del 300"]);
    world.cilmark_ok("identity del db");
    world.cilmark_ok("identity del 301");
    world.cilmark("identity del 301").fails(1, &["301", "no declared name"]);
    world.cilmark("identity del world").fails(1, &["2", "no declared name"]);
    assert_eq!(world.cilmark_json("identity list"), json!([]));
}

#[test]
fn a_name_is_read_wherever_an_identity_is_and_printed_beside_it() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("identity set 300 db");
    let said = world.cilmark("attach red --id db --ip 10.0.0.1").stderr;
    assert!(said.contains("identity 300 (db)"), "{said}");
    world.cilmark_ok("ipcache set 10.0.0.2 db");
    let status = world.status("red");
    assert_eq!((&status["identity"], &status["name"]), (&json!(300), &json!("db")));
    assert!(world.cilmark_ok("status").contains("300 (db)"));
    for line in world.cilmark_json("ipcache list").as_array().unwrap() {
        assert_eq!((&line["identity"], &line["name"]), (&json!(300), &json!("db")));
    }
    world.cilmark_ok("identity set 300 database");
    assert_eq!(world.status("red")["name"], "database", "names are looked up, not stored");
}

#[test]
fn names_outlive_the_last_endpoint() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("identity set 300 db");
    world.cilmark_ok("detach red");
    assert_eq!(world.cilmark_json("identity list"), json!([{"identity": 300, "name": "db"}]));
    world.cilmark_ok("attach red --id db");
    assert_eq!(world.status("red")["identity"], 300);
}
