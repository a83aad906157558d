//! Which identity is free of rules, and of others.

use super::{doctor, free, says, workloads};

#[test]
fn nobody_whom_rules_speak_of_or_who_has_some_is_free() {
    let Some(world) = workloads(260) else { return };
    world.cilmark_ok("policy add db allow ingress from 261 icmp/8");
    world.cilmark_ok("policy add @262 allow ingress from 263 tcp/22");
    world.cilmark_ok("identity set 264 later");
    world.cilmark_ok("ipcache set 198.51.100.0/24 265");
    world.sh("ip rule add pref 100 fwmark 0x40000/0xff0000 lookup main");
    let line = says(&doctor(&world), "warning", &["`ip rule` 100", "also matches", "260"]);
    assert_eq!(free(&line), 266, "{line}");
    let said = world.cilmark("attach web --id 260 --ip 10.1.0.10").stderr;
    assert!(said.contains("266 is free"), "{said}");
}
