//! Files one over another come to the same as the last one alone.

use std::fs;

use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine;
use crate::common::random::Random;

const DEVICES: [&str; 3] = ["ve-a", "ve-b", "nic"];

/// A valid file by chance.
fn random_file(random: &mut Random) -> String {
    let mut text = String::from("version = 1\n");
    let mut section = |name: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text += &format!("[{name}]\n{}\n", lines.join("\n"));
        }
    };
    let mut some = |from: &[&str]| -> Vec<String> {
        let chosen = from.iter().filter(|_| random.below(2) == 0);
        chosen.map(|line| (*line).to_owned()).collect()
    };
    let identities = ["web = 301", "db = 302"];
    let moved = ["web = 302", "db = 303"];
    let names = some(&["x"]);
    section(
        "identities",
        (if names.is_empty() { identities } else { moved }).map(str::to_owned).to_vec(),
    );
    let lines = some(&[
        "\"192.0.2.0/24\" = 400",
        "\"192.0.2.7\" = \"db\"",
        "\"192.0.2.128/25\" = \"web\"",
        "\"2001:db8::/64\" = 401",
    ]);
    section("ipcache", lines);
    let rules = some(&[
        "web = [\"allow ingress from any tcp/80\", \"deny egress to 400\"]",
        "302 = []",
        "303 = [\"allow egress to web\"]",
    ]);
    let rules =
        rules.into_iter().filter(|line| names.is_empty() || !line.starts_with("302")).collect();
    section("rules", rules);
    for device in DEVICES {
        let options = some(&["policy = \"enforce\"", "arp_responder = true", "first = true"]);
        let rules = some(&[
            "\"allow egress to any\"",
            "\"deny ingress from db\"",
            "\"allow ingress from 400 udp\"",
        ]);
        if some(&["x"]).is_empty() && device != "nic" {
            continue;
        }
        let id = if some(&["x"]).is_empty() { "id = \"web\"" } else { "id = 304" };
        let role = if device == "nic" { "role = \"netdev\"\n" } else { "" };
        text += &format!(
            "[[endpoint]]\ndevice = \"{device}\"\n{role}{id}\n{}\nrules = [{}]\n",
            options
                .into_iter()
                .filter(|it| !(device == "nic" && it.starts_with("arp")))
                .collect::<Vec<_>>()
                .join("\n"),
            rules.join(", ")
        );
    }
    text
}

/// All that was asked for and all that came of it, but for what counts up or down.
fn state(world: &World) -> Value {
    let mut status = world.cilmark_json("status");
    for line in status.as_array_mut().expect("a list") {
        for key in ["packets", "drops", "adopt", "endpoint_id"] {
            line[key] = Value::Null;
        }
    }
    let mut status = status.as_array().expect("a list").clone();
    status.sort_by_key(|line| line["device"].to_string());
    let rules = |of: &str| -> Vec<String> {
        let list = world.cilmark(&format!("policy list {of} --json"));
        let list: Value = serde_json::from_str(&list.stdout).unwrap_or(json!([]));
        list.as_array().expect("a list").iter().map(|line| line["rule"].to_string()).collect()
    };
    let rules: Vec<Vec<String>> =
        DEVICES.iter().chain(&["@301", "@302", "@303"]).map(|of| rules(of)).collect();
    json!({
        "status": status,
        "rules": rules,
        "ipcache": world.cilmark_json("ipcache list"),
        "names": world.cilmark_json("identity list"),
        "file": world.cilmark_ok("export"),
    })
}

#[test]
fn files_one_over_another_come_to_what_the_last_one_alone_comes_to() {
    const ROUNDS: u64 = 2;
    let Some(world) = World::new() else { return };
    world.sh("mount -t tmpfs etc /etc && mkdir /etc/cilmark");
    DEVICES.iter().for_each(|device| world.veth(device));
    let mut random = Random(17);
    let apply = |text: &str| {
        fs::write("/etc/cilmark/cilmark.toml", text).expect("write");
        let run = world.cilmark("apply --yes --prune");
        assert_eq!(run.status, Some(0), "{text}\n{run:?}");
    };
    for _ in 0..machine::repetitions(ROUNDS) {
        let files: Vec<String> = (0..3).map(|_| random_file(&mut random)).collect();
        files.iter().for_each(|text| apply(text));
        let over_others = state(&world);
        world.cilmark_ok("apply --prune");
        assert_eq!(state(&world), over_others, "applied twice");
        fs::write("/etc/cilmark/cilmark.toml", "version = 1\n").expect("write");
        world.cilmark_ok("apply --yes --prune");
        assert!(world.pins().is_empty(), "{:?}", world.pins());
        apply(files.last().expect("the last"));
        assert_eq!(state(&world), over_others, "{files:#?}");
        world.cilmark_ok("apply --prune");
        world.cilmark_ok("detach --all");
        fs::write("/etc/cilmark/cilmark.toml", "version = 1\n").expect("write");
        world.cilmark_ok("apply --prune");
    }
}
