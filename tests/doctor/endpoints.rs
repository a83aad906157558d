//! What is attached, and no longer does what it was asked for.

use std::fs;
use std::mem::offset_of;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use cilmark::kernel::abi::cm_generations;
use cilmark::kernel::sys::SharedValue;
use cilmark::model::identity::{Identity, Names};
use cilmark::model::origin::Origin;
use cilmark::model::rule::Rule;
use cilmark::model::rule_list::{IdentityRules, RuleList};
use cilmark::model::shell::commands;
use cilmark::state::id_rules::IdRules;
use libbpf_rs::MapHandle;

use super::{attached, doctor, doctor_as};
use crate::common::World;
use crate::common::machine::{by_each_hook, time_for};
use crate::common::world::{mount_fresh, wait_for};

const PINS: &str = "/sys/fs/bpf/cilmark";

#[test]
fn what_is_left_of_a_device_is_named_and_removed_as_the_cure_says() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        world.veth("blue");
        world.cilmark_ok(&format!("attach red --id 300 --ip 10.0.0.1 --hook {hook}"));
        world.cilmark_ok(&format!("attach blue --id 301 --hook {hook}"));
        doctor(&world).is_fine("stale");
        world.sh("ip link del red");
        let words = ["red:", "one of its addresses has its identity", "`cilmark detach id:1`"];
        assert_eq!(doctor(&world).status, Some(0));
        doctor(&world).has("stale", "warning", &words);
        world.cilmark_ok("detach id:1");
        doctor(&world).is_fine("stale");
    });
}

#[test]
fn a_program_that_somebody_took_off_its_hook_is_a_problem_until_it_is_put_back() {
    by_each_hook(|hook| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        world.cilmark_ok(&format!("attach red --id 300 --hook {hook} --policy enforce"));
        world.cilmark_ok("policy add red allow egress to any");
        world.sh(match hook {
            "tcx" => "bpftool link detach pinned /sys/fs/bpf/cilmark/endpoints/1/egress",
            _ => "tc qdisc del dev red clsact",
        });
        let found = doctor(&world);
        found.has(
            "stale",
            "problem",
            &["red:", "missing on the hooks", "`cilmark attach red --keep`"],
        );
        assert_eq!(found.status, Some(1));
        world.cilmark_ok("attach red --keep");
        assert_eq!(doctor(&world).bad(), Vec::<String>::new());
    });
}

#[test]
fn a_device_without_any_of_its_programs_is_not_taken_for_gone() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300 --policy enforce --rule allow ingress from any");
    let spec = world.cilmark_json("status red --spec");
    for hook in ["ingress", "egress"] {
        world.sh(&format!("bpftool link detach pinned {PINS}/endpoints/1/{hook}"));
    }
    let words = ["red: both its programs are missing", "`cilmark attach red --keep`"];
    doctor(&world).has("stale", "problem", &words);
    let words = ["links were detached from both hooks", "`cilmark attach red --keep`"];
    world.cilmark("policy add red allow egress to any").fails(1, &words);
    world.cilmark_ok("attach red --keep");
    doctor(&world).is_fine("stale");
    assert_eq!(world.cilmark_json("status red --spec"), spec);
    assert_eq!(spec["rules"].as_array().unwrap().len(), 1, "{spec}");
}

#[test]
fn what_an_attach_has_left_that_died_early_is_told_and_removed() {
    let Some(world) = attached("red --id 300") else { return };
    world.sh(&format!("mkdir {PINS}/endpoints/7"));
    let words = ["id:7: an `attach` has died before", "`cilmark detach id:7`"];
    doctor(&world).has("stale", "warning", &words);
    world.cilmark_ok("detach id:7");
    doctor(&world).is_fine("stale");
}

#[test]
fn a_device_that_has_moved_is_named_where_it_goes_on() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("red");
    world.cilmark_ok("attach red --id 300");
    doctor(&world).is_fine("moved");
    world.sh("ip netns add other && ip link set red netns other");
    doctor(&world).has(
        "moved",
        "warning",
        &[
            "red (netns other):",
            "another network namespace",
            "`cilmark --netns other attach red`",
            "detach id:1",
        ],
    );
    world.cilmark_ok("--netns other attach red --id 300");
    doctor(&world).is_fine("moved");
}

#[test]
fn a_nic_of_which_its_programs_were_told_something_else_is_attached_again() {
    let Some(world) = attached("nic --role netdev --policy audit") else { return };
    world.sh("sysctl -qw net.ipv4.conf.nic.accept_local=1");
    let words = ["accept_local has been switched on", "`cilmark attach nic --keep`"];
    doctor(&world).has("attach again", "warning", &words);
    world.cilmark_ok("attach nic --keep");
    doctor(&world).is_fine("attach again");
}

#[test]
fn a_pending_confirmation_says_who_is_to_be_confirmed() {
    let Some(world) = attached("nic --role netdev --policy enforce --confirm 60s --adopt 0") else {
        return;
    };
    let words = [
        "nic: not confirmed yet: in ",
        "it goes back to audit",
        "are cut (--adopt 0)",
        "`cilmark confirm nic`",
    ];
    doctor(&world).has("confirmation", "warning", &words);
    world.cilmark_ok("confirm nic");
    doctor(&world).is_fine("confirmation");
    world.cilmark_ok("policy add nic allow ingress from any tcp/80 --confirm 60s");
    let words = ["the rules before the last change come back", "`cilmark confirm nic`"];
    doctor(&world).has("confirmation", "warning", &words);
    world.cilmark_ok("confirm nic");
    world.cilmark_ok("identity set 300 web");
    world.veth("red");
    world.cilmark_ok("attach red --id web --policy enforce");
    world.cilmark_ok("policy add @web allow ingress from any tcp/80 --confirm 60s");
    doctor(&world).has("confirmation", "warning", &["red: ", "`cilmark confirm @web`"]);
    world.cilmark_ok("confirm @web");
    doctor(&world).is_fine("confirmation");
}

#[test]
fn a_file_that_is_on_trial_is_to_be_confirmed_as_a_whole() {
    let Some(world) = World::new() else { return };
    mount_fresh("tmpfs", "/etc");
    let file = "/etc/cilmark/cilmark.toml";
    fs::create_dir("/etc/cilmark").unwrap();
    fs::write(
        file,
        "version = 1\n[[endpoint]]\ndevice = \"nic\"\nrole = \"netdev\"\npolicy = \"enforce\"\n\
         rules = [\"allow ingress from any tcp/80\"]\n",
    )
    .unwrap();
    world.veth("nic");
    world.cilmark_ok(&format!("apply --confirm 60s {file}"));
    let cure = format!("`cilmark confirm {file}`");
    doctor(&world).has("confirmation", "warning", &["nic: not confirmed yet: in ", &cure]);
    world.cilmark_ok(&format!("confirm {file}"));
    doctor(&world).is_fine("confirmation");
}

#[test]
fn a_change_that_has_gone_back_is_told_with_what_makes_it_again() {
    let Some(world) = World::new() else { return };
    let soon = format!("{}ms", time_for(Duration::from_millis(100)).as_millis());
    let found = |level: &str, words: &[&str]| {
        wait_for("the fallback", || {
            !doctor(&world).of("confirmation")[0].contains("not confirmed yet")
        });
        doctor(&world).has("confirmation", level, words);
    };
    world.veth("nic");
    // Whether they are in time or not, nobody confirms.
    world.cilmark(&format!("attach nic --role netdev --policy enforce --confirm {soon}"));
    let words = [
        "nic: ",
        "it only audits",
        "`cilmark attach nic --keep --confirm 60s`",
        "`cilmark attach nic --keep --policy audit`",
    ];
    found("problem", &words);
    world.cilmark_ok("attach nic --keep --confirm 60s");
    doctor(&world).has("confirmation", "warning", &["not confirmed yet"]);
    world.cilmark_ok("confirm nic");
    world.cilmark(&format!("policy add nic allow ingress from any tcp/80 --confirm {soon}"));
    found("warning", &["those before are in force", "`cilmark attach nic --keep --yes`"]);
    world.cilmark_ok("attach nic --keep --yes");
    doctor(&world).is_fine("confirmation");
}

#[test]
fn policies_without_rules_and_rules_without_a_policy_are_told() {
    let Some(world) = attached("red --id 300 --policy enforce") else { return };
    let words = ["red: ", "has no rules", "`cilmark policy add red RULE`"];
    doctor(&world).has("rules", "warning", &words);
    world.cilmark_ok("policy add red allow ingress from any tcp/80");
    doctor(&world).is_fine("rules");
    world.cilmark_ok("attach red --id 300");
    let cure = "`cilmark attach red --keep --policy audit`";
    doctor(&world).has(
        "rules",
        "warning",
        &["its policy is off, so its own rule has no effect", cure],
    );
    world.cilmark_ok("attach red --keep --policy audit");
    doctor(&world).is_fine("rules");
    world.cilmark_ok("policy add red deny ingress from any tcp");
    let found = doctor(&world);
    let del = "policy del red allow ingress from any tcp/80";
    found.has("rules", "warning", &["`deny ingress from any tcp` beats it"]);
    world.cilmark_ok(del);
    doctor(&world).is_fine("rules");
}

#[test]
fn rules_that_allow_what_is_open_anyway_are_fine() {
    let Some(world) = attached("nic --role netdev --policy enforce --yes") else { return };
    world.cilmark_ok("policy add nic allow ingress from any tcp/22 --yes");
    doctor(&world).is_fine("rules");
    world.cilmark_ok("policy add nic deny ingress from world tcp/22 --yes");
    doctor(&world).has("rules", "warning", &["tcp/22 is on the failsafe list"]);
}

#[test]
fn labels_without_a_number_are_told() {
    let Some(world) = World::new() else { return };
    mount_fresh("tmpfs", "/var/lib");
    fs::create_dir("/var/lib/cilmark").unwrap();
    fs::write("/var/lib/cilmark/identities.json", "{}").unwrap();
    world.veth("red");
    world.cilmark_ok("attach red --labels app=web");
    let words = ["red: ", "app=web have no number yet", "5 (init)", "cilmark cluster doctor"];
    let found = doctor(&world);
    found.has("labels", "warning", &words);
    found.is_fine("rules");
    fs::write("/var/lib/cilmark/identities.json", "{\"app=web\": 196701}").unwrap();
    world.cilmark_ok("attach red --labels app=web");
    doctor(&world).is_fine("labels");
}

/// A word of `cm_generations`.
fn set_word(offset: usize, word: u32) {
    let map = MapHandle::from_pinned_path(format!("{PINS}/cm_generations")).unwrap();
    SharedValue::of(&map).unwrap().u32_at(offset).store(word, Ordering::SeqCst);
}

#[test]
fn a_change_of_rules_that_was_killed_is_told_and_ended() {
    let Some(world) = attached("red --id 300 --policy audit") else { return };
    doctor(&world).is_fine("interrupted");
    set_word(offset_of!(cm_generations, policies) + size_of::<u32>(), 7);
    let words = ["red: a change of its rules has died", "`cilmark attach red --keep`"];
    doctor(&world).has("interrupted", "warning", &words);
    world.cilmark_ok("attach red --keep");
    doctor(&world).is_fine("interrupted");
}

#[test]
fn a_change_of_addresses_that_was_killed_is_told_and_ended() {
    let Some(world) = attached("red --id 300 --ip 10.0.0.1") else { return };
    set_word(offset_of!(cm_generations, writing), 1);
    let found = doctor(&world).of("interrupted").concat();
    let words = ["warning this host: a change of the ipcache", "`cilmark attach red --keep`"];
    assert!(words.iter().all(|word| found.contains(word)), "{found}");
    world.cilmark_ok("attach red --keep");
    doctor(&world).is_fine("interrupted");
}

#[test]
fn an_attach_that_was_killed_before_its_spec_is_told_and_repeated() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    for device in ["red", "blue"] {
        world.cilmark_ok(&format!("attach {device} --id 300"));
    }
    let [red, blue] = [1, 2].map(|id| format!("{PINS}/endpoints/{id}/spec"));
    world.sh(&format!("rm {red} && bpftool map pin pinned {blue} {red}"));
    let words = ["red: the spec of endpoint 1", "`cilmark attach red` again, with all its flags"];
    doctor(&world).has("interrupted", "warning", &words);
    world.cilmark_ok("attach red --id 300");
    doctor(&world).is_fine("interrupted");
}

#[test]
fn carriers_that_lack_rules_of_their_identity_are_told_and_get_them() {
    let Some(world) = attached("red --id 300 --policy audit") else { return };
    world.cilmark_ok("policy add @300 allow ingress from any tcp/80");
    // As a command that dies after it has changed the identity's.
    let mut rules = RuleList::default();
    let names = Names::default();
    let rule =
        |port: u16| Rule::parse(&format!("allow ingress from any tcp/{port}"), &names).unwrap();
    rules.add(&[rule(80), rule(81)], Origin::Command);
    let map = IdRules::open(&world.root()).unwrap().expect("the rules of identities");
    map.put(Identity(300), &IdentityRules::permanent(rules)).unwrap();
    let found = doctor(&world).of("interrupted").concat();
    let words = ["@300 has died half way: red has not all", "`cilmark attach red --keep`"];
    assert!(words.iter().all(|word| found.contains(word)), "{found}");
    world.cilmark_ok("attach red --keep");
    doctor(&world).is_fine("interrupted");
}

#[test]
fn an_ssh_server_that_nobody_reaches_any_more_is_told() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    world.sh("ip addr add 10.0.0.2/24 dev nic; cp $(command -v socat) /run/netns/sshd");
    let _server = world.spawn("/run/netns/sshd TCP-LISTEN:2222,fork,reuseaddr -");
    let _other = world.spawn("socat TCP-LISTEN:8080,fork,reuseaddr -");
    let _local = world.spawn("/run/netns/sshd TCP-LISTEN:6010,bind=127.0.0.1,fork,reuseaddr -");
    wait_for("the servers", || world.sh("ss -Hlnt").lines().count() >= 3);
    world.cilmark_ok("attach nic --role netdev --policy audit");
    assert_eq!(doctor(&world).of("ssh"), Vec::<String>::new(), "nothing is closed");
    world.cilmark_ok("attach nic --role netdev --policy enforce --yes");
    let cure = "cilmark attach nic --keep --failsafe tcp/22,udp/68,udp/546,tcp/2222";
    doctor(&world).has(
        "ssh",
        "warning",
        &["nic: ", "no failsafe port or rule opens tcp/2222", cure],
    );
    world.cilmark_ok(&format!("{} --yes", &cure[8..]));
    doctor(&world).has("ssh", "ok", &["tcp/2222"]);
    world.cilmark_ok("attach nic --keep --failsafe none --yes");
    doctor(&world).has("ssh", "warning", &[]);
    world.cilmark_ok("policy add nic allow ingress from any tcp/2222 --yes");
    doctor(&world).has("ssh", "ok", &[]);
}

#[test]
fn a_rule_that_another_beats_lets_no_operator_in() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    world.sh("ip addr add 10.0.0.2/24 dev nic");
    let _server = world.spawn("socat TCP-LISTEN:22,fork,reuseaddr -");
    wait_for("the server", || !world.sh("ss -Hlnt").is_empty());
    world.cilmark_ok("attach nic --role netdev --policy enforce --failsafe none --yes");
    world.cilmark_ok("policy add nic allow ingress from any --yes");
    doctor(&world).has("ssh", "ok", &["tcp/22"]);
    world.cilmark_ok("policy add nic deny ingress from any tcp/22 --yes");
    let cure = "cilmark attach nic --keep --failsafe tcp/22";
    doctor(&world).has("ssh", "warning", &["a rule denies tcp/22", cure]);
    world.cilmark_ok(&format!("{} --yes", &cure[8..]));
    doctor(&world).has("ssh", "ok", &["tcp/22"]);
}

#[test]
fn another_way_in_is_no_concern() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    world.sh("ip addr add 10.0.0.2/24 dev nic");
    let _server = world.spawn("socat TCP-LISTEN:22,fork,reuseaddr -");
    wait_for("the server", || !world.sh("ss -Hlnt").is_empty());
    world.cilmark_ok("attach nic --role netdev --policy enforce --failsafe none --yes");
    doctor(&world).has("ssh", "warning", &["tcp/22"]);
    world.sh("ip tuntap add vpn mode tun && ip addr add 10.9.0.1/24 dev vpn && ip link set vpn up");
    doctor(&world).has("ssh", "ok", &["tcp/22"]);
}

#[test]
fn rules_for_the_world_on_a_host_that_does_not_forward_are_told() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.sh("sysctl -qw net.ipv4.ip_forward=0");
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 --ip fd00:1::10 --policy enforce");
    world.cilmark_ok("policy add red allow ingress from any tcp/80");
    doctor(&world).is_fine("forwarding");
    world.cilmark_ok("policy add red allow ingress from world tcp/443");
    let words = ["red: `allow ingress from world tcp/443` lets nobody in by IPv4", "ip_forward=1"];
    doctor(&world).has("forwarding", "warning", &words);
    world.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=0");
    doctor(&world).has("forwarding", "warning", &["by IPv6", "net.ipv6.conf.all.forwarding=1"]);
    world.sh("sysctl -qw net.ipv6.conf.all.forwarding=1");
    doctor(&world).is_fine("forwarding");
}

#[test]
fn another_namespace_forwards_once_the_cure_is_pasted() {
    let Some(world) = World::new() else { return };
    world.sh("sysctl -qw net.ipv4.ip_forward=0
              ip netns add far; ip -n far link add red type veth peer name p
              ip netns exec far sysctl -qw net.ipv4.ip_forward=0");
    world.cilmark_ok("--netns far attach red --id 300 --ip 10.1.0.10 --policy enforce");
    world.cilmark_ok("policy add id:1 allow ingress from world tcp/443");
    let line = doctor(&world).has("forwarding", "warning", &["red (netns far): ", "ip_forward=1"]);
    world.sh(line.rsplit('`').nth(1).expect("a command"));
    doctor(&world).is_fine("forwarding");
    assert_eq!(world.sh("sysctl -n net.ipv4.ip_forward"), "0\n", "that is another's");
}

#[test]
fn what_is_believed_without_a_proof_is_said_and_no_trouble() {
    let Some(world) = attached("red --id 300 --by-address --trust-marks") else { return };
    let found = doctor(&world);
    assert_eq!(found.bad(), Vec::<String>::new());
    let said = found.of("proof").concat();
    assert!(said.contains("(--by-address)") && said.contains("(--trust-marks)"), "{said}");
    assert!(!said.contains("workloads are known by what"), "{said}");
}

#[test]
fn a_cure_reaches_the_device_that_is_meant_whatever_it_is_called() {
    let Some(world) = World::new() else { return };
    world.veth("'$(false)'");
    world.cilmark_ok("attach $(false) --id 300 --hook clsact --policy enforce");
    let words = [r"`cilmark policy add \$\(false\) RULE`"];
    doctor(&world).has("rules", "warning", &words);
    world.sh("tc qdisc del dev '$(false)' clsact");
    let cure = r"cilmark attach \$\(false\) --keep";
    doctor(&world).has("stale", "problem", &[&format!("`{cure}`")]);
    let words = &commands(cure)[0];
    world.cilmark_ok(&words[1..].join(" "));
    doctor(&world).is_fine("stale");
}

#[test]
fn without_options_that_were_kept_nothing_is_kept_by_the_cure() {
    let Some(world) = attached("red --id 300 --hook clsact") else { return };
    world.sh(&format!("tc qdisc del dev red clsact; rm {PINS}/endpoints/1/spec"));
    let cure = "`cilmark attach red` again, with all its flags";
    doctor(&world).has("stale", "problem", &[cure]);
    world.cilmark_ok("attach red --id 300 --hook clsact");
    doctor(&world).is_fine("stale");
}

#[test]
fn a_device_of_another_namespace_is_not_taken_for_the_one_here() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.sh("ip netns add other && ip -n other link add red type veth peer name peer");
    world.cilmark_ok("attach red --id 300 --hook clsact --policy enforce");
    world.cilmark_ok("--netns other attach red --id 301 --hook clsact --policy enforce");
    let rules = doctor(&world).of("rules").concat();
    for words in ["warning red: ", "add id:1 RULE`", "red (netns other): ", "add id:2 RULE`"] {
        assert!(rules.contains(words), "no `{words}` in: {rules}");
    }
    doctor_as(&world, "--netns other").has(
        "rules",
        "warning",
        &["warning red: ", "add id:2 RULE`"],
    );
    world.sh("tc -n other qdisc del dev red clsact");
    let cure = "cilmark --netns other attach red --keep";
    for arguments in ["--netns other", ""] {
        doctor_as(&world, arguments).has("stale", "problem", &[&format!("`{cure}`")]);
    }
    world.cilmark_ok(&cure[8..]);
    doctor(&world).is_fine("stale");
}

#[test]
fn what_a_command_has_done_by_half_is_looked_at_again_when_it_is_done() {
    let Some(world) = attached("red --id 300") else { return };
    world.sh(&format!("mkdir {PINS}/endpoints/7"));
    doctor(&world).has("stale", "warning", &["id:7: "]);
    let lock = world.root().lock().unwrap();
    let inode = format!(":{} ", fs::metadata(PINS).unwrap().ino());
    thread::scope(|scope| {
        let doctor = scope.spawn(|| doctor(&world));
        wait_for("doctor to wait", || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&inode))
        });
        world.sh(&format!("rmdir {PINS}/endpoints/7"));
        drop(lock);
        assert_eq!(doctor.join().unwrap().bad(), [""; 0]);
    });
}
