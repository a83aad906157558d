//! `policy … @ID`: rules of an identity, which all that carry it have beside their own.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cilmark::kernel::sys;
use cilmark::model::enforcement::Grace;
use cilmark::model::identity::{Identity, Names};
use cilmark::model::origin::Origin;
use cilmark::model::rule::Rule;
use cilmark::model::rule_list::{IdentityRules, RuleList};
use cilmark::ops;
use cilmark::ops::rules::{Change, Edit, Whose, change_each};
use cilmark::state::id_rules::IdRules;
use cilmark::state::registry::Endpoint;
use serde_json::{Value, json};

use crate::common::World;
use crate::common::machine::time_for;
use crate::common::process::cilmark;
use crate::common::world::wait_for;

const WEB: &str = "allow ingress from any tcp/80";
const SSH: &str = "allow ingress from 500 tcp/22";
const DENY: &str = "deny egress to 600";

/// The rules of an endpoint or an identity, each with the identity that it is of.
fn rules(world: &World, whose: &str) -> Vec<(String, Value)> {
    let list = world.cilmark_json(&format!("policy list {whose}"));
    let line = |line: &Value| {
        (line["rule"].as_str().expect("a rule").to_owned(), line["identity"].clone())
    };
    list.as_array().expect("a list").iter().map(line).collect()
}

fn own(rule: &str) -> (String, Value) {
    (rule.to_owned(), Value::Null)
}

fn of(identity: u32, rule: &str) -> (String, Value) {
    (rule.to_owned(), json!(identity))
}

/// Two workloads that carry 300, one that carries 301; 300 is called web.
fn three() -> Option<World> {
    let world = World::new()?;
    for (device, id) in [("red", 300), ("blue", 300), ("green", 301)] {
        world.veth(device);
        world.cilmark_ok(&format!("attach {device} --id {id} --policy enforce"));
    }
    world.cilmark_ok("identity set 300 web");
    Some(world)
}

#[test]
fn all_that_carry_an_identity_have_its_rules_beside_their_own() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add red {SSH}"));
    let run = world.cilmark(&format!("policy add @web {WEB} {DENY}"));
    assert_eq!(run.stderr, "@web: 2 rules, 0 before; on red, blue\n");
    assert_eq!(rules(&world, "red"), [own(SSH), of(300, WEB), of(300, DENY)]);
    assert_eq!(rules(&world, "blue"), [of(300, WEB), of(300, DENY)]);
    assert_eq!(rules(&world, "green"), []);
    for name in ["@web", "@300", "@0x12c"] {
        assert_eq!(rules(&world, name), [own(WEB), own(DENY)]);
    }
    let table = world.cilmark_ok("policy list red");
    assert!(table.lines().next().unwrap().ends_with("OF"), "{table}");
    assert!(table.lines().any(|line| line.starts_with(WEB) && line.ends_with("@web")), "{table}");
    world.cilmark_ok(&format!("policy del @web {WEB}"));
    assert_eq!(rules(&world, "red"), [own(SSH), of(300, DENY)]);
    assert_eq!(rules(&world, "blue"), [of(300, DENY)]);
    world.cilmark_ok("policy flush red");
    assert_eq!(rules(&world, "red"), [of(300, DENY)], "which is not red's to remove");
    world.cilmark_ok("policy flush @300");
    assert_eq!((rules(&world, "red"), rules(&world, "@web")), (vec![], vec![]));
}

#[test]
fn a_rule_of_both_is_listed_once_and_stays_until_both_give_it_up() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    let run = world.cilmark(&format!("policy add red {WEB}"));
    assert!(run.stderr.contains("is there by its identity, @web, too"), "{run:?}");
    assert_eq!(rules(&world, "red"), [own(WEB)]);
    world.cilmark_ok(&format!("policy del @web {WEB}"));
    assert_eq!((rules(&world, "red"), rules(&world, "blue")), (vec![own(WEB)], vec![]));
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    let run = world.cilmark(&format!("policy del red {WEB}"));
    assert!(run.stderr.contains("is there by its identity, @web, too"), "{run:?}");
    assert_eq!(rules(&world, "red"), [of(300, WEB)]);
}

#[test]
fn what_can_not_be_done_changes_nothing() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    world.cilmark_ok("detach green");
    world.cilmark_ok("attach green --id 300 --policy audit --policy-entries 32");
    let before = ["@web", "red", "blue", "green"].map(|whose| rules(&world, whose));
    let many: String = (100..130).map(|peer| format!(" allow ingress from {peer}")).collect();
    for (command, words) in [
        (
            format!("policy del red {WEB}"),
            vec![
                "from its identity, @web",
                "`cilmark policy del @web allow ingress from any tcp/80`",
            ],
        ),
        (format!("policy del @web {SSH}"), vec!["@web has no rule", "cilmark policy list @web"]),
        (format!("policy del red {WEB} {SSH}"), vec!["red has no rule", "nothing has changed"]),
        (format!("policy add @web{many}"), vec!["change green", "--policy-entries"]),
        (format!("policy add @nobody {SSH}"), vec!["`nobody`", "identity list"]),
        (format!("policy add @unknown {SSH}"), vec!["`unknown`", "can't be anybody's"]),
        (format!("policy add @16777216 {SSH}"), vec!["16777216", "1 to 16777215"]),
        (format!("policy add @301 {SSH} --confirm 60s"), vec!["--confirm", "@301"]),
        ("policy add @web allow ingress".to_owned(), vec!["allow ingress"]),
        ("confirm @web".to_owned(), vec!["@web has nothing to confirm"]),
    ] {
        let run = world.cilmark(&command);
        assert!(matches!(run.status, Some(1 | 2)), "{command}: {run:?}");
        for word in words {
            assert!(run.stderr.contains(word), "{word} in {run:?}");
        }
    }
    assert_eq!(before, ["@web", "red", "blue", "green"].map(|whose| rules(&world, whose)));
    world.cilmark_ok("detach green");
    world.cilmark_ok(&format!("policy add @web{many}"));
    let run = world.cilmark("attach green --id 300 --policy enforce --policy-entries 32");
    run.fails(1, &["31 rules need", "--policy-entries"]);
    assert_eq!(world.cilmark_json("status").as_array().map(Vec::len), Some(2));
}

#[test]
fn rules_of_an_identity_that_nobody_carries_wait_and_keep_the_root() {
    let Some(world) = World::new() else { return };
    assert!(world.cilmark("policy del @300 allow ingress from any").status == Some(1));
    assert_eq!(world.pins(), [""; 0]);
    let run = world.cilmark(&format!("policy add @300 {WEB}"));
    assert_eq!(run.stderr, "@300: 1 rule, 0 before; no endpoint carries it now\n");
    world.veth("red");
    let run = world.cilmark("attach red --id 300");
    assert!(run.stderr.contains(", 1 rule of @300\n"), "{run:?}");
    world.cilmark_ok("detach red");
    assert_eq!(rules(&world, "@300"), [own(WEB)]);
    world.cilmark_ok("policy flush @300");
    assert_eq!(world.pins(), [""; 0]);
}

/// What `--confirm` takes: time to look at what is not confirmed yet, on a slow machine too.
fn within(milliseconds: u64) -> String {
    format!("{}ms", time_for(Duration::from_millis(milliseconds)).as_millis())
}

fn deadline(world: &World, device: &str) -> Value {
    world.status(device)["confirm_deadline"].clone()
}

#[test]
fn rules_that_nobody_confirms_go_from_all_that_carry_the_identity_at_once() {
    let Some(world) = three() else { return };
    world.cilmark_ok("attach blue --id 300 --policy audit");
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    let run = world.cilmark(&format!("policy add @web {SSH} --confirm {}", within(4000)));
    assert!(run.stderr.contains("`cilmark confirm @web` within"), "{run:?}");
    world.veth("later");
    let run = world.cilmark("attach later --id 300 --policy enforce");
    assert!(run.stderr.contains("`cilmark confirm @web` within"), "{run:?}");
    let all = ["red", "blue", "later"];
    for device in all {
        assert_eq!(rules(&world, device), [of(300, WEB), of(300, SSH)], "{device}");
        assert!(deadline(&world, device).as_u64() > Some(0), "{device}");
        world.cilmark(&format!("confirm {device}")).fails(1, &["`cilmark confirm @web`"]);
    }
    wait_for("the fallback", || rules(&world, "@web") == [own(WEB)]);
    for device in all {
        wait_for("its fallback", || deadline(&world, device) == json!(0));
        assert_eq!(rules(&world, device), [of(300, WEB)], "{device}");
    }
    world.cilmark("confirm @web").fails(1, &["@web has nothing to confirm"]);
    // The next change starts from what is in force.
    world.cilmark_ok(&format!("policy add @web {DENY}"));
    for device in all {
        assert_eq!(rules(&world, device), [of(300, WEB), of(300, DENY)], "{device}");
        assert_eq!(deadline(&world, device), json!(null), "{device}");
    }
}

#[test]
fn rules_that_somebody_confirms_stay_everywhere() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    world.cilmark_ok(&format!("policy add @web {SSH} --confirm 60s"));
    world.cilmark_ok("attach green --id 300 --policy enforce");
    let run = world.cilmark("confirm @web");
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), "confirmed @web\n"));
    for device in ["red", "blue", "green"] {
        assert_eq!(rules(&world, device), [of(300, WEB), of(300, SSH)], "{device}");
        assert_eq!(deadline(&world, device), json!(null), "{device}");
    }
    world.cilmark("confirm @web").fails(1, &["nothing to confirm"]);
}

#[test]
fn an_endpoints_own_trial_takes_no_rule_of_its_identity_with_it() {
    let Some(world) = three() else { return };
    let allow = "allow ingress from 700";
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    world.cilmark_ok(&format!("policy add red {allow} --confirm {}", within(2000)));
    world.cilmark_ok(&format!("policy add @web {SSH}"));
    world.cilmark_ok(&format!("policy del @web {WEB}"));
    assert_eq!(rules(&world, "red"), [own(allow), of(300, SSH)]);
    wait_for("the fallback", || deadline(&world, "red") == json!(0));
    assert_eq!(rules(&world, "red"), [of(300, SSH)]);
}

#[test]
fn an_endpoints_own_change_waits_no_longer_than_the_rules_of_its_identity() {
    let Some(world) = three() else { return };
    let allow = "allow ingress from 700";
    world.cilmark_ok(&format!("policy add @web {WEB} --confirm {}", within(2000)));
    let run = world.cilmark(&format!("policy add red {allow} --confirm 10m"));
    assert!(run.stderr.contains("`cilmark confirm @web` within"), "{run:?}");
    assert_eq!(rules(&world, "red"), [own(allow), of(300, WEB)]);
    wait_for("the fallback", || deadline(&world, "red") == json!(0));
    assert_eq!(rules(&world, "red"), []);
}

#[test]
fn an_attachment_that_is_confirmed_still_waits_for_the_rules_of_its_identity() {
    let Some(world) = three() else { return };
    world.veth("nic");
    let attach = "attach nic --role netdev --id 300 --policy enforce --failsafe none --adopt 0";
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    world.cilmark_ok(&format!("policy add @web {SSH} --confirm {}", within(3000)));
    world.cilmark_ok(&format!("{attach} --confirm 60s"));
    assert!(deadline(&world, "nic").as_u64() < Some(30), "{}", world.status("nic"));
    world.cilmark_ok("confirm nic");
    assert_eq!(rules(&world, "nic"), [of(300, WEB), of(300, SSH)]);
    wait_for("the fallback", || deadline(&world, "nic") == json!(0));
    assert_eq!(rules(&world, "nic"), [of(300, WEB)]);
    assert_eq!(world.status("nic")["ingress_policy"], "enforce");
}

#[test]
fn whoever_gets_another_identity_loses_the_rules_of_the_one_before() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add @web {WEB} {SSH}"));
    world.cilmark_ok(&format!("policy add @301 {DENY} {SSH}"));
    let allow = "allow ingress from 700";
    world.cilmark_ok(&format!("policy add red {allow}"));
    let run = world.cilmark("attach red --id 301 --policy enforce");
    assert!(run.stderr.contains(&format!("red: its rule `{WEB}` is gone")), "{run:?}");
    assert_eq!(rules(&world, "red"), [own(allow), of(301, DENY), of(301, SSH)]);
    // What is asked again, and rules of its own, leave them alone.
    let run = world.cilmark("attach red --keep");
    assert!(!run.stderr.contains("gone"), "{run:?}");
    assert_eq!(rules(&world, "red"), [own(allow), of(301, DENY), of(301, SSH)]);
    let run = world.cilmark(&format!("attach red --id 301 --policy enforce --rule {WEB}"));
    assert!(run.stderr.contains(&format!("red: its rule `{allow}` is gone")), "{run:?}");
    assert_eq!(rules(&world, "red"), [own(WEB), of(301, DENY), of(301, SSH)]);
    assert_eq!(world.cilmark_json("status red --spec")["rules"], json!([WEB]));
    world.cilmark_ok("attach red --id 302 --policy enforce --rules /dev/null");
    assert_eq!(rules(&world, "red"), []);
}

#[test]
fn nics_that_carry_it_and_enforce_want_to_be_asked() {
    let Some(world) = World::new() else { return };
    for (nic, policy) in [("nic0", "enforce --yes"), ("nic1", "enforce --yes"), ("nic2", "audit")] {
        world.veth(nic);
        world.cilmark_ok(&format!("attach {nic} --role netdev --policy {policy}"));
    }
    let add = format!("policy add @host {WEB}");
    let run = world.cilmark(&add);
    run.fails(1, &["nic0 and nic1 drops what no rule allows", "`cilmark confirm @host`", "--yes"]);
    assert_eq!(rules(&world, "@1"), []);
    world.cilmark_ok(&format!("{add} --yes"));
    for nic in ["nic0", "nic1", "nic2", "host"] {
        assert_eq!(rules(&world, nic), [of(1, WEB)], "{nic}");
    }
    // Of another identity they are no NICs of the host.
    let run = world.cilmark("attach nic0 --role netdev --id 300 --policy enforce");
    run.fails(1, &[&format!("its rule `{WEB}` is gone")]);
    assert_eq!(rules(&world, "nic0"), [of(1, WEB)]);
}

#[test]
fn a_change_that_fails_at_one_endpoint_is_undone_at_all() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    // Nothing can be pinned where a directory is.
    let in_the_way = "/sys/fs/bpf/cilmark/endpoints/2/cm_policy-new";
    for grace in ["", " --confirm 60s"] {
        world.sh(&format!("mkdir {in_the_way}"));
        let run = world.cilmark(&format!("policy add @web {SSH}{grace}"));
        world.sh(&format!("rmdir {in_the_way}"));
        run.fails(1, &["change blue", "pin "]);
        assert_eq!(rules(&world, "@web"), [own(WEB)]);
        for device in ["red", "blue"] {
            assert_eq!(rules(&world, device), [of(300, WEB)], "{device}{grace}");
            assert_eq!(deadline(&world, device), json!(null), "{device}{grace}");
        }
    }
}

#[test]
fn what_was_interrupted_is_completed_by_the_same_command_or_the_next_one() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    let parse = |text: &str| Rule::parse(text, &Names::default()).expect("a rule");
    let mut list = RuleList::default();
    list.add(&[WEB, SSH].map(parse), Origin::Command);
    // As a command leaves it that is killed before any endpoint has got the new rules.
    let interrupt = |rules: &IdentityRules| {
        let map = IdRules::open(&world.root()).expect("open").expect("the map");
        map.put(Identity(300), rules).expect("put");
    };
    interrupt(&IdentityRules::permanent(list.clone()));
    let run = world.cilmark("policy list @web");
    assert!(run.stderr.contains("red, blue carry @web and have not got"), "{run:?}");
    // What is about red alone completes red alone.
    world.cilmark_ok(&format!("policy add red {DENY}"));
    assert_eq!(rules(&world, "red"), [own(DENY), of(300, WEB), of(300, SSH)]);
    assert_eq!(rules(&world, "blue"), [of(300, WEB)]);
    let run = world.cilmark(&format!("policy add @web {SSH}"));
    assert!(run.stderr.contains("is there already"), "{run:?}");
    assert_eq!(rules(&world, "blue"), [of(300, WEB), of(300, SSH)]);
    // So does an attachment.
    world.cilmark_ok("policy flush red");
    interrupt(&IdentityRules::permanent(RuleList::default()));
    world.cilmark_ok("attach red --id 300 --policy enforce");
    assert_eq!((rules(&world, "red"), rules(&world, "blue").len()), (vec![], 2));
    world.cilmark_ok("policy flush @web");
    assert_eq!(rules(&world, "blue"), []);
    // And what is on trial is on trial where it comes later.
    let until_ns = sys::coarse_ns() + 60_000_000_000;
    let before = Some(RuleList::default());
    interrupt(&IdentityRules { now: list, before, until_ns });
    world.cilmark_ok(&format!("policy add red {DENY}"));
    assert!(deadline(&world, "red").as_u64() > Some(0));
    world.cilmark_ok(&format!("policy add @web {SSH}"));
    assert!(deadline(&world, "blue").as_u64() > Some(0));
    world.cilmark_ok("confirm @web");
    assert_eq!(rules(&world, "red"), [own(DENY), of(300, WEB), of(300, SSH)]);
    assert_eq!([deadline(&world, "red"), deadline(&world, "blue")], [json!(null), json!(null)]);
}

fn start(arguments: &str) -> Child {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let mut command = cilmark(&arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("run cilmark")
}

/// Kills a command at moments spread over the time that it takes; `check` gets what each has left.
fn killed(world: &World, command: &str, undo: &str, check: impl Fn()) {
    let begin = Instant::now();
    world.cilmark_ok(command);
    let whole = begin.elapsed();
    world.cilmark_ok(undo);
    for moment in 0..16 {
        let mut child = start(command);
        let deadline = Instant::now() + whole * moment / 16;
        while Instant::now() < deadline {
            thread::yield_now();
        }
        let _ = child.kill();
        let _ = child.wait();
        check();
        world.cilmark_ok(command);
        check();
        world.cilmark_ok(undo);
    }
}

#[test]
fn a_change_that_is_killed_leaves_each_list_as_it_was_or_is_to_be() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    let (before, after) = (vec![of(300, WEB)], vec![of(300, WEB), of(300, SSH), of(300, DENY)]);
    let add = format!("policy add @web {SSH} {DENY}");
    let del = format!("policy del @web {SSH} {DENY}");
    killed(&world, &add, &del, || {
        let of_web: Vec<_> = rules(&world, "@web").into_iter().map(|(rule, _)| rule).collect();
        for device in ["red", "blue"] {
            let rules = rules(&world, device);
            assert!([&before, &after].contains(&&rules), "{rules:?}");
            // No endpoint is ahead of the identity.
            assert!(rules == before || of_web.len() == 3, "{rules:?} beside {of_web:?}");
        }
    });
    for device in ["red", "blue"] {
        assert_eq!(rules(&world, device), before, "{device}");
    }
    let entries = world.sh("bpftool -j map dump pinned /sys/fs/bpf/cilmark/cm_id_rules");
    let entries: Value = serde_json::from_str(&entries).expect("JSON");
    assert_eq!(entries.as_array().expect("entries").len(), 2, "a head, and a rule");
}

#[test]
fn a_confirmation_that_is_killed_is_completed_by_the_next_one() {
    let Some(world) = three() else { return };
    let mut completed = 0;
    for moment in 0..16 {
        world.cilmark_ok(&format!("policy add @web {WEB} --confirm 60s"));
        let mut child = start("confirm @web");
        thread::sleep(Duration::from_millis(2) * moment);
        let _ = child.kill();
        let _ = child.wait();
        let run = world.cilmark("confirm @web");
        completed += u32::from(run.status == Some(0));
        assert!(run.status == Some(0) || run.stderr.contains("has nothing to confirm"), "{run:?}");
        for device in ["red", "blue"] {
            assert_eq!(rules(&world, device), [of(300, WEB)], "{moment}");
            assert_eq!(deadline(&world, device), json!(null), "{moment}");
        }
        world.cilmark_ok("policy flush @web");
    }
    assert!(completed > 0, "none was killed in time");
}

#[test]
fn a_pin_that_was_removed_takes_no_rules_with_it() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add @web {WEB}"));
    world.cilmark_ok(&format!("policy add @301 {DENY}"));
    for command in [
        format!("policy add red {SSH}"),
        format!("policy add @301 {SSH}"),
        "attach blue --keep".to_owned(),
    ] {
        world.sh("rm /sys/fs/bpf/cilmark/cm_id_rules");
        let run = world.cilmark(&command);
        assert!(run.stderr.contains("cm_id_rules was gone"), "{run:?}");
        for (whose, rule) in [("@web", own(WEB)), ("@301", own(DENY)), ("blue", of(300, WEB))] {
            assert!(rules(&world, whose).contains(&rule), "{command}: {whose}");
        }
    }
    assert_eq!(rules(&world, "red"), [own(SSH), of(300, WEB)]);
    assert_eq!(rules(&world, "green"), [of(301, DENY), of(301, SSH)]);
}

#[test]
fn rules_are_those_of_all_namespaces_of_a_root_and_of_none_that_is_dead() {
    let Some(world) = three() else { return };
    world.sh(
        "ip netns add elsewhere && ip link add far netns elsewhere type veth peer name far-peer",
    );
    world.cilmark_ok("attach far --id 300 --policy enforce --netns elsewhere");
    world.sh("ip link del blue");
    let run = world.cilmark(&format!("policy add @web {WEB} --netns elsewhere"));
    assert_eq!(run.stderr, "@web: 1 rule, 0 before; on red, far\n");
    assert_eq!(rules(&world, "far"), [of(300, WEB)]);
    assert_eq!(rules(&world, "red"), [of(300, WEB)]);
}

#[test]
fn who_makes_rules_replaces_his_own_of_many_at_once_and_leaves_those_of_others() {
    let Some(world) = three() else { return };
    world.cilmark_ok(&format!("policy add red {SSH}"));
    world.cilmark_ok(&format!("policy add @web {SSH}"));
    let root = world.root();
    let parse = |texts: &[&str]| -> Vec<Rule> {
        texts.iter().map(|text| Rule::parse(text, &Names::default()).expect("a rule")).collect()
    };
    let id = |device: &str| {
        let id = world.status(device)["endpoint_id"].to_string();
        id.parse().expect("a number")
    };
    let apply = |red: &[&str], green: &[&str], web: &[&str]| {
        let change = |whose, rules: &[&str]| Change {
            whose,
            edit: Edit::Replace(Origin::File, parse(rules)),
        };
        let changes = [
            change(Whose::Endpoint(id("red")), red),
            change(Whose::Endpoint(id("green")), green),
            change(Whose::Identity(Identity(300)), web),
        ];
        let _lock = ops::lock(&root).expect("lock");
        change_each(&root, &changes, Grace::Permanent, false)
    };
    apply(&[WEB], &[WEB, SSH], &[DENY]).expect("apply");
    let all = || ["red", "blue", "green", "@web"].map(|whose| rules(&world, whose));
    let applied = [
        vec![own(WEB), own(SSH), of(300, DENY)],
        vec![of(300, DENY), of(300, SSH)],
        vec![own(WEB), own(SSH)],
        vec![own(DENY), own(SSH)],
    ];
    assert_eq!(all(), applied);
    let policy = |device: &str| {
        let endpoint = Endpoint::read(&root, id(device)).expect("read it");
        endpoint.map_ids();
        world.sh(&format!(
            "bpftool map dump pinned /sys/fs/bpf/cilmark/endpoints/{}/cm_policy",
            id(device)
        ))
    };
    let before = ["red", "blue", "green"].map(policy);
    apply(&[WEB], &[WEB, SSH], &[DENY]).expect("apply it again");
    assert_eq!(["red", "blue", "green"].map(policy), before, "nothing was written");
    // Green has no room, so that nobody gets anything.
    let many: Vec<String> =
        (0..5000).map(|peer| format!("allow ingress from {}", 1000 + peer)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = apply(&[], &many, &[]).expect_err("too many");
    assert!(format!("{error:#}").contains("change green"), "{error:#}");
    assert_eq!(all(), applied);
    apply(&[], &[], &[]).expect("apply nothing");
    assert_eq!(all(), [vec![own(SSH)], vec![of(300, SSH)], vec![], vec![own(SSH)]]);
}
