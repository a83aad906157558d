//! Two workloads with rules, and a router between them.

use serde_json::Value;

use super::red_and_blue;
use crate::common::World;
use crate::common::traffic::{
    Connection, any, arrives, cannot_connect, is_lost, is_refused, is_unanswered, listen, ping, udp,
};
use crate::common::transfer::Transfer;

const RED: [&str; 2] = ["10.1.0.10", "fd00:1::10"];
const BLUE: [&str; 2] = ["10.2.0.10", "fd00:2::10"];

/// Both with a policy; each rule is preceded by its device.
fn policed(mode: &str, rules: &[&str]) -> Option<World> {
    let world = red_and_blue(&format!("--policy {mode}"))?;
    for rule in rules {
        world.cilmark_ok(&format!("policy add {rule}"));
    }
    Some(world)
}

fn drops(world: &World) -> [u64; 2] {
    ["red", "blue"].map(|device| world.status(device)["drops"].as_u64().unwrap())
}

#[test]
fn without_rules_nothing_passes() {
    let Some(world) = policed("enforce", &[]) else { return };
    let servers = [listen(&world, "red", 80), listen(&world, "blue", 80)];
    for (from, to, addresses) in [("red", "blue", BLUE), ("blue", "red", RED)] {
        for address in addresses {
            cannot_connect(&world, from, address, 80);
            is_unanswered(&world, from, address);
            let (sender, receiver) =
                (udp(&world, from, any(address)), udp(&world, to, any(address)));
            is_lost(&sender, &receiver, address);
        }
    }
    assert!(drops(&world).iter().all(|drops| *drops >= 6), "{:?}", drops(&world));
    drop(servers);
}

#[test]
fn what_a_rule_allows_passes_with_its_replies_and_nothing_else_does() {
    let l4 = ["tcp/80", "udp/53", "icmp/8", "icmp6/128"];
    let sent = l4.map(|l4| format!("allow egress to 199472 {l4}")).join(" ");
    let received = l4.map(|l4| format!("allow ingress from 1234 {l4}")).join(" ");
    let rules = [format!("red {sent}"), format!("blue {received}")];
    let Some(world) = policed("enforce", &rules.each_ref().map(String::as_str)) else { return };
    let (open, _closed) = (listen(&world, "blue", 80), listen(&world, "blue", 81));
    let _other_way = listen(&world, "red", 80);
    for (here, address) in RED.iter().zip(BLUE) {
        let before = drops(&world);
        Connection::open(&world, "red", &open, address).works();
        ping(&world, "red", &format!("-s 4000 {address}"));
        let red = udp(&world, "red", any(address));
        let blue = udp(&world, "blue", &any(address).replace(":0", ":53"));
        arrives(&red, &blue, address);
        arrives(&blue, &red, here);
        assert_eq!(drops(&world), before, "{address}");
        cannot_connect(&world, "red", address, 81);
        is_lost(&red, &udp(&world, "blue", any(address)), address);
        // The other way round the same rules say nothing.
        cannot_connect(&world, "blue", here, 80);
        is_unanswered(&world, "blue", here);
        is_lost(&blue, &udp(&world, "red", any(address)), here);
    }
}

#[test]
fn a_deny_beats_every_allow() {
    let Some(world) = policed(
        "enforce",
        &[
            "red allow egress to any",
            "blue allow ingress from any",
            "blue allow ingress from 1234 tcp/80",
            "blue deny ingress from any tcp/80-90",
        ],
    ) else {
        return;
    };
    let (_denied, open) = (listen(&world, "blue", 80), listen(&world, "blue", 8080));
    for address in BLUE {
        cannot_connect(&world, "red", address, 80);
        Connection::open(&world, "red", &open, address).works();
    }
    world.cilmark_ok("policy add red deny egress to 199472 tcp");
    for address in BLUE {
        cannot_connect(&world, "red", address, 8080);
        ping(&world, "red", address);
    }
}

#[test]
fn a_permission_to_send_is_not_the_neighbours_permission_to_receive() {
    let Some(world) = policed("enforce", &["red allow egress to any"]) else { return };
    let server = listen(&world, "blue", 80);
    for address in BLUE {
        cannot_connect(&world, "red", address, 80);
        is_unanswered(&world, "red", address);
    }
    assert_eq!(drops(&world)[0], 0, "red may send");
    world.cilmark_ok("policy flush red");
    world.cilmark_ok("policy add blue allow ingress from 1234");
    let of_blue = drops(&world)[1];
    for address in BLUE {
        cannot_connect(&world, "red", address, 80);
        is_unanswered(&world, "red", address);
    }
    assert_eq!(drops(&world)[1], of_blue, "blue may receive");
    world.cilmark_ok("policy add red allow egress to 199472");
    for address in BLUE {
        Connection::open(&world, "red", &server, address).works();
    }
}

#[test]
fn errors_about_an_allowed_flow_come_back() {
    let Some(world) =
        policed("enforce", &["red allow egress to 199472", "blue allow ingress from 1234 udp"])
    else {
        return;
    };
    for address in BLUE {
        is_refused(&udp(&world, "red", any(address)), address, 9);
        // The router answers instead of blue.
        let hops = world.inside("red", || world.try_sh(&format!("ping -c 1 -t 1 -W 5 {address}")));
        let told = String::from_utf8(hops.stdout).unwrap();
        assert!(
            ["Time to live exceeded", "Hop limit"].iter().any(|word| told.contains(word)),
            "{told}"
        );
    }
    world.cilmark_ok("policy add red deny egress to 199472 udp");
    for address in BLUE {
        let red = udp(&world, "red", any(address));
        red.connect((address, 9)).unwrap();
        let before = drops(&world)[0];
        let _ = red.send(b"hello");
        assert_eq!(drops(&world)[0], before + 1, "nobody was asked, so nobody refuses");
    }
}

#[test]
fn removing_a_rule_cuts_a_running_transfer_at_either_end() {
    for (address, rule) in RED.iter().zip([
        ["red allow ingress from 199472 tcp/5001", "blue allow egress to 1234 tcp/5001"],
        ["blue allow egress to 1234 tcp/5001", "red allow ingress from 199472 tcp/5001"],
    ]) {
        let claim = move || {
            let Some(world) = policed("enforce", &rule) else { return };
            let server = listen(&world, "red", 5001);
            let open = || Connection::open(&world, "blue", &server, address);
            let transfers = [Transfer::upload(open()), Transfer::download(open())];
            transfers.iter().for_each(Transfer::goes_on);
            world.cilmark_ok(&format!("policy del {}", rule[0]));
            transfers.iter().for_each(Transfer::stands_still);
            cannot_connect(&world, "blue", address, 5001);
            world.cilmark_ok(&format!("policy add {}", rule[0]));
            transfers.iter().for_each(Transfer::goes_on);
            transfers.into_iter().for_each(Transfer::ends_complete);
        };
        std::thread::spawn(claim).join().unwrap_or_else(|_| panic!("without {}", rule[0]));
    }
}

#[test]
fn audit_lets_everything_pass_and_tells_of_it() {
    let Some(world) = policed("audit", &[]) else { return };
    let server = listen(&world, "blue", 80);
    for address in BLUE {
        let monitor = world.start("monitor --json");
        Connection::open(&world, "red", &server, address).works();
        let (red, blue) = (udp(&world, "red", any(address)), udp(&world, "blue", any(address)));
        arrives(&red, &blue, address);
        ping(&world, "red", address);
        let echo = if address.contains(':') { "icmp6/128" } else { "icmp/8" };
        for protocol in ["tcp", "udp", echo] {
            for program in ["from_container", "to_container"] {
                let wanted = [program, protocol].map(|word| format!("\"{word}\""));
                let line = monitor.stdout_line(|line| {
                    wanted.iter().all(|word| line.contains(word)) && line.contains(address)
                });
                let line: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(
                    (&line["audited"], &line["reason"]["code"]),
                    (&true.into(), &133.into())
                );
                assert_eq!(line["source_identity"], 1234, "{line}");
            }
        }
    }
    assert_eq!(drops(&world), [0, 0]);
}
