//! `apply` and `export`.

mod trial;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::World;
use crate::common::steps::Steps;
use crate::common::traffic::{Connection, HOST, cannot_connect, listen};
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

/// A NIC as far as it counts: a default route leaves by it.
fn uplink(world: &World) {
    world.workload("wan", 1);
    world.sh("ip link set wan down; ip link set wan name eth0; ip link set eth0 up; ip route add default via 10.1.0.10");
}

#[test]
fn a_boot_with_a_wrong_file_and_nothing_confirmed_leaves_a_nic_its_failsafe_ports() {
    let Some(world) = World::new() else { return };
    uplink(&world);
    let files = Files::new();
    let path = files.write(
        "cilmark.toml",
        "version = 1\n[[endpoint]]\ndevice = \"eth0\"\npolicy = \"enfroce\"\nrules = [\"allow ingress from any\"]\n",
    );
    let [ssh, web] = [22, 5001].map(|port| listen(&world, HOST, port));
    drop(Connection::open(&world, "wan", &web, "10.1.0.1"));
    let run = world.cilmark(&format!("apply {path} --boot"));
    run.fails(1, &["enfroce", "eth0 let in and out what their failsafe ports are for"]);
    let status = world.status("eth0");
    assert_eq!((&status["role"], &status["ingress_policy"]), (&json!("netdev"), &json!("enforce")));
    cannot_connect(&world, "wan", "10.1.0.1", 5001);
    Connection::open(&world, "wan", &ssh, "10.1.0.1").works();
    let outside = listen(&world, "wan", 5001);
    cannot_connect(&world, HOST, "10.1.0.10", 5001);
    // And the file that is right opens what it names.
    files.write("cilmark.toml", "version = 1\n[[endpoint]]\ndevice = \"eth0\"\npolicy = \"enforce\"\nrules = [\"allow ingress from any tcp/5001\"]\n");
    world.cilmark_ok(&format!("apply {path} --boot"));
    Connection::open(&world, "wan", &web, "10.1.0.1").works();
    drop(outside);
}

#[test]
fn a_failure_in_the_middle_leaves_everything_as_it_was() {
    let Some((world, files, path)) = world() else { return };
    world.veth("small");
    world.cilmark_ok("attach small --id 1234 --policy enforce --policy-entries 32");
    world.cilmark_ok("policy add small deny ingress from 9");
    let get = || {
        let small = world.cilmark_json("policy list small");
        (state(&world), small, world.cilmark_ok("export --all"))
    };
    world.cilmark_ok(&format!("apply {path} --yes"));
    world.cilmark_ok("policy add ve-b allow ingress from any udp/9");
    let before = get();
    // More rules than fit, found when endpoints have come and gone already.
    let many: Vec<String> =
        (1..50).map(|port| format!("\"allow ingress from any tcp/{}\"", 8000 + 2 * port)).collect();
    let text = FILE
        .replace("web = [", &format!("web = [{}, ", many.join(", ")))
        .replace("= 300", "= 301")
        .replace("db = 5678", "other = 5678")
        .replace("\"db\"", "\"other\"")
        .replace("egress to db", "egress to other")
        .replace("device = \"ve-?\"", "device = \"ve-a\"")
        .replace("\"later\"", "\"ve-b-peer\"\nid = 99");
    let bad = files.write("bad.toml", &text);
    world.cilmark(&format!("apply {bad} --yes --prune")).fails(1, &["small", "--policy-entries"]);
    assert_eq!(get(), before);
    // And with a device that goes between the plan and its turn.
    world.veth("later");
    let text = FILE.replace("= 300", "= 301").replace("\"later\"", "\"later\"\nid = 99");
    files.write("bad.toml", &text);
    let mut steps = Steps::start(&format!("apply {bad} --yes"));
    let is_written = || world.cilmark_json("ipcache get 203.0.113.1")[0]["identity"] == 301;
    while steps.go_on() && !is_written() {}
    world.sh("ip link del later");
    steps.fails("later");
    assert_eq!(get(), before);
}

#[test]
fn whatever_is_no_file_is_told_and_changes_nothing() {
    let Some((world, files, path)) = world() else { return };
    let folder = files.0.display().to_string();
    world.sh(&format!("mkdir {folder}/empty; mkfifo {folder}/fifo"));
    for (name, told) in [("nowhere", "read"), ("empty", "has no file that is called *.toml")] {
        let run = world.cilmark(&format!("apply {folder}/{name} --yes"));
        run.fails(1, &[told, name]);
        assert_eq!(world.pins(), [""; 0]);
    }
    // Lines of another system, and a mark of the byte order before them.
    let windows = format!("\u{feff}{}", FILE.replace('\n', "\r\n"));
    let windows = files.write("windows.toml", &windows);
    world.cilmark_ok(&format!("apply {path} --yes"));
    let before = state(&world);
    let run = world.cilmark(&format!("apply {windows} --dry-run"));
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    // Large, and for nothing.
    let large =
        files.write("large.toml", &format!("version = 1\n{}", "# a comment\n".repeat(900_000)));
    world.cilmark_ok(&format!("apply {large}"));
    assert_eq!(state(&world), before);
    // A pipe has no place beside it.
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let run = world.try_sh(&format!("cat {large} | {binary} apply /dev/stdin"));
    assert!(run.status.success(), "{run:?}");
    let fifo = format!("cat {large} > {folder}/fifo & {binary} apply {folder}/fifo");
    assert!(world.try_sh(&fifo).status.success());
    assert_eq!(state(&world), before);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 8);
}

#[test]
fn two_names_of_one_device_are_one_device() {
    let Some((world, files, _)) = world() else { return };
    world.sh("ip link property add dev ve-a altname another-name");
    let entry = |device: &str| format!("[[endpoint]]\ndevice = \"{device}\"\nid = 1234\n");
    let both = files
        .write("both.toml", &format!("version = 1\n{}{}", entry("ve-a"), entry("another-name")));
    world.cilmark(&format!("apply {both}")).fails(1, &["`ve-a` is the device", "both.toml:3:10"]);
    assert_eq!(world.pins(), [""; 0]);
    let by_altname =
        files.write("altname.toml", &format!("version = 1\n{}", entry("another-name")));
    world.cilmark_ok(&format!("apply {by_altname}"));
    assert_eq!(world.status("ve-a")["identity"], 1234);
    let run = world.cilmark(&format!("apply {by_altname} --dry-run --prune"));
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    let by_name = files.write("name.toml", &format!("version = 1\n{}", entry("ve-a")));
    let run = world.cilmark(&format!("apply {by_name} --dry-run --prune"));
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
}

#[test]
fn applies_beside_other_commands_end_with_one_of_their_states() {
    let Some((world, files, path)) = world() else { return };
    let other =
        files.write("other.toml", &FILE.replace("tcp/443", "tcp/444").replace("= 300", "= 301"));
    for _ in 0..3 {
        let mut running: Vec<_> = [&path, &other, &path, &other]
            .map(|file| world.start(&format!("apply {file} --yes --prune")))
            .into();
        running.push(world.start("policy add @web allow ingress from any udp/9"));
        running.push(world.start("detach ve-b"));
        running.push(world.start("attach ve-b --id 1234"));
        for mut command in running {
            assert!(command.wait().code().is_some());
        }
        let has = world.cilmark_ok("export");
        assert_eq!(has.contains("tcp/443") as u8 + has.contains("tcp/444") as u8, 1, "{has}");
        assert_eq!(has.contains("= 301"), has.contains("tcp/444"), "{has}");
    }
    world.cilmark_ok(&format!("apply {path} --yes"));
    let run = world.cilmark(&format!("apply {path} --dry-run"));
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
}

#[test]
fn a_device_that_can_not_be_what_is_asked_for_keeps_nobody_from_the_rest_at_boot() {
    let Some((world, files, path)) = world() else { return };
    let more = "[[endpoint]]\ndevice = \"ve-a-peer\"\npolicy = \"enforce\"\n";
    files.write("cilmark.toml", &format!("{FILE}{more}"));
    world.cilmark(&format!("apply {path} --yes")).fails(1, &["ve-a-peer", "needs an identity"]);
    assert!(world.pins().is_empty(), "{:?}", world.pins());
    world.cilmark(&format!("apply {path} --boot")).fails(1, &["ve-a-peer", "needs an identity"]);
    assert_eq!(world.status("eth0")["ingress_policy"], "enforce");
    assert_eq!(world.status("ve-b")["name"], "web");
    // And the file that a boot has applied is the last good one.
    files.write("cilmark.toml", "version = 1\nx");
    world.cilmark_ok("detach --all");
    world.cilmark(&format!("apply {path} --boot")).fails(1, &["cilmark.toml:2", "in force"]);
    assert_eq!(world.status("ve-b")["name"], "web");
    world.cilmark_ok(&format!("apply {path} --boot --device eth0-peer"));
}

#[test]
fn all_devices_of_a_pattern_share_its_prefixes() {
    let Some(world) = World::new() else { return };
    let files = Files::new();
    ["ve-a", "ve-b"].iter().for_each(|device| world.veth(device));
    let text = "version = 1\n[[endpoint]]\ndevice = \"ve-?\"\nid = 300\nip = [\"10.8.0.0/16\"]\n";
    let path = files.write("cilmark.toml", text);
    world.cilmark_ok(&format!("apply {path}"));
    assert_eq!(world.cilmark_json("status").as_array().unwrap().len(), 2);
    let run = world.cilmark(&format!("apply {path} --dry-run"));
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""), "{run:?}");
}

#[test]
fn a_device_whose_addresses_only_a_hook_knows_is_left_to_it() {
    let (Some(world), files) = (World::new(), Files::new()) else { return };
    world.veth("ve-a");
    let of = |ip: &str| {
        let text = format!("version = 1\n[[endpoint]]\ndevice = \"ve-*\"\nid = 300\nip = [{ip}]\n");
        files.write("cilmark.toml", &text)
    };
    let applied = world.cilmark(&format!("apply {}", of("\"10.0.0.0/8\", \"from-netns\"")));
    assert_eq!(applied.status, Some(0), "{}", applied.stderr);
    assert!(applied.stderr.contains("ve-a has addresses that only the hook"), "{}", applied.stderr);
    assert_eq!(world.cilmark_json("status"), json!([]));
    world.cilmark_ok(&format!("apply {}", of("\"10.0.0.0/8\"")));
    assert_eq!(world.status("ve-a")["shared_ip"], json!(["10.0.0.0/8"]));
}
