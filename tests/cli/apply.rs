//! `apply` and `export`.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::World;
use crate::common::world::wait_for;

/// A directory of the test's own.
struct Files(PathBuf);

impl Files {
    fn new() -> Files {
        let name =
            format!("cilmark-apply-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name.replace(['(', ')'], ""));
        fs::create_dir(&path).expect("a directory");
        Files(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("write");
        path.display().to_string()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const FILE: &str = r#"version = 1
ipcache_files = ["peers.txt"]
[identities]
web = 1234
db = 5678
[ipcache]
"198.51.100.7" = "db"
"203.0.113.0/24" = 300
[rules]
web = ["allow ingress from any tcp/80", "allow egress to db tcp/5432"]
[[endpoint]]
device = "ve-?"
id = "web"
policy = "enforce"
[[endpoint]]
device = "eth0"
role = "netdev"
policy = { ingress = "enforce", egress = "audit" }
rules = ["allow ingress from any tcp/443"]
failsafe = ["tcp/22"]
[[endpoint]]
device = "later"
"#;

fn world() -> Option<(World, Files, String)> {
    let world = World::new()?;
    for device in ["ve-a", "ve-b", "eth0"] {
        world.veth(device);
    }
    let files = Files::new();
    files.write("peers.txt", "10.9.0.1 web # a peer\n10.9.1.0/24 77\n");
    let path = files.write("cilmark.toml", FILE);
    Some((world, files, path))
}

/// What packets could tell apart, and bpftool: programs, maps, and what is in the ipcache.
fn state(world: &World) -> Value {
    let programs = |device: &str| {
        ["ingress", "egress"].map(|hook| {
            world.program_id(&format!(
                "/sys/fs/bpf/cilmark/endpoints/{}/{hook}",
                world.status(device)["endpoint_id"]
            ))
        })
    };
    let mut status = world.cilmark_json("status");
    for line in status.as_array_mut().unwrap() {
        (line["packets"], line["adopt"]) = (Value::Null, Value::Null);
    }
    let rules = |of: &str| -> Vec<Value> {
        let list = world.cilmark_json(&format!("policy list {of}"));
        list.as_array().unwrap().iter().map(|line| line["rule"].clone()).collect()
    };
    let programs = ["ve-a", "ve-b", "eth0"].map(programs);
    let rules = ["ve-a", "@web", "eth0"].map(rules);
    json!({
        "status": status,
        "programs": programs,
        "ipcache": world.cilmark_json("ipcache list"),
        "rules": rules,
        "names": world.cilmark_json("identity list"),
    })
}

#[test]
fn a_file_is_applied_and_then_nothing_is_left_to_do() {
    let Some((world, _files, path)) = world() else { return };
    let run = world.cilmark(&format!("apply {path} --dry-run"));
    assert_eq!(run.status, Some(4), "{run:?}");
    assert!(run.stdout.contains("+ endpoint ve-b: id web; policy enforce  (closes)"), "{run:?}");
    assert!(world.pins().is_empty(), "{:?}", world.pins());
    world.cilmark(&format!("apply {path}")).fails(1, &["eth0 is going to drop", "--yes"]);
    assert!(world.pins().is_empty(), "{:?}", world.pins());
    let run = world.cilmark(&format!("apply {path} --yes"));
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("later is not there, and is left for later"), "{run:?}");
    let before = state(&world);
    assert_eq!(before["rules"][0].as_array().unwrap().len(), 2);
    assert_eq!(world.status("eth0")["ingress_policy"], "enforce");
    for file in [path.clone(), _files.write("out.toml", &world.cilmark_ok("export"))] {
        let run = world.cilmark(&format!("apply {file} --dry-run --prune"));
        assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
        world.cilmark_ok(&format!("apply {file} --prune"));
        assert_eq!(state(&world), before);
    }
}

#[test]
fn what_others_have_made_stays_and_what_the_file_no_longer_has_goes_when_asked() {
    let Some((world, files, path)) = world() else { return };
    world.cilmark_ok("ipcache set 192.0.2.77 400");
    world.cilmark_ok("identity set 400 mine");
    world.veth("mine");
    world.cilmark_ok("attach mine --id 400");
    world.cilmark_ok(&format!("apply {path} --yes"));
    world.cilmark_ok("policy add eth0 allow ingress from any udp/9 --yes");
    world.cilmark_ok("policy add @web allow ingress from any udp/9");
    let empty = files.write("empty.toml", "version = 1\n");
    let run = world.cilmark(&format!("apply {empty}"));
    assert!(run.stderr.contains("--prune removes it") && run.stdout.is_empty(), "{run:?}");
    assert_eq!(world.status("eth0")["ingress_policy"], "enforce");
    world.cilmark(&format!("apply {empty} --prune")).fails(1, &["eth0 enforces", "--yes"]);
    world.cilmark_ok(&format!("apply {empty} --prune --yes"));
    let left: Vec<Value> = world
        .cilmark_json("status")
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["device"].clone())
        .collect();
    assert_eq!(left, ["mine"]);
    let lines = world.cilmark_json("ipcache list");
    assert_eq!(lines, json!([{"prefix": "192.0.2.77", "identity": 400, "name": "mine"}]));
    let rules = world.cilmark_json("policy list @1234");
    assert_eq!(rules[0]["rule"], "allow ingress from any udp/9");
    assert_eq!(rules.as_array().unwrap().len(), 1);
    let run = world.cilmark("export");
    assert_eq!(run.stdout, "version = 1\n");
    assert!(run.stderr.contains("that a command has made"), "{run:?}");
    assert!(world.cilmark_ok("export --all").contains("device = \"mine\""));
}

#[test]
fn a_mistake_changes_nothing_and_is_told_by_its_place() {
    let Some((world, files, path)) = world() else { return };
    world.cilmark_ok(&format!("apply {path} --yes"));
    let before = state(&world);
    for (text, told) in [
        ("version = 1\n[[endpoint]]\ndevice = \"ve-a\"\npolicy = \"on\"\n", ":4:10: `on` is not a"),
        (
            "version = 1\n[[endpoint]]\ndevice = \"ve-a\"\n",
            ":3:10: ve-a: a container needs an identity",
        ),
        ("version = 1\nipcache_files = [\"nowhere.txt\"]\n", ":2:18: read"),
        ("version = 1\n[ipcache]\n\"10.0.0.1\" = \"nobody\"\n", ":3:1"),
        (
            "version = 1\n[[endpoint]]\ndevice = \"ve-?\"\nid = 7\n[[endpoint]]\ndevice = \"*\"\nid = 8\n",
            "stands for",
        ),
    ] {
        let bad = files.write("bad.toml", text);
        world.cilmark(&format!("apply {bad} --yes --prune")).fails(1, &[told]);
        assert_eq!(state(&world), before, "{text}");
    }
}

#[test]
fn nobody_confirms_and_all_of_it_goes_back() {
    let Some((world, files, path)) = world() else { return };
    world.cilmark_ok(&format!("apply {path} --yes"));
    let before = state(&world);
    let other = FILE
        .replace("tcp/443", "tcp/444")
        .replace("= 300", "= 301")
        .replace("id = \"web\"", "id = \"db\"");
    files.write("cilmark.toml", &other);
    let run = world.cilmark(&format!("apply {path} --confirm 3s"));
    assert!(run.stderr.contains(&format!("`cilmark confirm {path}` within 3 s")), "{run:?}");
    assert_ne!(state(&world)["ipcache"], before["ipcache"]);
    wait_for("it goes back", || {
        let now = state(&world);
        now["ipcache"] == before["ipcache"]
            && now["rules"] == before["rules"]
            && now["status"] == before["status"]
    });
    world.cilmark(&format!("confirm {path}")).fails(1, &["too late"]);
    let run = world.cilmark(&format!("apply {path} --boot"));
    run.fails(1, &["nobody has confirmed it", "confirmed last is in force"]);
    world.cilmark_ok(&format!("apply {path} --confirm 100s"));
    let after = state(&world);
    world.cilmark_ok(&format!("confirm {path}"));
    assert_eq!(world.status("eth0")["confirm_deadline"], Value::Null);
    assert_eq!(state(&world)["rules"], after["rules"]);
    world.cilmark_ok(&format!("apply {path} --boot"));
}

#[test]
fn a_boot_with_a_wrong_file_takes_what_was_confirmed_or_closes_its_nics() {
    let Some((world, files, path)) = world() else { return };
    let ruin =
        files.write("ruin.toml", "version = 1\n[[endpoint]]\ndevice = \"eth0\"\npolcy = 1\n");
    world.sh("ip link set eth0 type veth || true");
    let bad = FILE.replace("policy = \"enforce\"", "policy = \"enfroce\"");
    files.write("cilmark.toml", &bad);
    world.cilmark(&format!("apply {ruin} --boot")).fails(1, &["`policy`"]);
    world.cilmark(&format!("apply {path} --boot")).fails(1, &["enfroce"]);
    files.write("cilmark.toml", FILE);
    world.cilmark_ok(&format!("apply {path} --boot"));
    world.cilmark_ok(&format!("apply {path} --yes"));
    let before = state(&world);
    world.cilmark_ok("detach --all");
    files.write("cilmark.toml", &bad);
    world.cilmark(&format!("apply {path} --boot")).fails(1, &["enfroce", "in force"]);
    assert_eq!(state(&world)["rules"], before["rules"]);
}

#[test]
fn the_endpoint_of_one_device_is_applied_by_any_of_its_names() {
    let Some(world) = World::new() else { return };
    let files = Files::new();
    world.veth("red");
    world.veth("blue");
    world.sh("ip link property add dev red altname the-uplink-of-rack-7");
    for (in_file, names) in [
        ("the-uplink-of-rack-7", ["red", "the-uplink-of-rack-7"]),
        ("red", ["the-uplink-of-rack-7", "red"]),
        ("r*", ["the-uplink-of-rack-7", "red"]),
    ] {
        let text = format!("version = 1\n[[endpoint]]\ndevice = \"{in_file}\"\nid = 300\n");
        let path = files.write("one.toml", &text);
        for name in names {
            world.cilmark_ok(&format!("apply {path} --device blue"));
            assert_eq!(world.cilmark_json("status"), json!([]), "{in_file}: nothing for blue");
            world.cilmark_ok(&format!("apply {path} --device {name}"));
            assert_eq!(world.status(name)["device"], "red", "{in_file} {name}");
            world.cilmark_ok("detach red");
        }
    }
}

#[test]
fn a_boot_with_a_wrong_file_closes_the_nic_that_has_come_by_any_of_its_names() {
    let Some(world) = World::new() else { return };
    let files = Files::new();
    world.veth("eth0");
    world.veth("eth1");
    world.sh("ip link property add dev eth0 altname the-uplink-of-rack-7
         ip addr add 192.0.2.1/24 dev eth0 && ip route add default via 192.0.2.254
         ip addr add 198.51.100.1/24 dev eth1 && ip route add default via 198.51.100.254 metric 9");
    for in_file in ["eth0", "the-uplink-of-rack-7", "eth?"] {
        let text = format!("version = 1\n[[endpoint]]\ndevice = \"{in_file}\"\npolcy = 1\n");
        let path = files.write("ruin.toml", &text);
        for name in ["eth0", "the-uplink-of-rack-7"] {
            let run = world.cilmark(&format!("apply {path} --boot --device {name}"));
            run.fails(1, &["eth0 let in and out what their failsafe ports are for"]);
            assert_eq!(world.status("eth0")["ingress_policy"], "enforce", "{in_file} {name}");
            world.cilmark("status eth1").fails(1, &["`eth1` is not attached"]);
            world.cilmark_ok("detach eth0");
        }
    }
}
