//! `policy test`: what it reads, whom it judges, and what it says.

use std::fs;
use std::process::Output;

use crate::common::World;
use crate::common::process::{Run, text};
use crate::common::traffic::{Connection, HOST, listen};

const FILE: &str = "/run/netns/cilmark.toml";
const RULES: &str = "/run/netns/r.txt";

/// A host whose NIC is `red`, with one connection from outside.
fn connected() -> Option<(World, Connection)> {
    let world = World::new()?;
    world.workload("red", 1);
    let server = listen(&world, HOST, 5001);
    let connection = Connection::open(&world, "red", &server, "10.1.0.1");
    Some((world, connection))
}

/// The NIC, with these lines.
fn nic(lines: &str) {
    let file = format!("version = 1\n[[endpoint]]\ndevice = \"red\"\nrole = \"netdev\"\n{lines}\n");
    fs::write(FILE, file).expect("write");
}

fn test(world: &World, arguments: &str) -> Run {
    world.cilmark(&format!("policy test {FILE} {arguments}"))
}

#[test]
fn status_4_says_that_something_would_be_cut_and_the_summary_what() {
    let Some((world, _connection)) = connected() else { return };
    nic("policy = \"enforce\"\nrules = [\"allow ingress from world tcp/5001\"]");
    let run = test(&world, "");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(
        run.stderr.contains("1 flow: 1 allowed, 0 without a rule, 0 denied, 0 unknown"),
        "{run:?}"
    );
    let row = "allow    allow ingress from world tcp/5001";
    assert!(run.stdout.lines().nth(1).is_some_and(|line| line.ends_with(row)), "{run:?}");
    nic("policy = \"enforce\"\nadopt = \"0s\"");
    let run = test(&world, "");
    assert_eq!(run.status, Some(4), "{run:?}");
    assert!(
        run.stdout.contains("no-rule  to allow it: allow ingress from world tcp/5001"),
        "{run:?}"
    );
    assert!(run.stderr.contains("without a rule: 1 are cut at once; 0 are adopted"), "{run:?}");
    nic("policy = \"enforce\"");
    let run = test(&world, "--only allow");
    assert_eq!((run.status, run.stdout.lines().count()), (Some(4), 1), "{run:?}");
    assert!(
        run.stderr.contains(
            "0 are cut at once; 0 are adopted: they go on, new ones like them are refused (--adopt)\n\
             1 more are adopted only if a packet of theirs comes while flows are adopted"
        ),
        "{run:?}"
    );
    let run = test(&world, "--only no-rule");
    assert!(run.stdout.contains("adopted if it sends within 30s; to allow it: "), "{run:?}");
}

#[test]
fn a_direction_that_is_off_is_left_out_and_a_policy_that_is_off_judged_as_enforced() {
    let Some((world, _connection)) = connected() else { return };
    nic("policy = { egress = \"enforce\" }");
    let run = test(&world, "");
    assert_eq!((run.status, run.stdout.lines().count()), (Some(0), 1), "{run:?}");
    assert!(
        run.stderr.contains("red: the policy of ingress is off, and its flows are left out"),
        "{run:?}"
    );
    nic("rules = [\"deny ingress from any\"]");
    let run = test(&world, "");
    assert_eq!(run.status, Some(4), "{run:?}");
    assert!(
        run.stderr.contains("red: the policy is off, and judged as if it enforced both"),
        "{run:?}"
    );
}

#[test]
fn rules_for_a_device_are_judged_beside_those_of_its_identity() {
    let Some((world, _connection)) = connected() else { return };
    let run = world.cilmark_with_input("policy test - red", "allow ingress from any");
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("nobody knows its addresses: attach it, or test a file"),
        "{run:?}"
    );
    world.cilmark_ok("attach red --role netdev --policy audit");
    world.cilmark_ok("policy add red allow ingress from any tcp/5001");
    // Its own are replaced.
    let run = world.cilmark_with_input("policy test - red", "allow ingress from any tcp/5002");
    assert_eq!(run.status, Some(4), "{run:?}");
    world.cilmark_ok("policy add @host deny ingress from any tcp/5001");
    let run = world.cilmark_with_input("policy test - id:1", "allow ingress from any tcp/5001");
    assert!(run.stdout.contains("deny     deny ingress from any tcp/5001"), "{run:?}");
    world.cilmark_ok("policy del @host deny ingress from any tcp/5001");
    let run = world.cilmark_with_input("policy test - red", "# all\n\nallow ingress from any\n");
    assert_eq!(run.status, Some(0), "{run:?}");
    let run = world.cilmark_with_input("policy test - red", "allow ingress from any\nallow all\n");
    assert!(run.status == Some(1) && run.stderr.contains("line 2"), "{run:?}");
    assert_eq!(world.status("red")["ingress_policy"], "audit");
}

#[test]
fn identities_are_those_of_the_file_over_those_that_are_there() {
    let Some((world, _connection)) = connected() else { return };
    world.cilmark_ok("ipcache set 10.1.0.0/24 300");
    let rules =
        "policy = \"enforce\"\nrules = [\"allow ingress from 300\", \"deny ingress from 301\"]";
    for (lines, wanted) in [
        ("", "300"),
        ("[ipcache]\n\"10.1.0.10\" = 301", "301"),
        ("[identities]\noffice = 301\n[ipcache]\n\"10.1.0.0/25\" = \"office\"", "301 (office)"),
        ("[ipcache]\n\"10.0.0.0/8\" = 301", "300"),
    ] {
        nic(&format!("{rules}\n{lines}"));
        let run = test(&world, "");
        let row = run.stdout.lines().nth(1).unwrap_or_default();
        assert!(row.contains(&format!("  {wanted}  ")), "{wanted}: {run:?}");
        assert_eq!(run.status, Some(if wanted == "300" { 0 } else { 4 }), "{run:?}");
    }
}

#[test]
fn whoever_carries_an_identity_whose_rules_the_file_names_is_judged() {
    let Some((world, _connection)) = connected() else { return };
    world.cilmark_ok(
        "attach red --id 400 --ip 10.1.0.10 --policy audit --rule allow egress to host",
    );
    fs::write(FILE, "version = 1\n[rules]\n400 = [\"deny egress to any tcp/5001\"]\n").unwrap();
    let run = test(&world, "");
    assert!(run.stdout.contains("deny     deny egress to any tcp/5001"), "{run:?}");
    fs::write(FILE, "version = 1\n[rules]\n401 = [\"deny egress to any tcp/5001\"]\n").unwrap();
    test(&world, "").fails(1, &["nothing was tested: ", "nobody here carries an identity"]);
}

#[test]
fn the_rules_that_are_there_are_judged_by_pasting() {
    let Some((world, _connection)) = connected() else { return };
    world.cilmark_ok("attach red --role netdev --policy audit");
    let page = include_str!("../../docs/policy-test.md");
    let line = page.lines().find(|line| line.starts_with("cilmark export")).expect("the line");
    let command = line.split('#').next().unwrap();
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let folder = binary.strip_suffix("/cilmark").unwrap();
    let paste = || -> Output { world.try_sh(&format!("PATH={folder}:$PATH; {command}")) };
    let output = paste();
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    world.cilmark_ok("policy add red allow ingress from world tcp/5001");
    assert_eq!(paste().status.code(), Some(0));
}

#[test]
fn what_is_no_file_of_rules_or_no_device_is_refused() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    nic("policy = \"enforce\"");
    fs::write(RULES, "allow ingress from any\n").expect("write");
    for (arguments, words) in [
        (format!("{FILE} nothing"), "the file has no endpoint for nothing"),
        ("/run/netns/none.toml".to_owned(), "read /run/netns/none.toml"),
        ("/run/netns/none red".to_owned(), "read /run/netns/none"),
        (format!("{FILE} id:7"), "7"),
        (
            RULES.to_owned(),
            "if this is a file of rules, name the device: `cilmark policy test /run/netns/r.txt DEV`",
        ),
    ] {
        let run = world.cilmark(&format!("policy test {arguments}"));
        assert!(run.status == Some(1) && run.stderr.contains(words), "{arguments}: {run:?}");
    }
    let run = world.cilmark(&format!("policy test {FILE} --only bad"));
    assert_eq!(run.status, Some(2), "{run:?}");
}

#[test]
fn a_device_that_is_not_there_is_told_and_nothing_but_such_is_an_error() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    let mistyped = "there is no device rde: nothing was tested for it";
    nic(
        "policy = \"enforce\"\n[[endpoint]]\ndevice = \"rde\"\nrole = \"netdev\"\npolicy = \"enforce\"",
    );
    let run = test(&world, "");
    assert!(run.status == Some(0) && run.stderr.contains(mistyped), "{run:?}");
    let run = test(&world, "rde");
    assert!(run.status == Some(1) && run.stderr.contains(mistyped), "{run:?}");
    nic("");
    let run = test(&world, "");
    let words = "nothing was tested: 1 endpoint has neither a policy nor rules, and is left out";
    assert!(run.status == Some(1) && run.stderr.contains(words), "{run:?}");
}
