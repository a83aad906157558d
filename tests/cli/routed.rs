//! Identities whose marks a rule of `ip rule` takes for its own.

use crate::common::World;

/// What `attach` says of the mark; nothing if it says nothing.
fn warning(world: &World, arguments: &str) -> String {
    let run = world.cilmark(&format!("attach {arguments}"));
    assert_eq!(run.status, Some(0), "{run:?}");
    run.stderr.lines().find(|line| line.contains("its mark")).unwrap_or_default().to_owned()
}

#[test]
fn attach_warns_of_a_mark_that_a_routing_rule_asks_for_and_names_a_free_identity() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    assert_eq!(warning(&world, "red --id 260"), "");
    // As Tailscale has them, in both families.
    world.sh("ip rule add pref 5210 fwmark 0x40000/0xff0000 lookup main
              ip rule add pref 5250 fwmark 0x40000/0xff0000 unreachable
              ip -6 rule add pref 5211 fwmark 0x80000/0xff0000 lookup 52");
    for (id, words) in [
        (
            260,
            &[
                "identity 260: its mark 0x01040f00",
                "`ip rule` 5210 (fwmark 0x40000/0xff0000 lookup main)",
                "`ip rule` 5250 (fwmark 0x40000/0xff0000 unreachable)",
                "packets of red",
                "261 is free",
            ][..],
        ),
        (132, &["0x00840f00"][..0]),
        (1032, &["`ip -6 rule` 5211 (fwmark 0x80000/0xff0000 lookup 52)", "1033 is free"]),
    ] {
        let said = warning(&world, &format!("red --id {id}"));
        assert_eq!(said.is_empty(), words.is_empty(), "{id}: {said}");
        words.iter().for_each(|word| assert!(said.contains(word), "no `{word}` in {said}"));
    }
    // What somebody has, or what has a name, is not free.
    world.cilmark_ok("attach blue --id 261");
    world.cilmark_ok("identity set 262 db");
    assert!(warning(&world, "red --id 260").contains("263 is free"));
    assert_eq!(warning(&world, "red --id 263"), "");
}

#[test]
fn a_rule_that_takes_every_identity_leaves_none_free() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("ip rule add fwmark 0xf00/0xf00 lookup 7");
    let said = warning(&world, "red --id 260");
    assert!(said.contains("lookup 7") && said.contains("no identity is free"), "{said}");
    // Without a mark it is the same to them.
    world.sh("ip rule del fwmark 0xf00/0xf00; ip rule add not fwmark 0xca6c lookup 51820
              ip rule add iif red lookup 7");
    assert_eq!(warning(&world, "red --id 260"), "");
}

#[test]
fn rules_count_where_the_device_is_and_for_what_gets_the_mark() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.veth("nic");
    world.sh("ip rule add fwmark 0x10000/0xff0000 lookup 7");
    assert_eq!(warning(&world, "eth0 --netns red --id 257"), "", "another namespace's");
    assert_eq!(warning(&world, "nic --role netdev"), "", "the host's packets get no mark");
    assert!(warning(&world, "nic --role netdev --id 257").contains("258 is free"));
    assert!(warning(&world, "red --id 65537").contains("128 is free"));
}
