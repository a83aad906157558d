//! `attach --rule` and `--rules`.

use serde_json::Value;

use crate::common::World;

fn rules(world: &World, device: &str) -> Vec<String> {
    let listed = world.cilmark_json(&format!("policy list {device}"));
    let text = |line: &Value| line["rule"].as_str().unwrap().to_owned();
    listed.as_array().unwrap().iter().map(text).collect()
}

const ALLOW: &str = "allow ingress from 500 tcp/1";
const DENY: &str = "deny egress to 900";

#[test]
fn rules_come_with_the_attachment_stay_without_a_word_and_give_way_to_others() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let attach = |flags: &str| {
        let run = world.cilmark(&format!("attach red --id 300 --policy enforce {flags}"));
        assert_eq!(run.status, Some(0), "{run:?}");
        run.stderr
    };
    let said = attach(&format!("--rule {ALLOW} {DENY} --hook auto"));
    assert!(said.contains("policy enforce/enforce, 2 rules"), "{said}");
    assert_eq!(rules(&world, "red"), [ALLOW, DENY]);
    let said = attach("");
    assert!(!said.contains("rule"), "{said}");
    assert_eq!(rules(&world, "red"), [ALLOW, DENY]);
    let said = attach(&format!("--rule allow egress to any --rule {DENY}"));
    assert!(said.contains(&format!("red: its rule `{ALLOW}` is gone")), "{said}");
    assert_eq!(rules(&world, "red"), ["allow egress to any", DENY]);
    let said = attach("--rules /dev/null");
    assert!(
        said.contains(&format!("its rules `allow egress to any`, `{DENY}` are gone")),
        "{said}"
    );
    assert_eq!(rules(&world, "red"), [""; 0]);
}

#[test]
fn a_file_has_a_rule_a_line_and_a_bad_one_is_named_by_its_number() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("identity set 300 db");
    let attach = format!("attach red --id 7 --policy audit --rule {ALLOW} --rules -");
    let file =
        "# what it needs\n\n  allow egress to db tcp/5432 # its database\nallow egress to world\n";
    let run = world.cilmark_with_input(&attach, &format!("{file}allow egress too far\n"));
    run.fails(1, &["-, line 5", "allow egress too far"]);
    assert!(!world.pins().iter().any(|pin| pin.contains("endpoints/")), "{:?}", world.pins());
    world.cilmark("attach red --id 7 --rules /nowhere").fails(1, &["read /nowhere"]);
    world.cilmark("attach red --id 7 --rule allow").fails(1, &["allow"]);
    let run = world.cilmark_with_input(&attach, file);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(
        rules(&world, "red"),
        [ALLOW, "allow egress to db tcp/5432", "allow egress to world"]
    );
}

#[test]
fn rules_that_do_nothing_are_told() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let told = |flags: &str| world.cilmark(&format!("attach red --id 300 {flags}")).stderr;
    let said = told("--policy audit --rule deny ingress from 500 allow ingress from 500 tcp/1");
    assert!(said.contains("note: red: ") && said.contains("`deny ingress from 500`"), "{said}");
    let said = told("--rule allow egress to any");
    assert!(said.contains("red has its policy off"), "{said}");
}

#[test]
fn an_attachment_that_fails_leaves_the_rules_as_they_were() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok(&format!("attach red --id 300 --policy enforce --rule {ALLOW} {DENY}"));
    let before = (rules(&world, "red"), world.cilmark_json("policy list red"));
    // Nothing can be pinned where a directory is.
    let endpoint = "/sys/fs/bpf/cilmark/endpoints/1";
    for name in ["egress-new", "config-new"] {
        world.sh(&format!("mkdir {endpoint}/{name}"));
        let run = world
            .cilmark("attach red --id 301 --policy audit --hook clsact --rule allow egress to any");
        world.sh(&format!("rmdir {endpoint}/{name}"));
        run.fails(1, &["pin ", endpoint]);
        assert_eq!((rules(&world, "red"), world.cilmark_json("policy list red")), before, "{name}");
    }
    let many: Vec<String> =
        (1..=40).map(|port| format!("allow ingress from 500 tcp/{port}")).collect();
    world
        .cilmark(&format!(
            "attach red --id 300 --policy enforce --policy-entries 32 --rule {}",
            many.join(" ")
        ))
        .fails(1, &["rules need", "--policy-entries"]);
    assert_eq!(rules(&world, "red"), before.0);
    world.cilmark_ok("detach red");
    world
        .cilmark(&format!(
            "attach red --id 300 --policy enforce --policy-entries 32 --rule {}",
            many.join(" ")
        ))
        .fails(1, &["rules need", "--policy-entries"]);
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_nic_that_enforces_loses_no_rule_without_consent() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    let attach = "attach nic --role netdev --policy enforce";
    world.cilmark_ok(&format!("{attach} --yes --rule {ALLOW} {DENY}"));
    world
        .cilmark(&format!("{attach} --rule {ALLOW}"))
        .fails(1, &["may cut you off", &format!("its rule `{DENY}` is gone")]);
    world
        .cilmark(&format!("attach nic --role netdev --policy audit --rule {ALLOW}"))
        .fails(1, &["would be relaxed", &format!("its rule `{DENY}` is gone"), "--yes"]);
    assert_eq!(rules(&world, "nic"), [ALLOW, DENY]);
    world.cilmark_ok(&format!("{attach} --yes --rule {ALLOW}"));
    assert_eq!(rules(&world, "nic"), [ALLOW]);
}
