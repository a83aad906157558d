//! docs/recipes/moving-from-ufw.md.

use super::{OUTSIDE, paste_on, paste_section, uplink};
use crate::common::World;
use crate::common::machine::skip;
use crate::common::pages::{blocks, paste_all};
use crate::common::traffic::{Connection, HOST, listen, ping};

const PAGE: &str = include_str!("../../docs/recipes/moving-from-ufw.md");

/// This host's addresses at eth0.
const OWN: [&str; 2] = ["198.51.100.2", "2001:db8:100::2"];

/// A host with an /etc and a /run of its own, which ufw writes to.
fn host() -> Option<World> {
    let world = World::new()?;
    if !world.try_sh("command -v ufw").status.success() {
        skip("no ufw here; scripts/deps test installs it");
        return None;
    }
    world.sh("mount -t tmpfs run /run
         mkdir /run/netns /run/etc /run/work
         mount -t tmpfs netns /run/netns
         mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work etc /etc");
    uplink(&world);
    world.sh("ip -n outside addr add 192.0.2.7/32 dev lo
         ip -n outside addr add 203.0.113.9/32 dev lo
         ip -n outside addr add 2001:db8:5::7/128 dev lo");
    Some(world)
}

/// Whether somebody outside gets a connection from one of his addresses.
fn connects(world: &World, from: &str, to: &str, port: u16) -> bool {
    let nc = format!("ip netns exec outside timeout 0.1 nc -z -s {from} {to} {port}");
    world.try_sh(&nc).status.success()
}

/// What the page promises at each of its steps, whoever it is that filters.
fn is_closed_but_for_the_rules(world: &World) {
    for (own, outside) in OWN.into_iter().zip(OUTSIDE) {
        for port in [22, 443] {
            assert!(connects(world, outside, own, port), "{port} at {own}");
        }
        for port in [5432, 8080] {
            assert!(!connects(world, outside, own, port), "{port} at {own}");
        }
        ping(world, "outside", own);
    }
    assert!(connects(world, "192.0.2.7", OWN[0], 5432));
    assert!(connects(world, "2001:db8:5::7", OWN[1], 5432));
    assert!(!connects(world, "203.0.113.9", OWN[0], 443));
}

#[test]
fn ufw_goes_and_what_it_did_stays_at_each_step() {
    let Some(world) = host() else { return };
    let servers = [22, 443, 5432, 8080].map(|port| listen(&world, HOST, port));
    // One that a rule allows, and one that none does, from before ufw.
    let stays = Connection::open(&world, "outside", &servers[1], OWN[0]);
    let forgotten = Connection::open(&world, "outside", &servers[3], OWN[0]);
    paste_section(&world, PAGE, "## What is there");
    is_closed_but_for_the_rules(&world);
    let tested = paste_section(&world, PAGE, "## Say it to cilmark");
    assert!(tested.contains("8080") && !tested.contains(" 443 "), "{tested}");
    assert_eq!(world.status("eth0")["ingress_policy"], "audit");
    paste_section(&world, PAGE, "## Enforce on trial");
    let status = world.status("eth0");
    assert_eq!(status["ingress_policy"], "enforce");
    assert!(status["confirm_deadline"].is_null(), "{status}");
    is_closed_but_for_the_rules(&world);
    paste_section(&world, PAGE, "## Take ufw away");
    assert!(world.sh("ufw status").contains("inactive"));
    is_closed_but_for_the_rules(&world);
    let web = listen(&world, "outside", 80);
    Connection::open(&world, HOST, &web, OUTSIDE[0]).works();
    stays.works();
    forgotten.works();
    let seen = paste_section(&world, PAGE, "## What you see");
    assert!(seen.contains("deny ingress from banned"), "{seen}");
    let rules = world.cilmark_json("policy list eth0");
    assert!(rules[0]["packets"].as_u64().expect("a number") > 0, "{rules}");
    paste_section(&world, PAGE, "## To undo it");
    assert_eq!(world.pins(), [] as [String; 0]);
    is_closed_but_for_the_rules(&world);
    assert!(world.sh("ufw status").contains("Status: active"));
}

#[test]
fn one_of_them_enforces_also_where_a_step_was_left_out_or_fails() {
    let Some(world) = host() else { return };
    let servers = [22, 443, 5432, 8080].map(|port| listen(&world, HOST, port));
    paste_section(&world, PAGE, "## What is there");
    paste_section(&world, PAGE, "## Say it to cilmark");
    let is_active = || world.sh("ufw status").contains("Status: active");
    // It only audits.
    paste_on(&world, PAGE, "## Take ufw away");
    assert!(is_active());
    // Nobody has confirmed yet.
    let trial = blocks(PAGE, "## Enforce on trial", "sh").remove(0);
    paste_all(&world, &trial);
    assert_eq!(world.status("eth0")["ingress_policy"], "enforce");
    paste_on(&world, PAGE, "## Take ufw away");
    assert!(is_active());
    let confirm = blocks(PAGE, "## Enforce on trial", "sh").remove(1);
    paste_all(&world, &confirm);
    paste_on(&world, PAGE, "## Take ufw away");
    assert!(!is_active());
    // What somebody has done who sees that it works.
    world.sh("mount --bind /bin/false \"$(command -v ufw)\"");
    paste_on(&world, PAGE, "## To undo it");
    assert_eq!(world.status("eth0")["ingress_policy"], "enforce");
    is_closed_but_for_the_rules(&world);
    drop(servers);
}
