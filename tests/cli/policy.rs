//! `policy add|del|list|flush`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::time_for;

fn rules(world: &World, device: &str) -> Vec<String> {
    let list = world.cilmark_json(&format!("policy list {device}"));
    let text = |line: &Value| line["rule"].as_str().expect("a rule").to_owned();
    list.as_array().expect("a list").iter().map(text).collect()
}

#[test]
fn rules_are_listed_in_order_with_what_they_have_decided() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --role netdev --policy audit");
    world.cilmark_ok("identity set 300 db");
    world.cilmark_ok("policy add red allow ingress from 0x12c tcp/443 deny egress to world");
    world.cilmark_ok("policy add red allow ingress from any icmp/8");
    world.sh("ip netns exec red ping -qc 3 -i 0.01 10.1.0.1");
    let list = world.cilmark_json("policy list red");
    let line =
        |rule: &str, packets: u64| json!({"rule": rule, "packets": packets, "bytes": 98 * packets});
    assert_eq!(
        list,
        json!([
            line("allow ingress from db tcp/443", 0),
            line("deny egress to world", 0),
            // The answers are the flow's, too.
            line("allow ingress from any icmp/8", 6),
        ])
    );
    let table = world.cilmark_ok("policy list red");
    assert!(table.contains("RULE"), "{table}");
    assert!(table.contains("allow ingress from any icmp/8  6        588"), "{table}");
}

#[test]
fn people_are_told_what_else_decided() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --role netdev --policy audit");
    world.sh("ip netns exec red ping -qc 1 10.1.0.1");
    world.try_sh("ip netns exec red socat -u /dev/null TCP:10.1.0.1:22");
    let table = world.cilmark_ok("policy list red");
    assert!(table.contains("(no rule)   2 "), "{table}");
    assert!(table.contains("(failsafe)  2 "), "{table}");
}

#[test]
fn a_rule_that_is_there_already_is_said_and_is_no_error() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    let add = "policy add red allow ingress from 2 tcp/80";
    assert!(world.cilmark(add).stderr.starts_with("red: 1 rule, 0 before\n"));
    let run = world.cilmark(add);
    assert_eq!(run.status, Some(0));
    assert!(run.stderr.contains("`allow ingress from world tcp/80` is there already"), "{run:?}");
    assert_eq!(rules(&world, "red"), ["allow ingress from world tcp/80"]);
}

#[test]
fn what_can_not_be_done_changes_nothing() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("policy add red allow ingress from 2 allow ingress from 3");
    for (command, words) in [
        (
            "policy del red allow ingress from 2 allow ingress from 4",
            ["no rule `allow ingress from health`", "nothing has changed"],
        ),
        (
            "policy add red allow ingress from 5 deny egress from 6",
            ["`deny egress from 6`", "`egress` with `to`"],
        ),
        ("policy add red allow ingress from nobody", ["`nobody`", "identity list"]),
        ("policy add blue allow ingress from 5", ["`blue` is not attached", "cilmark status"]),
        ("policy add host allow ingress from 5", ["`host`", "there is none"]),
        ("policy add red allow ingress from 5 --confirm 60s", ["--confirm", "red enforces none"]),
    ] {
        world.cilmark(command).fails(1, &words);
    }
    assert_eq!(rules(&world, "red"), ["allow ingress from world", "allow ingress from unmanaged"]);
}

#[test]
fn rules_are_deleted_one_by_one_and_flushed() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("policy add red allow ingress from 2 allow ingress from 3 deny egress to 4");
    world.cilmark_ok("policy del red allow ingress from 0x3");
    assert_eq!(rules(&world, "red"), ["allow ingress from world", "deny egress to health"]);
    world.cilmark_ok("policy flush red");
    assert_eq!(rules(&world, "red"), [""; 0]);
}

#[test]
fn host_is_every_nic_and_all_or_none_get_a_rule() {
    let Some(world) = World::new() else { return };
    for device in ["nic0", "nic1", "red"] {
        world.veth(device);
    }
    world.cilmark_ok("attach nic0 --role netdev --policy audit");
    world.cilmark_ok("attach nic1 --role netdev --policy audit --policy-entries 32");
    world.cilmark_ok("attach red --id 300");
    world.cilmark_ok("policy add host allow ingress from 2 tcp/80");
    for (device, count) in [("nic0", 1), ("nic1", 1), ("red", 0)] {
        assert_eq!(rules(&world, device).len(), count, "{device}");
    }
    let many: String = (100..120).map(|peer| format!(" allow ingress from {peer}")).collect();
    world.cilmark(&format!("policy add host{many}")).fails(1, &["nic1", "--policy-entries"]);
    for device in ["nic0", "nic1", "host"] {
        assert_eq!(rules(&world, device), ["allow ingress from world tcp/80"], "{device}");
    }
    world.cilmark_ok("policy add nic0 allow ingress from 3");
    world.cilmark("policy del host allow ingress from 3").fails(1, &["nic1 has no rule"]);
    assert_eq!(rules(&world, "host").len(), 2, "one line for the same rule of two NICs");
}

#[test]
fn rules_wait_while_the_policy_is_off_and_outlive_attaching_again() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300");
    let run = world.cilmark("policy add red allow egress to any icmp/8");
    assert!(run.stderr.contains("red has its policy off"), "{run:?}");
    let ping = || world.try_sh("ip netns exec red ping -qc 1 -W 0.2 10.1.0.1").status.success();
    let ping6 = || world.try_sh("ip netns exec red ping -qc 1 -W 0.2 fd00:1::1").status.success();
    assert!(ping6());
    world.cilmark_ok("attach red --id 300 --policy enforce");
    assert_eq!((ping(), ping6()), (true, false));
    world.cilmark_ok("attach red --id 300 --policy enforce --hook clsact");
    assert_eq!((ping(), ping6()), (true, false));
    world.cilmark_ok("policy del red allow egress to any icmp/8");
    assert!(!ping(), "the flow ends with its rule");
    let run = world.cilmark("attach red --id 300");
    assert!(run.stderr.contains("the egress policy was enforce and is off now"), "{run:?}");
    assert!(ping());
}

#[test]
fn a_long_list_of_rules_is_shown_in_no_time() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --policy audit --policy-entries 65536");
    let rule = |n: usize| format!("allow egress to {} udp/{}", 100 + n / 50, 1 + n % 50);
    let rules: Vec<String> = (0..20_000).map(rule).collect();
    for few in rules.chunks(10_000) {
        world.cilmark_ok(&format!("policy add red {}", few.join(" ")));
    }
    let start = Instant::now();
    let listed = world.cilmark_json("policy list red");
    let time = start.elapsed();
    assert!(time < time_for(Duration::from_secs(4)), "{time:?}");
    let listed = listed.as_array().expect("a list").iter().map(|line| line["rule"].as_str());
    assert!(listed.eq(rules.iter().map(|rule| Some(rule.as_str()))));
}

#[test]
fn a_rule_that_never_counts_is_taken_and_told() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.workload("blue", 2);
    world.cilmark_ok("attach red --role netdev --policy enforce --yes");
    world.cilmark_ok("attach blue --id 300 --ip 10.2.0.10 --ingress-policy enforce");
    world.cilmark_ok("identity set 666 bad");
    for (device, rule, words) in [
        ("red", "deny ingress from bad tcp/22", "tcp/22 is on the failsafe list"),
        ("red", "allow egress to any udp/53", "open without a rule"),
        ("red", "deny ingress from any icmp6/134", "always passes such messages"),
        ("red", "allow ingress from any icmp6/137", "forbidden at a NIC"),
        ("red", "allow ingress from host tcp/80", "nobody on a wire is this host"),
        ("blue", "allow egress to any tcp/80", "the policy of egress is off"),
        ("blue", "deny ingress from any icmp6/135", "does not stop what a link needs"),
    ] {
        let run = world.cilmark(&format!("policy add {device} {rule} --yes"));
        assert_eq!(run.status, Some(0), "{run:?}");
        let told = run.stderr.lines().find(|line| line.starts_with("note: "));
        let told = told.unwrap_or_else(|| panic!("nothing is told of {rule}: {run:?}"));
        assert!(told.contains(&format!("`{rule}`")) && told.contains(words), "{told}");
        assert!(rules(&world, device).iter().any(|listed| listed == rule), "{rule} is taken");
    }
    // What counts, and what has been told.
    for rule in ["allow ingress from bad tcp/80", "deny ingress from any tcp/1-100"] {
        world.cilmark_ok("policy flush red --yes");
        let run = world.cilmark(&format!("policy add red {rule} --yes"));
        assert!(!run.stderr.contains("note: "), "{run:?}");
    }
    // Nothing is told while the policy is off, but what begins to count then.
    world.cilmark_ok("attach red --role netdev --yes");
    let run = world.cilmark("policy add red deny ingress from bad tcp/22");
    assert!(!run.stderr.contains("has no effect"), "{run:?}");
    let run = world.cilmark("attach red --role netdev --ingress-policy audit");
    assert!(
        run.stderr.contains("note: red: `deny ingress from bad tcp/22` has no effect"),
        "{run:?}"
    );
    // A deny makes what was there void, and says so once.
    world.cilmark_ok("policy flush blue");
    world.cilmark_ok("policy add blue allow ingress from bad tcp/80");
    let run = world.cilmark("policy add blue deny ingress from bad tcp");
    let told = "note: blue: `allow ingress from bad tcp/80` has no effect: `deny ingress from bad tcp` \
                beats it";
    assert!(run.stderr.contains(told), "{run:?}");
    let run = world.cilmark("policy add blue allow ingress from bad udp/80");
    assert!(!run.stderr.contains("note: "), "{run:?}");
}
