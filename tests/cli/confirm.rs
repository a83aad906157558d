//! `--confirm`: the datapath goes back by itself, when every process has ended.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::time_for;
use crate::common::world::wait_for;

const NIC: &str = "attach red --role netdev --failsafe none --adopt 0";

/// What `--confirm` takes: time to look at what is not confirmed yet, on a slow machine too.
fn within(milliseconds: u64) -> String {
    format!("{}ms", time_for(Duration::from_millis(milliseconds)).as_millis())
}

fn ping(world: &World) -> bool {
    let patience = time_for(Duration::from_millis(100)).as_secs_f64();
    world.try_sh(&format!("ip netns exec red ping -qc 1 -W {patience} 10.1.0.1")).status.success()
}

/// Both modes in force, and the deadline.
fn state(world: &World) -> [Value; 3] {
    let mut status = world.status("red");
    ["ingress_policy", "egress_policy", "confirm_deadline"].map(|field| status[field].take())
}

fn rules(world: &World) -> Vec<Value> {
    let mut list = world.cilmark_json("policy list red");
    list.as_array_mut().unwrap().iter_mut().map(|line| line["rule"].take()).collect()
}

fn nic() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    Some(world)
}

#[test]
fn an_enforcement_that_nobody_confirms_only_audits_from_then_on() {
    let Some(world) = nic() else { return };
    let run = world.cilmark(&format!("{NIC} --policy enforce --confirm {}", within(1500)));
    let seconds = time_for(Duration::from_millis(1500)).as_secs_f64().ceil();
    assert!(run.stderr.contains(&format!("`cilmark confirm red` within {seconds} s")), "{run:?}");
    assert!(!ping(&world));
    assert_eq!(state(&world)[..2], [json!("enforce"), json!("enforce")]);
    wait_for("the fallback", || ping(&world));
    assert_eq!(state(&world), [json!("audit"), json!("audit"), json!(0)]);
    assert!(
        world.cilmark_ok("status red").contains("audit/audit (not confirmed, fell back to audit)")
    );
    let question = "explain red to --src 10.1.0.1 --dst 10.1.0.10 --dport 80";
    let told = world.cilmark_ok(question);
    assert!(told.contains("egress audit (nobody confirmed to enforce)"), "{told}");
    let run = world.cilmark(&format!("{question} --mode enforce"));
    assert!(run.status == Some(3) && run.stdout.contains("egress enforce"), "{run:?}");
    world.cilmark("confirm red").fails(1, &["too late", "only audits", "cilmark attach red"]);
    assert!(ping(&world), "nothing has changed by that");
    let run = world.cilmark("policy add red allow ingress from 909");
    assert!(run.stderr.contains("only audits"), "{run:?}");
    assert!(ping(&world), "nor by that");
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    assert!(!ping(&world));
    assert_eq!(state(&world), [json!("enforce"), json!("enforce"), json!(null)]);
}

#[test]
fn attaching_again_says_that_it_confirms_the_rules() {
    let Some(world) = nic() else { return };
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    world.cilmark_ok("policy add red allow ingress from any --confirm 60s");
    for said in [true, false] {
        let run = world.cilmark(&format!("{NIC} --policy enforce --yes"));
        assert_eq!(run.stderr.contains("makes it permanent"), said, "{run:?}");
        assert_eq!(rules(&world), ["allow ingress from any"]);
    }
}

#[test]
fn a_confirmed_enforcement_stays() {
    let Some(world) = nic() else { return };
    world.cilmark("confirm red").fails(1, &["nothing is attached"]);
    world.cilmark_ok(&format!("{NIC} --policy enforce --confirm {}", within(1500)));
    let deadline = Instant::now() + time_for(Duration::from_millis(1500));
    let trial = time_for(Duration::from_millis(1500)).as_secs_f64().ceil() as u64;
    assert!(state(&world)[2].as_u64().is_some_and(|left| (1..=trial).contains(&left)));
    assert_eq!(world.cilmark("confirm host").stderr, "confirmed red\n");
    wait_for("the deadline", || Instant::now() > deadline);
    assert!(!ping(&world));
    assert_eq!(state(&world), [json!("enforce"), json!("enforce"), json!(null)]);
    world.cilmark("confirm red").fails(1, &["red has nothing to confirm"]);
    world.cilmark("confirm host").fails(1, &["no NIC waits"]);
}

#[test]
fn rules_that_nobody_confirms_give_way_to_those_before() {
    let Some(world) = nic() else { return };
    world.cilmark_ok("attach red --role netdev");
    world.cilmark_ok("policy add red allow ingress from world icmp/8");
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    assert!(ping(&world));
    let run = world.cilmark(&format!("policy flush red --confirm {}", within(1000)));
    assert!(run.stderr.contains("otherwise the rules before this change come back"), "{run:?}");
    assert!(!ping(&world), "also what was established");
    assert_eq!(rules(&world), [""; 0]);
    wait_for("the rules before", || ping(&world));
    assert_eq!(state(&world), [json!("enforce"), json!("enforce"), json!(0)]);
    assert_eq!(rules(&world), ["allow ingress from world icmp/8"]);
    world.cilmark("confirm red").fails(1, &["too late", "rules before the last change"]);
    world.cilmark_ok("policy add red allow ingress from world icmp/8 --yes");
    assert_eq!(state(&world)[2], json!(0), "nothing was changed");
    // The next change starts from what is in force.
    world.cilmark_ok("policy add red allow ingress from 909 --yes");
    assert_eq!(rules(&world), ["allow ingress from world icmp/8", "allow ingress from 909"]);
    assert_eq!(state(&world)[2], json!(null));
    assert!(ping(&world));
}

#[test]
fn attaching_again_after_a_fallback_keeps_the_rules_in_force() {
    let Some(world) = nic() else { return };
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    let rule = "allow ingress from world icmp/8";
    world.cilmark_ok(&format!("policy add red {rule} --confirm {}", within(500)));
    assert!(ping(&world));
    wait_for("the fallback", || !ping(&world));
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    assert!(!ping(&world));
    assert_eq!((rules(&world), state(&world)[2].clone()), (vec![], json!(null)));
}

#[test]
fn changes_upon_an_unconfirmed_one_go_back_to_what_was_confirmed_last() {
    let Some(world) = nic() else { return };
    world.cilmark_ok("attach red --role netdev");
    world.cilmark_ok("policy add red allow ingress from 909");
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    world.cilmark_ok("policy add red allow ingress from world icmp/8 --confirm 60s");
    world.cilmark_ok("policy del red allow ingress from 909 --yes");
    assert!(state(&world)[2].as_u64() > Some(50), "`--yes` leaves the clock alone");
    let rule = "allow ingress from 910";
    let run = world.cilmark(&format!("policy add red {rule} --confirm {}", within(1000)));
    assert!(run.stderr.contains("the last rules that were confirmed come back"), "{run:?}");
    assert_eq!(rules(&world).len(), 2);
    assert!(ping(&world));
    wait_for("the fallback", || !ping(&world));
    assert_eq!(rules(&world), ["allow ingress from 909"]);
}

#[test]
fn a_change_while_the_attachment_waits_still_falls_back_to_audit() {
    let Some(world) = nic() else { return };
    world.cilmark_ok(&format!("{NIC} --policy enforce --confirm 60s"));
    let rule = "allow ingress from 909";
    let run = world.cilmark(&format!("policy add red {rule} --confirm {}", within(1000)));
    assert!(run.stderr.contains("otherwise it only audits"), "{run:?}");
    assert!(!ping(&world));
    wait_for("the fallback", || ping(&world));
    assert_eq!(state(&world), [json!("audit"), json!("audit"), json!(0)]);
    assert_eq!(rules(&world), ["allow ingress from 909"], "the rules stay");
}

#[test]
fn a_change_of_all_nics_that_fails_at_one_leaves_no_clock_at_the_others() {
    let Some(world) = nic() else { return };
    world.veth("blue");
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    world.cilmark_ok("attach blue --role netdev --policy enforce --yes --policy-entries 32");
    let many: String = (300..330).map(|peer| format!(" allow ingress from {peer}")).collect();
    let add = format!("policy add host{many} --confirm 60s");
    world.cilmark(&add).fails(1, &["change blue", "--policy-entries"]);
    for device in ["red", "blue"] {
        assert_eq!(world.status(device)["confirm_deadline"], json!(null), "{device}");
        assert_eq!(world.cilmark_json(&format!("policy list {device}")), json!([]), "{device}");
    }
    world.cilmark_ok("policy add host allow ingress from world icmp/8 --confirm 60s");
    for device in ["red", "blue"] {
        assert!(world.status(device)["confirm_deadline"].is_u64(), "{device}");
    }
    world.cilmark_ok("confirm host");
    assert!(ping(&world));
}

#[test]
fn rules_that_nobody_confirms_go_from_a_nic_that_only_audits_too() {
    let Some(world) = nic() else { return };
    world.veth("blue");
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    world.cilmark_ok("attach blue --role netdev --policy audit");
    let add = "policy add host allow ingress from world icmp/8 --confirm";
    world.cilmark_ok(&format!("{add} {}", within(1000)));
    assert!(ping(&world));
    wait_for("the fallback", || !ping(&world));
    wait_for("that of the other one", || world.status("blue")["confirm_deadline"] == 0);
    assert_eq!(world.cilmark_json("policy list host"), json!([]));
    world.cilmark_ok(&format!("{add} 60s"));
    world.cilmark_ok("confirm host");
    assert_eq!(world.cilmark_json("policy list blue").as_array().map(Vec::len), Some(1));
}

#[test]
fn a_reader_of_traces_leaves_the_clock_alone() {
    let Some(world) = nic() else { return };
    world.cilmark_ok("attach red --role netdev");
    world.cilmark_ok("policy add red allow ingress from world icmp/8");
    world.cilmark_ok(&format!("{NIC} --policy enforce --yes"));
    let monitor = world.start("monitor --type trace");
    wait_for("tracing to be on", || {
        ping(&world);
        monitor.next_line(Duration::from_millis(50)).is_some()
    });
    for _ in 0..20 {
        world.cilmark_ok("policy add red allow ingress from 909 --confirm 60s");
        world.cilmark_ok("confirm red");
        assert_eq!(state(&world)[2], json!(null));
        world.cilmark_ok("policy del red allow ingress from 909 --confirm 60s");
        assert!(state(&world)[2].is_u64());
        world.cilmark_ok("confirm red");
    }
}
