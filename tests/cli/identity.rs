//! Names of identities: declared, listed, and used wherever an identity is read or printed.

use cilmark::model::identity::Identity;
use cilmark::ops::cluster::labels;
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

#[test]
fn labels_of_a_cluster_stand_wherever_the_number_does() {
    let Some(world) = World::new() else { return };
    let root = world.root();
    world.veth("red");
    root.prepare(false).expect("the root");
    let (web, db) = (Identity(196_701), Identity(196_702));
    let said = [(web, Some("app=web".to_owned())), (db, Some("app=db,tier=back".to_owned()))];
    assert_eq!(labels::apply(&root, &said).expect("write the labels"), 0);
    world.cilmark_ok("identity set 196702 db");
    world.cilmark_ok("attach red --id 196701 --ip 10.0.0.1");
    world.cilmark_ok("ipcache set 10.0.0.2 db");
    world.cilmark_ok("policy add red allow egress to db tcp/5432");
    world.cilmark_ok("policy add red allow ingress from 196701 tcp/80");
    assert_eq!(
        world.cilmark_json("identity list"),
        json!([
            {"identity": 196_701, "name": null, "labels": "app=web"},
            {"identity": 196_702, "name": "db", "labels": "app=db,tier=back"}
        ])
    );
    let list = world.cilmark_ok("identity list");
    assert!(list.contains("196701          app=web\n196702    db    app=db,tier=back\n"), "{list}");
    let status = world.status("red");
    assert_eq!((&status["name"], &status["identity_labels"]), (&json!(null), &json!("app=web")));
    let text = world.cilmark_ok("status");
    assert!(text.contains("196701 (app=web)"), "{text}");
    let lines = world.cilmark_json("ipcache list");
    assert_eq!((&lines[0]["name"], &lines[0]["labels"]), (&json!(null), &json!("app=web")));
    assert_eq!(
        (&lines[1]["name"], &lines[1]["labels"]),
        (&json!("db"), &json!("app=db,tier=back"))
    );
    let rules = world.cilmark_json("policy list red");
    assert_eq!(rules[1]["rule"], "allow ingress from 196701 tcp/80", "as it is to be written");
    assert_eq!(rules[1]["peer_labels"], "app=web");
    let text = world.cilmark_ok("policy list red");
    assert!(text.contains("from 196701 tcp/80 (app=web)"), "{text}");

    // They keep the root, as names do, and go one by one.
    world.cilmark_ok("identity del db");
    world.cilmark_ok("ipcache del 10.0.0.2");
    world.cilmark_ok("detach red");
    assert!(root.map("cm_id_labels").exists());
    let other = [(web, None), (db, Some("app=other".to_owned()))];
    assert_eq!(labels::apply(&root, &other).expect("write the labels"), 0);
    let expected = json!([{"identity": 196_702, "name": null, "labels": "app=other"}]);
    assert_eq!(world.cilmark_json("identity list"), expected);
    labels::apply(&root, &[(db, None)]).expect("forget them");
    assert!(!root.path().exists());
}
