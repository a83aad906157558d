//! Rules with names that nobody sensible gives, as whoever is root in some namespace can.

use super::{doctor, nft, says, workloads};

#[test]
fn a_name_of_the_ruleset_is_no_command_to_nft() {
    let Some(world) = workloads(1284) else { return };
    nft(
        &world,
        "table ip mine { chain f { type filter hook forward priority 0; tcp dport 23 drop; }; }",
    );
    // To nft's own language these are commands.
    let rules = r#"{"nftables": [
        {"add": {"table": {"family": "ip", "name": "t"}}},
        {"add": {"set": {"family": "ip", "table": "t", "name": "s; flush table ip mine", "type": "mark", "flags": ["interval"], "elem": [{"range": [83886080, 100663295]}]}}},
        {"add": {"chain": {"family": "ip", "table": "t", "name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}},
        {"add": {"rule": {"family": "ip", "table": "t", "chain": "f", "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": "@s; flush table ip mine"}}, {"drop": null}]}}},
        {"add": {"table": {"family": "netdev", "name": "n"}}},
        {"add": {"chain": {"family": "netdev", "table": "n", "name": "i; flush table ip mine", "type": "filter", "hook": "ingress", "dev": "web", "prio": 0, "policy": "accept"}}},
        {"add": {"rule": {"family": "netdev", "table": "n", "chain": "i; flush table ip mine", "expr": [
            {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}}]}}}]}"#;
    world.sh(&format!("nft --json --file - <<'END'\n{rules}\nEND"));
    let before = world.sh("nft --json list ruleset");
    let found = doctor(&world);
    assert_eq!(world.sh("nft --json list ruleset"), before, "doctor has changed rules");
    // And its rules are told, not left out.
    says(
        &found,
        "warning",
        &["meta mark == 0x5000000-0x5ffffff drop", "of nft table ip t", "1284"],
    );
    says(&found, "problem", &["removes the identities 1235 and 1284", "nft table netdev n"]);
}
