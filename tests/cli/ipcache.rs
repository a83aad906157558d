//! `ipcache set|get|del|list|flush`.

use serde_json::json;

use crate::common::World;

#[test]
fn what_is_set_is_listed_and_found_by_the_longest_prefix() {
    let Some(world) = World::new() else { return };
    for line in
        ["10.0.0.0/8 300", "10.1.0.0/16 301", "10.1.2.3 302", "fd00::/64 303", "fd00::1 world"]
    {
        world.cilmark_ok(&format!("ipcache set {line}"));
    }
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([
            {"prefix": "10.0.0.0/8", "identity": 300, "name": null},
            {"prefix": "10.1.0.0/16", "identity": 301, "name": null},
            {"prefix": "10.1.2.3", "identity": 302, "name": null},
            {"prefix": "fd00::/64", "identity": 303, "name": null},
            {"prefix": "fd00::1", "identity": 2, "name": "world"},
        ])
    );
    for (address, prefix, identity) in [
        ("10.9.9.9", "10.0.0.0/8", 300),
        ("10.1.9.9", "10.1.0.0/16", 301),
        ("10.1.2.3", "10.1.2.3", 302),
        ("fd00::2", "fd00::/64", 303),
        ("fd00::1", "fd00::1", 2),
    ] {
        let found = world.cilmark_json(&format!("ipcache get {address}"));
        assert_eq!(found[0]["prefix"], prefix, "{address}");
        assert_eq!(found[0]["identity"], identity, "{address}");
    }
    world.cilmark("ipcache get 192.0.2.1").fails(1, &["192.0.2.1", "world"]);
}

#[test]
fn the_table_has_a_heading_and_a_line_for_each_entry() {
    let Some(world) = World::new() else { return };
    assert_eq!(world.cilmark_ok("ipcache list"), "PREFIX  IDENTITY  NAME\n");
    world.cilmark_ok("identity set 300 db");
    world.cilmark_ok("ipcache set 10.0.0.0/8 db");
    assert_eq!(
        world.cilmark_ok("ipcache list"),
        "PREFIX      IDENTITY  NAME\n10.0.0.0/8  300       db\n"
    );
}

#[test]
fn setting_again_replaces_and_deleting_removes_just_that_prefix() {
    let Some(world) = World::new() else { return };
    for line in ["10.0.0.0/8 300", "10.0.0.0/8 301", "10.0.0.0/16 302", "10.0.0.0 303"] {
        world.cilmark_ok(&format!("ipcache set {line}"));
    }
    world.cilmark("ipcache del 10.0.0.0/12").fails(1, &["10.0.0.0/12", "ipcache list"]);
    world.cilmark_ok("ipcache del 10.0.0.0/16");
    world.cilmark("ipcache del 10.0.0.0/16").fails(1, &["10.0.0.0/16 is not in the ipcache"]);
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([
            {"prefix": "10.0.0.0/8", "identity": 301, "name": null},
            {"prefix": "10.0.0.0", "identity": 303, "name": null},
        ])
    );
}

#[test]
fn an_endpoints_addresses_are_its_own() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1");
    world.cilmark_ok("ipcache set 10.0.0.1 300");
    world.cilmark("ipcache set 10.0.0.1 301").fails(1, &["endpoint 1", "identity 300"]);
    world.cilmark("ipcache del 10.0.0.1").fails(1, &["10.0.0.1", "belongs to endpoint 1"]);
    let load = world.cilmark_with_input("ipcache load -", "10.0.0.2 301\n10.0.0.1 301\n");
    load.fails(1, &["10.0.0.1 is an address of endpoint 1"]);
    world.cilmark_ok("ipcache set 10.0.0.0/8 302");
    world.cilmark_ok("ipcache set 10.0.0.3 302");
    world.cilmark_ok("ipcache flush");
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([{"prefix": "10.0.0.1", "identity": 300, "name": null}])
    );
    world.cilmark_ok("detach red");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn flush_tells_how_many_it_removed() {
    let Some(world) = World::new() else { return };
    world.cilmark_with_input("ipcache load -", "10.0.0.1 7\n10.0.0.0/8 7\nfd00::/64 7\n");
    assert_eq!(world.cilmark("ipcache flush").stderr, "removed 3 entries\n");
    assert_eq!(world.cilmark_json("ipcache list"), json!([]));
}
