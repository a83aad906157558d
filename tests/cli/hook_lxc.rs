//! `hook lxc`: called as LXC 5 calls the scripts of a network, in its environment.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use serde_json::json;

use crate::common::World;
use crate::common::process::{PATIENCE, Run, Running, cilmark};
use crate::common::traffic::{arrives, is_lost, udp};
use crate::common::world::wait_for;

/// A container that is about to run: its network is there, and a process is in it.
struct Container<'a> {
    world: &'a World,
    device: String,
    process: Running,
    config: String,
}

impl<'a> Container<'a> {
    /// In the namespace `device`, with a configuration of these lines beside what each has.
    fn new(world: &'a World, device: &str, lines: &str) -> Container<'a> {
        let process = world.spawn(&format!("ip netns exec {device} sleep 1000"));
        wait_for("the process", || {
            world.sh(&format!("ip netns pids {device}")).trim() == process.pid().to_string()
        });
        let config = format!("/run/netns/{device}.config");
        let container = Container { world, device: device.to_owned(), process, config };
        container.configure(lines);
        container
    }

    fn configure(&self, lines: &str) {
        let text =
            format!("lxc.uts.name = c1\nlxc.net.0.type = veth\nlxc.net.0.link = lxcbr0\n{lines}\n");
        fs::write(&self.config, text).unwrap();
    }

    fn hook(&self, when: &str) -> Run {
        self.hook_of(when, "veth")
    }

    fn hook_of(&self, when: &str, kind: &str) -> Run {
        let command = cilmark(&["hook", "lxc", kind, "lxcbr0", &self.device]);
        self.in_environment(command, when, kind).output().unwrap().into()
    }

    /// By `lxc.hook.version = 1`.
    fn in_environment(&self, mut command: Command, when: &str, kind: &str) -> Command {
        command.envs([
            ("LXC_NAME", "c1"),
            ("LXC_CONFIG_FILE", &self.config),
            ("LXC_PID", &self.process.pid().to_string()),
            ("LXC_HOOK_VERSION", "1"),
            ("LXC_HOOK_SECTION", "net"),
            ("LXC_HOOK_TYPE", when),
            ("LXC_NET_TYPE", kind),
            ("LXC_NET_PARENT", "lxcbr0"),
            ("LXC_NET_PEER", &self.device),
        ]);
        command
    }

    /// As LXC does of an ordinary user's container.
    fn hook_as_nobody(&self, when: &str) -> Run {
        let command = self.world.cilmark_of_a_user(&["hook", "lxc"]);
        self.in_environment(command, when, "veth").output().unwrap().into()
    }

    fn succeeds(&self, when: &str) {
        let run = self.hook(when);
        assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""));
    }

    fn mac(&self) -> String {
        let name = &self.device;
        let show = format!("ip netns exec {name} cat /sys/class/net/eth0/address");
        self.world.sh(&show).trim().to_owned()
    }
}

#[test]
fn a_container_has_all_that_its_configuration_says_before_it_runs_and_nothing_afterwards() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    let container = Container::new(
        &world,
        "vethA",
        "# cilmark.id = 501
         #cilmark.rules=allow egress to any udp/53; deny egress to any
         ## cilmark.policy = egress=enforce
         # cilmark.labels = app=web
         # what is no key of ours does not matter: cilmark.id = 7
         lxc.net.0.name = net7
         lxc.net.0.hwaddr = 02:00:00:00:00:07
         lxc.net.0.ipv4.address = 10.1.0.10/24 10.1.0.255
         lxc.net.0.ipv6.address = fd00:1::10/64",
    );
    container.succeeds("up");
    let status = world.status("vethA");
    assert_eq!((&status["identity"], &status["owner"]), (&json!(501), &json!("c1")), "{status}");
    assert_eq!(status["ips"], json!(["10.1.0.10", "fd00:1::10"]));
    assert_eq!(status["workload_mac"], "02:00:00:00:00:07");
    let birth = &status["birth"];
    assert_eq!((&birth["hook"], &birth["runtime"]), (&json!("lxc"), &json!("lxc")));
    assert_eq!((&birth["id_from"], &birth["ifname"]), (&json!("lxc-config"), &json!("net7")));
    assert!(world.cilmark_ok("policy list vethA").contains("udp/53"));
    container.succeeds("down");
    assert_eq!(world.pins(), [""; 0]);
    container.succeeds("down");
}

#[test]
fn what_a_container_sends_is_stamped_and_held_to_its_rules_its_mac_and_its_addresses() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    world.workload("red", 2);
    world.cilmark_ok("attach --container-netns red --id 300 --ingress-policy enforce");
    world.cilmark_ok("policy add red allow ingress from 501");
    let red = udp(&world, "red", "10.2.0.10:5353");
    let other = udp(&world, "red", "10.2.0.10:5454");
    let sender = udp(&world, "vethA", "10.1.0.10:0");
    is_lost(&sender, &red, "10.2.0.10");
    let container = Container::new(
        &world,
        "vethA",
        "# cilmark.id = 501
         # cilmark.rules = allow egress to any udp/5353
         # cilmark.policy = egress=enforce
         lxc.net.0.ipv4.address = 10.1.0.10/24",
    );
    let mac = container.mac();
    container.succeeds("up");
    arrives(&sender, &red, "10.2.0.10");
    is_lost(&sender, &other, "10.2.0.10");
    world.sh("ip -n vethA addr add 10.1.0.99/24 dev eth0");
    is_lost(&udp(&world, "vethA", "10.1.0.99:0"), &red, "10.2.0.10");
    world.sh("ip -n vethA link set eth0 address 02:00:00:00:00:99");
    is_lost(&sender, &red, "10.2.0.10");
    world.sh(&format!("ip -n vethA link set eth0 address {mac}"));
    arrives(&sender, &red, "10.2.0.10");
}

#[test]
fn the_mac_is_the_one_that_the_configuration_sets_or_that_is_there() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    let container = Container::new(&world, "vethA", "# cilmark.id = 501");
    container.succeeds("up");
    assert_eq!(world.status("vethA")["workload_mac"], container.mac());
    assert_eq!(world.status("vethA")["ips"], json!([]), "nobody says any");
    container.configure("# cilmark.id = 501\nlxc.net.0.hwaddr = 00:16:3e:xx:xx:xx");
    let run = container.hook("up");
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("the MAC is not checked"), "{run:?}");
    assert_eq!(world.status("vethA")["workload_mac"], json!(null));
}

#[test]
fn included_files_count_where_they_are_included() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    world.sh("mkdir /run/netns/more.d
              echo '# cilmark.id = 501' >/run/netns/more.d/a.conf
              echo 'lxc.net.0.ipv4.address = 10.1.0.11/24' >/run/netns/more.d/b.conf
              echo '# cilmark.none = 502' >/run/netns/more.d/c.txt");
    let lines = "lxc.net.0.ipv4.address = 10.1.0.10\nlxc.include = /run/netns/more.d";
    let container = Container::new(&world, "vethA", lines);
    container.succeeds("up");
    let status = world.status("vethA");
    assert_eq!(
        (&status["identity"], &status["ips"]),
        (&json!(501), &json!(["10.1.0.10", "10.1.0.11"]))
    );
    container.configure(&format!("{lines}\nlxc.net.0.ipv4.address =\n# cilmark.id = 503"));
    container.succeeds("up");
    let status = world.status("vethA");
    assert_eq!((&status["identity"], &status["ips"]), (&json!(503), &json!([])));
}

#[test]
fn a_container_that_nobody_gives_an_identity_is_left_alone() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    let container = Container::new(&world, "vethA", "lxc.net.0.hwaddr = 02:00:00:00:00:07");
    container.succeeds("up");
    assert_eq!(container.hook_of("up", "macvlan").status, Some(0));
    container.succeeds("down");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn of_an_ordinary_users_containers_only_those_do_not_start_that_say_something_of_cilmark() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    world.cilmark_ok("identity set 501 web");
    world.sh("chmod 700 /sys/fs/bpf");
    let container = Container::new(&world, "vethA", "");
    for when in ["up", "down"] {
        let run = container.hook_as_nobody(when);
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{when}");
    }
    container.configure("# cilmark.id = 501");
    container.hook_as_nobody("up").fails(1, &["container c1", "root"]);
}

#[test]
fn what_can_have_no_identity_or_is_misspelt_keeps_a_container_from_starting() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    let container = Container::new(&world, "vethA", "# cilmark.id = 501");
    container.hook_of("up", "macvlan").fails(1, &["container c1", "`macvlan`", "veth"]);
    for (lines, words) in [
        ("# cilmark.identity = 501", [".config:4", "cilmark.identity: there is no such key"]),
        ("# cilmark.id web", [".config:4", "no `=`"]),
        ("# cilmark.rules = allow egress to any", ["lxc-config", "cilmark.id"]),
        ("# cilmark.id = nobody", ["nobody", "vethA"]),
        (
            "# cilmark.id = 501\nlxc.include = /run/netns/none.conf",
            [".config:5", "/run/netns/none.conf"],
        ),
        (
            "# cilmark.id = 501\nlxc.net.1.type = veth\n# cilmark.ip = 10.1.0.10",
            ["there are 2", "cilmark.net.0.ip"],
        ),
        (
            "# cilmark.id = 501\n# cilmark.net.1.ip = 10.1.0.10",
            ["cilmark.net.1.ip", "there is not"],
        ),
        (
            "# cilmark.id = 501\nlxc.net.0.hwaddr = 02:00:00:00:00:07\nlxc.net.1.type = veth\nlxc.net.1.link = lxcbr0",
            ["which: name their devices", "lxc.net.1.veth.pair"],
        ),
    ] {
        container.configure(lines);
        container.hook("up").fails(1, &["container c1", words[0], words[1]]);
        assert_eq!(world.pins(), [""; 0], "{lines}");
    }
}

#[test]
fn what_has_failed_is_in_the_systems_log_since_lxc_does_not_show_it() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    let container = Container::new(&world, "vethA", "# cilmark.identity = 501");
    world.sh("mkdir /run/netns/dev
              mount -t tmpfs tmpfs /run/netns/dev
              mknod /run/netns/dev/null c 1 3
              mount --bind /run/netns/dev /dev");
    let log = UnixDatagram::bind("/dev/log").unwrap();
    log.set_read_timeout(Some(PATIENCE)).unwrap();
    let run = container.hook("up");
    assert_eq!(run.status, Some(1));
    let mut bytes = [0; 512];
    let length = log.recv(&mut bytes).unwrap();
    let line = String::from_utf8_lossy(&bytes[..length]);
    assert!(line.starts_with("<27>cilmark["), "{line}");
    assert!(line.contains("]: container c1: ") && line.contains("cilmark.identity"), "{line}");
}

#[test]
fn a_device_has_what_is_said_of_its_own_network() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    let container = Container::new(
        &world,
        "vethA",
        "# cilmark.id = 501
         # cilmark.net.1.ip = 10.1.0.10
         lxc.net.0.ipv4.address = 10.9.0.1/24
         lxc.net.1.type = veth
         lxc.net.1.veth.pair = vethA",
    );
    container.succeeds("up");
    assert_eq!(world.status("vethA")["ips"], json!(["10.1.0.10"]));
}

#[test]
fn a_container_whose_second_network_fails_leaves_nothing_of_the_first() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    world.sh("ip link add vethB type veth peer name eth1 netns vethA");
    let container = Container::new(&world, "vethA", "# cilmark.id = 501");
    container.succeeds("up");
    container.configure("# cilmark.id = 501\n# cilmark.rules = permit all");
    let second = Container { device: "vethB".to_owned(), ..container };
    second.hook("up").fails(1, &["vethB", "permit"]);
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn the_end_of_a_container_ends_no_other_of_its_name() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    world.workload("vethB", 2);
    let one = Container::new(&world, "vethA", "# cilmark.id = 501");
    let two = Container::new(&world, "vethB", "# cilmark.id = 502");
    one.succeeds("up");
    two.succeeds("up");
    one.succeeds("down");
    let all = world.cilmark_json("status");
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    assert_eq!(all[0]["device"], "vethB");
}

#[test]
fn the_arguments_of_old_scripts_say_the_same() {
    let Some(world) = World::new() else { return };
    world.workload("vethA", 1);
    let container = Container::new(&world, "vethA", "# cilmark.id = 501");
    for (when, link) in [("up", Some("lxcbr0")), ("down", Some("lxcbr0")), ("up", None)] {
        let arguments = [
            Some("hook"),
            Some("lxc"),
            Some("c1"),
            Some("net"),
            Some(when),
            Some("veth"),
            link,
            Some("vethA"),
        ];
        let arguments: Vec<&str> = arguments.into_iter().flatten().collect();
        let mut command = cilmark(&arguments);
        command.envs([
            ("LXC_NAME", "c1"),
            ("LXC_CONFIG_FILE", &container.config),
            ("LXC_PID", &container.process.pid().to_string()),
            ("LXC_HOOK_VERSION", "0"),
        ]);
        let run: Run = command.output().unwrap().into();
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{when}");
        assert_eq!(world.pins().is_empty(), when == "down");
    }
}

#[test]
fn whoever_is_not_lxc_is_told_what_the_command_is_for() {
    let Some(world) = World::new() else { return };
    world.cilmark("hook lxc").fails(1, &["lxc.net.N.script.up", "lxc.hook.version = 1"]);
    world.cilmark("hook lxc c1 lxc start veth vethA").fails(1, &["`lxc start`", "script.up"]);
}
