//! Rules that packets come to by other ways than a chain's own, and such as look like another's.

use super::{doctor, nft, says, workloads};

#[test]
fn a_chain_behind_a_map_of_verdicts_may_be_come_to() {
    let Some(world) = workloads(1234) else { return };
    nft(
        &world,
        "table ip t {
            map ways { type ipv4_addr : verdict; elements = { 10.2.0.10 : jump x }; }
            chain x { meta mark set 1; }
            chain c { type filter hook prerouting priority 0; ip daddr vmap @ways; }
        }",
    );
    says(&doctor(&world), "warning", &["x: meta mark set 0x1", "removes the identities 1234 and"]);
}

#[test]
fn bits_that_are_no_identity_s_may_lead_to_what_replaces_its_mark() {
    let Some(world) = workloads(1234) else { return };
    nft(
        &world,
        "table ip t { chain c { type filter hook prerouting priority 0;
            ip saddr 10.1.0.0/16 meta mark set meta mark | 0x1000
            meta mark & 0x1000 == 0x1000 meta mark set 0x1; }; }",
    );
    says(
        &doctor(&world),
        "warning",
        &["c: meta mark & 0x1000 == 0x1000 meta mark set 0x1", "1234"],
    );
}

#[test]
fn a_connection_may_have_any_mark_that_is_drawn_for_it() {
    let Some(world) = workloads(1234) else { return };
    let draw = "ct mark 0x0 ct mark set numgen inc mod 4 offset 0x100;";
    let restore = "ct mark != 0x0 meta mark set ct mark;";
    for (rules, words) in [
        (format!("{draw} {restore}"), "turns 1234 into something that depends on the packet"),
        (format!("{restore} {draw}"), "by the mark of some connections, turns 1234 into"),
    ] {
        nft(
            &world,
            &format!(
                "table ip t {{ chain c {{ type filter hook prerouting priority 0; {rules} }}; }}"
            ),
        );
        says(&doctor(&world), "warning", &["nft table ip t", words]);
        world.sh("nft delete table ip t");
    }
}

#[test]
fn a_device_in_a_set_is_read() {
    let Some(world) = workloads(1234) else { return };
    nft(
        &world,
        "table ip t {
            set wan { type ifname; elements = { db }; }
            map ways { type ifname : verdict; elements = { db : jump x }; }
            chain x { meta mark set 1; }
            chain c { type filter hook prerouting priority 0;
                iifname @wan meta mark set 2
                iifname vmap @ways; }
        }",
    );
    let line = says(&doctor(&world), "warning", &["nft table ip t", "meta mark set 0x1"]);
    assert!(line.contains("meta mark set 0x2") && !line.contains("1234"), "{line}");
    nft(
        &world,
        "flush chain ip t c; add rule ip t c iifname { web comment \"a\", lo } meta mark set 3",
    );
    says(&doctor(&world), "problem", &["meta mark set 0x3", "removes the identity 1234;"]);
}

#[test]
fn rules_of_bridges_by_ebtables_are_read() {
    let Some(world) = workloads(1234) else { return };
    world.sh("ebtables-nft -A FORWARD -p ip -j ACCEPT; ebtables-nft -t nat -A POSTROUTING -j snat --to-src 02:00:00:00:00:01");
    world.sh("ebtables-nft -A FORWARD -i web -j mark --mark-or 0x1000 --mark-target CONTINUE");
    let found = doctor(&world);
    says(&found, "ok", &["ebtables table bridge filter"]);
    assert!(found.of("unread rules").is_empty());
    world.sh("ebtables-nft -A FORWARD -i web -j mark --mark-set 0x5");
    says(&doctor(&world), "problem", &["of ebtables table bridge filter", "1234"]);
}

#[test]
fn what_some_packets_have_no_value_for_is_no_problem_of_all() {
    let Some(world) = workloads(1234) else { return };
    nft(
        &world,
        "table ip t { chain c { type filter hook prerouting priority 0;
            meta mark set tcp dport map { 80 : 0x4000 }; }; }",
    );
    says(&doctor(&world), "warning", &["nft table ip t", "1234"]);
}

#[test]
fn a_chain_is_not_trusted_for_its_name() {
    let Some(world) = workloads(1234) else { return };
    for chain in ["CILIUM_wipe", "CILIUM_PRE_mangle"] {
        world.sh(&format!(
            "iptables-legacy -t mangle -N {chain}; iptables-legacy -t mangle -A PREROUTING -j {chain}
             iptables-legacy -t mangle -A {chain} -s 10.1.0.0/16 -j MARK --set-mark 0"
        ));
        says(&doctor(&world), "warning", &[&format!("-A {chain}"), "removes the identities 1234"]);
        world.sh("iptables-legacy -t mangle -F; iptables-legacy -t mangle -X");
    }
}

#[test]
fn what_restores_a_mark_that_was_saved_just_before_leaves_it_as_it_is() {
    let Some(world) = workloads(1234) else { return };
    world.cilmark_ok("policy add db allow ingress from 1234 icmp/8");
    let ping = || world.try_sh("ip netns exec web ping -c1 -W1 10.2.0.10").status.success();
    let save = "ct mark set meta mark & 0xffff0fff;";
    let restore = "meta mark set ct mark;";
    let hook = "type filter hook prerouting priority mangle;";
    let wipes = ["where nobody has set one it removes the identities 1234 and 1235"];
    let some = ["turns 1234 into something that depends on the packet"];
    for (chains, level, words) in [
        (format!("chain c {{ {hook} {save} {restore} }}"), "ok", &[][..]),
        (format!("chain x {{ {save} }}; chain c {{ {hook} jump x; {restore} }}"), "ok", &[]),
        (format!("chain c {{ {hook} {restore} {save} }}"), "problem", &wipes),
        (format!("chain c {{ {hook} tcp dport 80 {save} {restore} }}"), "warning", &some),
    ] {
        nft(&world, &format!("table ip t {{ {chains}; }}"));
        says(&doctor(&world), level, &[&["nft table ip t"], words].concat());
        assert_eq!(ping(), level == "ok", "{chains}");
        world.sh("nft delete table ip t");
    }
}

#[test]
fn a_set_that_can_t_be_listed_leaves_only_that_unknown() {
    let Some(world) = workloads(1234) else { return };
    nft(
        &world,
        "table ip t {
            set s { type mark; elements = { 0x04d20f00 }; }
            chain c { type filter hook forward priority 0; meta mark @s drop; meta mark set 1; }
        }",
    );
    says(&doctor(&world), "warning", &["meta mark set 0x1", "removes the identity 1235"]);
    // As one with more elements than nft can print in time.
    world.sh(r#"cp $(command -v nft) /run/netns/nft
           echo '#!/bin/sh
           case $* in *--file*) exit 1;; esac; exec /run/netns/nft "$@"' >/run/netns/wrapper
           chmod +x /run/netns/wrapper; mount --bind /run/netns/wrapper $(command -v nft)"#);
    let found = doctor(&world);
    says(&found, "warning", &["the elements of set s of nft table ip t can't be read"]);
    says(&found, "problem", &["meta mark set 0x1", "removes the identities 1234 and 1235"]);
}

#[test]
fn a_newline_in_a_comment_hides_no_rule() {
    let Some(world) = workloads(1284) else { return };
    world.sh(
        "iptables-legacy -t mangle -A FORWARD -m comment --comment 'a
-A FORWARD -j ACCEPT' -j TOS --set-tos 0x10
         iptables-legacy -t mangle -A FORWARD -m mark --mark 0x40000/0xff0000 -j TOS --set-tos 0x10",
    );
    says(&doctor(&world), "warning", &["--mark 0x40000/0xff0000", "also matches the mark of 1284"]);
}
