//! The list of where endpoints are attached, `cm_devices`: what it saves, and that nothing is lost where it is.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cilmark::kernel::abi::{self, cm_config, cm_role, u32_key};
use cilmark::kernel::netns;
use cilmark::kernel::sys;
use cilmark::model::endpoint::EndpointId;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::by_each_hook;
use crate::common::third_party::ThirdParty;

const OTHERS: u16 = 300;
const LIST: &str = "/sys/fs/bpf/cilmark/cm_devices";

/// Pins the configuration of an endpoint on a device that is gone, which is all that a list of endpoints is made from.
fn pin_config(world: &World, number: u16) {
    let id = EndpointId::new(number).expect("not 0");
    let config = cm_config {
        netns: netns::current().expect("the namespace"),
        endpoint_id: number.into(),
        role: cm_role::CM_ROLE_CONTAINER,
        ifindex: 100_000 + u32::from(number),
        device: abi::chars_of(&format!("gone{number}")),
        ..cm_config::default()
    };
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
        ..Default::default()
    };
    let size = size_of::<cm_config>() as u32;
    let map = MapHandle::create(MapType::Array, Some("config"), 4, size, 1, &options);
    let map = map.expect("make a configuration");
    map.update(abi::bytes_of(&u32_key(0)), abi::bytes_of(&config), MapFlags::ANY).expect("write");
    let pins = world.root().endpoint(id);
    pins.create().expect("the directory");
    sys::pin(map.as_fd(), &pins.config()).expect("pin it");
}

/// The numbers of the endpoints of which a pin was opened since the last call, by its time of access.
struct Opened(Vec<(String, i64, i64)>);

impl Opened {
    fn times() -> Opened {
        let mut times = Vec::new();
        for directory in fs::read_dir("/sys/fs/bpf/cilmark/endpoints").expect("the endpoints") {
            for pin in fs::read_dir(directory.expect("a directory").path()).expect("its pins") {
                let path = pin.expect("a pin").path();
                let of = fs::metadata(&path).expect("its times");
                let number = path.parent().and_then(Path::file_name).expect("a number");
                times.push((number.to_string_lossy().into_owned(), of.atime(), of.atime_nsec()));
            }
        }
        Opened(times)
    }

    fn since(&self) -> Vec<String> {
        let mut numbers: Vec<String> = Opened::times()
            .0
            .into_iter()
            .filter(|now| !self.0.contains(now))
            .map(|(number, ..)| number)
            .collect();
        numbers.sort();
        numbers.dedup();
        numbers
    }
}

#[test]
fn an_attachment_beside_300_reads_the_pins_of_one_of_them() {
    let Some(world) = World::new() else { return };
    world.sh("mount -o remount,strictatime /sys/fs/bpf");
    for device in ["red", "blue"] {
        world.veth(device);
    }
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1");
    for number in 0..OTHERS {
        pin_config(&world, 1000 + number);
    }
    let before = Opened::times();
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1");
    assert!(before.since().len() > usize::from(OTHERS), "none of them is listed yet");

    // That the maps are those of the programs is looked up at one endpoint, which stands for all.
    let before = Opened::times();
    world.cilmark_ok("attach blue --id 301 --ip 10.0.0.2");
    assert_eq!(before.since(), ["1", "2"]);
    let before = Opened::times();
    world.cilmark_ok("attach blue --id 302 --ip 10.0.0.2");
    assert_eq!(before.since(), ["2"]);
    let before = Opened::times();
    world.cilmark_ok("policy list blue");
    assert_eq!(before.since(), ["2"]);
    let before = Opened::times();
    world.cilmark_ok("detach blue");
    assert_eq!(before.since(), ["1"]);
    assert_eq!(
        world.cilmark_json("status").as_array().map(Vec::len),
        Some(usize::from(OTHERS) + 1),
        "status reads all"
    );
}

/// The device of each line.
fn listed(world: &World) -> Vec<(u64, String)> {
    let text = world.sh(&format!("bpftool -j map dump pinned {LIST}"));
    let lines: Value = serde_json::from_str(&text).expect("JSON");
    let line = |line: &Value| {
        let line = &line["formatted"];
        (line["key"].as_u64().unwrap(), line["value"]["name"].as_str().unwrap().to_owned())
    };
    let mut lines: Vec<_> = lines.as_array().unwrap().iter().map(line).collect();
    lines.sort();
    lines
}

fn is_listed(world: &World, lines: &[(u64, &str)]) {
    let lines: Vec<_> = lines.iter().map(|(id, name)| (*id, (*name).to_owned())).collect();
    assert_eq!(listed(world), lines);
}

#[test]
fn a_line_says_what_the_pinned_configuration_says() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        for (device, number) in [("red", 1), ("blue", 2)] {
            world.veth(device);
            world.cilmark_ok(&format!(
                "attach {device} --id 300 --ip 10.0.0.{number} --hook {hook}"
            ));
        }
        is_listed(&world, &[(1, "red"), (2, "blue")]);
        world.sh("ip link set red down && ip link set red name green");
        is_listed(&world, &[(1, "red"), (2, "blue")]);
        world.cilmark_ok(&format!("attach green --id 300 --ip 10.0.0.1 --hook {hook}"));
        is_listed(&world, &[(1, "green"), (2, "blue")]);
        world.cilmark_ok("detach blue");
        is_listed(&world, &[(1, "green")]);
        world.veth("white");
        let run = world.cilmark(&format!("attach white --id 300 --ip 10.0.0.1 --hook {hook}"));
        run.fails(1, &["10.0.0.1 is already an address of endpoint 1"]);
        is_listed(&world, &[(1, "green")]);
    });
}

/// Something that happens to the list, after which all of this must be as ever.
fn holds_in_spite_of(what: &str, spoil: impl Fn(&World) + Sync) {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        for (device, number) in [("red", 1), ("blue", 2), ("green", 3)] {
            world.veth(device);
            world.cilmark_ok(&format!(
                "attach {device} --id 30{number} --ip 10.0.0.{number} --hook {hook}"
            ));
        }
        world.cilmark_ok("policy add red allow egress to any udp/53");
        world.sh("ip link del red && ip link set blue down && ip link set blue name white");
        spoil(&world);
        let stale = |name: &str| world.status(name)["stale"].take();
        assert_eq!((stale("red"), stale("white")), (json!(true), json!(false)), "{what}");

        // Another device of the name of one that is dead: what is left of that goes, with its number and its rules.
        world.veth("red");
        let run = world.cilmark(&format!("attach red --id 304 --ip 10.0.0.4 --hook {hook}"));
        assert_eq!(run.status, Some(0), "{what}: {run:?}");
        assert!(run.stderr.contains("and its rules (1) with it"), "{what}: {run:?}");
        assert_eq!(world.status("red")["endpoint_id"], 1, "{what}");
        world.cilmark("ipcache get 10.0.0.1").fails(1, &["10.0.0.1 is not in the ipcache"]);

        // A device that has got another name is the one that it was.
        world.cilmark_ok(&format!("attach white --id 305 --ip 10.0.0.2 --hook {hook}"));
        assert_eq!(world.status("white")["endpoint_id"], 2, "{what}");
        world.cilmark_ok("detach green");
        let all = world.cilmark_json("status");
        let numbers: Vec<&Value> =
            all.as_array().unwrap().iter().map(|line| &line["endpoint_id"]).collect();
        assert_eq!(numbers, [&json!(1), &json!(2)], "{what}");
        is_listed(&world, &[(1, "red"), (2, "white")]);
        world.cilmark_ok("detach --all");
        assert_eq!(world.pins(), [""; 0], "{what}");
    });
}

#[test]
fn without_the_list_everything_is_found_and_it_is_made_anew() {
    holds_in_spite_of("no list", |world| {
        world.sh(&format!("rm {LIST}"));
    });
}

#[test]
fn without_lines_everything_is_found_and_they_are_entered_again() {
    holds_in_spite_of("no lines", |world| {
        for id in 1..=3 {
            world.sh(&format!("bpftool map delete pinned {LIST} key {id} 0 0 0"));
        }
    });
}

#[test]
fn lines_of_endpoints_that_are_not_there_mean_nothing() {
    holds_in_spite_of("lines of nobody", |world| {
        let value = ["0"; 32].join(" ");
        for id in 4..=8 {
            world.sh(&format!("bpftool map update pinned {LIST} key {id} 0 0 0 value {value}"));
        }
    });
}

#[test]
fn the_number_of_an_endpoint_that_was_removed_by_hand_is_not_taken_for_it() {
    let Some(world) = World::new() else { return };
    for device in ["red", "blue"] {
        world.veth(device);
    }
    world.cilmark_ok("attach red --id 300");
    world.sh("rm -r /sys/fs/bpf/cilmark/endpoints/1");
    is_listed(&world, &[(1, "red")]);
    world.cilmark_ok("attach blue --id 301");
    is_listed(&world, &[(1, "blue")]);
    assert_eq!(world.status("blue")["endpoint_id"], 1);
    world.cilmark_ok("attach red --id 300");
    assert_eq!(world.cilmark_json("status").as_array().unwrap().len(), 2);
}

#[test]
fn a_device_that_came_from_another_namespace_is_known_beside_links_of_others() {
    let Some(world) = World::with_tcx() else { return };
    world.sh("ip netns add far");
    world.veth("red");
    world.veth("blue");
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("attach blue --id 301");
    world.sh("ip link set red netns far && ip -n far link set red up");
    let run = world.inside("far", || {
        let _other = ThirdParty::on_tcx("red", sys::Hook::Ingress);
        world.cilmark("attach red --id 302")
    });
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("it has come from another namespace"), "{run:?}");
    is_listed(&world, &[(2, "blue"), (3, "red")]);
}
