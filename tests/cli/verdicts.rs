//! `monitor` and policy: what would be dropped, by what, and what would help.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::World;
use crate::common::world::wait_for;

fn ping(world: &World) {
    world.sh("ip netns exec red ping -qc 1 -W 20 10.1.0.1");
}

#[test]
fn what_audit_would_drop_is_shown_with_a_command_that_allows_it() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("identity set 300 peer");
    world.cilmark_ok("ipcache set 10.1.0.10 300");
    world.cilmark_ok("attach red --role netdev --policy audit");
    let monitor = world.start("monitor");
    ping(&world);
    let line = monitor.stdout_line(|line| line.contains("icmp/8"));
    assert!(line.contains("from_netdev: audit: would drop (Policy denied, 133) icmp/8"), "{line}");
    let (_, hint) = line.split_once("; to allow it: ").expect("a hint");
    assert_eq!(hint, "cilmark policy add red 'allow ingress from peer icmp/8'");
    world.cilmark_ok(&hint.replace('\'', "").replace("cilmark ", ""));
    world.cilmark_ok("policy add red deny ingress from peer tcp/80");
    ping(&world);
    world.try_sh("ip netns exec red socat -u /dev/null TCP:10.1.0.1:80");
    let line = monitor.stdout_line(|line| line.contains("would drop"));
    assert!(line.contains("(Policy denied by denylist, 181) tcp 10.1.0.10:"), "{line}");
    assert!(line.contains(", by deny ingress from peer tcp/80; "), "{line}");
    let commands = "cilmark policy del red 'deny ingress from peer tcp/80' && \
                    cilmark policy add red 'allow ingress from peer tcp/80'";
    assert!(line.ends_with(commands), "{line}");
}

#[test]
fn verdicts_are_reported_while_somebody_asks_and_name_their_rule() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --role netdev --policy audit");
    world.cilmark_ok("policy add red allow ingress from any icmp/8");
    let monitor = world.start("monitor --type policy-verdict --json");
    let mut line = None;
    wait_for("verdicts to be on", || {
        ping(&world);
        line = monitor.next_line(Duration::from_millis(50));
        line.as_ref().is_some_and(|line| line.contains("icmp/8"))
    });
    let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
    for (field, value) in [
        ("type", json!("policy-verdict")),
        ("rule", json!("allow ingress from any icmp/8")),
        ("audited", json!(false)),
        ("reason", json!(null)),
        ("program", json!("from_netdev")),
    ] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
}

#[test]
fn what_is_dropped_names_the_rule_or_the_one_that_is_missing() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --egress-policy enforce");
    let monitor = world.start("monitor");
    world.try_sh("ip netns exec red socat -u /dev/null UDP:10.1.0.1:53");
    world.try_sh("echo x | ip netns exec red socat -u - UDP:10.1.0.1:53");
    let line = monitor.stdout_line(|line| line.contains(" udp "));
    assert!(line.ends_with("cilmark policy add red 'allow egress to host udp/53'"), "{line}");
}
