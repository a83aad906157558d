//! `ipcache load`: many lines, all of them or none.

use std::fmt::Write;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::common::World;
use crate::common::world::wait_for;

/// Lines of hosts from 10.0.0.0 on and of prefixes from 11.0.0.0/24 on.
fn lines(hosts: u32, prefixes: u32) -> String {
    let mut text = String::new();
    let octets = |number: u32| [(number >> 16) as u8, (number >> 8) as u8, number as u8];
    for number in 0..hosts {
        let [a, b, c] = octets(number);
        writeln!(text, "10.{a}.{b}.{c} {}", 256 + number % 1000).unwrap();
    }
    for number in 0..prefixes {
        let [a, b, c] = octets(number << 8);
        writeln!(text, "11.{a}.{b}.{c}/24 {}", 256 + number % 1000).unwrap();
    }
    text
}

fn count(world: &World) -> usize {
    world.cilmark_json("ipcache list").as_array().expect("a list").len()
}

#[test]
fn names_comments_and_blank_lines_are_read_from_stdin() {
    let Some(world) = World::new() else { return };
    world.cilmark_ok("identity set 300 db");
    let run = world.cilmark_with_input(
        "ipcache load -",
        "# databases\n\n10.0.0.1 db\n  10.0.0.2\t0x12d # the second\r\nfd00::/64 world",
    );
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(run.stderr, "loaded 3 entries from -\n");
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([
            {"prefix": "10.0.0.1", "identity": 300, "name": "db"},
            {"prefix": "10.0.0.2", "identity": 301, "name": null},
            {"prefix": "fd00::/64", "identity": 2, "name": "world"},
        ])
    );
}

#[test]
fn a_bad_line_is_named_and_nothing_has_changed() {
    let Some(world) = World::new() else { return };
    world.cilmark_ok("ipcache set 10.0.0.1 299");
    let good = lines(40_000, 0);
    for (bad, words) in [
        ("10.0.0.300 7", ["line 40001", "`10.0.0.300`"]),
        ("10.0.0.0/33 7", ["line 40001", "`10.0.0.0/33`"]),
        ("10.1.2.3/8 7", ["line 40001", "10.0.0.0/8"]),
        ("10.0.0.1 nobody", ["line 40001", "`nobody`"]),
        ("10.0.0.1", ["line 40001", "PREFIX IDENTITY"]),
        ("10.0.0.1 7 8", ["line 40001", "`10.0.0.1 7 8`"]),
    ] {
        world.sh(&format!("rm -f /run/netns/lines; echo '{bad}' > /run/netns/bad"));
        std::fs::write("/run/netns/lines", format!("{good}{bad}\n{good}")).unwrap();
        let run = world.cilmark("ipcache load /run/netns/lines");
        run.fails(1, &words);
        run.fails(1, &["/run/netns/lines"]);
    }
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([{"prefix": "10.0.0.1", "identity": 299, "name": null}])
    );
}

#[test]
fn a_hundred_thousand_lines_are_loaded_and_flushed() {
    let Some(world) = World::new() else { return };
    let run =
        world.cilmark_with_input("ipcache load - --ipcache-entries 90000", &lines(90_000, 10_000));
    assert_eq!(run.stderr, "loaded 100000 entries from -\n");
    assert_eq!(count(&world), 100_000);
    assert_eq!(world.cilmark_json("ipcache get 10.1.95.143")[0]["identity"], 256 + 89_999 % 1000);
    assert_eq!(world.cilmark_json("ipcache get 11.0.1.7")[0]["prefix"], "11.0.1.0/24");
    let run = world.cilmark_with_input("ipcache load -", "10.0.0.0 7\n11.0.0.0/24 7\n");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(count(&world), 100_000, "what was there stays");
    assert_eq!(world.cilmark_json("ipcache get 10.0.0.0")[0]["identity"], 7);
    assert_eq!(world.cilmark("ipcache flush").stderr, "removed 100000 entries\n");
}

#[test]
fn what_does_not_fit_is_refused_with_nothing_changed() {
    let Some(world) = World::new() else { return };
    let run = world.cilmark_with_input("ipcache load - --ipcache-entries 100", &lines(60, 60));
    assert_eq!(run.status, Some(0), "{run:?}");
    let before = world.cilmark_json("ipcache list");
    for (hosts, prefixes, map) in [(101, 10, "cm_ipcache"), (70, 101, "cm_ipcache_cidr")] {
        // Other identities, so that any line that was taken shows.
        let others = lines(hosts, prefixes).replace(" 2", " 9");
        let run = world.cilmark_with_input("ipcache load -", &others);
        run.fails(1, &[&format!("{map} takes 100 entries"), "--ipcache-entries"]);
        assert_eq!(world.cilmark_json("ipcache list"), before);
    }
    let run = world.cilmark_with_input("ipcache load -", &lines(100, 100));
    assert_eq!(run.status, Some(0), "exactly full: {run:?}");
    world.cilmark("ipcache set 192.0.2.1 7").fails(1, &["cm_ipcache", "100 entries"]);
    world.cilmark("ipcache set 192.0.2.0/24 7").fails(1, &["cm_ipcache_cidr", "100 entries"]);
}

#[test]
fn a_load_that_failed_leaves_no_maps_of_the_wrong_size() {
    let Some(world) = World::new() else { return };
    let lines = lines(70_000, 0);
    world.cilmark_with_input("ipcache load -", &lines).fails(1, &["65536", "--ipcache-entries"]);
    assert_eq!(world.pins(), [""; 0]);
    let run = world.cilmark_with_input("ipcache load - --ipcache-entries 70000", &lines);
    assert_eq!(run.status, Some(0), "what the message says works: {run:?}");
}

#[test]
fn a_load_that_was_interrupted_has_changed_nothing() {
    let Some(world) = World::new() else { return };
    world.cilmark_with_input("ipcache load - --ipcache-entries 500000", "10.0.0.0 299\n");
    std::fs::write("/run/netns/lines", lines(500_000, 0)).unwrap();
    let mut load = world.start("ipcache load /run/netns/lines");
    wait_for("the load to begin", || load.catches(Signal::SIGINT));
    load.signal(Signal::SIGINT);
    load.stderr_line(|line| line == "cilmark: interrupted, and nothing has changed");
    assert_eq!(load.wait().code(), Some(1));
    assert_eq!(
        world.cilmark_json("ipcache list"),
        json!([{"prefix": "10.0.0.0", "identity": 299, "name": null}])
    );
}

#[test]
fn an_attachment_that_the_kernel_refuses_leaves_no_maps() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let refused = world.sh(&format!(
        "setpriv --bounding-set=-perfmon,-sys_admin --inh-caps=-perfmon,-sys_admin {} \
         attach red --id 7 --policy enforce --ct local 2>&1 || true",
        env!("CARGO_BIN_EXE_cilmark")
    ));
    assert!(refused.contains("load the programs of endpoint 1 (red)"), "{refused}");
    let maps: Vec<String> = world
        .pins()
        .into_iter()
        .filter(|pin| pin.contains("/cm_") || pin.contains("config"))
        .collect();
    assert_eq!(maps, [""; 0]);
}

#[test]
fn an_attachment_that_finds_the_ipcache_full_leaves_nothing() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_with_input("ipcache load - --ipcache-entries 10", &lines(9, 0));
    let before = (world.pins(), world.cilmark_json("ipcache list"));
    world.cilmark("attach red --id 300 --ip 192.0.2.1 192.0.2.2").fails(1, &["cm_ipcache"]);
    assert_eq!((world.pins(), world.cilmark_json("ipcache list")), before);
    world.cilmark_ok("attach red --id 300 --ip 192.0.2.1");
}

#[test]
fn the_size_of_maps_that_are_there_is_not_changed_silently() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ipcache-entries 128");
    for command in
        ["attach red --id 301 --ipcache-entries 256", "ipcache load - --ipcache-entries 256"]
    {
        world.cilmark(command).fails(1, &["cm_ipcache has 128 entries", "256"]);
    }
    assert_eq!(world.status("red")["identity"], 300);
    world.cilmark_ok("attach red --id 301 --ipcache-entries 128");
    let show = world.sh("bpftool -j map show pinned /sys/fs/bpf/cilmark/cm_ipcache_cidr");
    let show: serde_json::Value = serde_json::from_str(&show).unwrap();
    assert_eq!(show["max_entries"], 128);
}

#[test]
fn of_two_lines_for_one_prefix_the_last_one_counts() {
    let Some(world) = World::new() else { return };
    let lines = "10.0.0.1 300\n10.1.0.0/16 300\n10.0.0.1 301\n10.2.0.0/16 300\n10.1.0.0/16 301\n";
    world.sh(&format!("printf '{lines}' >/run/lines"));
    world.cilmark_ok("ipcache load /run/lines");
    for address in ["10.0.0.1", "10.1.0.1"] {
        let found = world.cilmark_json(&format!("ipcache get {address}"));
        assert_eq!(found[0]["identity"], 301, "{address}");
    }
}
