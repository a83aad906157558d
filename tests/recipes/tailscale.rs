//! docs/recipes/tailscale.md, beside what tailscaled sets up. There is no tailscaled here: its tunnel is a tun, and its rules
//! are those of its sources, version 1.98.2, with its netfilter on: `wgengine/router/osrouter/router_linux.go` (`ip rule`,
//! table 52, the sysctl) and `util/linuxfw/nftables_runner.go` (chains); `net/tsaddr/tsaddr.go` has the addresses.

use std::net::UdpSocket;

use nix::sys::socket::{setsockopt, sockopt};

use super::{OUTSIDE, paste_section, uplink};
use crate::common::World;
use crate::common::pages::{blocks, paste};
use crate::common::process::{PATIENCE, Running};
use crate::common::traffic::{
    Connection, HOST, any, arrives, cannot_connect, is_lost, listen, ping, udp,
};

const PAGE: &str = include_str!("../../docs/recipes/tailscale.md");

/// Who they are in the tailnet, by both families.
const HERE: [&str; 2] = ["100.101.102.103", "fd7a:115c:a1e0::6465:6667"];
const ADMIN: [&str; 2] = ["100.101.102.104", "fd7a:115c:a1e0::6465:6668"];
const PEER: [&str; 2] = ["100.101.102.105", "fd7a:115c:a1e0::6465:6669"];
const MAGIC_DNS: &str = "100.100.100.100";
const WEB: [&str; 2] = ["10.1.0.10", "fd00:1::10"];

/// LinuxBypassMark of `tsconst/linuxfw.go`.
const BYPASS: u32 = 0x80000;

/// A host in a tailnet, whose other members are in the namespace `tailscale0`, with the workloads `veth-web` and `veth-db`.
fn tailnet() -> Option<(World, [Running; 2])> {
    let world = World::new()?;
    uplink(&world);
    for (name, number) in [("veth-web", 1), ("veth-db", 2)] {
        world.workload(name, number);
    }
    let tunnel = world.machine("tailscale0", 3, "tun");
    world.sh(&format!(
        "ip addr flush dev tailscale0
         ip addr add {}/32 dev tailscale0
         ip addr add {}/128 dev tailscale0 nodad
         for address in {} {} {MAGIC_DNS}; do
             ip -n tailscale0 addr add $address/32 dev eth0
             ip route add $address dev tailscale0 table 52
         done
         for address in {} {}; do ip -n tailscale0 addr add $address/128 dev eth0 nodad; done
         ip -6 route add fd7a:115c:a1e0::/48 dev tailscale0 table 52
         ip -n tailscale0 route replace default dev eth0
         ip -n tailscale0 -6 route replace default dev eth0
         for family in -4 -6; do
             ip $family rule add pref 5210 fwmark 0x80000/0xff0000 table main
             ip $family rule add pref 5230 fwmark 0x80000/0xff0000 table default
             ip $family rule add pref 5250 fwmark 0x80000/0xff0000 type unreachable
             ip $family rule add pref 5270 table 52
         done
         sysctl -qw net.ipv4.conf.all.src_valid_mark=1 net.ipv4.conf.all.rp_filter=1",
        HERE[0], HERE[1], ADMIN[0], PEER[0], ADMIN[1], PEER[1]
    ));
    for (family, drops) in [("ip", true), ("ip6", false)] {
        chains(&world, family, drops);
    }
    Some((world, tunnel))
}

/// The chains of a family; of IPv4 also what drops addresses of the tailnet elsewhere.
fn chains(world: &World, family: &str, drops: bool) {
    let rule = |chain: &str, device: &str| match drops {
        true => format!("add rule ip filter {chain} {device} ip saddr 100.64.0.0/10 drop"),
        false => String::new(),
    };
    let (input, forward) =
        (rule("ts-input", "iifname != tailscale0"), rule("ts-forward", "oifname tailscale0"));
    world.sh(&format!(
        "nft -f - <<'END'
         table {family} filter {{
             chain ts-input {{ }}
             chain ts-forward {{ }}
             chain INPUT {{ type filter hook input priority filter; jump ts-input; }}
             chain FORWARD {{ type filter hook forward priority filter; jump ts-forward; }}
         }}
         {input}
         add rule {family} filter ts-input iifname tailscale0 accept
         add rule {family} filter ts-input udp dport 41641 accept
         add rule {family} filter ts-forward iifname tailscale0 meta mark set meta mark & 0xff00ffff | 0x40000
         add rule {family} filter ts-forward meta mark & 0xff0000 == 0x40000 accept
         {forward}
         add rule {family} filter ts-forward oifname tailscale0 accept
         table {family} mangle {{
             chain PREROUTING {{
                 type filter hook prerouting priority mangle;
                 ct state established,related ct mark & 0xff0000 != 0 meta mark set ct mark & 0xff0000
             }}
             chain OUTPUT {{
                 type route hook output priority mangle;
                 ct state new meta mark & 0xff0000 != 0 ct mark set meta mark & 0xff0000
             }}
         }}
         table {family} nat {{
             chain ts-postrouting {{ }}
             chain POSTROUTING {{ type nat hook postrouting priority srcnat; jump ts-postrouting; }}
         }}
END"
    ));
}

/// What `--snat-subnet-routes=true` adds, the default.
fn with_snat(world: &World) {
    for family in ["ip", "ip6"] {
        let rule = "'meta mark & 0xff0000 == 0x40000 masquerade'";
        world.sh(&format!("nft add rule {family} nat ts-postrouting {rule}"));
    }
}

/// All that the page sets up, but for what `tailscale` itself would do.
fn set_up() -> Option<(World, [Running; 2])> {
    let (world, tunnel) = tailnet()?;
    for heading in ["## Identities", "## The NIC", "## The tunnel", "## Workloads"] {
        for block in blocks(PAGE, heading, "sh") {
            if !block.starts_with("tailscale set ") {
                paste(&world, &block);
            }
        }
    }
    Some((world, tunnel))
}

/// An address as it stands before a port.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// A socket of somebody in the tailnet, or of who says to be.
fn of(world: &World, namespace: &str, address: &str) -> UdpSocket {
    udp(world, namespace, &format!("{}:0", bracketed(address)))
}

/// Whether a TCP connection from an address gets through.
fn connects(world: &World, namespace: &str, from: &str, to: &str, port: u16) -> bool {
    let [to, from] = [to, from].map(bracketed);
    let socat = format!("socat -u OPEN:/dev/null TCP:{to}:{port},bind={from},connect-timeout=0.2");
    world.inside(namespace, || world.try_sh(&socat).status.success())
}

#[test]
fn tailscale_works_and_rules_by_identity_count_in_its_tunnel_by_pasting() {
    let Some((world, _tunnel)) = set_up() else { return };
    let servers = [("outside", 443), ("outside", 80), (HOST, 22), (HOST, 80), ("veth-web", 80)];
    let [https, _http, _ssh, _web, _site] = servers.map(|(of, port)| listen(&world, of, port));
    for family in [0, 1] {
        let to = OUTSIDE[family];
        // Outside of the tunnel, as tailscaled: by a mark of its own.
        let tailscaled = world.inside(HOST, || UdpSocket::bind("[::]:41641")).expect("bind");
        tailscaled.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        setsockopt(&tailscaled, sockopt::Mark, &BYPASS).expect("set SO_MARK");
        let mapped = if family == 0 { format!("::ffff:{to}") } else { to.to_owned() };
        let peer = udp(&world, "outside", any(to));
        let seen = arrives(&tailscaled, &peer, &mapped);
        peer.send_to(b"hello", seen).expect("answer");
        assert_eq!(tailscaled.recv(&mut [0; 16]).expect("the answer arrives"), 5);
        let ours = ["198.51.100.2", "2001:db8:100::2"][family];
        arrives(&udp(&world, "outside", any(to)), &tailscaled, ours);
        let other = udp(&world, HOST, any(to));
        is_lost(&udp(&world, "outside", any(to)), &other, ours);
        Connection::open(&world, HOST, &https, to).works();
        cannot_connect(&world, HOST, to, 80);

        // Inside of it.
        let here = HERE[family];
        assert!(connects(&world, "tailscale0", ADMIN[family], here, 22), "{here}");
        assert!(!connects(&world, "tailscale0", PEER[family], here, 22), "{here}");
        assert!(!connects(&world, "tailscale0", ADMIN[family], here, 80), "{here}");
        ping(&world, "tailscale0", &format!("-I {} {here}", PEER[family]));
        ping(&world, HOST, PEER[family]);
        let web = WEB[family];
        assert!(connects(&world, "tailscale0", ADMIN[family], web, 80), "{web}");
        assert!(!connects(&world, "tailscale0", PEER[family], web, 80), "{web}");
        assert!(!connects(&world, HOST, here, web, 80), "{web}");
    }
    let dns = udp(&world, "tailscale0", &format!("{MAGIC_DNS}:53"));
    let seen = arrives(&udp(&world, HOST, "0.0.0.0:0"), &dns, MAGIC_DNS);
    assert_eq!(seen.ip().to_string(), HERE[0]);

    world.cilmark_ok("attach veth-web --keep --egress-policy enforce");
    let web = udp(&world, "veth-web", "0.0.0.0:0");
    is_lost(&web, &dns, MAGIC_DNS);
    world.cilmark_ok("policy add veth-web allow egress to tailnet udp/53");
    arrives(&web, &dns, MAGIC_DNS);

    let by_nic = |family: usize| {
        let ours = ["198.51.100.2", "2001:db8:100::2"][family];
        connects(&world, "outside", OUTSIDE[family], ours, 22)
    };
    assert!(by_nic(0) && by_nic(1));
    paste_section(&world, PAGE, "## SSH by the tailnet only");
    assert!(!by_nic(0) && !by_nic(1));
    for family in [0, 1] {
        assert!(connects(&world, "tailscale0", ADMIN[family], HERE[family], 22));
    }

    let printed = paste_section(&world, PAGE, "## What you see");
    for shown in [
        "Tailscale uses bits 16 to 23",
        "no trouble to identities in use",
        "2816",
        "drop (Policy denied, 133), 2560 (tailnet) -> 1 (host)",
    ] {
        assert!(printed.contains(shown), "no `{shown}` in {printed}");
    }
    paste_section(&world, PAGE, "## To undo it");
    assert_eq!(world.pins(), [] as [String; 0]);
    assert!(!world.sh("nft list tables").contains("tailnet"));
}

#[test]
fn nobody_on_the_wire_speaks_for_the_tailnet() {
    let Some((world, _tunnel)) = set_up() else { return };
    world.cilmark_ok("policy add veth-web allow ingress from admin udp");
    // So that the reverse path filter has no say, as it has none in IPv6.
    world.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
         ip -n outside addr add 100.101.102.104/32 dev lo
         ip -n outside addr add fd7a:115c:a1e0::6465:6668/128 dev lo nodad");
    let webs = WEB.map(|address| udp(&world, "veth-web", any(address)));
    for (family, web) in webs.iter().enumerate() {
        arrives(&of(&world, "tailscale0", ADMIN[family]), web, WEB[family]);
        is_lost(&of(&world, "outside", ADMIN[family]), web, WEB[family]);
    }
    world.sh("nft flush chain inet only_tailnet prerouting");
    for (family, web) in webs.iter().enumerate() {
        arrives(&of(&world, "outside", ADMIN[family]), web, WEB[family]);
    }
}

#[test]
fn under_snat_a_peer_is_anybody_and_a_stamped_mark_is_changed() {
    let Some((world, _tunnel)) = set_up() else { return };
    let _site = listen(&world, "veth-web", 80);
    let reaches = |family: usize| connects(&world, "tailscale0", ADMIN[family], WEB[family], 80);
    with_snat(&world);
    assert!(!reaches(0) && !reaches(1));
    world.cilmark_ok("policy add veth-web allow ingress from world tcp/80");
    assert!(reaches(0) && reaches(1));
    world.cilmark_ok("policy del veth-web allow ingress from world tcp/80");
    world.sh("nft flush chain ip nat ts-postrouting; nft flush chain ip6 nat ts-postrouting");
    assert!(reaches(0) && reaches(1));
    world.cilmark_ok("attach tailscale0 --keep --stamp-remote --yes");
    assert!(!reaches(0) && !reaches(1));
    // 2816 with 4 in its lowest byte.
    world.cilmark_ok("policy add veth-web allow ingress from 2820 tcp/80");
    assert!(reaches(0) && reaches(1));
}

#[test]
fn identities_with_4_in_their_lowest_byte_leave_as_this_host_and_those_with_8_are_warned_of() {
    let Some((world, _tunnel)) = set_up() else { return };
    with_snat(&world);
    for (identity, seen) in [(1280, WEB), (1284, ["198.51.100.2", "2001:db8:100::2"])] {
        world.cilmark_ok(&format!("attach veth-web --keep --id {identity}"));
        for (family, to) in OUTSIDE.into_iter().enumerate() {
            let outside = udp(&world, "outside", any(to));
            let source = arrives(&udp(&world, "veth-web", any(to)), &outside, to);
            assert_eq!(source.ip().to_string(), seen[family], "{identity}");
        }
    }
    let found = world.cilmark_ok("doctor");
    let collision = |line: &str| line.contains("warning") && line.contains("the mark of 1284");
    assert!(found.lines().any(collision), "{found}");
    let warned = world.cilmark("attach veth-web --keep --id 1288");
    assert!(warned.stderr.contains("5210") && warned.status == Some(0), "{warned:?}");
}

/// Of a flow whose conntrack mark has none of its bits, as of all that workloads send to each other.
#[test]
fn what_older_ones_do_to_established_flows_changes_no_multiple_of_256() {
    let Some((world, _tunnel)) = set_up() else { return };
    for family in ["ip", "ip6"] {
        world.sh(&format!(
            "nft flush chain {family} mangle PREROUTING
             nft add rule {family} mangle PREROUTING ct state established,related \
                 'ct mark & 0x00ff0000 == 0' meta mark set 'meta mark & 0xff00ffff'"
        ));
    }
    world.cilmark_ok("attach veth-db --id 2048 --ip 10.2.0.10,fd00:2::10 --policy enforce");
    for identity in [1280, 1234] {
        world.cilmark_ok(&format!("policy add veth-db allow ingress from {identity} udp"));
        world.cilmark_ok(&format!("attach veth-web --keep --id {identity}"));
        for (family, address) in ["10.2.0.10", "fd00:2::10"].into_iter().enumerate() {
            let (web, database) =
                (udp(&world, "veth-web", any(address)), udp(&world, "veth-db", any(address)));
            let seen = arrives(&web, &database, address);
            assert_eq!(seen.ip().to_string(), WEB[family]);
            database.send_to(b"hello", seen).expect("answer");
            assert_eq!(web.recv(&mut [0; 16]).expect("the answer arrives"), 5);
            if identity == 1280 {
                arrives(&web, &database, address);
            } else {
                is_lost(&web, &database, address);
            }
        }
    }
}
