//! Data goes to stdout and the rest to stderr; every command that prints data prints JSON.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::hooks;
use crate::common::process::{Run, cilmark, text};

fn fields(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn status_has_exactly_these_fields() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 --workload-mac any");
    let mut status = world.status("red");
    let ifindex: u32 = world.sh("cat /sys/class/net/red/ifindex").trim().parse().unwrap();
    let mac = world.sh("cat /sys/class/net/red/address").trim().to_owned();
    assert!(status["packets"].take().is_u64());
    assert_eq!(
        status,
        json!({
            "device": "red", "ifindex": ifindex, "role": "container", "endpoint_id": 1,
            "identity": 300, "name": null, "owner": null, "birth": null, "labels": {}, "ips": ["10.0.0.1"],
            "hook": hooks()[0],
            "ingress_policy": "off", "egress_policy": "off", "confirm_deadline": null,
            "stale": false, "moved": false, "packets": null, "drops": 0, "workload_mac": null,
            "arp_responder": false, "trust_proxy": false, "flow_label": false,
            "trust_flow_label": null, "stamp_remote": false, "local_delivery": false,
            "router": false, "by_address": false, "trust_marks": false, "ct_local": false,
            "host_addresses_listed": false, "shared_ip": [],
            "policy_verdict_log": "both", "failsafe": null, "mac": mac, "adopt": null,
            "programs_before": [], "attach_again": [],
        })
    );
}

#[test]
fn the_status_table_names_what_runs() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --ip 10.0.0.1 fd00::1 --hook clsact");
    let table = world.cilmark_ok("status red");
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        [
            "DEVICE",
            "ROLE",
            "ENDPOINT",
            "IDENTITY",
            "HOOK",
            "POLICY",
            "PACKETS",
            "DROPS",
            "OPTIONS",
            "ADDRESSES"
        ]
    );
    assert_eq!(lines[1][..6], ["red", "container", "1", "300", "clsact", "off/off"]);
    assert!(lines[1][8].starts_with("workload-mac="), "{table}");
    assert_eq!(lines[1][9..], ["10.0.0.1", "fd00::1"]);
    assert_eq!(lines.len(), 2);
}

#[test]
fn status_names_the_options_that_differ_from_the_default() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.veth("nic");
    let mac = "--workload-mac 02:00:00:00:00:0a";
    for (attach, words, fields) in [
        ("red --id 300", "-", json!({"router": false, "by_address": false})),
        (
            "red --id 300 --ip 10.1.0.10 --workload-mac any",
            "workload-mac=any",
            json!({"workload_mac": null}),
        ),
        (
            &format!("red --id 300 --ip 10.1.0.10 {mac} --router --by-address --trust-marks"),
            "workload-mac=02:00:00:00:00:0a,router,by-address,trust-marks",
            json!({"router": true, "by_address": true, "trust_marks": true, "workload_mac": "02:00:00:00:00:0a"}),
        ),
        (
            "red --id 300 --arp-responder --trust-proxy --flow-label --local-delivery",
            "arp-responder,trust-proxy,flow-label,local-delivery",
            json!({"arp_responder": true, "trust_proxy": true, "flow_label": true, "local_delivery": true}),
        ),
        (
            "nic --role netdev --stamp-remote --by-address --trust-flow-label fd00::/48",
            "stamp-remote,by-address,trust-flow-label=fd00::/48",
            json!({"stamp_remote": true, "trust_flow_label": "fd00::/48"}),
        ),
    ] {
        world.cilmark_ok(&format!("attach {attach}"));
        let device = attach.split(' ').next().unwrap();
        let table = world.cilmark_ok(&format!("status {device}"));
        let words = format!("  {words}  ");
        assert!(format!("{}  ", table.lines().nth(1).unwrap()).contains(&words), "{table}");
        let status = world.status(device);
        for (field, value) in fields.as_object().unwrap() {
            assert_eq!(&status[field], value, "{field} of {attach}");
        }
    }
}

#[test]
fn metrics_have_exactly_these_fields_and_a_text_for_prometheus() {
    let Some(world) = World::new() else { return };
    assert_eq!(world.cilmark_json("metrics"), json!([]));
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.99");
    world.try_sh("ip netns exec red ping -qc 1 -W 0.1 10.1.0.1");
    let metrics = world.cilmark_json("metrics");
    let drop = metrics.as_array().unwrap().iter().find(|line| line["reason"] == 132);
    let drop = drop.expect("a spoofed packet was counted");
    assert_eq!(fields(drop), ["bytes", "direction", "name", "packets", "reason"]);
    assert_eq!(drop["direction"], "egress");
    assert_eq!(drop["name"], "Invalid source ip");
    let text = world.cilmark_ok("metrics --prometheus");
    assert!(text.contains("# TYPE cilmark_packets_total counter\n"), "{text}");
    let labels = r#"{direction="egress",reason="Invalid source ip",reason_code="132"} "#;
    for family in ["cilmark_packets_total", "cilmark_bytes_total"] {
        assert!(text.contains(&format!("{family}{labels}")), "{text}");
    }
}

#[test]
fn metrics_tell_flows_by_class() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --policy audit");
    world.sh("ip netns exec red ping -qc 1 10.1.0.1");
    world.try_sh("ip netns exec red ping -qc 1 -W 0.1 192.0.2.99");
    let text = world.cilmark_ok("metrics --prometheus");
    for (class, entries) in [("answered", 1), ("waiting", 1), ("failsafe", 0)] {
        let line = format!(
            r#"cilmark_conntrack_entries{{map="cm_flows4",of="all",class="{class}"}} {entries}"#
        );
        assert!(text.contains(&line), "{line}: {text}");
    }
    assert!(text.contains("cilmark_conntrack_displaced_total{class=\"answered\"} 0\n"), "{text}");
    assert!(text.contains("cilmark_conntrack_failed_total 0\n"), "{text}");
    let table = world.cilmark_ok("metrics");
    let row = table.lines().find(|line| line.starts_with("cm_flows4")).expect("a row");
    let row: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(row, ["cm_flows4", "all", "2", "65539", "0", "1", "1", "0", "0"]);
}

#[test]
fn commands_that_change_something_print_no_data() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    for command in [
        "attach red --id 300 --json -v",
        "ipcache set 10.0.0.2 7 --json",
        "ipcache del 10.0.0.2 --json",
        "ipcache flush --json",
        "identity set 300 db --json",
        "identity del 300 --json",
        "detach red --json",
    ] {
        assert_eq!(world.cilmark_ok(command), "", "{command}");
    }
}

#[test]
fn verbosity_goes_to_stderr_and_rust_log_works() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let run = world.cilmark("attach red --id 300 -v");
    for word in ["load ", "attach ", "instructions"] {
        assert!(run.stderr.contains(word), "no `{word}` in {}", run.stderr);
    }
    assert!(!run.stderr.contains("libbpf"), "{}", run.stderr);
    let run: Run = cilmark(&["attach", "red", "--id", "300"])
        .env("RUST_LOG", "libbpf=trace")
        .output()
        .unwrap()
        .into();
    assert!(run.stderr.contains("libbpf"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let Some(world) = World::new() else { return };
    let lines: String = (0..20_000).map(|n| format!("10.0.{}.{} 7\n", n / 256, n % 256)).collect();
    world.cilmark_with_input("ipcache load -", &lines);
    let binary = env!("CARGO_BIN_EXE_cilmark");
    for command in ["ipcache list", "ipcache list --json", "--help", "mark encode 7"] {
        let output = Command::new("bash")
            .args(["-c", &format!("{binary} {command} | head -c 1; echo $PIPESTATUS >&2")])
            .output()
            .unwrap();
        assert_eq!(text(&output.stderr), "0\n", "{command}");
        let output = world.try_sh(&format!("{binary} {command} >&-"));
        assert!(!text(&output.stderr).contains("panicked"), "{command}: {}", text(&output.stderr));
    }
}

#[test]
fn what_cannot_be_written_is_an_error_that_says_where_to() {
    let Some(world) = World::new() else { return };
    let output = world.try_sh(&format!("{} status >/dev/full", env!("CARGO_BIN_EXE_cilmark")));
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("write to stdout: No space left on device"), "{told}");
}

#[test]
fn nobody_is_told_that_this_takes_root() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("ipcache set 10.0.0.1 7");
    world.cilmark_ok("attach red --id 300");
    // Where nobody can read it, whatever the rights of the directory that it was built in.
    let copy = "/run/netns/cilmark";
    world
        .sh(&format!("cp {} {copy} && chmod 755 {copy} /run/netns", env!("CARGO_BIN_EXE_cilmark")));
    let as_nobody = |arguments: &str| -> Run {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", copy]);
        command.args(arguments.split(' ')).stdin(Stdio::null()).output().unwrap().into()
    };
    for arguments in [
        "attach red --id 7",
        "detach red",
        "detach --all",
        "status",
        "status red",
        "ipcache set 10.0.0.2 7",
        "ipcache list",
        "monitor",
        "policy list red",
        "policy add red allow ingress from any",
        "confirm red",
        "conntrack list",
        "conntrack flush",
        "explain red from --src 10.0.0.1 --dst 10.0.0.2",
    ] {
        let run = as_nobody(arguments);
        for other_reason in ["one reader", "no dot"] {
            assert!(!run.stderr.contains(other_reason), "{run:?}");
        }
        run.fails(1, &["this takes root, or CAP_NET_ADMIN, CAP_SYS_ADMIN"]);
    }
    let run = as_nobody("mark encode 7");
    assert_eq!((run.status, run.stdout.as_str()), (Some(0), "0x00070f00\n"), "{run:?}");
    assert_eq!(world.cilmark_json("ipcache list").as_array().unwrap().len(), 1);
    assert_eq!(world.status("red")["stale"], false);
}

#[test]
fn status_shows_each_option_that_is_not_the_default() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("nic");
    let options = |device: &str| {
        let table = world.cilmark_ok(&format!("status {device}"));
        let line = table.lines().nth(1).expect("a line").to_owned();
        line.split_whitespace().find(|word| word.contains("local-delivery")).unwrap().to_owned()
    };
    world.workload("blue", 2);
    world.cilmark_ok(
        "attach blue --id 300 --ip 10.2.0.10 --workload-mac any --arp-responder --trust-proxy \
         --flow-label --local-delivery --router --by-address --trust-marks --ct local \
         --policy audit --policy-verdict-log ingress",
    );
    assert_eq!(
        options("blue"),
        "workload-mac=any,arp-responder,trust-proxy,flow-label,local-delivery,router,by-address,\
         trust-marks,ct=local,policy-verdict-log=ingress"
    );
    world.cilmark_ok(
        "attach nic --role netdev --stamp-remote --trust-flow-label fd00::/16 --local-delivery \
         --policy audit --failsafe tcp/2222,egress:none --adopt 1h",
    );
    let shown = options("nic");
    let (others, adopt) = shown.rsplit_once(",adopt=").expect("the time that is left");
    assert_eq!(others, "stamp-remote,local-delivery,trust-flow-label=fd00::/16,failsafe=tcp/2222");
    let left: u32 = adopt.strip_suffix('s').and_then(|left| left.parse().ok()).expect("seconds");
    assert!((3500..=3600).contains(&left), "{shown}");
    let nic = world.status("nic");
    assert_eq!((&nic["failsafe"], &nic["ct_local"]), (&json!(["tcp/2222"]), &json!(false)));
    assert!(nic["adopt"].as_u64().is_some_and(|left| left > 3500), "{nic}");
    world.cilmark_ok("attach nic --role netdev --policy audit --failsafe none");
    assert!(world.cilmark_ok("status nic").contains(" failsafe=none"));
}
