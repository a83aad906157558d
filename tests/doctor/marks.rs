//! Others that use the mark of packets, each set up by its own tools and as it sets itself up.

mod free;
mod known;
mod strange;
mod ways;

use serde_json::Value;

use super::{Findings, doctor};
use crate::common::World;

/// Two workloads, 1234 behind web and 1235 behind db, of which db enforces its rules.
fn workloads(web: u32) -> Option<World> {
    let world = World::new()?;
    world.workload("web", 1);
    world.workload("db", 2);
    world.cilmark_ok(&format!("attach web --id {web} --ip 10.1.0.10"));
    world.cilmark_ok("attach db --id 1235 --ip 10.2.0.10 --policy enforce");
    Some(world)
}

/// The finding of the mark that says this, of the current namespace.
fn finding(found: &Findings, word: &str) -> String {
    let all = [found.of("mark"), found.of("unread rules")].concat();
    let these: Vec<&String> = all.iter().filter(|it| it.contains(word)).collect();
    let [one] = these[..] else { panic!("{word}: {all:#?}") };
    one.clone()
}

/// Whether a finding of a level says each of these words.
fn says(found: &Findings, level: &str, words: &[&str]) -> String {
    let line = finding(found, words[0]);
    assert!(line.starts_with(level), "{line}");
    words.iter().for_each(|word| assert!(line.contains(word), "no `{word}` in: {line}"));
    line
}

/// The identity that a finding says is free.
fn free(line: &str) -> u32 {
    let words: Vec<&str> = line.split(' ').collect();
    let at = words.windows(2).position(|it| it == ["is", "free"]);
    words[at.unwrap_or_else(|| panic!("no identity is free in: {line}")) - 1]
        .parse()
        .expect("a number")
}

fn nft(world: &World, rules: &str) {
    world.sh(&format!("nft -f - <<'END'\n{rules}\nEND"));
}

#[test]
fn where_nobody_else_uses_the_mark_one_line_says_so() {
    let Some(world) = workloads(1234) else { return };
    nft(
        &world,
        "table inet fw { chain in { type filter hook input priority 0; tcp dport 22 accept; }; }",
    );
    world.sh("iptables-legacy -A FORWARD -p tcp -j ACCEPT; ip rule add iif web lookup main");
    let found = doctor(&world);
    found.has("mark", "ok", &["nobody else uses the mark"]);
}

#[test]
fn a_routing_rule_is_named_with_the_identity_that_attach_names() {
    let Some(world) = workloads(260) else { return };
    world.sh("ip rule add pref 100 fwmark 0x40000/0xff0000 lookup main");
    let line = says(
        &doctor(&world),
        "warning",
        &[
            "`ip rule` 100 (fwmark 0x40000/0xff0000 lookup main)",
            "also matches the mark of 260",
            "261 is free",
        ],
    );
    let said = world.cilmark("attach web --id 260 --ip 10.1.0.10").stderr;
    assert!(said.contains(&format!("{} is free", free(&line))), "{said}");
    world.cilmark_ok(&format!("attach web --id {} --ip 10.1.0.10", free(&line)));
    says(&doctor(&world), "ok", &["`ip rule`", "to avoid: those whose low byte is 4"]);
}

#[test]
fn rules_of_nftables_collide_by_matches_sets_and_maps() {
    let Some(world) = workloads(1284) else { return };
    for (rule, words) in [
        ("meta mark & 0xff0000 == 0x40000 accept", "meta mark & 0xff0000 == 0x40000 accept"),
        ("meta mark @marks drop", "meta mark == { 0x1, 0x5000000-0x5ffffff } drop"),
        ("meta mark vmap @verdicts", "meta mark == 0x5040000-0x504ffff drop"),
        ("meta mark != 0 tcp dport 80 accept", "meta mark != 0x0 … accept"),
    ] {
        nft(
            &world,
            &format!(
                "table inet fw {{
                    set marks {{ type mark; flags interval; elements = {{ 1, 0x5000000-0x5ffffff }}; }}
                    map verdicts {{ type mark : verdict; flags interval; elements = {{ 0x5040000-0x504ffff : drop }}; }}
                    chain f {{ type filter hook forward priority 0; {rule}; }}
                }}"
            ),
        );
        says(
            &doctor(&world),
            "warning",
            &["nft table inet fw", words, "also matches the mark of", "1284"],
        );
        world.sh("nft delete table inet fw");
    }
}

#[test]
fn a_filter_by_identity_is_meant() {
    let Some(world) = workloads(1234) else { return };
    nft(
        &world,
        "table inet by_identity { chain f { type filter hook forward priority filter;
            meta mark & 0xffff0fff == 0x04d20f00 tcp dport 25 counter drop; }; }",
    );
    world.sh("ip rule add fwmark 0x04d20f00/0xffff0fff table 100");
    let found = doctor(&world);
    for user in ["nft table inet by_identity", "`ip rule`"] {
        says(&found, "ok", &[user]);
    }
    assert!(!found.of("mark").iter().any(|it| it.contains("avoid")));
}

#[test]
fn a_set_turns_a_packet_s_sender_into_the_one_that_is_named() {
    let Some(world) = workloads(1234) else { return };
    world.cilmark_ok("policy add db allow ingress from 1028 icmp/8");
    let ping = || world.try_sh("ip netns exec web ping -c1 -W1 10.2.0.10").status.success();
    assert!(!ping(), "1234 has no rule");
    nft(
        &world,
        "table inet fw { chain pre { type filter hook prerouting priority 0;
            iifname web meta mark set meta mark & 0xff00ffff | 0x40000; }; }",
    );
    let line = says(
        &doctor(&world),
        "problem",
        &["nft table inet fw", "turns 1234 into 1028", "bits 12 to 15"],
    );
    assert!(ping(), "db takes 1234 for 1028");
    // The cure: the identity that is named keeps its mark.
    let free = free(&line);
    world.cilmark_ok(&format!("attach web --id {free} --ip 10.1.0.10"));
    says(&doctor(&world), "ok", &["nft table inet fw"]);
    world.cilmark_ok("policy flush db --yes");
    world.cilmark_ok(&format!("policy add db allow ingress from {free} icmp/8"));
    assert!(ping(), "db knows {free}");
    // The other cure: bits that are nobody's.
    world.cilmark_ok("attach web --id 1234 --ip 10.1.0.10");
    nft(
        &world,
        "flush chain inet fw pre
         add rule inet fw pre iifname web meta mark set meta mark & 0xffff0fff | 0x1000",
    );
    says(&doctor(&world), "ok", &["nft table inet fw"]);
}

#[test]
fn rules_of_both_kinds_of_iptables_and_both_families_are_read() {
    let Some(world) = workloads(1284) else { return };
    for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        let rule = "-t mangle -A FORWARD -m mark --mark 0x40000/0xff0000 -m comment --comment mine -j TOS --set-tos 0x10";
        world.sh(&format!("{tool} {rule}"));
        let shown = tool.strip_suffix("-nft").unwrap_or(tool);
        says(
            &doctor(&world),
            "warning",
            &[
                &format!("`{shown} -t mangle -A FORWARD -m mark --mark 0x40000/0xff0000"),
                "also matches the mark of 1284",
            ],
        );
        world.sh(&format!("{tool} -t mangle -F; {tool} -t mangle -X"));
    }
}

#[test]
fn a_set_without_a_mask_takes_the_sender_from_who_receives_unless_by_address() {
    let Some(world) = workloads(1234) else { return };
    world.cilmark_ok("policy add db allow ingress from 1234 icmp/8");
    let ping = || world.try_sh("ip netns exec web ping -c1 -W1 10.2.0.10").status.success();
    assert!(ping());
    world.sh("iptables-legacy -t mangle -A PREROUTING -i web -p icmp -j MARK --set-mark 1");
    let words = ["removes the identity 1234", "the world's to rules of workloads", "--by-address"];
    says(&doctor(&world), "warning", &words);
    world.sh("iptables-legacy -t mangle -F; iptables-legacy -t mangle -A PREROUTING -i web -j MARK --set-mark 1");
    says(&doctor(&world), "problem", &words);
    assert!(!ping(), "to db it is the world that sends");
    world.cilmark_ok("attach db --keep --by-address");
    let line = says(&doctor(&world), "warning", &words[..2]);
    assert!(!line.contains("--by-address"), "{line}");
    assert!(ping(), "db believes the address");
}

#[test]
fn a_mark_that_a_connection_keeps_comes_back_with_answers() {
    let Some(world) = workloads(1234) else { return };
    world.cilmark_ok("policy add db allow ingress from 1234 icmp/8");
    nft(
        &world,
        "table inet keep {
            counter answers { }
            chain pre { type filter hook prerouting priority mangle; ct mark != 0 meta mark set ct mark; }
            chain post { type filter hook postrouting priority mangle; ct mark set meta mark; }
            chain f { type filter hook forward priority filter;
                iifname db meta mark & 0xffff0fff == 0x04d20f00 counter name answers; }
        }",
    );
    says(
        &doctor(&world),
        "warning",
        &[
            "nft table inet keep",
            "ct mark != 0x0 meta mark set ct mark",
            "gives answers the mark",
            "1234",
            "bits 12 to 15, by a mask",
        ],
    );
    world.sh("ip netns exec web ping -c1 -W1 10.2.0.10");
    assert_eq!(counted(&world, "inet keep", "answers"), 1, "db answers with the mark of 1234");
    nft(
        &world,
        "flush chain inet keep post
         add rule inet keep post ct mark set meta mark & 0xf000",
    );
    says(&doctor(&world), "ok", &["nft table inet keep"]);
}

#[test]
fn what_a_nic_stamps_counts_and_what_comes_in_elsewhere_does_not() {
    let Some(world) = workloads(1234) else { return };
    world.veth("nic");
    world.cilmark_ok("ipcache set 198.51.100.0/24 1284");
    nft(
        &world,
        "table inet fw { chain f { type filter hook forward priority 0;
            meta mark & 0xff0000 == 0x40000 accept; iifname \"tailscale0\" meta mark set 1; }; }",
    );
    says(&doctor(&world), "ok", &["nft table inet fw"]);
    world.cilmark_ok("attach nic --role netdev --stamp-remote");
    says(&doctor(&world), "warning", &["nft table inet fw", "also matches the mark of 1284"]);
}

#[test]
fn a_port_s_packets_come_in_by_its_bridge() {
    let Some(world) = World::new() else { return };
    world.veth("web");
    world.sh("ip link add br0 type bridge; ip link set web master br0; ip link set br0 up");
    world.cilmark_ok("attach web --id 1234");
    let set = |device: &str| {
        format!(
            "table inet fw {{ chain p {{ type filter hook prerouting priority 0; iifname {device} meta mark set 1; }}; }}"
        )
    };
    nft(&world, &set("web"));
    says(&doctor(&world), "ok", &["nft table inet fw"]);
    nft(&world, &format!("delete table inet fw\n{}", set("br0")));
    says(&doctor(&world), "warning", &["iifname br0", "removes the identity 1234"]);
}

#[test]
fn rules_count_in_the_namespace_of_the_endpoint() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach eth0 --netns red --id 1284 --role container --yes");
    world.sh("ip netns exec red ip rule add pref 7 fwmark 0x40000/0xff0000 lookup 7
              ip netns exec red iptables-legacy -t mangle -A FORWARD -m mark --mark 0x50000/0xff0000 -j ACCEPT");
    let found = doctor(&world);
    says(&found, "ok this host", &["nobody else uses"]);
    says(&found, "warning the network namespace of eth0", &["`ip rule` 7", "1284"]);
    says(&found, "ok the network namespace of eth0", &["iptables-legacy -t mangle"]);
}

#[test]
fn what_nobody_can_read_is_said_and_reading_makes_nothing() {
    let Some(world) = workloads(1234) else { return };
    let state = "nft --json list ruleset; cat /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names";
    let before = world.sh(state);
    doctor(&world).has("mark", "ok", &["nobody else"]);
    assert_eq!(world.sh(state), before, "no table has come to be");
    world.sh("iptables-legacy -A FORWARD -j ACCEPT
              iptables-nft -A FORWARD -m addrtype --src-type LOCAL -j ACCEPT");
    let filled = world.sh(state);
    doctor(&world).has("mark", "ok", &["nobody else"]);
    assert_eq!(world.sh(state), filled);
    world.sh("mount --bind /bin/false /usr/sbin/xtables-legacy-multi");
    says(
        &doctor(&world),
        "warning",
        &["the rules of iptables-legacy can't be read", "`iptables-legacy-save` has failed"],
    );
    // All of them.
    world.sh("mount -t tmpfs none /usr/sbin");
    let found = doctor(&world);
    says(
        &found,
        "warning",
        &[
            "the rules of nftables can't be read",
            "nft is in none of /usr/sbin:",
            "install nft there",
        ],
    );
    says(
        &found,
        "warning",
        &[
            "the rules of iptables-legacy can't be read",
            "iptables-legacy-save is in none of /usr/sbin:",
        ],
    );
    assert_eq!(found.of("mark"), [""; 0], "what is unread is not said to be free of marks");
    // As with NixOS.
    world.sh("umount /usr/sbin && mount -t tmpfs none /run && mkdir -p /run/current-system/sw/bin
              cp /usr/sbin/nft /run/current-system/sw/bin && mount -t tmpfs none /usr/sbin");
    let unread = doctor(&world).of("unread rules").concat();
    assert!(!unread.contains("nftables"), "{unread}");
}

#[test]
fn what_iptables_alone_can_show_is_missed_where_it_is_missing() {
    let Some(world) = workloads(1234) else { return };
    world.sh("iptables-nft -t mangle -A FORWARD -j MARK --set-xmark 0x40000/0xff0000
              ip6tables-nft -A FORWARD -j ACCEPT
              mount --bind /bin/false /usr/sbin/xtables-nft-multi");
    says(
        &doctor(&world),
        "warning",
        &["the rules of iptables can't be read", "`iptables-nft-save` has failed"],
    );
}

#[test]
fn marks_with_names_are_known_by_their_numbers() {
    let Some(world) = workloads(1284) else { return };
    world.sh("mkdir -p /run/netns/iproute2; test ! -d /etc/iproute2 || cp -r /etc/iproute2/. /run/netns/iproute2
              test -d /etc/iproute2 || exit 0
              echo '0x5040000 web' >/run/netns/iproute2/rt_marks; mount --bind /run/netns/iproute2 /etc/iproute2");
    nft(
        &world,
        "table inet fw { chain f { type filter hook forward priority 0; meta mark >= 0x5040000 accept; }; }",
    );
    says(
        &doctor(&world),
        "warning",
        &["meta mark == 0x5040000-0xffffffff accept", "also matches the mark of 1284"],
    );
}

#[test]
fn an_ordinary_user_is_told_once_that_nobody_can_read_them() {
    let Some(world) = World::new() else { return };
    let printed =
        world.cilmark_of_a_user(&["doctor", "--json"]).output().expect("run cilmark").stdout;
    let found = Findings::read(Some(1), &String::from_utf8(printed).expect("UTF-8"));
    found.has(
        "unread rules",
        "warning",
        &["nftables, iptables-legacy, ip6tables-legacy", "run it as root"],
    );
    assert_eq!(found.of("mark"), [""; 0]);
}

#[test]
fn where_another_rule_spoils_every_identity_that_one_is_to_be_mended_first() {
    let Some(world) = workloads(1284) else { return };
    nft(
        &world,
        "table inet fw { chain p { type filter hook prerouting priority -200;
            meta mark & 0xff0000 == 0x40000 accept; }; }
         table inet wipe { chain p { type filter hook prerouting priority 0; meta mark set 1; }; }",
    );
    let words = [
        "nft table inet fw: ",
        "also matches the mark of 1284",
        "no identity is free of all rules here, because of `p: meta mark set 0x1",
        "of nft table inet wipe; mend that one first",
    ];
    says(&doctor(&world), "warning", &words[1..]);
    nft(&world, "delete table inet wipe");
    let told = says(&doctor(&world), "warning", &words[1..2]);
    assert_eq!(free(&told) % 256, 5, "{told}");
}

/// How many packets a counter of nftables has seen.
fn counted(world: &World, table: &str, name: &str) -> u64 {
    let counter = world.sh(&format!("nft --json list counter {table} {name}"));
    let counter: Value = serde_json::from_str(&counter).expect("JSON");
    counter["nftables"][1]["counter"]["packets"].as_u64().expect("a number")
}
