//! `policy … @ID`: rules of an identity, which all that carry it have beside their own.

use serde_json::{Value, json};

use crate::common::World;

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
