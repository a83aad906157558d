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
fn a_newline_in_a_comment_hides_no_rule() {
    let Some(world) = workloads(1284) else { return };
    world.sh(
        "iptables-legacy -t mangle -A FORWARD -m comment --comment 'a
-A FORWARD -j ACCEPT' -j TOS --set-tos 0x10
         iptables-legacy -t mangle -A FORWARD -m mark --mark 0x40000/0xff0000 -j TOS --set-tos 0x10",
    );
    says(&doctor(&world), "warning", &["--mark 0x40000/0xff0000", "also matches the mark of 1284"]);
}
