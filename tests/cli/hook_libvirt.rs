//! `hook libvirt`: called as libvirt 9 calls its hooks, with the XML that it gives them.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use crate::common::World;
use crate::common::process::Run;
use crate::common::traffic::{arrives, is_lost, udp};

/// cilmark's element as `virsh metadata --key cilmark --set` leaves it.
fn metadata(elements: &[(&str, &str)]) -> String {
    let elements = elements.iter().map(|(name, text)| {
        let tag = name.split(' ').next().unwrap();
        format!("<cilmark:{name}>{text}</cilmark:{tag}>")
    });
    format!(
        "<cilmark:workload xmlns:cilmark=\"urn:cilmark\">{}</cilmark:workload>",
        elements.collect::<String>()
    )
}

/// An interface in a bridge.
fn bridged(mac: &str, tap: &str) -> String {
    format!(
        "<interface type='bridge'>
           <mac address='{mac}'/>
           <source bridge='br0'/>
           <target dev='{tap}'/>
           <model type='rtl8139'/>
           <alias name='net0'/>
         </interface>"
    )
}

/// A domain that runs.
fn domain(metadata: &str, interfaces: &str) -> String {
    format!(
        "<domain type='qemu' id='3'>
           <name>vm1</name>
           <uuid>af4f569c-d8a0-41c9-a43e-31adc2c65672</uuid>
           <metadata>
             <other:x xmlns:other=\"http://x.example/1.0\"><other:id>7</other:id></other:x>
             {metadata}
           </metadata>
           <memory unit='KiB'>65536</memory>
           <devices>
             <emulator>/usr/bin/qemu-system-x86_64</emulator>
             {interfaces}
           </devices>
         </domain>"
    )
}

fn hook(world: &World, event: &str, xml: &str) -> Run {
    world.cilmark_with_input(&format!("hook libvirt vm1 {event} -"), xml)
}

/// Succeeds, and leaves the XML to libvirt.
fn succeeds(world: &World, event: &str, xml: &str) {
    let run = hook(world, event, xml);
    assert_eq!(
        (run.status, run.stdout.as_str(), run.stderr.as_str()),
        (Some(0), "", ""),
        "{event}"
    );
}

fn mac_of(world: &World, guest: &str) -> String {
    world.sh(&format!("ip netns exec {guest} cat /sys/class/net/eth0/address")).trim().to_owned()
}

#[test]
fn a_guest_has_identity_rules_and_its_mac_before_it_runs_and_nothing_when_it_has_stopped() {
    let Some(world) = World::new() else { return };
    let _guest = world.machine("vnet0", 1, "tap");
    let mac = mac_of(&world, "vnet0");
    let said = metadata(&[
        ("id", "501"),
        ("rules", "allow egress to any udp/53; deny egress to any"),
        ("policy", "egress=enforce"),
        ("labels", "app=web"),
        ("ip", "10.1.0.10, fd00:1::10"),
    ]);
    let xml = domain(&said, &bridged(&mac, "vnet0"));
    succeeds(&world, "prepare begin", &xml);
    assert_eq!(world.pins(), [""; 0]);
    succeeds(&world, "start begin", &xml);
    succeeds(&world, "started begin", &xml);
    let status = world.status("vnet0");
    assert_eq!((&status["identity"], &status["owner"]), (&json!(501), &json!("vm1")), "{status}");
    assert_eq!(status["ips"], json!(["10.1.0.10", "fd00:1::10"]));
    assert_eq!((&status["workload_mac"], &status["role"]), (&json!(mac), &json!("container")));
    assert_eq!(status["birth"]["hook"], "libvirt");
    assert_eq!(status["birth"]["runtime"], "libvirt");
    assert_eq!(status["birth"]["id_from"], "metadata");
    assert_eq!(status["birth"]["rules_from"], "metadata");
    assert!(world.cilmark_ok("policy list vnet0").contains("udp/53"));
    // As libvirt tells of a guest that does not run: without taps.
    let stopped = domain(&said, "<interface type='bridge'><source bridge='br0'/></interface>");
    succeeds(&world, "stopped end", &stopped);
    assert_eq!(world.pins(), [""; 0]);
    succeeds(&world, "release end", &stopped);
}

#[test]
fn what_a_guest_sends_is_stamped_and_held_to_its_rules_its_mac_and_its_addresses() {
    let Some(world) = World::new() else { return };
    let _guest = world.machine("vnet0", 1, "tap");
    world.workload("red", 2);
    let mac = mac_of(&world, "vnet0");
    world.cilmark_ok("attach --container-netns red --id 300 --ingress-policy enforce");
    world.cilmark_ok("policy add red allow ingress from 501");
    let red = udp(&world, "red", "10.2.0.10:5353");
    let other = udp(&world, "red", "10.2.0.10:5454");
    let guest = udp(&world, "vnet0", "10.1.0.10:0");
    // Without a hook it is nobody that red would hear.
    is_lost(&guest, &red, "10.2.0.10");
    let said = metadata(&[
        ("id", "501"),
        ("rules", "allow egress to any udp/5353"),
        ("policy", "egress=enforce"),
        ("ip", "10.1.0.10"),
    ]);
    succeeds(&world, "start begin", &domain(&said, &bridged(&mac, "vnet0")));
    arrives(&guest, &red, "10.2.0.10");
    is_lost(&guest, &other, "10.2.0.10");
    world.sh("ip -n vnet0 addr add 10.1.0.99/24 dev eth0");
    is_lost(&udp(&world, "vnet0", "10.1.0.99:0"), &red, "10.2.0.10");
    world.sh("ip -n vnet0 link set eth0 address 02:00:00:00:00:99");
    is_lost(&guest, &red, "10.2.0.10");
    world.sh(&format!("ip -n vnet0 link set eth0 address {mac}"));
    arrives(&guest, &red, "10.2.0.10");
}

#[test]
fn a_guest_that_nobody_gives_an_identity_is_left_alone() {
    let Some(world) = World::new() else { return };
    let direct = "<interface type='direct'><mac address='52:54:00:a2:52:81'/>
                  <source dev='eth9' mode='bridge'/><target dev='macvtap0'/></interface>";
    for xml in [domain("", direct), domain("", ""), "<domain type='qemu'/>".to_owned()] {
        for event in ["start begin", "reconnect begin", "stopped end", "release end"] {
            succeeds(&world, event, &xml);
        }
    }
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn what_has_no_tap_keeps_a_guest_with_an_identity_from_starting() {
    let Some(world) = World::new() else { return };
    let _guest = world.machine("vnet0", 1, "tap");
    world.sh("ip link add macvtap0 link vnet0 type macvtap");
    let tap = bridged("52:54:00:00:00:01", "vnet0");
    for (interface, words) in [
        (
            "<interface type='direct'><mac address='52:54:00:a2:52:81'/><target dev='macvtap0'/></interface>",
            ["52:54:00:a2:52:81 is a macvtap", "connect it to a bridge"],
        ),
        (
            "<interface type='ethernet'><target dev='macvtap0'/></interface>",
            ["macvtap0 is no tap", "a macvtap"],
        ),
        (
            "<interface type='user'><mac address='52:54:00:b3:2e:12'/></interface>",
            ["`user`", "`bridge`"],
        ),
        ("<interface type='vhostuser'/>", ["an interface has no tap", "`vhostuser`"]),
        ("<interface type='hostdev'/>", ["`hostdev`", "no tap"]),
        ("<interface type='bridge'/>", ["<target dev>", "not there yet"]),
        (
            "<interface type='bridge'><target dev='vnet7'/></interface>",
            ["`vnet7`", "No such device"],
        ),
    ] {
        let xml = domain(&metadata(&[("id", "501")]), &format!("{tap}{interface}"));
        let run = hook(&world, "start begin", &xml);
        run.fails(1, &["guest vm1", words[0], words[1]]);
        assert_eq!(world.pins(), [""; 0], "{interface}");
    }
}

#[test]
fn what_is_misspelt_keeps_the_guest_from_starting() {
    let Some(world) = World::new() else { return };
    let _guest = world.machine("vnet0", 1, "tap");
    let tap = bridged("52:54:00:00:00:01", "vnet0");
    for (metadata, word) in [
        (metadata(&[("identity", "501")]), "<identity>: there is no such key"),
        (metadata(&[("rules", "allow egress to any")]), "metadata says something of cilmark"),
        (metadata(&[("id", "501"), ("rules", "permit all")]), "permit"),
        (metadata(&[("id", "nobody")]), "nobody"),
        (
            "<workload xmlns='http://cilmark.io/'><id>501</id></workload>".to_owned(),
            "`urn:cilmark`",
        ),
    ] {
        hook(&world, "start begin", &domain(&metadata, &tap)).fails(1, &["guest vm1", word]);
        assert_eq!(world.pins(), [""; 0], "{metadata}");
    }
}

#[test]
fn each_interface_has_its_own_addresses() {
    let Some(world) = World::new() else { return };
    let _guests = [world.machine("vnet0", 1, "tap"), world.machine("vnet1", 2, "tap")];
    let (one, two) = ("52:54:00:00:00:01", "52:54:00:00:00:02");
    let taps = bridged(one, "vnet0") + &bridged(two, "vnet1");
    let both = metadata(&[("id", "501"), ("ip", "10.1.0.10")]);
    hook(&world, "start begin", &domain(&both, &taps)).fails(1, &["there are 2", one]);
    let (of_one, of_two) = (format!("ip mac='{one}'"), format!("ip mac='{two}'"));
    let each =
        metadata(&[("id", "501"), (&of_one, "10.1.0.10"), (&of_two, "10.2.0.10 fd00:2::10")]);
    succeeds(&world, "start begin", &domain(&each, &taps));
    assert_eq!(world.status("vnet0")["ips"], json!(["10.1.0.10"]));
    assert_eq!(world.status("vnet1")["ips"], json!(["10.2.0.10", "fd00:2::10"]));
    succeeds(&world, "stopped end", "");
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn the_address_that_a_network_of_libvirt_keeps_for_a_guest_is_its_own() {
    let Some(world) = World::new() else { return };
    let _guest = world.machine("vnet0", 1, "tap");
    world.sh("mount -t tmpfs tmpfs /var/lib && mkdir -p /var/lib/libvirt/dnsmasq");
    let interface = "<interface type='network'>
                       <mac address='52:54:00:00:00:01'/>
                       <source network='default' portid='17843eac-8585-4450-8dc7-1eea67236952' bridge='virbr0'/>
                       <target dev='vnet0'/>
                     </interface>";
    let xml = domain(&metadata(&[("id", "501")]), interface);
    succeeds(&world, "start begin", &xml);
    assert_eq!(world.status("vnet0")["ips"], json!([]), "a network without hosts");
    let hosts = "/var/lib/libvirt/dnsmasq/default.hostsfile";
    fs::write(
        hosts,
        "52:54:00:00:00:09,192.168.122.61,2h\n52:54:00:00:00:01,192.168.122.60,vm1\nbyname,192.168.122.62\n\
         id:0:3:0:1:52:54:00:00:00:01,vm1,[fd00:122::60]\n",
    )
    .unwrap();
    succeeds(&world, "start begin", &xml);
    assert_eq!(world.status("vnet0")["ips"], json!(["192.168.122.60"]));
    let named = metadata(&[("id", "501"), ("ip", "192.168.122.7")]);
    succeeds(&world, "start begin", &domain(&named, interface));
    assert_eq!(world.status("vnet0")["ips"], json!(["192.168.122.7"]));
}

#[test]
fn when_libvirt_comes_back_what_is_there_stays_and_what_is_missing_comes() {
    let Some(world) = World::new() else { return };
    let _guests = [world.machine("vnet0", 1, "tap"), world.machine("vnet1", 2, "tap")];
    let taps = bridged("52:54:00:00:00:01", "vnet0") + &bridged("52:54:00:00:00:02", "vnet1");
    let xml = domain(&metadata(&[("id", "501")]), &taps);
    succeeds(&world, "start begin", &xml);
    let pin =
        format!("/sys/fs/bpf/cilmark/endpoints/{}/ingress", world.status("vnet0")["endpoint_id"]);
    let program = world.program_id(&pin);
    world.cilmark_ok("detach vnet1");
    succeeds(&world, "reconnect begin", &xml);
    assert_eq!(world.program_id(&pin), program, "it was left alone");
    assert_eq!(world.status("vnet1")["identity"], 501);
    // What says another identity counts.
    succeeds(&world, "reconnect begin", &domain(&metadata(&[("id", "502")]), &taps));
    assert_eq!(world.status("vnet0")["identity"], 502);
}

#[test]
fn a_guest_that_runs_with_all_that_it_needs_is_not_ended_for_what_its_metadata_say_meanwhile() {
    let Some(world) = World::new() else { return };
    let _guest = world.machine("vnet0", 1, "tap");
    let tap = bridged("52:54:00:00:00:01", "vnet0");
    succeeds(&world, "start begin", &domain(&metadata(&[("id", "501")]), &tap));
    let misspelt = domain(&metadata(&[("identity", "501")]), &tap);
    let run = hook(&world, "reconnect begin", &misspelt);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("<identity>"), "{run:?}");
    assert_eq!(world.status("vnet0")["identity"], 501);
    world.cilmark_ok("detach vnet0");
    hook(&world, "reconnect begin", &misspelt).fails(1, &["<identity>"]);
}

#[test]
fn of_an_ordinary_users_guests_only_those_do_not_start_that_say_something_of_cilmark() {
    let Some(world) = World::new() else { return };
    let _guest = world.machine("vnet0", 1, "tap");
    let tap = bridged("52:54:00:00:00:01", "vnet0");
    succeeds(&world, "start begin", &domain(&metadata(&[("id", "501")]), &tap));
    let as_nobody = |event: &str, xml: &str| -> Run {
        let arguments: Vec<&str> = event.split(' ').collect();
        let arguments = [&["hook", "libvirt", "theirs"], &arguments[..], &["-"]].concat();
        let mut command = world.cilmark_of_a_user(&arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    };
    world.sh("chmod 700 /sys/fs/bpf");
    for event in ["start begin", "reconnect begin", "stopped end", "release end"] {
        let run = as_nobody(event, &domain("", "<interface type='user'/>"));
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{event}");
    }
    as_nobody("start begin", &domain(&metadata(&[("id", "501")]), &tap))
        .fails(1, &["theirs", "root"]);
    assert_eq!(world.status("vnet0")["owner"], "vm1");
}

#[test]
fn the_end_of_a_guest_needs_neither_its_taps_nor_its_xml_and_ends_no_other() {
    let Some(world) = World::new() else { return };
    let guest = world.machine("vnet0", 1, "tap");
    let _other = world.machine("vnet1", 2, "tap");
    let said = metadata(&[("id", "501")]);
    succeeds(&world, "start begin", &domain(&said, &bridged("52:54:00:00:00:01", "vnet0")));
    let start = domain(&said, &bridged("52:54:00:00:00:02", "vnet1"));
    let run = world.cilmark_with_input("hook libvirt vm2 start begin -", &start);
    assert_eq!(run.status, Some(0), "{run:?}");
    drop(guest);
    succeeds(&world, "stopped end", "");
    let all = world.cilmark_json("status");
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    assert_eq!(all[0]["owner"], "vm2");
}

#[test]
fn what_is_none_of_its_business_it_lets_pass_without_a_word() {
    let Some(world) = World::new() else { return };
    for event in
        ["migrate begin", "restore begin", "attach begin", "start end", "of-tomorrow begin"]
    {
        succeeds(&world, event, "this is no XML");
    }
    let run = world.cilmark_with_input("hook libvirt -vm release end shutdown more", "");
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
}
