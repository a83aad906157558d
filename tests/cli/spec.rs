//! What an endpoint was asked to be is kept with it: `attach --keep` and `status --spec`.

use cilmark::kernel::log;
use cilmark::kernel::sys::Hook;
use cilmark::model::spec::EndpointSpec;
use cilmark::ops;
use cilmark::ops::attach::{self, Terms};
use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::{by_each_hook, time_for};
use crate::common::process::{Run, cilmark};
use crate::common::third_party::ThirdParty;
use crate::common::world::wait_for;

const PINS: &str = "/sys/fs/bpf/cilmark/endpoints";

/// A workload `red` with addresses of its own, and a NIC `nic`.
fn world() -> Option<World> {
    let world = World::new()?;
    // Else addresses come when they have been tried, and are the host's from then on.
    world.sh("sysctl -qw net.ipv6.conf.default.addr_gen_mode=1");
    world.workload("red", 1);
    world.veth("nic");
    world.sh("ip addr add 10.9.0.2/24 dev nic; ip addr add fd00:9::2/64 dev nic nodad");
    world.cilmark_ok("identity set 1234 web");
    Some(world)
}

fn id(world: &World, device: &str) -> u64 {
    world.status(device)["endpoint_id"].as_u64().expect("a number")
}

/// The bytes of a pinned map, and its fields.
fn dump(world: &World, pin: &str) -> Vec<Value> {
    serde_json::from_str(&world.sh(&format!("bpftool -j map dump pinned {pin}"))).expect("JSON")
}

/// All that an endpoint is.
#[derive(Debug, PartialEq)]
struct State {
    config: String,
    spec: Value,
    rules: Vec<Value>,
    hooks: [String; 2],
    modes: [Value; 2],
}

fn state(world: &World, device: &str) -> State {
    let status = world.status(device);
    let pins = format!("{PINS}/{}", id(world, device));
    let hook = |direction: &str| {
        let tcx = format!(
            "bpftool -j net show dev {device} | jq -c '[.[].tc[] | [.kind, (.name | split(\":\")[0])]]'"
        );
        let filters = format!("tc filter show dev {device} {direction} | grep -o 'pref [0-9]*'");
        world.sh(&format!("{tcx}; {filters} || true"))
    };
    let config = dump(world, &format!("{pins}/config"))[0]["value"].take();
    State {
        config: config
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap()[2..].to_owned())
            .collect(),
        spec: world.cilmark_json(&format!("status {device} --spec")),
        rules: rules(world, device),
        hooks: ["ingress", "egress"].map(hook),
        modes: ["ingress_policy", "egress_policy"].map(|key| status[key].clone()),
    }
}

fn rules(world: &World, device: &str) -> Vec<Value> {
    let rules = world.cilmark_json(&format!("policy list {device}"));
    rules.as_array().unwrap().iter().map(|it| it["rule"].clone()).collect()
}

/// How many packets the endpoint has seen, and each of its rules has decided about.
fn counted(world: &World, device: &str) -> Vec<u64> {
    let rules = world.cilmark_json(&format!("policy list {device}"));
    let rules = rules.as_array().unwrap().iter().map(|it| it["packets"].clone());
    rules.chain([world.status(device)["packets"].clone()]).map(|it| it.as_u64().unwrap()).collect()
}

/// Attaching it again with what was kept changes nothing, and nobody is asked.
fn goes_on(world: &World, device: &str) {
    let before = (state(world, device), counted(world, device));
    let run = world.cilmark(&format!("attach {device} --keep"));
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.starts_with(&format!("replaced {device}: ")), "{run:?}");
    let is_news =
        |line: &&str| !line.contains("before cilmark") && !line.starts_with("`cilmark confirm");
    assert_eq!(run.stderr.lines().skip(1).filter(is_news).count(), 0, "{run:?}");
    assert_eq!(state(world, device), before.0);
    let counters = counted(world, device);
    let all_count_on = counters.iter().zip(&before.1).all(|(now, before)| now >= before);
    assert!(all_count_on, "{counters:?} after {:?}", before.1);
}

/// The same after the endpoint has come anew by what was exported, complete with its rules.
fn comes_again(world: &World, device: &str) {
    let exported = world.cilmark_json(&format!("status {device} --spec"));
    let seen = |world: &World| {
        let mut status = world.status(device);
        for volatile in ["packets", "drops", "adopt", "confirm_deadline"] {
            status[volatile].take();
        }
        (status, rules(world, device))
    };
    let before = seen(world);
    world.cilmark_ok(&format!("detach {device}"));
    attach_by(world, &exported);
    assert_eq!(seen(world), before);
    assert_eq!(world.cilmark_json(&format!("status {device} --spec")), exported);
    goes_on(world, device);
}

fn attach_by(world: &World, spec: &Value) {
    try_attach_by(world, spec).unwrap_or_else(|error| panic!("{error:#}"));
}

fn try_attach_by(world: &World, spec: &Value) -> anyhow::Result<()> {
    log::forward_libbpf();
    let spec: EndpointSpec = serde_json::from_value(spec.clone())?;
    let root = world.root();
    let _lock = ops::prepare(&root, false)?;
    attach::attach(&root, &spec, &Terms::default()).map(|_| ())
}

#[test]
fn what_is_kept_is_all_that_it_is() {
    by_each_hook(|hook| {
        for (device, flags, rules) in [
            ("red", "--id 300".to_owned(), &[][..]),
            (
                "red",
                "--id web --role container --endpoint-id 7 --ip 10.1.0.10 fd00:1::10 \
                 --mac 02:00:00:00:00:07 --workload-mac 02:00:00:00:00:08 --arp-responder --trust-proxy \
                 --flow-label --local-delivery --router --by-address --trust-marks --first \
                 --ingress-policy enforce --egress-policy audit --adopt 5m --policy-verdict-log ingress \
                 --ct local --ct-entries 512 --policy-entries 64 --ipcache-entries 65536"
                    .to_owned(),
                &["allow ingress from web tcp/80", "deny egress to any udp/5000-5100"],
            ),
            ("red", "--id 0x12c --workload-mac any --ip 10.1.0.10 --policy audit".to_owned(), &[]),
            ("nic", "--role netdev".to_owned(), &[]),
            (
                "nic",
                "--role netdev --id web --ip 10.9.0.7 --trust-flow-label fd00::/16 --stamp-remote \
                 --host-addresses listed --local-delivery --failsafe tcp/2222,egress:none --adopt 10m \
                 --policy enforce --yes --first"
                    .to_owned(),
                &["allow ingress from any tcp/443", "allow egress to world"],
            ),
            ("nic", "--role netdev --policy enforce --adopt 0 --yes".to_owned(), &[]),
            ("nic", "--role netdev --policy enforce --yes --failsafe none".to_owned(), &[]),
        ] {
            let Some(world) = world() else { return };
            world.cilmark_ok(&format!("attach {device} {flags} --hook {hook}"));
            for rule in rules {
                world.cilmark_ok(&format!("policy add {device} {rule} --yes"));
            }
            goes_on(&world, device);
            comes_again(&world, device);
        }
    });
}

#[test]
fn the_words_of_the_operator_are_kept_and_what_was_found_is_found_again() {
    let Some(world) = world() else { return };
    world.cilmark_ok(
        "attach red --id web --ip 10.1.0.10 --policy enforce --egress-policy off --adopt 90",
    );
    let spec = world.cilmark_json("status red --spec");
    let wanted = json!({
        "device": "red", "role": "container", "id": "web", "ip": ["10.1.0.10"],
        "policy": {"ingress": "enforce", "egress": "off"}, "adopt": "90s", "rules": [],
    });
    assert_eq!(spec, wanted);
    let as_text: Value = serde_json::from_str(&world.cilmark_ok("status red --spec")).unwrap();
    assert_eq!(as_text, wanted);
    // The NIC has another address.
    world.cilmark_ok("attach nic --role netdev");
    assert_eq!(world.cilmark_json("status nic --spec")["ip"], json!(null));
    world.sh("ip addr add 10.9.0.3/24 dev nic");
    world.cilmark_ok("attach nic --keep");
    assert!(world.status("nic")["ips"].as_array().unwrap().contains(&json!("10.9.0.3")));
    world.sh("ip link set nic down; ip link set nic name eth7; ip link set eth7 up");
    assert_eq!(world.cilmark_json("status eth7 --spec")["device"], "eth7");
    world.cilmark_ok("attach eth7 --keep");
}

#[test]
fn flags_override_what_is_kept_and_the_rest_stays() {
    let Some(world) = world() else { return };
    world.cilmark_ok(
        "attach red --id 300 --ip 10.1.0.10 --arp-responder --policy audit --ct local --policy-verdict-log none",
    );
    let spec = |flags: &str| {
        world.cilmark_ok(&format!("attach red --keep {flags}"));
        world.cilmark_json("status red --spec")
    };
    let before = spec("");
    let with = |changes: Value| {
        let mut spec = before.clone();
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    };
    assert_eq!(spec("--role container --id 301"), with(json!({"id": 301, "role": "container"})));
    assert_eq!(spec("--id 300 --router")["router"], true);
    assert_eq!(
        spec("--ingress-policy enforce")["policy"],
        json!({"ingress": "enforce", "egress": "audit"})
    );
    assert_eq!(
        spec("--egress-policy off")["policy"],
        json!({"ingress": "enforce", "egress": "off"})
    );
    assert_eq!(spec("--policy audit")["policy"], "audit");
    assert_eq!(spec("--ip 10.1.0.11")["ip"], json!(["10.1.0.11"]));
    // Of flags with a default the default can be named.
    assert_eq!(spec("")["ct"], "local");
    assert_eq!(spec("--ct global")["ct"], json!(null));
    assert_eq!(spec("--policy-verdict-log both")["policy_verdict_log"], json!(null));
    assert_eq!(spec("--hook clsact")["hook"], "clsact");
    assert_eq!(spec("")["hook"], "clsact");
    assert_eq!(spec("--hook auto")["hook"], json!(null));
    let status = world.status("red");
    assert_eq!((&status["arp_responder"], &status["router"]), (&json!(true), &json!(true)));
    let run = world.cilmark("attach red --id 300 --ip 10.1.0.11 --policy audit");
    assert!(run.stderr.contains("--router is off now"), "{run:?}");
}

#[test]
fn failsafe_ports_outlast_a_policy_that_is_off_and_the_way_in_which_the_operator_came() {
    let Some(world) = world() else { return };
    world.cilmark_ok("attach nic --role netdev --policy audit --failsafe tcp/2222");
    for mode in ["off", "audit"] {
        world.cilmark_ok(&format!("attach nic --keep --policy {mode}"));
    }
    assert_eq!(world.status("nic")["failsafe"][0], "tcp/2222");
    assert_eq!(world.cilmark_json("status nic --spec")["failsafe"], json!(["tcp/2222"]));
    let run: Run = cilmark(&["attach", "nic", "--role", "netdev", "--policy", "enforce", "--yes"])
        .env("SSH_CONNECTION", "192.0.2.7 51022 192.0.2.1 2200")
        .output()
        .unwrap()
        .into();
    assert_eq!(run.status, Some(0), "{run:?}");
    let open = world.status("nic")["failsafe"].clone();
    assert!(open.as_array().unwrap().contains(&json!("tcp/2200")), "{open}");
    goes_on(&world, "nic");
    assert_eq!(world.status("nic")["failsafe"], open);
}

#[test]
fn the_place_on_the_hook_is_kept() {
    let Some(world) = World::with_tcx() else { return };
    world.workload("red", 1);
    let _others = [Hook::Ingress, Hook::Egress].map(|hook| ThirdParty::on_tcx("red", hook));
    for flags in ["--first", ""] {
        world.cilmark_ok(&format!("attach red --id 300 --hook tcx {flags}"));
        assert_eq!(world.status("red")["programs_before"] == json!([]), flags == "--first");
        goes_on(&world, "red");
        world.cilmark_ok("detach red");
    }
}

#[test]
fn time_to_adopt_goes_on_unless_it_is_named_or_the_policy_begins() {
    let Some(world) = world() else { return };
    let until = || {
        let value = &dump(&world, &format!("{PINS}/1/config"))[0]["formatted"]["value"];
        value[".rodata"][0]["config"]["adopt_until_ns"].as_u64().unwrap()
    };
    world.cilmark_ok("attach red --id 300 --policy audit --adopt 5m");
    let first = until();
    world.cilmark_ok("attach red --keep --router");
    assert_eq!(until(), first);
    world.cilmark_ok("attach red --keep --adopt 5m");
    let second = until();
    assert!(second > first);
    world.cilmark_ok("attach red --keep --policy off");
    assert_eq!(until(), 0);
    world.cilmark_ok("attach red --keep --policy audit");
    let third = until();
    assert!(third > second);
    world.cilmark_ok("attach red --keep --policy enforce");
    assert!(until() > third);
}

#[test]
fn who_keeps_what_enforces_is_asked_about_what_is_new_only() {
    let Some(world) = world() else { return };
    world.cilmark_ok("attach nic --role netdev --policy enforce --yes");
    goes_on(&world, "nic");
    for flags in ["--stamp-remote", "--failsafe none", "--policy audit", "--id 300"] {
        world.cilmark(&format!("attach nic --keep {flags}")).fails(1, &["--yes"]);
        world.cilmark("attach nic --role netdev --policy enforce").fails(1, &["--yes"]);
    }
    world.sh("ip addr add 10.9.0.3/24 dev nic");
    world.cilmark("attach nic --keep").fails(1, &["--yes"]);
    world.cilmark_ok("attach nic --keep --yes");
    goes_on(&world, "nic");
}

#[test]
fn a_clock_goes_on_with_what_is_kept_and_is_nobodys_consent() {
    let Some(world) = world() else { return };
    let left = || world.status("nic")["confirm_deadline"].as_u64();
    world.cilmark_ok("attach nic --role netdev --policy enforce --confirm 600s");
    let run = world.cilmark("attach nic --keep");
    assert!(run.stderr.contains("`cilmark confirm nic` within"), "{run:?}");
    assert!(run.stderr.contains("it only audits from then on"), "{run:?}");
    assert!(left().is_some_and(|left| left <= 600));
    goes_on(&world, "nic");
    world.cilmark_ok("confirm nic");
    assert_eq!(left(), None);
    world.cilmark_ok("policy add nic allow ingress from 300 --confirm 600s");
    let run = world.cilmark("attach nic --keep");
    assert!(run.stderr.contains("the last rules that were confirmed come back"), "{run:?}");
    assert!(left().is_some() && !run.stderr.contains("permanent\n"), "{run:?}");
    goes_on(&world, "nic");
    // An answer to a prompt is no confirmation.
    let run = world.cilmark("attach nic --keep --yes");
    assert!(!run.stderr.contains("permanent\n"), "{run:?}");
    assert!(left().is_some());
    world.cilmark_ok("confirm nic");
    let soon = time_for(std::time::Duration::from_secs(1)).as_millis();
    world.cilmark_ok(&format!("policy flush nic --confirm {soon}ms"));
    world.cilmark_ok("attach nic --keep");
    wait_for("the rules before", || left() == Some(0));
    let rules = world.cilmark_json("status nic --spec")["rules"].take();
    assert_eq!(rules, json!(["allow ingress from 300"]), "those in force");
    world.cilmark_ok(&format!("attach nic --keep --confirm {soon}ms"));
    wait_for("the fallback", || world.status("nic")["ingress_policy"] == "audit");
    world.cilmark("attach nic --keep").fails(1, &["going to drop", "--yes"]);
    assert_eq!(world.status("nic")["ingress_policy"], "audit");
    world.cilmark_ok("attach nic --keep --yes");
    world.cilmark("attach nic --keep --failsafe tcp/2222").fails(1, &["nic enforces already, and"]);
    assert_eq!(world.cilmark_json("status nic --spec")["policy"], "enforce");
}

#[test]
fn without_an_endpoint_or_its_spec_there_is_nothing_to_keep() {
    let Some(world) = world() else { return };
    let untold = ["without --keep"];
    world.cilmark("attach red --keep").fails(1, &["red is not attached", untold[0]]);
    world.cilmark("attach nowhere --keep").fails(1, &["nowhere"]);
    world.cilmark("status --spec").fails(2, &["<DEV>"]);
    world.cilmark("status red --spec").fails(1, &["red"]);
    assert!(world.pins().iter().all(|pin| !pin.contains("endpoints/")));
    let attach = "attach red --id 300 --arp-responder";
    world.cilmark_ok(attach);
    let spec = format!("{PINS}/1/spec");
    // As an older cilmark leaves it, as something else, and as a killed command does.
    world.sh(&format!("bpftool map pin pinned {spec} /sys/fs/bpf/old"));
    for (break_it, words) in [
        (format!("rm {spec}"), &["endpoint 1 (red) has no spec"][..]),
        (
            format!("rm {spec}; bpftool map pin pinned /sys/fs/bpf/cilmark/cm_ipcache {spec}"),
            &["not as this cilmark writes it"],
        ),
        (
            format!(
                "{} {attach}; rm {spec}; bpftool map pin pinned /sys/fs/bpf/old {spec}",
                env!("CARGO_BIN_EXE_cilmark")
            ),
            &["an `attach` has ended half way"],
        ),
    ] {
        world.sh(&break_it);
        for command in ["attach red --keep", "status red --spec"] {
            world
                .cilmark(command)
                .fails(1, &[words, &["attach red again with all its flags"]].concat());
        }
        assert_eq!(world.status("red")["arp_responder"], true);
        world.cilmark_ok(attach);
        goes_on(&world, "red");
    }
    world.cilmark_ok("detach red");
    assert!(!world.pins().iter().any(|pin| pin.contains("endpoints/1")));
}

#[test]
fn what_was_kept_and_does_not_go_with_a_flag_is_named_with_the_cure() {
    let Some(world) = world() else { return };
    world.cilmark_ok("attach red --id 300 --arp-responder");
    world
        .cilmark("attach red --keep --role netdev")
        .fails(1, &["--keep", "--arp-responder is for the role container"]);
    world.cilmark("attach red --keep --adopt 30s").fails(1, &["--adopt is for a policy"]);
    goes_on(&world, "red");
}

#[test]
fn an_attachment_that_fails_leaves_spec_and_rules_as_they_were() {
    let Some(world) = world() else { return };
    world.cilmark_ok("attach nic --role container --id 301 --ip 10.9.0.2");
    attach_by(
        &world,
        &json!({"device": "red", "id": 300, "policy": "audit", "rules": ["allow ingress from any tcp/80"]}),
    );
    assert_eq!(world.cilmark_json("policy list red")[0]["rule"], "allow ingress from any tcp/80");
    let before = state(&world, "red");
    world.cilmark("attach red --keep --ip 10.9.0.2").fails(1, &["10.9.0.2 is already an address"]);
    let other =
        json!({"device": "red", "id": 300, "policy": "enforce", "ip": ["10.9.0.2"], "rules": []});
    assert!(try_attach_by(&world, &other).is_err());
    let bad = json!({"device": "red", "id": 300, "policy": "enforce", "rules": ["allow ingress from nobody"]});
    let error = format!("{:#}", try_attach_by(&world, &bad).unwrap_err());
    assert!(error.contains("`nobody`"), "{error}");
    assert_eq!(state(&world, "red"), before);
    goes_on(&world, "red");
    attach_by(&world, &json!({"device": "red", "id": 300, "rules": ["allow egress to any"]}));
    assert_eq!(world.cilmark_json("status red --spec")["rules"], json!(["allow egress to any"]));
}

#[test]
fn a_spec_that_does_not_fit_is_refused_before_anything_changes() {
    let Some(world) = world() else { return };
    let many: Vec<String> =
        (0..1500).map(|i| format!("10.20.{}.{}", i / 250, i % 250 + 1)).collect();
    let fits = many[..800].join(",");
    world.cilmark_ok(&format!("attach nic --role netdev --ip {fits}"));
    goes_on(&world, "nic");
    let before = state(&world, "nic");
    let run = world.cilmark(&format!("attach nic --role netdev --ip {}", many.join(",")));
    run.fails(1, &["bytes to keep", "--ip", "nothing has changed"]);
    assert_eq!(state(&world, "nic"), before);
}

#[test]
fn the_pinned_map_is_frozen_and_other_tools_read_it() {
    let Some(world) = world() else { return };
    world.cilmark_ok("attach red --id web");
    let pin = format!("{PINS}/1/spec");
    let show: Value =
        serde_json::from_str(&world.sh(&format!("bpftool -j map show pinned {pin}"))).unwrap();
    assert_eq!((&show["name"], &show["frozen"]), (&json!("cm_spec"), &json!(1)));
    let piece = &dump(&world, &pin)[0]["formatted"]["value"];
    assert_eq!(
        (&piece["version"], &piece["text"]),
        (&json!(1), &json!(r#"{"device":"red","role":"container","id":"web"}"#))
    );
}

#[test]
fn the_role_is_kept_whatever_the_device_looks_like_now() {
    let Some(world) = world() else { return };
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10");
    assert_eq!(world.cilmark_json("status red --spec")["role"], "container");
    world.sh("ip route add default via 10.1.0.10 dev red");
    world.cilmark_ok("attach red --keep --trust-proxy");
    assert_eq!(world.status("red")["role"], "container");
    assert_eq!(world.status("red")["ips"], json!(["10.1.0.10"]));
}

#[test]
fn an_identity_is_kept_by_its_number_if_its_name_has_become_anothers() {
    let Some(world) = world() else { return };
    world.cilmark_ok("identity set 500 shop");
    world.cilmark_ok("attach red --id shop");
    assert_eq!(world.cilmark_json("status red --spec")["id"], "shop");
    world.cilmark_ok("identity del 500");
    world.cilmark_ok("identity set 600 shop");
    assert_eq!(world.cilmark_json("status red --spec")["id"], 500);
    world.cilmark_ok("attach red --keep --trust-proxy");
    assert_eq!(world.status("red")["identity"], 500);
}

#[test]
fn failsafe_ports_of_a_direction_that_is_not_named_are_kept() {
    let Some(world) = world() else { return };
    world.cilmark_ok(
        "attach nic --role netdev --policy enforce --yes --failsafe tcp/2222,egress:tcp/3",
    );
    world.cilmark_ok("attach nic --keep --yes --failsafe egress:udp/53");
    assert_eq!(
        world.cilmark_json("status nic --spec")["failsafe"],
        json!(["tcp/2222", "egress:udp/53"])
    );
}
