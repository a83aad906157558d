//! The hooks createRuntime and poststop.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use cilmark::ops::birth::PATIENCE;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use super::{Container, FILES, hook, id, process, world};
use crate::common::traffic::{HOST, arrives, is_lost, udp};
use crate::common::world::{mount_fresh, wait_for};

#[test]
fn a_container_has_its_identity_from_create_runtime_until_poststop() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let container = Container::new("c1", "red").with(json!({
        "cilmark.id": "300", "cilmark.rules": "allow egress to any", "cilmark.policy": "egress=enforce",
        "cilmark.labels": "app=web", "org.example": "x"
    }));
    container.created();
    let status = world.status("red");
    assert_eq!((&status["identity"], &status["owner"]), (&json!(300), &json!("c1")), "{status}");
    assert_eq!(status["ips"], json!(["10.1.0.10", "fd00:1::10"]), "{status}");
    let birth = &status["birth"];
    assert_eq!((&birth["hook"], &birth["runtime"]), (&json!("oci"), &json!("oci")), "{status}");
    assert_eq!(
        (&birth["id_from"], &birth["rules_from"]),
        (&json!("annotation"), &json!("annotation"))
    );
    assert_eq!(status["labels"], json!({"app": "web"}), "{status}");
    container.stopped();
    assert_eq!(world.pins(), [""; 0]);
    container.stopped();
}

#[test]
fn labels_make_the_identity_that_nobody_names_on_a_host_of_a_cluster() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    mount_fresh("tmpfs", "/var/lib");
    let container =
        Container::new("c1", "red").with(json!({"cilmark.labels": "app=web,tier=front"}));
    container.create("").fails(1, &["app=web,tier=front", "in none"]);
    fs::create_dir("/var/lib/cilmark").unwrap();
    let numbers = json!({"app=web,tier=front": 196_701}).to_string();
    fs::write("/var/lib/cilmark/identities.json", numbers).unwrap();
    let starts = |container: &Container| {
        let run = container.create("");
        assert!(run.status == Some(0) && run.stderr.contains("had last"), "{run:?}");
    };
    starts(&container);
    let status = world.status("red");
    assert_eq!(status["identity"], 196_701, "{status}");
    assert_eq!(status["birth"]["id_from"], "annotation", "{status}");
    // With the same labels in its network another one has the same identity.
    let other = Container::new("c2", "red").with(json!({"cilmark.labels": "tier=front,app=web"}));
    starts(&other);
    assert_eq!(world.status("red")["owner"], "c1");
    container.stopped();
    other.stopped();
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_namespace_that_the_runtime_opens_is_that_of_its_process() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let process = process(&world, "red");
    let new = json!([{"type": "network"}, {"type": "mount"}]);
    Container::new("c1", "none").of(process.pid(), new).with(id(300)).created();
    assert_eq!(world.status("red")["identity"], 300);
}

#[test]
fn the_manager_is_shown_as_the_runtime() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    for (key, value, runtime) in [
        ("io.container.manager", "libpod", "podman"),
        ("io.container.manager", "cri-o", "cri-o"),
        ("io.kubernetes.cri.container-type", "container", "containerd"),
    ] {
        let container = Container::new("c1", "red").with(json!({"cilmark.id": "300", key: value}));
        container.created();
        assert_eq!(world.status("red")["birth"]["runtime"], runtime);
        container.stopped();
    }
}

#[test]
fn the_first_datagram_is_stamped_and_what_no_rule_allows_does_not_pass() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    world.sh("nft add table inet t
              nft add chain inet t c '{ type filter hook prerouting priority -300; }'
              nft add rule inet t c iifname red udp dport 53 meta mark 0x012c0f00 counter
              nft add rule inet t c iifname red udp dport 53-54 counter");
    Container::new("c1", "red")
        .with(json!({"cilmark.id": "300", "cilmark.policy": "enforce",
            "cilmark.rules": "allow egress to any udp/53"}))
        .created();
    let [allowed, denied] = ["53", "54"].map(|port| udp(&world, HOST, &format!("[::]:{port}")));
    for (any, address) in [("0.0.0.0:0", "10.1.0.1"), ("[::]:0", "fd00:1::1")] {
        let sender = udp(&world, "red", any);
        arrives(&sender, &allowed, address);
        is_lost(&sender, &denied, address);
    }
    let rules = world.sh("nft list chain inet t c");
    let counted = rules.matches("counter packets 2 ").count();
    assert_eq!(counted, 2, "both that passed are stamped, and only they came out: {rules}");
}

#[test]
fn a_container_without_an_identity_is_left_alone() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let container = Container::new("c1", "red").with(json!({"org.example": "x", "cilmarks": "y"}));
    container.created();
    assert_eq!(world.pins(), [""; 0]);
    Container { annotations: Value::Null, ..container }.created();
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn one_that_names_none_gets_that_of_the_file() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let file = format!("{FILES}/cilmark.toml");
    fs::write(&file, "version = 1\n[births]\ndefault = 310\n").unwrap();
    let container = Container::new("c1", "red");
    let run = container.create(&format!("--file {file}"));
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(world.status("red")["identity"], 310);
    assert_eq!(world.status("red")["birth"]["id_from"], "births");
    container.stopped();
    // It is the host's network, and no workload's.
    let host = Container::new("c2", "none").of(std::process::id(), json!([{"type": "pid"}]));
    let host = Container { pid: thread_pid(), ..host };
    let run = host.create(&format!("--file {file}"));
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(world.pins(), [""; 0]);
}

/// The test's own thread, whose namespaces are its own.
fn thread_pid() -> u32 {
    nix::unistd::gettid().as_raw() as u32
}

#[test]
fn what_can_not_have_an_identity_does_not_start_with_one() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    world.sh("ip netns add empty; ip -n empty link set lo up");
    let (process, empty) = (process(&world, "red"), process(&world, "empty"));
    let new = json!([{"type": "network"}]);
    let container = || Container::new("c1", "red").with(id(300));
    let refused = |container: Container, words: &[&str]| container.is_refused(&world, "", words);
    // --network host: no such namespace is named, or it is the host's.
    refused(container().of(thread_pid(), json!([{"type": "pid"}])), &["this host's network"]);
    refused(container().of(thread_pid(), new.clone()), &["this host's network"]);
    // --network none.
    refused(container().of(empty.pid(), new.clone()), &["no network device", "give it a network"]);
    // --userns of Podman: the network comes behind the hook.
    let late = json!([{"type": "network"}, {"type": "user"}]);
    refused(
        container().of(empty.pid(), late.clone()),
        &["its network comes only after", "--userns"],
    );
    Container::new("c2", "red").of(empty.pid(), late.clone()).created();
    // What is there is there, with a user namespace or without.
    let there = container().of(process.pid(), late);
    there.created();
    there.stopped();
    refused(Container::new("c1", "gone").with(id(300)), &["/run/netns/gone"]);
    refused(container().of(0, new), &["neither its process nor its network namespace"]);
    refused(Container::new("c1", "red").with(id(2)), &["reserved", "128"]);
    let words = &["annotation: cilmark.polcy", "no such key"];
    refused(Container::new("c1", "red").with(json!({"cilmark.polcy": "x"})), words);
    let words = &["annotation", "cilmark.id"];
    refused(Container::new("c1", "red").with(json!({"cilmark.policy": "enforce"})), words);
    let words = &["cilmark.id", "nobody"];
    refused(Container::new("c1", "red").with(json!({"cilmark.id": "nobody"})), &words[1..]);
    let mut long = Container::new(&"x".repeat(256), "red").with(id(300));
    long.bundle = PathBuf::from(format!("{FILES}/bundles/long"));
    refused(long, &["256 bytes"]);
}

#[test]
fn a_bundle_or_a_state_that_can_not_be_read_stops_the_start() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let container = Container::new("c1", "red").with(id(300));
    let state = container.state("creating");
    hook("createRuntime", &state).fails(1, &["c1", "/mnt/bundles/c1/config.json", "No such file"]);
    fs::create_dir_all(&container.bundle).unwrap();
    fs::write(container.bundle.join("config.json"), "{").unwrap();
    hook("createRuntime", &state).fails(1, &["c1", "/mnt/bundles/c1/config.json", "EOF"]);
    for state in ["", "{}", "[]"] {
        hook("createRuntime", state).fails(1, &["state"]);
        hook("poststop", state).fails(1, &["state"]);
    }
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn each_network_of_a_container_is_attached_or_none() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    world.sh("ip link add red2 type veth peer name eth1 netns red
              ip addr add 10.9.0.1/24 dev red2; ip link set red2 up
              ip -n red link set eth1 up");
    let container = Container::new("c1", "red").with(id(300));
    container.is_refused(&world, "", &["eth1", "no address"]);
    world.sh("ip -n red addr add 10.9.0.10/24 dev eth1");
    container.created();
    for (device, inside) in [("red", "eth0"), ("red2", "eth1")] {
        let status = world.status(device);
        assert_eq!(
            (&status["identity"], &status["birth"]["ifname"]),
            (&json!(300), &json!(inside))
        );
    }
    // The ends of a container that is going are the first to go.
    world.sh("ip link del red2; ip netns del red");
    wait_for("the device to go", || !world.try_sh("ip link show red").status.success());
    container.stopped();
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn twice_is_once_and_the_last_counts() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    Container::new("c1", "red").with(id(300)).created();
    let first = world.status("red");
    Container::new("c1", "red").with(id(300)).created();
    assert_eq!(world.status("red")["endpoint_id"], first["endpoint_id"]);
    let last = Container::new("c1", "red").with(id(301));
    last.created();
    assert_eq!(world.status("red")["identity"], 301);
    last.stopped();
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn ten_containers_that_start_and_stop_at_once_are_each_right() {
    let Some(world) = world() else { return };
    let names: Vec<String> = (1..=10).map(|number| format!("c{number}")).collect();
    for (number, name) in (1..).zip(&names) {
        world.workload(name, number);
    }
    let container = |number: usize| Container::new(&names[number], &names[number]);
    all_at_once(|number| container(number).with(id(300 + number as u32)).created());
    for (number, name) in names.iter().enumerate() {
        let status = world.status(name);
        let ip = json!(format!("10.{}.0.10", number + 1));
        assert_eq!((&status["identity"], &status["ips"][0]), (&json!(300 + number), &ip));
        assert_eq!(status["owner"], name.as_str());
    }
    all_at_once(|number| container(number).stopped());
    assert_eq!(world.pins(), [""; 0]);
}

/// From ten threads, in the namespaces of this one.
fn all_at_once(action: impl Fn(usize) + Sync) {
    let own = |kind| fs::File::open(format!("/proc/thread-self/ns/{kind}")).expect("open it");
    let namespaces = [own("net")];
    thread::scope(|scope| {
        for number in 0..10 {
            let (action, [net]) = (&action, &namespaces);
            scope.spawn(move || {
                setns(net, CloneFlags::CLONE_NEWNET).expect("enter the test's namespace");
                action(number);
            });
        }
    });
}

#[test]
fn nothing_is_left_of_a_device_that_goes_meanwhile() {
    let Some(world) = world() else { return };
    for _ in 0..5 {
        world.workload("red", 1);
        let container = Container::new("c1", "red").with(id(300));
        container.write_config();
        let deleted = world.spawn("ip link del red");
        let run = container.create("");
        wait_for("the device to go", || !world.try_sh("ip link show red").status.success());
        match run.status {
            Some(0) => container.stopped(),
            _ => assert_eq!(world.pins(), [""; 0], "{run:?}"),
        }
        assert_eq!(world.pins(), [""; 0]);
        drop(deleted);
        world.sh("ip netns del red");
    }
}

/// Its runtime would kill it, which says nothing of the reason.
#[test]
fn it_gives_up_when_another_command_goes_on_for_long() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    Container::new("c1", "red").with(id(300)).created();
    let root = fs::File::open("/sys/fs/bpf/cilmark").unwrap();
    let lock = Flock::lock(root, FlockArg::LockExclusive).expect("lock it");
    let blue = Container::new("c2", "blue").with(id(301));
    blue.create("").fails(1, &["c2", "other commands", "nothing has changed"]);
    // Who gets nothing waits for nobody.
    Container::new("c3", "blue").created();
    drop(lock);
    blue.created();
    assert_eq!(world.status("blue")["identity"], 301);
}

/// As when a machine boots and all its containers start.
#[test]
fn it_waits_longer_while_others_start_and_end() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    Container::new("c1", "red").with(id(300)).created();
    let root = fs::File::open("/sys/fs/bpf/cilmark").unwrap();
    let lock = Flock::lock(root, FlockArg::LockExclusive).expect("lock it");
    let begin = Instant::now();
    let other = "/sys/fs/bpf/cilmark/endpoints/9";
    thread::scope(|scope| {
        let waits = scope.spawn(|| Container::new("c2", "blue").with(id(301)).created());
        // What comes and goes too early is no sign.
        wait_for("half of its patience", || begin.elapsed() > PATIENCE / 2);
        fs::create_dir(other).and_then(|()| fs::remove_dir(other)).expect("come and go");
        wait_for("its patience to be over", || begin.elapsed() > PATIENCE * 5 / 4);
        assert!(!waits.is_finished(), "it waits on");
        drop(lock);
    });
    assert_eq!(world.status("blue")["identity"], 301);
}

#[test]
fn poststop_of_somebody_else_takes_nothing_off() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    Container::new("c1", "red").with(id(300)).created();
    Container::new("c2", "red").stopped();
    // A longer name than any owner has.
    Container::new(&"x".repeat(256), "red").stopped();
    assert_eq!(world.status("red")["owner"], "c1");
    // By hand, and not by a hook.
    world.workload("blue", 2);
    world.cilmark_ok("attach --container-netns blue --id 301 --owner c3");
    Container::new("c3", "blue").stopped();
    assert_eq!(world.status("blue")["owner"], "c3");
}

#[test]
fn a_runtime_that_is_not_root_starts_what_has_no_identity() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let Some(without) = Container::new("c1", "red").create_rootless() else { return };
    assert_eq!(without, (Some(0), String::new()));
    let with = Container::new("c1", "red").with(id(300)).create_rootless();
    let (status, stderr) = with.expect("as before");
    assert!(status == Some(1) && stderr.contains("is no root of this host"), "{stderr}");
    // Docker's data by default, which they may not read.
    world.sh("mount -t tmpfs lib /var/lib && install -d -m 700 -o 5 /var/lib/docker");
    let without = Container::new("c1", "red").create_rootless();
    assert_eq!(without, Some((Some(0), String::new())));
}

#[test]
fn rules_of_which_nobody_says_what_they_do_enforce_their_direction() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let modes = |rules: &str, policy: Option<&str>| {
        let mut keys = json!({"cilmark.id": "300", "cilmark.rules": rules});
        if let Some(policy) = policy {
            keys["cilmark.policy"] = json!(policy);
        }
        let container = Container::new("c1", "red").with(keys);
        container.created();
        let status = world.status("red");
        container.stopped();
        [status["ingress_policy"].clone(), status["egress_policy"].clone()]
    };
    assert_eq!(modes("allow ingress from any tcp/80", None), ["enforce", "off"]);
    assert_eq!(modes("allow egress to any; deny ingress from 7", None), ["enforce", "enforce"]);
    assert_eq!(modes("allow egress to any", Some("ingress=audit")), ["audit", "off"]);
    assert_eq!(modes("allow egress to any", Some("off")), ["off", "off"]);
}

/// udev may have asked the file for the device before its runtime calls the hook.
#[test]
fn what_the_file_has_attached_first_is_the_births_alone_then() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let file = format!("{FILES}/cilmark.toml");
    let text = "version = 1\n[[endpoint]]\ndevice = \"r*\"\nid = 301\npolicy = \"enforce\"\n\
                rules = [\"allow ingress from any\"]\n";
    fs::write(&file, text).unwrap();
    world.cilmark_ok(&format!("apply {file}"));
    let keys = json!({"cilmark.id": "300", "cilmark.rules": "allow ingress from 302 tcp/80"});
    let container = Container::new("c1", "red").with(keys);
    let run = container.create(&format!("--file {file}"));
    assert_eq!(run.status, Some(0), "{run:?}");
    let status = world.status("red");
    assert_eq!(status["identity"], 300);
    assert_eq!(status["ips"], json!(["10.1.0.10", "fd00:1::10"]));
    let rules = world.cilmark_json("policy list red");
    assert_eq!(rules.as_array().unwrap().len(), 1, "{rules}");
    assert_eq!(rules[0]["rule"], "allow ingress from 302 tcp/80");
    let applied = world.cilmark(&format!("apply {file} --prune"));
    assert!(applied.stderr.contains("red is a hook's, and stays as it is"), "{applied:?}");
    assert_eq!(world.status("red")["identity"], 300);
    container.stopped();
    assert_eq!(world.cilmark_json("status"), json!([]));
}

/// `ctr` in two namespaces of containerd, runc by two `--root`s.
#[test]
fn an_end_is_not_that_of_another_runtimes_container_of_the_same_name() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    let [first, mut second] =
        ["red", "blue"].map(|netns| Container::new("web", netns).with(id(300)));
    second.bundle = PathBuf::from(format!("{FILES}/others/web"));
    first.created();
    second.created();
    second.stopped();
    assert_eq!(world.status("red")["owner"], "web");
    second.created();
    first.stopped();
    assert_eq!(world.status("blue")["owner"], "web");
    second.stopped();
    assert_eq!(world.pins(), [""; 0]);
}

/// A runtime tells the directory as it found it, and whoever deletes the container may name it otherwise.
#[test]
fn a_bundle_is_the_same_by_a_link() {
    let Some(world) = world() else { return };
    world.workload("red", 1);
    let mut container = Container::new("c1", "red").with(id(300));
    container.created();
    let link = PathBuf::from(format!("{FILES}/link"));
    symlink(&container.bundle, &link).expect("link it");
    container.bundle = link;
    let run = hook("poststop", &container.state("stopped"));
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(world.pins(), [""; 0]);
}
