use super::*;
use crate::model::identity::Identity;
use crate::model::marks::iptables;

/// What rules of `iptables -t mangle` do to 1234 from veth-web.
fn does(rules: &str) -> Vec<(Does, bool, bool)> {
    does_to(1234, rules)
}

fn does_to(identity: u32, rules: &str) -> Vec<(Does, bool, bool)> {
    let head = ":PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:X - [0:0]\n:Y - [0:0]";
    let saved = format!("*mangle\n{head}\n{rules}\nCOMMIT\n");
    let ruleset = Ruleset::new(iptables::parse("iptables", &saved).unwrap());
    let mark = Mark::encode(Identity(identity)).unwrap();
    let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let (from, to) = (names(&["veth-web"]), names(&["veth-db"]));
    let packet = Packet { mark, device: "veth-web", from: &from, to: &to };
    let hits = hits(&ruleset, packet);
    let all_keep = hits.iter().all(|hit| matches!(hit.does, Does::Saves { .. }));
    assert_eq!(keeps(&ruleset, packet), all_keep, "the first that does more is enough to tell");
    hits.iter().map(|hit| (hit.does, hit.is_certain, hit.is_before_workloads)).collect()
}

fn sets(value: u32) -> Does {
    Does::Sets { value, known: u32::MAX, of: Of::All }
}

#[test]
fn what_every_packet_meets_is_certain() {
    let set = "-j MARK --set-xmark 0x40000/0xff0000";
    assert_eq!(does(&format!("-A PREROUTING {set}")), [(sets(0x0404_0f00), true, true)]);
    assert_eq!(does(&format!("-A FORWARD -p udp {set}")), [(sets(0x0404_0f00), false, true)]);
    assert_eq!(does(&format!("-A INPUT {set}")), [(sets(0x0404_0f00), true, false)]);
    assert_eq!(does(&format!("-A FORWARD -o eth0 {set}")), [(sets(0x0404_0f00), false, false)]);
    assert_eq!(does(&format!("-A FORWARD -o veth-db {set}")), [(sets(0x0404_0f00), false, true)]);
}

#[test]
fn what_none_of_its_packets_meets_does_nothing() {
    let set = "-j MARK --set-xmark 0x40000/0xff0000";
    for rules in [
        format!("-A OUTPUT {set}"),
        format!("-A FORWARD -i tailscale0 {set}"),
        format!("-A FORWARD ! -i veth-web {set}"),
        format!("-A X {set}"),
        format!("-A FORWARD -j ACCEPT\n-A FORWARD {set}"),
        format!("-A FORWARD -j X\n-A X -g Y\n-A Y -j RETURN\n-A X {set}"),
        format!("-A FORWARD -m mark --mark 0x40000/0xff0000 {set}"),
        // Bits that are not cilmark's.
        "-A FORWARD -j MARK --set-xmark 0x4000/0x4000".to_owned(),
    ] {
        let sets = does(&rules).into_iter().any(|(does, ..)| matches!(does, Does::Sets { .. }));
        assert!(!sets, "{rules}");
    }
}

#[test]
fn a_jump_passes_on_how_certain_it_is() {
    let chain = "-A X -j MARK --set-xmark 0x0/0xff0000";
    for (jump, is_certain) in [("-A FORWARD -j X", true), ("-A FORWARD -s 10.0.0.1/32 -j X", false)]
    {
        assert_eq!(does(&format!("{jump}\n{chain}")), [(sets(0x0400_0f00), is_certain, true)]);
    }
    // The more certain way counts, whichever comes first.
    let both = "-A FORWARD -s 10.0.0.1/32 -j X\n-A PREROUTING -j X";
    assert_eq!(does(&format!("{both}\n{chain}")), [(sets(0x0400_0f00), true, true)]);
}

#[test]
fn a_match_is_told_from_one_that_is_meant() {
    let tells = |is_meant| Does::TellsApart { is_meant, is_taken: true };
    let leaves_out = |is_meant| Does::TellsApart { is_meant, is_taken: false };
    let accept = |rule: &str| does_to(1284, &format!("-A FORWARD -m mark {rule} -j ACCEPT"));
    assert_eq!(accept("--mark 0x40000/0xff0000"), [(tells(false), true, true)]);
    assert_eq!(accept("--mark 0x5040f00/0xffff0fff"), [(tells(true), true, true)]);
    assert_eq!(accept("--mark 0x5040f00"), [(tells(true), true, true)]);
    assert_eq!(accept("--mark 0xf00/0xf00"), [(tells(true), true, true)]);
    assert_eq!(accept("! --mark 0xf00/0xf00"), [(leaves_out(true), true, true)]);
    // A packet without a mark would be taken.
    assert_eq!(accept("--mark 0x0/0x3f00"), [(leaves_out(false), true, true)]);
    assert_eq!(accept("! --mark 0xca6c"), []);
    assert_eq!(accept("--mark 0x4000/0x4000"), []);
    // What only counts does nothing.
    assert_eq!(does_to(1284, "-A FORWARD -m mark --mark 0x40000/0xff0000"), []);
}

#[test]
fn what_is_done_to_an_identity_s_packets_for_their_identity_is_meant() {
    let meant = [(Does::TellsApart { is_meant: true, is_taken: true }, true, true)];
    let set = "-j MARK --set-xmark 0x1/0xffffffff";
    assert_eq!(does(&format!("-A FORWARD -m mark --mark 0x4d20f00/0xffff0fff {set}")), meant);
    let jump = "-A FORWARD -m mark --mark 0xf00/0xf00 -j X";
    assert_eq!(does(&format!("{jump}\n-A X {set}")), meant);
    // Not so where packets of all kinds come there, too.
    let both = does(&format!("{jump}\n-A PREROUTING -j X\n-A X {set}"));
    assert_eq!(both, [meant[0], (sets(1), true, true)]);
    // Who lets them out of it.
    let out = "-A FORWARD -m mark --mark 0xf00/0xf00 -j RETURN";
    assert_eq!(does(&format!("{out}\n-A FORWARD {set}")), meant);
}

#[test]
fn what_a_connection_has_kept_is_known() {
    // Nobody has saved anything: nothing is what comes back.
    let wiped = |value| Does::Sets { value, known: u32::MAX, of: Of::Unmarked };
    assert_eq!(
        does("-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"),
        [(wiped(0), true, true)]
    );
    assert_eq!(
        does("-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000"),
        [(wiped(0x0400_0f00), true, true)]
    );
    assert_eq!(does("-A PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80"), []);
    let restore = "-A PREROUTING -m connmark ! --mark 0x0/0xff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff";
    assert_eq!(does(restore), []);
    let stated = does(&format!("{restore}\n-A FORWARD -j CONNMARK --set-xmark 0x7/0xffffffff"));
    let of_seven = Does::Sets { value: 7, known: u32::MAX, of: Of::Marked };
    assert_eq!(stated, [(of_seven, false, true)], "who knows which connections have it");
    // A rule that sets marks anyway is told once.
    let anyway = does(
        "-A FORWARD -j MARK --set-xmark 0x1/0xffffffff\n-A FORWARD -j CONNMARK --set-xmark 0x7/0xffffffff",
    );
    assert_eq!(anyway, [(sets(1), true, true)]);
    // Its own mark comes back as it was.
    let saved = does("-A PREROUTING -m connmark ! --mark 0x0 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A FORWARD -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff");
    assert_eq!(saved, [(Does::Saves { connmark: 0x04d2_0f00 }, true, true)]);
}

#[test]
fn what_rules_make_of_a_connection_s_mark_is_known_however_many_there_are() {
    let restore = "-A PREROUTING -m connmark ! --mark 0x0 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff";
    // One bit after the other: only with both of them the mark is replaced.
    let both = restore.replace("! --mark 0x0", "--mark 0x3");
    let bits = ["0x1", "0x2"]
        .map(|bit| format!("-A FORWARD -p udp -j CONNMARK --set-xmark {bit}/{bit}\n"))
        .concat();
    let of = |value| Does::Sets { value, known: u32::MAX, of: Of::Marked };
    assert_eq!(does(&format!("{bits}{both}")), [(of(3), false, true)]);
    // One of very many, or one that nobody can read.
    let many: Vec<String> = (1..40)
        .map(|n| format!("-A FORWARD -p udp -j CONNMARK --set-xmark {n}/0xffffffff\n"))
        .collect();
    let last = "-A PREROUTING -m connmark --mark 0x27 -j MARK --set-xmark 0x27/0xffffffff";
    assert_eq!(does(&format!("{}{last}", many.concat())), [(of(0x27), false, true)]);
    let unread = "-A FORWARD -j CONNMARK --set-strange\n";
    assert_eq!(does(&format!("{unread}{last}")), [(of(0x27), false, true)]);
    // What no rule writes into it is not in it.
    let masked = last.replace("0x27 ", "0x100/0x100 ");
    assert_eq!(does(&format!("{bits}{masked}")), []);
}

#[test]
fn what_is_done_by_bits_that_other_rules_write_is_done() {
    let set = "-A FORWARD -m mark --mark 0x1000/0x1000 -j MARK --set-xmark 0x0/0xffffffff";
    assert_eq!(does(set), [], "nobody sets it");
    let first = "-A PREROUTING -p udp -j MARK --set-xmark 0x1000/0xf000\n";
    let wiped = Does::Sets { value: 0, known: u32::MAX, of: Of::All };
    assert_eq!(does(&format!("{first}{set}")), [(wiped, false, true)]);
    // Whoever has it not goes back: what is behind is of the others.
    let back = "-A FORWARD -m mark ! --mark 0x1000/0x1000 -j RETURN\n";
    let behind = format!("{first}{back}-A FORWARD -j MARK --set-xmark 0x0/0xffffffff");
    assert!(does(&behind).iter().any(|(does, ..)| *does == wiped));
    // Marks of identities are known whatever these bits are.
    let whole = "-A FORWARD -m mark --mark 0x4d20f00/0xffff0fff -j DROP";
    let known = does(&format!("{first}{whole}"));
    assert_eq!(known, [(Does::TellsApart { is_meant: true, is_taken: true }, true, true)]);
}

#[test]
fn where_devices_ask_it_is_the_port_that_it_comes_from() {
    use crate::model::marks::nft::Listing;
    let chain = |family: &str, hook: &str| {
        format!(
            r#"{{"nftables":[{{"chain":{{"family":"{family}","table":"t","name":"c","type":"filter","hook":"{hook}","dev":"veth-web","prio":0}}}},
               {{"rule":{{"family":"{family}","table":"t","chain":"c","handle":3,"expr":[
                 {{"match":{{"op":"==","left":{{"meta":{{"key":"iifname"}}}},"right":"veth-web"}}}},
                 {{"mangle":{{"key":{{"meta":{{"key":"mark"}}}},"value":1}}}}]}}}}]}}"#
        )
    };
    let mark = Mark::encode(Identity(1234)).unwrap();
    let from = ["br0".to_owned()];
    let packet = Packet { mark, device: "veth-web", from: &from, to: &[] };
    for (family, hook, is_set) in [
        ("netdev", "ingress", true),
        ("inet", "ingress", true),
        ("bridge", "forward", true),
        ("inet", "forward", false),
    ] {
        let listing = Listing::parse(&chain(family, hook)).unwrap();
        let ruleset = Ruleset::new(listing.chains(&Default::default()));
        assert_eq!(!hits(&ruleset, packet).is_empty(), is_set, "{family} {hook}");
    }
}

#[test]
fn what_rules_before_have_made_of_the_connection_s_mark_counts() {
    let save = "-j CONNMARK --save-mark --nfmask 0xffff0fff --ctmask 0xffffffff";
    let restore = "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff";
    let saves = (Does::Saves { connmark: 0x04d2_0f00 }, true, true);
    assert_eq!(does(&format!("-A PREROUTING {save}\n-A PREROUTING {restore}")), [saves]);
    let by_jump = does(&format!("-A PREROUTING -j X\n-A X {save}\n-A PREROUTING {restore}"));
    assert_eq!(by_jump, [saves]);
    let set = "-j CONNMARK --set-xmark 0x7/0xffffffff";
    let stated = does(&format!("-A PREROUTING {set}\n-A PREROUTING {restore}"));
    assert_eq!(stated, [(sets(7), true, true)]);
    // Of some packets it is saved.
    let some = (Does::Saves { connmark: 0x04d2_0f00 }, false, true);
    let unknown = Does::Sets { value: 0, known: !0x04d2_0f00, of: Of::All };
    for saved in [
        format!("-A PREROUTING -p udp {save}"),
        format!("-A PREROUTING -p udp -j X\n-A X {save}"),
        format!("-A PREROUTING -j X\n-A X -p udp -g Y\n-A Y {save}"),
    ] {
        let found = does(&format!("{saved}\n-A PREROUTING {restore}"));
        assert!(found.contains(&(unknown, false, true)) && found.contains(&some), "{saved}");
        assert_eq!(found.len(), 2, "{saved}");
    }
}

#[test]
fn rules_that_give_connections_very_many_marks_hold_nobody_up() {
    let (mut heads, mut rules) = (String::new(), String::from("-A PREROUTING -j C0\n"));
    for chain in 0..16 {
        heads += &format!(":C{chain} - [0:0]\n");
        for bit in 0..4 {
            let xor = 1_u32 << ((chain * 4 + bit) % 32);
            rules += &format!(
                "-A C{chain} -j CONNMARK --set-xmark {xor:#x}/0x0\n-A C{chain} -j C{}\n",
                chain + 1
            );
        }
    }
    let restore = "-A C16 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff";
    let saved = format!(
        "*mangle\n:PREROUTING ACCEPT [0:0]\n:C16 - [0:0]\n{heads}{rules}{restore}\nCOMMIT\n"
    );
    let ruleset = Ruleset::new(iptables::parse("iptables", &saved).unwrap());
    let mark = Mark::encode(Identity(1234)).unwrap();
    let packet = Packet { mark, device: "veth-web", from: &[], to: &[] };
    let unknown = Does::Sets { value: 0, known: 0, of: Of::All };
    assert!(hits(&ruleset, packet).iter().any(|hit| hit.does == unknown));
}
