//! Names and arguments of any bytes: nothing that they say to a terminal gets there, and no device is in
//! the way of another for its name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::common::World;
use crate::common::process::{Run, cilmark};

const RAW: &[u8] = b"x\xff\xfe";

fn run(before: &[&str], name: &[u8], after: &[&str]) -> Run {
    let mut command = cilmark(before);
    command.arg(OsStr::from_bytes(name)).args(after);
    command.output().expect("run cilmark").into()
}

/// Without what a terminal obeys.
fn is_harmless(run: &Run) {
    for text in [&run.stdout, &run.stderr] {
        let obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(obeyed), "{run:?}");
    }
}

/// A veth whose name is any bytes, as printf(1) writes them.
fn veth(world: &World, name: &str, peer: &str) {
    world.sh(&format!("ip link add \"$(printf '{name}')\" type veth peer name {peer}"));
}

#[test]
fn a_device_whose_name_is_no_text_is_in_nobodys_way() {
    let Some(world) = World::new() else { return };
    veth(&world, "x\\377\\376", "odd-peer");
    world.sh("ip link set odd-peer alias \"$(printf 'y\\377')\"
         ip link property add dev odd-peer altname \"$(printf 'z\\377')\"");
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    world.sh("ip link add link red name red0 type macvlan");
    world.cilmark_ok("attach red-peer --role netdev");
    world.cilmark_ok("attach odd-peer --role netdev");
    world.cilmark_ok("detach --all");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_device_whose_name_is_no_text_is_attached_shown_and_detached() {
    let Some(world) = World::new() else { return };
    veth(&world, "x\\377\\376", "odd-peer");
    let shown: &[u8] = b"x\\xff\\xfe";
    for name in [RAW, shown, b"id:1"] {
        let attached = run(&["attach"], RAW, &["--id", "300", "--ip", "10.0.0.1"]);
        assert!(attached.stderr.contains("attached x\\xff\\xfe: endpoint 1,"), "{attached:?}");
        assert!(world.cilmark_ok("status").contains("\nx\\xff\\xfe  container"));
        let status = run(&["status", "--json"], name, &[]);
        let status: Value = serde_json::from_str(&status.stdout).expect("JSON");
        assert_eq!(
            (&status[0]["device"], &status[0]["stale"]),
            (&json!("x\\xff\\xfe"), &json!(false))
        );
        let again = run(&["attach"], RAW, &["--id", "301"]);
        assert!(again.stderr.contains("replaced x\\xff\\xfe: endpoint 1,"), "{again:?}");
        let detached = run(&["detach"], name, &[]);
        assert_eq!(detached.stderr, "detached x\\xff\\xfe\n");
        assert_eq!(world.pins(), [""; 0]);
    }
}

#[test]
fn a_command_that_a_message_names_is_one_of_cilmark_alone() {
    let Some(world) = World::new() else { return };
    veth(&world, "x$(id);y", "red-peer");
    veth(&world, "e\\033", "blue-peer");
    for (name, number) in [("x$(id);y", 1), ("e\x1b", 2)] {
        let attach = |flags: &[&str]| run(&["attach"], name.as_bytes(), flags);
        let attached = attach(&["--id", "300", "--endpoint-id", &number.to_string()]);
        assert_eq!(attached.status, Some(0), "{attached:?}");
        let added = run(&["policy", "add"], name.as_bytes(), &["allow ingress from any"]);
        for (said, advised) in [
            (added, ["attach", name, "--policy", "audit"].as_slice()),
            (attach(&["--id", "300", "--endpoint-id", "7"]), &["detach", name]),
            (
                run(&["policy", "del"], name.as_bytes(), &["deny egress to any"]),
                &["policy", "list", name],
            ),
        ] {
            is_harmless(&said);
            let line =
                said.stderr.split('`').find(|it| it.starts_with("cilmark ")).expect("a command");
            // As a shell has it.
            let words = world.sh(&format!("bash <<'END'\nprintf '%s\\n' {line}\nEND"));
            let words: Vec<&str> = words.lines().collect();
            assert_eq!(words, [&["cilmark"], advised].concat(), "{said:?}");
        }
    }
}

#[test]
fn a_device_that_gets_such_a_name_later_is_shown_and_detached() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    world.sh("ip link set red down && ip link set red name \"$(printf 'x\\377')\"");
    let status = world.cilmark_ok("status");
    assert!(status.contains("\nx\\xff "), "{status}");
    world.cilmark_ok("detach --all");
}

#[test]
fn escape_sequences_in_names_do_not_reach_the_terminal() {
    let Some(world) = World::new() else { return };
    let name = b"e\x1b[31mx\xc2\x9b\xc2\x80";
    veth(&world, "e\\033[31mx\\302\\233\\302\\200", "red-peer");
    let attached = run(&["attach"], name, &["--id", "300", "--ip", "10.0.0.1"]);
    assert_eq!(attached.status, Some(0), "{attached:?}");
    is_harmless(&attached);
    for arguments in ["status", "status --json", "-vv status", "conntrack list", "detach --all"] {
        let run = world.cilmark(arguments);
        assert_eq!(run.status, Some(0), "{run:?}");
        is_harmless(&run);
    }
}

#[test]
fn a_name_keeps_its_characters_in_json() {
    let Some(world) = World::new() else { return };
    veth(&world, "e\\033[1m\\302\\233\\\\", "red-peer");
    run(&["attach"], "e\x1b[1m\u{9b}\\".as_bytes(), &["--id", "300"]);
    let status = world.cilmark_json("status");
    assert_eq!(status[0]["device"], "e\u{1b}[1m\u{9b}\\");
}

#[test]
fn arguments_are_quoted_in_errors_without_what_a_terminal_obeys() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    let evil = "\x1b]0;owned\x07\u{9b}31m\u{202e}\r\nattached eth0".as_bytes();
    let commands: [(&[&str], &[&str]); 14] = [
        (&["attach"], &["--id", "7"]),
        (&["attach", "red", "--id"], &[]),
        (&["attach", "red", "--ip"], &["--id", "7"]),
        (&["detach"], &[]),
        (&["status"], &[]),
        (&["policy", "add", "red"], &[]),
        (&["policy", "list"], &[]),
        (&["ipcache", "set"], &["7"]),
        (&["ipcache", "load"], &[]),
        (&["identity", "set", "300"], &[]),
        (&["mark", "decode"], &[]),
        (&["explain"], &["from", "--src", "10.0.0.1", "--dst", "10.0.0.2"]),
        (&["--netns"], &["status"]),
        (&["--bpffs"], &["status"]),
    ];
    for (before, after) in commands {
        let run = run(before, evil, after);
        assert!(run.status.is_some_and(|status| status > 0), "{before:?}: {run:?}");
        is_harmless(&run);
        assert!(!run.stderr.lines().any(|line| line.starts_with("attached")), "{run:?}");
    }
}

#[test]
fn a_path_that_is_no_text_is_the_path_of_these_bytes() {
    let Some(world) = World::new() else { return };
    world.sh("echo '10.0.0.1 7' > \"$(printf '/run/netns/\\377')\"");
    let loaded = run(&["ipcache", "load"], b"/run/netns/\xff", &[]);
    assert!(loaded.stderr.starts_with("loaded 1 entry from /run/netns/"), "{loaded:?}");
}

#[test]
fn a_device_goes_by_its_alternative_names_in_every_command() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let long = "enp0s31f6-the-uplink-of-rack-7-on-the-left";
    world.sh(&format!("ip link property add dev red altname uplink altname {long}"));
    for name in ["uplink", long] {
        let run = world.cilmark(&format!("attach {name} --role netdev --policy enforce --yes"));
        assert!(run.stderr.contains("attached red: endpoint 1,"), "{run:?}");
        assert_eq!(world.status(name)["device"], "red");
        for command in [
            "policy add NAME allow ingress from any tcp/80 --confirm 60s",
            "confirm NAME",
            "policy list NAME",
            "conntrack list NAME",
            "conntrack flush NAME",
            "explain NAME to --src 10.0.0.1 --dst 10.0.0.2",
            "policy del NAME allow ingress from any tcp/80 --yes",
            "policy flush NAME --yes",
        ] {
            let run = world.cilmark(&command.replace("NAME", name));
            assert!(matches!(run.status, Some(0 | 3)), "{command}: {run:?}");
        }
        let run = world.cilmark(&format!("attach {name} --role netdev --policy enforce --yes"));
        assert!(run.stderr.contains("replaced red: endpoint 1,"), "{run:?}");
        world.cilmark_ok(&format!("detach {name}"));
        assert_eq!(world.pins(), [""; 0]);
    }
    let too_long = "x".repeat(128);
    for command in ["attach", "status"] {
        world.cilmark(&format!("{command} {too_long}")).fails(1, &[&too_long]);
    }
}

#[test]
fn an_alternative_name_is_its_devices_also_where_it_was_a_dead_ones_name() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    world.sh("ip link del red");
    world.veth("blue");
    world.cilmark_ok("attach blue --id 301");
    world.sh("ip link property add dev blue altname red");
    world.cilmark("policy list red").fails(1, &["several devices: id:1, id:2"]);
    world.cilmark_ok("detach id:1");
    assert_eq!(world.status("red")["identity"], 301);
}
