//! What README.md and docs/file.md say to paste does what they say.

use std::fs;

use serde_json::json;

use crate::common::World;
use crate::common::pages::{blocks, paste};

#[test]
fn a_nic_is_audited_then_enforces_on_trial_and_then_comes_from_a_file_by_pasting() {
    let Some(world) = World::new() else { return };
    // Whatever else is there is of no use to it.
    world.sh("mount -t tmpfs etc /etc");
    world.veth("eth0");
    world.sh("ip addr add 198.51.100.2/24 dev eth0 && ip route add default via 198.51.100.1");
    let page = include_str!("../../README.md");
    let mut blocks =
        blocks(page, "## A host firewall, without locking yourself out", "sh").into_iter();
    let watched = "timeout 1 cilmark monitor || [ $? = 124 ]";
    let mut step = |name: &str| {
        let block = blocks.next().unwrap_or_else(|| panic!("no block to {name}"));
        let is_here = |line: &&str| !line.starts_with("systemctl");
        let lines: Vec<&str> = block.lines().filter(is_here).collect();
        paste(&world, &lines.join("\n").replace("cilmark monitor ", &format!("{watched} ")))
    };
    step("audit");
    assert_eq!(world.status("eth0")["ingress_policy"], "audit");
    step("enforce on trial");
    let trial = world.status("eth0");
    assert_eq!(trial["ingress_policy"], "enforce");
    assert!(trial["confirm_deadline"].is_number(), "{trial}");
    step("confirm");
    let enforced = world.status("eth0");
    assert_eq!(
        (&enforced["ingress_policy"], &enforced["confirm_deadline"]),
        (&json!("enforce"), &json!(null))
    );
    let rules = world.cilmark_json("policy list eth0");
    step("have it in a file");
    // The machine goes down, and comes up.
    world.cilmark_ok("detach --all");
    assert!(world.pins().is_empty(), "{:?}", world.pins());
    world.cilmark_ok("apply --boot");
    let texts = |rules: &serde_json::Value| -> Vec<String> {
        rules.as_array().unwrap().iter().map(|line| line["rule"].to_string()).collect()
    };
    assert_eq!(texts(&world.cilmark_json("policy list eth0")), texts(&rules));
    assert_eq!(world.status("eth0")["egress_policy"], "enforce");
}

#[test]
fn the_example_file_is_applied_as_it_stands() {
    let Some(world) = World::new() else { return };
    world.sh("mount -t tmpfs etc /etc && mkdir /etc/cilmark");
    fs::write("/etc/cilmark/peers.txt", "10.9.0.1 web\n").expect("write");
    let page = include_str!("../../docs/file.md");
    let example = blocks(page, "# One file that says it all", "toml").remove(0);
    fs::write("/etc/cilmark/cilmark.toml", example).expect("write");
    world.veth("ve-x");
    world.veth("eth0");
    world.sh("ip addr add 198.51.100.2/24 dev eth0 && ip route add default via 198.51.100.1");
    world.sh("ip link del ve-x && ip link add ve-x type veth peer name inside");
    let commands = blocks(page, "## What it does", "sh").remove(0);
    let (dry, others) = commands.split_once('\n').expect("some commands");
    paste(&world, &format!("{} || [ $? = 4 ]", dry.split('#').next().unwrap()));
    paste(&world, others);
    assert_eq!(world.status("ve-x")["name"], "web");
    let nic = world.status("eth0");
    assert_eq!(
        (&nic["ingress_policy"], &nic["egress_policy"]),
        (&json!("enforce"), &json!("audit"))
    );
    assert_eq!(nic["confirm_deadline"], json!(null));
    let export = "cilmark export | cilmark apply - --yes --prune --json";
    let told: serde_json::Value = serde_json::from_str(&paste(&world, export)).expect("JSON");
    assert_eq!(told["changes"], json!([]));
}

/// `export` knows neither defaults for births nor patterns, which a file that is there may have.
#[test]
fn a_file_that_is_there_is_not_written_over_by_pasting() {
    let Some(world) = World::new() else { return };
    world.sh("mount -t tmpfs etc /etc && mkdir /etc/cilmark");
    let file =
        "version = 1\n[births]\npolicy = \"enforce\"\n[[endpoint]]\ndevice = \"ve-*\"\nid = 300\n";
    fs::write("/etc/cilmark/cilmark.toml", file).expect("write");
    for (page, heading) in [
        (include_str!("../../README.md"), "## A host firewall, without locking yourself out"),
        (include_str!("../../docs/recipes/docker.md"), "## To keep it"),
    ] {
        let blocks = blocks(page, heading, "sh").into_iter();
        for block in blocks.filter(|block| block.contains("cilmark export")) {
            paste(&world, block.split("\nsystemctl").next().expect("commands"));
        }
        assert_eq!(fs::read_to_string("/etc/cilmark/cilmark.toml").expect("read"), file);
    }
}
