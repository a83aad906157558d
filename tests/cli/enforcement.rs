//! `attach` with a policy: modes, and what keeps its user from locking himself out.

use cilmark::kernel::abi::cm_config;
use cilmark::kernel::sys::Hook;
use cilmark::model::endpoint::EndpointId;
use cilmark::model::enforcement::Mode;
use cilmark::state::registry::Endpoint;
use serde_json::json;

use crate::common::World;
use crate::common::process::{Run, cilmark};

fn endpoint(world: &World) -> Endpoint {
    Endpoint::read(&world.root(), EndpointId::new(1).unwrap()).unwrap()
}

fn config(world: &World) -> cm_config {
    endpoint(world).config
}

#[test]
fn enforcing_on_a_nic_wants_a_way_back_or_a_yes() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    let attach = "attach nic --role netdev";
    for policy in ["--policy enforce", "--ingress-policy enforce", "--egress-policy enforce"] {
        world
            .cilmark(&format!("{attach} {policy}"))
            .fails(1, &["cut you off", "--confirm 60s", "cilmark confirm nic", "--yes"]);
        assert_eq!(world.pins(), [""; 0]);
    }
    world.cilmark_ok(&format!("{attach} --policy audit"));
    world.cilmark_ok(&format!("{attach} --policy enforce --yes"));
    world.cilmark(&format!("{attach} --policy enforce")).fails(1, &["--yes"]);
    for change in ["add nic allow ingress from any", "del nic allow egress to any", "flush nic"] {
        world
            .cilmark(&format!("policy {change}"))
            .fails(1, &["cut you off", "cilmark confirm nic"]);
    }
    world.cilmark("policy flush host").fails(1, &["cut you off"]);
    world.cilmark_ok("policy add nic allow ingress from any --yes");
}

#[test]
fn on_a_terminal_it_asks_and_takes_no_for_an_answer() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let attach = format!("{binary} attach nic --role netdev --policy enforce");
    for (answer, attached) in [("n", false), ("", false), ("y", true)] {
        let seen = world.sh(&format!(
            "(echo {answer}; cat /dev/zero | head -c 0) | script -qec '{attach}' /dev/null || true"
        ));
        assert!(seen.contains("may cut you off") && seen.contains("Go on? [y/N]"), "{seen}");
        assert_eq!(seen.contains("nothing has changed"), !attached, "{seen}");
        assert_eq!(world.cilmark_json("status").as_array().unwrap().len(), usize::from(attached));
    }
}

#[test]
fn each_direction_has_a_mode_and_flags_state_both() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    for (flags, ingress, egress) in [
        ("--policy enforce", "enforce", "enforce"),
        ("--policy audit --egress-policy enforce", "audit", "enforce"),
        ("--ingress-policy enforce", "enforce", "off"),
        ("--policy enforce --ingress-policy off", "off", "enforce"),
    ] {
        world.cilmark_ok(&format!("attach red --id 300 {flags}"));
        let status = world.status("red");
        assert_eq!(
            (&status["ingress_policy"], &status["egress_policy"], &status["confirm_deadline"]),
            (&json!(ingress), &json!(egress), &json!(null)),
            "{flags}"
        );
    }
    let run = world.cilmark("attach red --id 300");
    assert!(run.stderr.contains("the egress policy was enforce and is off now"), "{run:?}");
    assert!(!run.stderr.contains("the ingress policy"), "{run:?}");
    let run = world.cilmark("attach red --id 300 --policy off");
    assert!(!run.stderr.contains("is off now"), "nothing was taken off: {run:?}");
}

#[test]
fn the_hook_that_relaxes_is_swapped_first() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let order = |ingress: Mode, egress: Mode| {
        let endpoint = endpoint(&world);
        let next = cm_config { policy: [ingress.into(), egress.into()], ..endpoint.config };
        endpoint.previous(&next).unwrap().order
    };
    use Mode::{Audit, Enforce, Off};
    let (ingress_first, egress_first) =
        ([Hook::Ingress, Hook::Egress], [Hook::Egress, Hook::Ingress]);
    world.cilmark_ok(
        "attach red --role netdev --ingress-policy audit --egress-policy enforce --yes",
    );
    assert_eq!(order(Enforce, Off), egress_first);
    assert_eq!(order(Enforce, Audit), egress_first);
    assert_eq!(order(Off, Enforce), ingress_first);
    // What a workload sends arrives on the ingress hook.
    world.cilmark_ok("attach red --id 300 --ingress-policy audit --egress-policy enforce --yes");
    assert_eq!(order(Enforce, Off), ingress_first);
    assert_eq!(order(Off, Enforce), egress_first);
}

#[test]
fn a_nic_begins_with_the_standard_failsafe_ports_and_that_of_the_ssh_server() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    let attach = |flags: &str| {
        let arguments = format!("attach nic --role netdev --policy audit {flags}");
        let run: Run = cilmark(&arguments.split_whitespace().collect::<Vec<_>>())
            .env("SSH_CONNECTION", "192.0.2.7 51022 192.0.2.1 2222")
            .output()
            .unwrap()
            .into();
        assert_eq!(run.status, Some(0), "{run:?}");
        let config = config(&world);
        let ports = |ports: &[cilmark::kernel::abi::cm_failsafe], direction: usize| -> Vec<_> {
            let count = config.failsafe_count[direction] as usize;
            ports[..count].iter().map(|p| (p.protocol, u16::from_be(p.port))).collect()
        };
        (ports(&config.failsafe_ingress, 0), ports(&config.failsafe_egress, 1))
    };
    let egress = vec![(17, 53), (6, 53), (17, 67), (17, 547), (17, 123)];
    assert_eq!(attach(""), (vec![(6, 22), (17, 68), (17, 546), (6, 2222)], egress.clone()));
    assert_eq!(attach("--failsafe tcp/22,udp/68"), (vec![(6, 22), (17, 68)], egress));
    assert_eq!(attach("--failsafe none"), (vec![], vec![]));
    assert_eq!(attach("--failsafe ingress:none,egress:udp/53"), (vec![], vec![(17, 53)]));
    world.cilmark("attach nic --id 7 --role container --failsafe none").fails(1, &["--failsafe"]);
    world.cilmark("attach nic --role netdev --failsafe icmp/8").fails(2, &["icmp/8", "tcp/22"]);
}

#[test]
fn connections_are_adopted_from_the_first_enforcement_of_a_nic_on() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    let adopt = |flags: &str| {
        world.cilmark_ok(&format!("attach nic {flags}"));
        config(&world).adopt_until_ns
    };
    let nic = "--role netdev --policy enforce --yes";
    assert_eq!(adopt("--role netdev --policy audit"), 0);
    let until = adopt(nic);
    assert!(until > 0);
    assert_eq!(adopt(nic), until, "it ends when it was to end");
    assert!(adopt(&format!("{nic} --ct local")) > until, "these maps know no flow");
    assert_eq!(adopt(&format!("{nic} --ct local --adopt 0")), 0);
    assert_eq!(adopt("--id 300 --role container --policy enforce --yes"), 0);
    assert!(adopt("--id 300 --role container --policy enforce --adopt 5m") > until);
}

#[test]
fn flags_of_a_policy_that_is_off_are_refused() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    for (flags, word) in [
        ("--confirm 60s", "--confirm is for --policy enforce"),
        ("--policy audit --confirm 60s", "--confirm is for --policy enforce"),
        ("--adopt 30s", "--adopt is for a policy"),
    ] {
        world.cilmark(&format!("attach red --id 300 {flags}")).fails(1, &[word]);
    }
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn sizes_of_policy_maps_are_what_was_asked_for() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --policy audit --ct-entries 512 --policy-entries 64");
    let usage = world.cilmark_ok("metrics --prometheus");
    assert!(
        usage.contains("cilmark_conntrack_entries_max{map=\"cm_flows4\",of=\"all\"} 513"),
        "{usage}"
    );
    let many: String = (100..165).map(|peer| format!(" allow ingress from {peer}")).collect();
    world.cilmark(&format!("policy add red{many}")).fails(1, &["takes 64", "--policy-entries"]);
    world.cilmark_ok("attach red --id 300 --policy audit --policy-entries 256");
    world.cilmark_ok(&format!("policy add red{many}"));
}

#[test]
fn a_nic_that_enforces_is_relaxed_only_on_demand_and_each_loss_is_named() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    let enforce = "attach nic --role netdev --policy enforce --yes";
    world.cilmark_ok(&format!("{enforce} --ct local"));
    world.cilmark_ok("policy add nic allow ingress from any tcp/80 --yes");
    let before = || (config(&world), world.cilmark_json("policy list nic"));
    let ran = format!("{:?}", before());
    for (attach, losses) in [
        (
            "--role netdev",
            &["the ingress policy was enforce and is off now", "--ct=local is off now"][..],
        ),
        ("--role netdev --policy audit", &["the egress policy was enforce and is audit now"]),
        ("--role netdev --ingress-policy enforce", &[]),
        (
            "--id 300",
            &["it was a netdev and is a container now", "its identity was 1 (host) and is 300 now"],
        ),
        ("--role container --id 300 --policy enforce", &["it was a netdev and is a container now"]),
    ] {
        let run = world.cilmark(&format!("attach nic {attach}"));
        run.fails(1, &[&["--yes"], losses].concat());
        assert_eq!(format!("{:?}", before()), ran, "{attach}");
    }
    let run = world.cilmark("attach nic --role netdev --policy audit --yes");
    assert!(run.stderr.contains("nic: the ingress policy was enforce and is audit now"), "{run:?}");
    let run = world.cilmark("attach nic --role netdev");
    assert!(run.status == Some(0) && run.stderr.contains("was audit and is off now"), "{run:?}");
}

#[test]
fn attaching_again_with_the_same_arguments_takes_nothing_and_says_nothing() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.sh("ip route add default via 10.1.0.10");
    for attach in [
        "attach red --role netdev --policy enforce --yes",
        "attach red --role netdev --policy audit --failsafe tcp/2222 --stamp-remote --yes",
        "attach red --role container --id 300 --ip 10.1.0.10 --arp-responder --ct local --yes",
    ] {
        world.cilmark_ok(attach);
        let again = attach.trim_end_matches(" --yes");
        let attach = if attach.contains("enforce") { attach } else { again };
        let run = world.cilmark(attach);
        assert!(run.status == Some(0) && run.stderr.starts_with("replaced red"), "{run:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    }
}

#[test]
fn what_a_workload_loses_is_named_also_when_its_device_has_come_back() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let losses = ["red: the source check (10.0.0.1) is off now", "red: --arp-responder is off now"];
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --arp-responder");
    let run = world.cilmark("attach red --id 300");
    assert!(run.status == Some(0) && losses.iter().all(|it| run.stderr.contains(it)), "{run:?}");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --arp-responder");
    world.sh("ip link del red");
    world.veth("red");
    let run = world.cilmark("attach red --id 300");
    assert!(run.status == Some(0) && losses.iter().all(|it| run.stderr.contains(it)), "{run:?}");
}

#[test]
fn the_nic_that_a_macvlan_workload_names_is_not_taken_for_its_own_device() {
    let Some(world) = World::new() else { return };
    world.workload("eth0", 1);
    world.sh("ip route add default via 10.1.0.10");
    // What `link_index` of a macvlan in a container is.
    world
        .cilmark("attach eth0 --role container --id 5678")
        .fails(1, &["a default route leaves by eth0", "--yes"]);
    assert_eq!(world.pins(), [""; 0]);
    world.cilmark_ok("attach eth0 --policy enforce --yes");
    for attach in ["attach eth0 --id 5678", "attach eth0 --role container --id 5678"] {
        let run = world.cilmark(attach);
        assert_eq!(run.status, Some(1), "{run:?}");
        let status = world.status("eth0");
        assert_eq!(
            (&status["role"], &status["identity"], &status["ingress_policy"]),
            (&json!("netdev"), &json!(1), &json!("enforce"))
        );
    }
    // Who has said so once is not asked again.
    world.cilmark_ok("attach eth0 --role container --id 5678 --yes");
    world.cilmark_ok("attach eth0 --role container --id 5678");
}
