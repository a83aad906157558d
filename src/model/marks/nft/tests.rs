use super::*;
use crate::model::marks::value::Bits;

/// A chain on prerouting of table `inet fw`, with rules of these statements, and what else there is.
fn listing(rules: &[&str], others: &[&str]) -> Listing {
    let rule = |statements: &&str| {
        format!(
            r#"{{"rule":{{"family":"inet","table":"fw","chain":"pre","handle":6,"expr":[{statements}]}}}}"#
        )
    };
    let mut objects = vec![
        r#"{"metainfo":{"version":"1.0.6","json_schema_version":1}}"#.to_owned(),
        r#"{"table":{"family":"inet","name":"fw","handle":1}}"#.to_owned(),
        r#"{"chain":{"family":"inet","table":"fw","name":"pre","handle":2,"type":"filter","hook":"prerouting","prio":-150,"policy":"accept"}}"#.to_owned(),
    ];
    objects.extend(others.iter().map(|it| (*it).to_owned()));
    objects.extend(rules.iter().map(rule));
    Listing::parse(&format!(r#"{{"nftables":[{}]}}"#, objects.join(","))).unwrap()
}

fn rules(statements: &str) -> Vec<Rule> {
    listing(&[statements], &[]).chains(&BTreeSet::new()).remove(0).rules
}

fn steps(statements: &str) -> Vec<Step> {
    rules(statements).remove(0).steps
}

/// Whether the first test of a rule takes a packet with this mark.
fn takes(statements: &str, mark: u32) -> bool {
    let Step::Test(test) = &steps(statements)[0] else { panic!("{statements}") };
    test.holds(Bits::all(mark), Bits::all(0)) == super::super::ruleset::Truth::Yes
}

#[test]
fn matches_of_the_mark_are_read() {
    let compared = |op: &str, right: &str| {
        format!(r#"{{"match":{{"op":"{op}","left":{{"meta":{{"key":"mark"}}}},"right":{right}}}}}"#)
    };
    let masked =
        r#"{"match":{"op":"==","left":{"&":[{"meta":{"key":"mark"}},16711680]},"right":262144}}"#;
    for (rule, mark, does) in [
        (masked.to_owned(), 0x0504_0f00, true),
        (masked.to_owned(), 0x0505_0f00, false),
        (compared("!=", "1"), 1, false),
        (compared("!=", "1"), 2, true),
        (compared("<", "16"), 15, true),
        (compared("<", "16"), 16, false),
        (compared("<=", "16"), 16, true),
        (compared(">", "16"), 16, false),
        (compared(">=", "16"), 16, true),
        (compared("==", r#"{"set":[1,{"range":[3,9]}]}"#), 5, true),
        (compared("==", r#"{"set":[1,{"range":[3,9]}]}"#), 2, false),
        (compared("!=", r#"{"set":[1,{"range":[3,9]}]}"#), 2, true),
        (compared("==", r#"{"range":[3,9]}"#), 9, true),
        (compared("in", "6"), 2, true),
        (compared("in", "6"), 1, false),
        (compared("<", "0"), 0, false),
    ] {
        assert_eq!(takes(&rule, mark), does, "{rule} {mark:#x}");
    }
}

#[test]
fn what_is_set_is_made_of_both_marks() {
    let set = |key: &str, value: &str| {
        let rule =
            format!(r#"{{"mangle":{{"key":{{"{key}":{{"key":"mark"}}}},"value":{value}}}}}"#);
        match steps(&rule).pop().unwrap() {
            Step::Act(Action::SetMark(value)) => ("meta", value),
            Step::Act(Action::SetConnMark(value)) => ("ct", value),
            step => panic!("{step:?}"),
        }
    };
    let (_, tailscale) =
        set("meta", r#"{"|":[{"&":[{"meta":{"key":"mark"}},4278255615]},262144]}"#);
    assert_eq!(tailscale.of(Bits::all(0x04d2_0f00), Bits::all(0)), Bits::all(0x0404_0f00));
    assert_eq!(set("meta", r#"{"ct":{"key":"mark"}}"#), ("meta", Value::ConnMark));
    assert_eq!(set("ct", r#"{"meta":{"key":"mark"}}"#), ("ct", Value::Mark));
    for unknown in [
        r#"{"socket":{"key":"mark"}}"#,
        r#"{"numgen":{"mode":"inc","mod":2,"offset":0}}"#,
        r#"{"map":{"key":{"payload":{"protocol":"ip","field":"saddr"}},"data":"@nm"}}"#,
    ] {
        assert_eq!(set("meta", unknown), ("meta", Value::Unknown));
    }
    let (_, three) = set("meta", r#"{"|":[{"meta":{"key":"mark"}},1,2]}"#);
    assert_eq!(three.of(Bits::all(4), Bits::all(0)), Bits::all(7));
}

#[test]
fn a_value_that_some_packets_lack_is_set_on_some() {
    let set = |value: &str| {
        let rule = format!(r#"{{"mangle":{{"key":{{"meta":{{"key":"mark"}}}},"value":{value}}}}}"#);
        steps(&rule)[0] == Step::Test(Test::Other)
    };
    let port = r#"{"payload":{"protocol":"tcp","field":"dport"}}"#;
    assert!(set(&format!(r#"{{"map":{{"key":{port},"data":{{"set":[[80,16384]]}}}}}}"#)));
    assert!(set(&format!(r#"{{"|":[{{"meta":{{"key":"mark"}}}},{port}]}}"#)));
    for always in [r#"{"|":[{"meta":{"key":"mark"}},1]}"#, "1", r#"{"ct":{"key":"mark"}}"#] {
        assert!(!set(always), "{always}");
    }
}

#[test]
fn a_verdict_map_is_a_rule_for_each_of_its_elements() {
    let vmap = r#"{"vmap":{"key":{"meta":{"key":"mark"}},"data":{"set":[[1,{"accept":null}],[2,{"jump":{"target":"x"}}]]}}}"#;
    let rules = rules(vmap);
    let texts: Vec<&str> = rules.iter().map(|it| it.text.as_str()).collect();
    assert_eq!(
        texts,
        ["pre: meta mark == 0x1 accept # handle 6", "pre: meta mark == 0x2 jump x # handle 6"]
    );
}

#[test]
fn sets_with_names_are_asked_for_if_they_are_of_marks() {
    let sets = [
        r#"{"set":{"family":"inet","name":"marks","table":"fw","type":"mark","handle":3}}"#,
        r#"{"map":{"family":"inet","name":"both","table":"fw","type":["mark","ifname"],"handle":4,"map":"verdict"}}"#,
        r#"{"set":{"family":"inet","name":"big","table":"fw","type":"ipv4_addr","handle":5}}"#,
        r#"{"map":{"family":"inet","name":"nm","table":"fw","type":"ipv4_addr","handle":5,"map":"mark"}}"#,
    ];
    let matched =
        r#"{"match":{"op":"==","left":{"meta":{"key":"mark"}},"right":"@marks"}},{"drop":null}"#;
    let vmap = r#"{"vmap":{"key":{"concat":[{"meta":{"key":"mark"}},{"meta":{"key":"iifname"}}]},"data":"@both"}}"#;
    let mut listing = listing(&[matched, vmap], &sets);
    let names: Vec<_> = listing.unknown_sets().into_iter().map(|it| (it.kind, it.name)).collect();
    assert_eq!(names, [("set", "marks".to_owned()), ("map", "both".to_owned())]);
    listing.add(r#"{"nftables":[{"set":{"family":"inet","name":"marks","table":"fw","type":"mark","elem":[{"range":[16,32]},{"elem":{"val":262144,"comment":"x"}}]}}]}"#).unwrap();
    listing.add(r#"{"nftables":[{"map":{"family":"inet","name":"both","table":"fw","type":["mark","ifname"],"map":"verdict","elem":[[{"concat":[5,"lo"]},{"drop":null}]]}}]}"#).unwrap();
    assert_eq!(listing.unknown_sets(), []);
    let rules = listing.chains(&BTreeSet::new()).remove(0).rules;
    let texts: Vec<&str> = rules.iter().map(|it| it.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "pre: meta mark == { 0x10-0x20, 0x40000 } drop # handle 6",
            "pre: meta mark == 0x5 iifname lo … drop # handle 6"
        ]
    );
}

#[test]
fn a_set_is_asked_for_by_its_name_whatever_that_is() {
    let named = Named {
        kind: "map",
        table: Table { tool: "nft".into(), family: "ip".into(), name: "t\"; reset".into() },
        name: "s; flush ruleset\n".to_owned(),
    };
    let question: Json = serde_json::from_str(&named.question()).unwrap();
    let list = &question["nftables"][0]["list"]["map"];
    assert_eq!(list["table"], "t\"; reset");
    assert_eq!(list["name"], "s; flush ruleset\n");
    assert_eq!(list["family"], "ip");
}

#[test]
fn devices_are_read_by_name_and_what_else_narrows_a_rule_is_other() {
    let rule = r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":{"set":["a","b*"]}}},{"match":{"op":"!=","left":{"meta":{"key":"oif"}},"right":"lo"}},{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":80}},{"counter":{"packets":0,"bytes":0}},{"limit":{"rate":5}},{"masquerade":null}"#;
    assert_eq!(rules(rule)[0].text, "pre: iifname { a, b* } oifname != lo … masquerade # handle 6");
}

#[test]
fn a_device_is_read_whatever_stands_beside_it() {
    let of = |rule: &str| rules(rule).into_iter().map(|it| it.text).collect::<Vec<_>>();
    let matched = |right: &str| {
        format!(
            r#"{{"match":{{"op":"==","left":{{"meta":{{"key":"iifname"}}}},"right":{right}}}}}"#
        )
    };
    assert_eq!(
        of(&matched(r#"{"set":[{"elem":{"val":"a","comment":"wan"}},"b"]}"#)),
        ["pre: iifname { a, b } # handle 6"]
    );
    assert_eq!(of(&matched(r#""@nobody_knows""#)), ["pre: … # handle 6"]);
    let vmap = r#"{"vmap":{"key":{"meta":{"key":"iifname"}},"data":{"set":[[{"elem":{"val":"a","comment":"wan"}},{"drop":null}],["*",{"accept":null}]]}}}"#;
    assert_eq!(of(vmap), ["pre: iifname a drop # handle 6", "pre: iifname * accept # handle 6"]);
    let both = r#"{"match":{"op":"==","left":{"concat":[{"ct":{"key":"mark"}},{"meta":{"key":"mark"}},{"payload":{"protocol":"tcp","field":"dport"}}]},"right":{"set":[{"concat":[0,7,80]},{"elem":{"val":{"concat":[1,8,81]},"comment":"x"}}]}}}"#;
    assert_eq!(of(both), ["pre: ct mark == { 0x0, 0x1 } meta mark == { 0x7, 0x8 } … # handle 6"]);
}

#[test]
fn sets_of_devices_are_asked_for() {
    let sets = [
        r#"{"set":{"family":"inet","name":"wan","table":"fw","type":"ifname","handle":3}}"#,
        r#"{"map":{"family":"inet","name":"ways","table":"fw","type":["iface_index","ipv4_addr"],"handle":4,"map":"verdict"}}"#,
    ];
    let matched =
        r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"@wan"}},{"drop":null}"#;
    let mut listing = listing(&[matched], &sets);
    let names: Vec<_> = listing.unknown_sets().into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["wan", "ways"]);
    listing.add(r#"{"nftables":[{"set":{"family":"inet","name":"wan","table":"fw","type":"ifname","elem":["eth0","ppp*"]}}]}"#).unwrap();
    let text = &listing.chains(&BTreeSet::new()).remove(0).rules[0].text;
    assert_eq!(text, "pre: iifname { eth0, ppp* } drop # handle 6");
}

#[test]
fn of_ebtables_only_what_is_about_marks_is_left_to_it() {
    let rule = |table: &str, kind: &str, name: &str| {
        format!(
            r#"{{"rule":{{"family":"bridge","table":"{table}","chain":"FORWARD","handle":2,"expr":[{{"xt":{{"type":"{kind}","name":"{name}"}}}}]}}}}"#
        )
    };
    let others = [rule("filter", "match", "mark_m"), rule("nat", "target", "dnat")];
    let foreign = listing(&[], &others.each_ref().map(String::as_str)).of_iptables();
    let filter = Foreign { family: "bridge".to_owned(), table: "filter".to_owned() };
    assert_eq!(foreign, BTreeSet::from([filter]));
}

#[test]
fn rules_of_iptables_are_left_to_it_and_dormant_tables_to_nobody() {
    let others = [
        r#"{"table":{"family":"ip","name":"mangle","handle":2}}"#,
        r#"{"chain":{"family":"ip","table":"mangle","name":"PREROUTING","handle":1,"type":"filter","hook":"prerouting","prio":-150}}"#,
        r#"{"rule":{"family":"ip","table":"mangle","chain":"PREROUTING","handle":2,"expr":[{"xt":null}]}}"#,
        r#"{"table":{"family":"ip","name":"asleep","handle":3,"flags":["dormant"]}}"#,
        r#"{"chain":{"family":"ip","table":"asleep","name":"x","handle":1,"type":"filter","hook":"input","prio":0}}"#,
    ];
    let listing = listing(&[], &others);
    let foreign = listing.of_iptables();
    let mangle = Foreign { family: "ip".to_owned(), table: "mangle".to_owned() };
    assert_eq!(foreign, BTreeSet::from([mangle]));
    let names: Vec<_> = listing.chains(&foreign).into_iter().map(|it| it.table.name).collect();
    assert_eq!(names, ["fw"]);
}

#[test]
fn what_is_no_listing_is_refused() {
    for text in ["", "[]", "{}", "{\"nftables\":1}"] {
        assert!(Listing::parse(text).is_err(), "{text}");
    }
}

#[test]
fn the_devices_of_a_chain_are_read_from_its_text() {
    let shown = |hook: &str| {
        devices(&format!(
            "table netdev fw {{\n\tchain in {{\n\t\ttype filter hook {hook} priority filter; policy accept;\n"
        ))
    };
    assert_eq!(shown("ingress device \"red\""), ["red"]);
    assert_eq!(shown("egress devices = { p, red }"), ["p", "red"]);
    assert_eq!(shown("input"), [""; 0]);
}
