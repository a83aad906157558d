//! docs/recipes/router-with-proxy.md.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::{OUTSIDE, paste_section, twice_is_undone, uplink};
use crate::common::World;
use crate::common::pages::{blocks, paste};
use crate::common::process::PATIENCE;
use crate::common::traffic::{Connection, HOST, cannot_connect, listen};
use crate::common::world::wait_for;

const PAGE: &str = include_str!("../../docs/recipes/router-with-proxy.md");
const LOG: &str = "/run/web-proxy.log";

/// The proxy of the page, which outlives the shell that starts it.
struct Proxy<'a>(&'a World);

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        self.0.try_sh("kill -9 \"$(cat /run/web-proxy.pid)\"");
    }
}

/// A router with the workload of the page and two more.
fn router() -> Option<World> {
    let world = World::new()?;
    // What the page writes goes with the test.
    world.sh("mount -t tmpfs sbin /usr/local/sbin
         mount -t tmpfs run /run && mkdir /run/netns && mount -t tmpfs netns /run/netns");
    uplink(&world);
    for (name, number) in [("veth-web", 1), ("veth-db", 2), ("veth-other", 3)] {
        world.workload(name, number);
    }
    world.sh("ip netns exec outside sysctl -qw net.ipv4.tcp_fwmark_accept=0");
    Some(world)
}

fn log() -> String {
    fs::read_to_string(LOG).expect("the proxy's log")
}

/// The other end hears of it: a connection that the proxy can't make must not make the test wait.
fn open(world: &World, server: &TcpListener, address: &str) -> Connection {
    let ip = address.parse().expect("an address");
    let port = server.local_addr().expect("an address").port();
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(ip, port), PATIENCE);
    let client = world.inside("veth-web", connect).expect("connect");
    let mut accepted = None;
    server.set_nonblocking(true).expect("set");
    wait_for("the proxy's connection", || {
        accepted = server.accept().ok().map(|(server, _)| server);
        accepted.is_some()
    });
    let server = accepted.expect("a connection");
    server.set_nonblocking(false).expect("set");
    Connection { client, server }
}

#[test]
fn web_traffic_goes_through_the_proxy_and_counts_by_identity() {
    let Some(world) = router() else { return };
    let proxy = Proxy(&world);
    paste_section(&world, PAGE, "## Set it up");
    wait_for("the proxy", || world.sh("ss -Htln sport = 3129").contains("3129"));
    assert_eq!(world.status("eth0")["egress_policy"], "enforce");
    let [web, other_port] = [80, 8080].map(|port| listen(&world, "outside", port));
    for (address, own, router) in
        [(OUTSIDE[0], "10.1.0.10", "198.51.100.2"), (OUTSIDE[1], "fd00:1::10", "2001:db8:100::2")]
    {
        // Through the proxy: the server is asked by the router, and the workload answered by the server's address.
        let asked = open(&world, &web, address);
        asked.works();
        let peer = asked.server.peer_addr().expect("an address").ip().to_canonical();
        assert_eq!(peer.to_string(), router);
        assert_eq!(asked.client.peer_addr().expect("an address").ip().to_string(), address);
        let line = |ip: &str| if ip.contains(':') { ip.to_owned() } else { format!("::ffff:{ip}") };
        let logged = format!("{} asks {} as 1234", line(own), line(address));
        wait_for("the log", || log().contains(&logged));
        // No rule, no proxy.
        cannot_connect(&world, "veth-web", address, 8080);
        // Nobody whose identity is not known passes for a workload, and this host may ask nobody.
        cannot_connect(&world, HOST, address, 80);
    }
    drop(other_port);
    let rules = world.cilmark_json("policy list veth-web");
    assert_eq!(rules[0]["rule"], "allow egress to world tcp/80");
    assert!(rules[0]["packets"].as_u64().expect("a number") > 4, "{rules}");
    for block in blocks(PAGE, "## What you see", "sh") {
        let seen = paste(&world, &block);
        assert!(seen.contains("asks ::ffff:198.51.100.1 as 1234"), "{seen}");
    }
    // The rule goes, and so does what goes through the proxy.
    world.cilmark_ok("policy del veth-web allow egress to world tcp/80");
    for address in OUTSIDE {
        cannot_connect(&world, "veth-web", address, 80);
    }
    paste_section(&world, PAGE, "## To undo it");
    wait_for("the end of the proxy", || world.sh("ss -Htln sport = 3129").is_empty());
    assert_eq!(world.pins(), [] as [String; 0]);
    assert_eq!(world.sh("nft list ruleset"), "");
    assert!(!world.sh("ip rule; ip -6 rule").contains("0x1000"));
    drop(proxy);
}

#[test]
fn between_workloads_nothing_is_redirected_and_a_proxy_that_marks_nothing_is_the_host() {
    let Some(world) = router() else { return };
    let _proxy = Proxy(&world);
    paste_section(&world, PAGE, "## Set it up");
    wait_for("the proxy", || world.sh("ss -Htln sport = 3129").contains("3129"));
    // Another workload: it has an identity and rules of its own.
    world.cilmark_ok("attach veth-db --id 1235 --ip 10.2.0.10,fd00:2::10 --policy enforce");
    world.cilmark_ok("policy add veth-db allow ingress from web tcp/80");
    world.cilmark_ok("policy add veth-web allow egress to 1235 tcp/80");
    let database = listen(&world, "veth-db", 80);
    for (address, own) in [("10.2.0.10", "10.1.0.10"), ("fd00:2::10", "fd00:1::10")] {
        let asked = open(&world, &database, address);
        asked.works();
        let peer = asked.server.peer_addr().expect("an address").ip().to_canonical();
        assert_eq!(peer.to_string(), own);
        cannot_connect(&world, HOST, address, 80);
    }
    assert_eq!(log(), "");
    // A workload without an identity gets to the proxy, whose connection to the server then is this host's.
    let _web = listen(&world, "outside", 80);
    let ip = OUTSIDE[0].parse().expect("an address");
    let connect = || TcpStream::connect(SocketAddr::new(ip, 80));
    let client = world.inside("veth-other", connect).expect("the proxy answers");
    wait_for("the log", || log().contains("::ffff:10.3.0.10 asks"));
    client.set_nonblocking(true).expect("set");
    assert!((&client).read(&mut [0]).is_err(), "nothing comes from the server");
    assert!(world.status("eth0")["drops"].as_u64().expect("a number") > 0);
}

#[test]
fn pasted_twice_it_is_undone_all_the_same() {
    let Some(world) = router() else { return };
    let _proxy = Proxy(&world);
    twice_is_undone(&world, PAGE, &["## Set it up"]);
}
