//! Prefixes that are a workload's own, and addresses that two of them share.

use cilmark::model::endpoint::EndpointId;
use cilmark::model::identity::Identity;
use cilmark::program::load::Features;
use cilmark::state::addresses::Addresses;
use ipnet::IpNet;

use super::verdicts::*;
use super::*;
use crate::common::Fixture;
use crate::common::fixture::Setup;
use crate::common::packet::Frame;
use crate::common::program::{Endpoint, Outcome, Verdict};
use crate::common::world::wait_for;

const NEIGHBOUR: u16 = 8;
const IN4: Ipv4Addr = Ipv4Addr::new(10, 1, 77, 1);
const IN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 7, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A workload with a prefix of each family.
fn workload(fixture: &Fixture) -> Setup<'_> {
    fixture.container(ID).own("10.1.0.0/16").own("fd00:1::/64")
}

fn sends(workload: &Endpoint<'_>, source: IpAddr) -> Outcome {
    let peer: IpAddr = if source.is_ipv4() { PEER4.into() } else { PEER6.into() };
    workload.from_container(Frame::ip(source, peer).udp(1, 2))
}

/// Everything by which a workload speaks for an address.
fn speaks_for(workload: &Endpoint<'_>, address: IpAddr) -> Vec<Outcome> {
    match address {
        IpAddr::V4(v4) => vec![
            sends(workload, address),
            workload.from_container(Frame::arp_request(v4, PEER4)),
            workload.from_container(Frame::arp_reply(v4, PEER4)),
            workload.from_container(Frame::arp_request(Ipv4Addr::UNSPECIFIED, v4)),
        ],
        IpAddr::V6(v6) => vec![
            sends(workload, address),
            workload.from_container(Frame::ipv6(IN6, ALL_NODES).neighbour_advertisement(v6)),
            workload.from_container(
                Frame::ipv6(Ipv6Addr::UNSPECIFIED, ALL_NODES).neighbour_solicitation(v6),
            ),
        ],
    }
}

#[track_caller]
fn is_its_own(workload: &Endpoint<'_>, address: impl Into<IpAddr>) {
    for run in speaks_for(workload, address.into()) {
        run.passes_with_mark(ID_MARK);
    }
}

#[track_caller]
fn is_not_its_own(workload: &Endpoint<'_>, address: impl Into<IpAddr>) {
    for run in speaks_for(workload, address.into()) {
        run.is_dropped(132);
    }
}

/// Lets go what was found out of addresses, which holds for a jiffy.
fn next_jiffy() {
    let now = || cilmark::kernel::sys::jiffies64().expect("jiffies");
    let before = now();
    wait_for("the next jiffy", || now() > before);
}

#[test]
fn a_workload_speaks_for_every_address_of_its_prefixes_and_for_no_other() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = workload(&fixture).load();
    for address in [IN4, Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 255, 254)] {
        is_its_own(&workload, address);
    }
    is_its_own(&workload, IN6);
    for address in [Ipv4Addr::new(10, 0, 255, 255), Ipv4Addr::new(10, 2, 0, 0), PEER4] {
        is_not_its_own(&workload, address);
    }
    is_not_its_own(&workload, PEER6);
    is_not_its_own(&workload, "fd00:1:0:1::".parse::<IpAddr>().unwrap());
    // Other rows of the check stay.
    let lease = Frame::ipv4(IN4, PEER4).udp(67, 68);
    workload.from_container(lease).is_dropped(132);
    let discover = Frame::ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST).udp(68, 67);
    workload.from_container(discover).passes();
}

#[test]
fn a_prefix_of_every_length_ends_at_its_last_bit() {
    let Some(fixture) = Fixture::new() else { return };
    let four = Ipv4Addr::new(10, 1, 0, 10);
    for length in [1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 30, 31] {
        let net = IpNet::new(four.into(), length).unwrap().trunc();
        let workload = fixture.container(ID).own(&net.to_string()).load();
        for bit in 0..32 {
            let near = Ipv4Addr::from_bits(four.to_bits() ^ 1 << bit);
            let is_in = bit < 32 - u32::from(length);
            let run = sends(&workload, near.into());
            if is_in {
                run.passes()
            } else {
                run.is_dropped(132)
            };
        }
    }
    let six: Ipv6Addr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
    for length in [1, 31, 32, 33, 48, 63, 64, 65, 95, 96, 97, 126, 127] {
        let net = IpNet::new(six.into(), length).unwrap().trunc();
        let workload = fixture.container(ID).own(&net.to_string()).load();
        for bit in 0..128 {
            let near = Ipv6Addr::from_bits(six.to_bits() ^ 1 << bit);
            let is_in = bit < 128 - u32::from(length);
            let run = sends(&workload, near.into());
            if is_in {
                run.passes()
            } else {
                run.is_dropped(132)
            };
        }
    }
}

#[test]
fn all_eight_prefixes_of_a_family_are_its_own_beside_eight_addresses() {
    let Some(fixture) = Fixture::new() else { return };
    let mut setup = fixture.container(ID);
    for number in 0..8 {
        setup = setup.own(&format!("10.{number}.0.0/16")).own(&format!("fd00:{number}::/32"));
        setup = setup.own(&format!("192.0.2.{number}")).own(&format!("fd01::{number}"));
    }
    let workload = setup.load();
    let own = |number: u8| {
        let texts = [
            format!("10.{number}.3.4"),
            format!("fd00:{number}::7"),
            format!("192.0.2.{number}"),
            format!("fd01::{number}"),
        ];
        texts.map(|text| text.parse::<IpAddr>().unwrap())
    };
    (0..8).flat_map(own).for_each(|address| _ = sends(&workload, address).passes());
    own(8).into_iter().for_each(|address| _ = sends(&workload, address).is_dropped(132));
}

#[test]
fn what_no_host_has_is_nobodys_however_wide_the_prefix_is() {
    let Some(fixture) = Fixture::new() else { return };
    let halves = ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"];
    let workload = halves.into_iter().fold(fixture.container(ID), Setup::own).load();
    for address in ["8.8.8.8", "203.0.113.1", "2001:db8::1", "fd00::1"] {
        sends(&workload, address.parse().unwrap()).passes();
    }
    for address in [
        "0.0.0.0",
        "127.0.0.1",
        "127.255.0.1",
        "224.0.0.1",
        "239.1.2.3",
        "255.255.255.255",
        "::",
        "::1",
        "::10.0.0.1",
        "::ffff:10.0.0.1",
        "ff02::1",
        "ff05::2",
        "fe80::77",
        "febf::1",
    ] {
        let address: IpAddr = address.parse().unwrap();
        sends(&workload, address).is_dropped(132);
    }
}

#[test]
fn link_local_addresses_are_in_a_prefix_of_theirs_only() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).own("fd00:1::/64").own("fe80::/64").load();
    let advertise = |target: &str| {
        let target = target.parse().unwrap();
        workload.from_container(Frame::ipv6(target, ALL_NODES).neighbour_advertisement(target))
    };
    for own in ["fe80::77", "fe80::1:2:3:4", "fd00:1::7"] {
        advertise(own).passes();
        sends(&workload, own.parse().unwrap()).passes();
    }
    for foreign in ["fe80:0:0:1::77", "fd00:2::7"] {
        advertise(foreign).is_dropped(132);
    }
    // A wider one says nothing of them: there is still what the MAC makes.
    let workload = fixture.container(ID).own("8000::/1").own("fe80::/9").load();
    let neighbour = |source: Ipv6Addr| {
        workload.from_container(Frame::ipv6(source, ALL_NODES).neighbour_advertisement(source))
    };
    neighbour(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0xaa)).passes();
    neighbour(LINK_LOCAL).is_dropped(132);
}

#[test]
fn the_same_bytes_in_the_other_family_are_in_no_prefix() {
    let Some(fixture) = Fixture::new() else { return };
    let four = fixture.container(ID).own("10.0.0.0/8").load();
    sends(&four, "a00::1".parse().unwrap()).is_dropped(132);
    let six = fixture.container(ID).own("a00::/8").load();
    sends(&six, Ipv4Addr::new(10, 0, 0, 1).into()).is_dropped(132);
}

#[test]
fn an_address_of_this_host_in_a_prefix_is_not_the_workloads() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let [host4, host6] = ["192.168.7.1", "fd00:7::1"].map(|it| it.parse::<IpAddr>().unwrap());
    wait_for("the address", || {
        fixture.world.sh("ip -6 route show table local").contains("fd00:7::1")
    });
    let workload =
        fixture.container(ID).own("192.168.7.0/24").own("fd00:7::/64").own("fd00:1::/64").load();
    for address in ["192.168.7.9", "fd00:7::9"] {
        is_its_own(&workload, address.parse::<IpAddr>().unwrap());
    }
    is_not_its_own(&workload, host4);
    is_not_its_own(&workload, host6);
    // One that comes later is the host's, too, and one that has gone is not.
    let change = |verb: &str, number: u8| {
        fixture.world.sh(&format!(
            "ip addr {verb} 192.168.7.{number}/32 dev wan
             ip -6 addr {verb} fd00:7::{number}/128 dev wan $(test {verb} = del || echo nodad)"
        ));
        next_jiffy();
    };
    let both = |number: u8| {
        [format!("192.168.7.{number}"), format!("fd00:7::{number}")]
            .map(|text| text.parse::<IpAddr>().unwrap())
    };
    for number in [9, 10] {
        change("add", number);
        if number == 10 {
            fixture.world.sh("ip route del default; ip -6 route del default dev wan");
        }
        both(number).into_iter().for_each(|address| is_not_its_own(&workload, address));
        change("del", number);
        both(number).into_iter().for_each(|address| is_its_own(&workload, address));
    }
}

/// On a host that does not forward the routing tables tell nothing.
#[test]
fn a_listed_address_of_this_host_is_not_the_workloads() {
    let Some(fixture) = Fixture::new() else { return };
    let (listed4, listed6) = ("10.1.0.1".parse().unwrap(), "fd00:1::1".parse().unwrap());
    let workload = workload(&fixture).others([listed4, listed6]).load();
    is_not_its_own(&workload, listed4);
    is_not_its_own(&workload, listed6);
    for address in ["10.1.0.2", "fd00:1::2"] {
        is_its_own(&workload, address.parse::<IpAddr>().unwrap());
        fixture.ipcache(address, 1);
        next_jiffy();
        is_not_its_own(&workload, address.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn the_longest_prefix_and_before_all_an_address_itself_says_whose_it_is() {
    let Some(fixture) = Fixture::new() else { return };
    let addresses = |id: u16| {
        let root = fixture.world.root();
        let addresses = Addresses::open(&root).expect("open").expect("the maps");
        addresses.forget(EndpointId::new(id).unwrap(), &[]).expect("forget");
    };
    let workload = workload(&fixture).load();
    fixture.enter(&workload);
    for (theirs4, theirs6) in [("10.1.77.1", "fd00:1::7:0:0:1"), ("10.1.64.0/18", "fd00:1::/70")] {
        let neighbour = fixture.container(300).id(NEIGHBOUR).own(theirs4).own(theirs6).load();
        is_its_own(&workload, IN4);
        is_its_own(&workload, IN6);
        fixture.enter(&neighbour);
        next_jiffy();
        is_not_its_own(&workload, IN4);
        is_not_its_own(&workload, IN6);
        is_its_own(&workload, Ipv4Addr::new(10, 1, 3, 3));
        addresses(NEIGHBOUR);
        next_jiffy();
        is_its_own(&workload, IN4);
    }
    // A shorter one takes nothing away.
    let neighbour = fixture.container(300).id(NEIGHBOUR).own("10.0.0.0/8").own("fd00::/16").load();
    fixture.enter(&neighbour);
    next_jiffy();
    is_its_own(&workload, IN4);
    is_its_own(&workload, IN6);
    sends(&neighbour, IN4.into()).is_dropped(132);
    sends(&neighbour, Ipv4Addr::new(10, 9, 9, 9).into()).passes();
}

#[test]
fn a_prefix_that_two_share_is_each_ones_own_and_one_that_others_share_in_it_is_not() {
    let Some(fixture) = Fixture::new() else { return };
    let [one, other] = [7, NEIGHBOUR].map(|id| {
        let workload = fixture.container(ID).id(id).shared("10.1.0.0/16").load();
        fixture.enter(&workload);
        workload
    });
    is_its_own(&one, IN4);
    is_its_own(&other, IN4);
    for id in [9, 10] {
        fixture.enter(&fixture.container(ID).id(id).shared("10.1.77.0/24").load());
    }
    next_jiffy();
    is_not_its_own(&one, IN4);
    is_its_own(&other, Ipv4Addr::new(10, 1, 78, 1));
}

#[test]
fn the_arp_responder_answers_for_a_neighbour_in_the_prefix_and_not_for_the_rest_of_it() {
    let Some(fixture) = Fixture::new() else { return };
    let features = Features { arp_responder: true, ..Features::default() };
    let workload = workload(&fixture).features(features).load();
    let neighbour = fixture.container(300).id(NEIGHBOUR).address(IN4).load();
    fixture.enter(&neighbour);
    let asks = |target| {
        workload.from_container(Frame::arp_request(Ipv4Addr::new(10, 1, 0, 2), target)).verdict
    };
    assert_eq!(asks(IN4), Verdict::Redirect);
    assert_eq!(asks(PEER4), Verdict::Redirect);
    assert_eq!(asks(Ipv4Addr::new(10, 1, 0, 3)), Verdict::Pass);
}

#[test]
fn an_address_in_a_workloads_prefix_alone_is_no_proof() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let trusting = fixture.container(ID).feature(|on| on.by_address = true).load();
    let neighbour =
        fixture.container(300).id(NEIGHBOUR).own("10.2.0.0/16").own("fd00:2::/64").load();
    fixture.enter(&neighbour);
    let everything: Vec<(IpNet, Identity)> = ["0.0.0.0/0", "::/0", "10.0.0.0/8", "fd00::/16"]
        .map(|net| (net.parse().unwrap(), Identity(301)))
        .into();
    for is_indexed in [false, true] {
        if is_indexed {
            fixture.open_ipcache().indexed_from(1).load(&everything, |_| Ok(())).expect("load");
        }
        for (peer, own) in PEER_TO_OWN {
            workload.from_container(Frame::ip(own, peer).tcp(1, 2)).goes_to(300);
            let received = || Frame::ip(peer, own).tcp(1, 2).mark(0).came_in_by(2);
            workload.to_container(received()).passes().comes_from(2);
            trusting.to_container(received()).passes().comes_from(300);
        }
    }
    // An operator's longer one counts by address, and so does that of a workload elsewhere.
    for (peer, own) in PEER_TO_OWN {
        let received = || Frame::ip(peer, own).tcp(1, 2).mark(0).came_in_by(2);
        let net = IpNet::new(peer, if peer.is_ipv4() { 24 } else { 96 }).unwrap().trunc();
        fixture.ipcache(&net.to_string(), 302);
        workload.to_container(received()).passes().comes_from(302);
        fixture.open_ipcache().delete(&net).expect("delete");
        workload.to_container(received()).passes().comes_from(2);
    }
    for (prefix, (peer, own)) in ["10.2.0.0/16", "fd00:2::/64"].into_iter().zip(PEER_TO_OWN) {
        let received = || Frame::ip(peer, own).tcp(1, 2).mark(0).came_in_by(2);
        let prefix: IpNet = prefix.parse().unwrap();
        fixture.change_owner(prefix, |endpoint| endpoint.netns += 1);
        workload.to_container(received()).passes().comes_from(300);
    }
}

#[test]
fn a_mark_is_believed_of_what_came_in_by_the_device_of_the_workload_with_the_prefix() {
    let Some(fixture) = Fixture::new() else { return };
    let workload = fixture.container(ID).load();
    let neighbour =
        fixture.container(WIDE_ID).id(NEIGHBOUR).own("10.2.0.0/16").own("fd00:2::/64").load();
    fixture.enter(&neighbour);
    for (peer, own) in PEER_TO_OWN {
        let packet = || Frame::ip(peer, own).tcp(1000, 80).mark(WIDE_MARK);
        let by = |ifindex| packet().came_in_by(ifindex);
        workload.to_container(by(neighbour.config.ifindex)).passes().comes_from(WIDE_ID);
        workload.to_container(by(neighbour.config.ifindex + 1)).passes().comes_from(2);
    }
}

/// Else a rule about a workload would open the host, which has an address in its prefix.
#[test]
fn this_host_in_a_workloads_prefix_is_the_host_to_the_rules_about_it() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.router();
    let enforce = Enforcement { egress: Mode::Enforce, ..Enforcement::default() };
    let workload = fixture.container(ID).address(OWN4).address(OWN6).policy(enforce).load();
    let neighbour =
        fixture.container(300).id(NEIGHBOUR).own("192.168.7.0/24").own("fd00:7::/64").load();
    fixture.enter(&neighbour);
    fixture.rules(&workload, &["allow egress to 300 tcp/80"]);
    for (own, host, other) in [
        (IpAddr::from(OWN4), "192.168.7.1", "192.168.7.9"),
        (IpAddr::from(OWN6), "fd00:7::1", "fd00:7::9"),
    ] {
        let to = |text: &str| {
            let address: IpAddr = text.parse().unwrap();
            workload.from_container(Frame::ip(own, address).tcp(1000, 80))
        };
        to(other).passes();
        to(host).is_dropped(POLICY).goes_to(1);
    }
}

/// The answer would come by the stack, whose conntrack would see a half of the connection.
#[test]
fn what_is_from_or_to_a_prefix_or_a_shared_address_is_left_to_the_stack() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.world.sh("ip link add blue address 02:00:00:00:00:bb type veth peer name its-end");
    let red = fixture.container(ID).address(OWN4).own("10.1.77.0/24").shared("10.1.0.100");
    let red = red.address(OWN6).own("fd00:1:0:7::/64").shared("fd00:1::100");
    let red = red.feature(|on| on.local_delivery = true).untraced().load();
    let blue = fixture.container(WIDE_ID).id(NEIGHBOUR).device("blue").address(PEER4);
    let blue = blue.own("10.2.77.0/24").shared("10.2.0.100").address(PEER6);
    let blue = blue.own("fd00:2:0:7::/64").shared("fd00:2::100");
    let blue = blue.feature(|on| on.local_delivery = true).load();
    fixture.enter(&red);
    fixture.enter(&blue);
    blue.from_container(Frame::arp_request(PEER4, OWN4)).passes();
    let is_delivered = |source: &str, destination: &str| {
        let [source, destination]: [IpAddr; 2] =
            [source, destination].map(|text| text.parse().unwrap());
        let run = red.from_container(Frame::ip(source, destination).udp(1, 2).forwarded());
        run.verdict == Verdict::Redirect
    };
    assert!(is_delivered("10.1.0.10", "10.2.0.10") && is_delivered("fd00:1::10", "fd00:2::10"));
    for source in ["10.1.77.1", "10.1.0.100", "fd00:1:0:7::1", "fd00:1::100"] {
        let peer = if source.contains(':') { "fd00:2::10" } else { "10.2.0.10" };
        assert!(!is_delivered(source, peer), "{source}");
    }
    for peer in ["10.2.77.1", "10.2.0.100", "fd00:2:0:7::1", "fd00:2::100"] {
        let source = if peer.contains(':') { "fd00:1::10" } else { "10.1.0.10" };
        assert!(!is_delivered(source, peer), "{peer}");
    }
}
