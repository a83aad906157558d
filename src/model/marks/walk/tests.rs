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
    Does::Sets { value, known: u32::MAX, connmark: None }
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
    let wiped = |value| Does::Sets { value, known: u32::MAX, connmark: Some(0) };
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
    let of_seven = Does::Sets { value: 7, known: u32::MAX, connmark: Some(7) };
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
