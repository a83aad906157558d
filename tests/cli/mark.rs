//! `mark encode|decode`, which needs no privilege unless a declared name is to be read.

use serde_json::json;

use crate::common::World;
use crate::common::process::{Run, cilmark};

fn mark(arguments: &[&str]) -> Run {
    let mut all = vec!["mark"];
    all.extend(arguments);
    cilmark(&all).output().expect("run cilmark").into()
}

#[test]
fn an_identity_is_encoded_by_number_and_by_reserved_name() {
    for (identity, expected) in [
        ("1234", "0x04d20f00\n"),
        ("199472", "0x0b300f03\n"),
        ("0x30b30", "0x0b300f03\n"),
        ("world", "0x00020f00\n"),
        ("16777215", "0xffff0fff\n"),
    ] {
        let run = mark(&["encode", identity]);
        assert_eq!((run.status, run.stdout.as_str()), (Some(0), expected), "{identity}");
    }
}

#[test]
fn an_identity_that_would_decode_as_another_is_refused() {
    mark(&["encode", "16777217"]).fails(1, &["16777217", "16777215"]);
}

#[test]
fn a_mark_is_decoded_with_all_that_it_carries() {
    for (mark_text, expected) in [
        ("0x04d20f00", "0x04d20f00: IDENTITY, identity 1234\n"),
        ("0x00020f00", "0x00020f00: IDENTITY, identity 2 (world)\n"),
        ("0xc00", "0x00000c00: HOST, identity 1 (host)\n"),
        ("0x901f0200", "0x901f0200: TO_PROXY, port 8080\n"),
        ("0x3e00", "0x00003e00: ENCRYPT, key 3\n"),
        ("0x80000", "0x00080000: not one of ours\n"),
        ("80875264", "0x04d20f00: IDENTITY, identity 1234\n"),
    ] {
        let run = mark(&["decode", mark_text]);
        assert_eq!((run.status, run.stdout.as_str()), (Some(0), expected), "{mark_text}");
    }
}

#[test]
fn what_is_no_mark_is_a_usage_error() {
    mark(&["decode", "0x1ffffffff"]).fails(2, &["0x1ffffffff", "32 bits"]);
}

#[test]
fn json_is_the_same_both_ways() {
    let expected = json!({"identity": 1234, "mark": "0x04d20f00", "magic": "IDENTITY"});
    for arguments in [["encode", "1234", "--json"], ["decode", "0x04d20f00", "--json"]] {
        let printed: serde_json::Value = serde_json::from_str(&mark(&arguments).stdout).unwrap();
        assert_eq!(printed, expected);
    }
    let stranger = mark(&["decode", "0x80000", "--json"]).stdout;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&stranger).unwrap(),
        json!({"identity": null, "mark": "0x00080000", "magic": null})
    );
}

#[test]
fn declared_names_are_read_and_printed() {
    let Some(world) = World::new() else { return };
    world.cilmark_ok("identity set 1234 db");
    assert_eq!(world.cilmark_ok("mark encode db"), "0x04d20f00\n");
    assert_eq!(
        world.cilmark_ok("mark decode 0x04d20f00"),
        "0x04d20f00: IDENTITY, identity 1234 (db)\n"
    );
    world.cilmark("mark encode web").fails(1, &["`web`", "cilmark identity list"]);
}
