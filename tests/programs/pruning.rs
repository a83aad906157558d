//! What an endpoint does not use is not in its programs.

use std::fs;
use std::os::fd::AsRawFd;

use cilmark::kernel::sys::Hook;
use cilmark::model::endpoint::Role;
use cilmark::model::enforcement::Mode;
use cilmark::program::load::{Enforcement, Features};

use super::*;
use crate::common::Fixture;
use crate::common::fixture::Setup;
use crate::common::program::Endpoint;

type Switch = (&'static str, fn(Setup<'_>) -> Setup<'_>);

const FROM_CONTAINER: [Switch; 5] = [
    ("a second IPv4 address", |setup| setup.address(PEER4)),
    ("an IPv6 address", |setup| setup.address(OWN6)),
    ("the ARP responder", |setup| setup.feature(|on| on.arp_responder = true)),
    ("the flow label", |setup| setup.feature(|on| on.flow_label = true)),
    ("local delivery", |setup| setup.feature(|on| on.local_delivery = true)),
];
const TO_CONTAINER: [Switch; 1] =
    [("trusting proxies", |setup| setup.feature(|on| on.trust_proxy = true))];
const FROM_NETDEV: [Switch; 3] = [
    ("stamping remotes", |setup| setup.feature(|on| on.stamp_remote = true)),
    ("trusting labels", |setup| setup.feature(trust_labels)),
    ("local delivery", |setup| setup.feature(|on| on.local_delivery = true)),
];
const TO_NETDEV: [Switch; 2] = [
    ("an identity of its own", |setup| setup.tune(|config| config.identity = ID)),
    ("trusting proxies", |setup| setup.feature(|on| on.trust_proxy = true)),
];

fn trust_labels(on: &mut Features) {
    on.trust_flow_label = Some("fd00::/16".parse().expect("a prefix"));
}

fn instructions(setup: Setup<'_>, hook: Hook) -> u32 {
    setup.load().instructions(hook)
}

/// Each switch brings code, and all together at least what each brings.
fn each_brings_its_code(role: Role, hook: Hook, switches: &[Switch]) {
    let Some(fixture) = Fixture::new() else { return };
    let plain = || match role {
        // Without any it would have to ask whether a source is the host's.
        Role::Container => fixture.container(ID).address(OWN4),
        Role::Netdev => fixture.netdev(1),
    };
    let off = instructions(plain(), hook);
    let all = instructions(switches.iter().fold(plain(), |setup, (_, on)| on(setup)), hook);
    println!("{role} {hook:?}: {off} instructions, {all} with all");
    for (name, switch) in switches {
        let on = instructions(switch(plain()), hook);
        println!("{role} {hook:?}: {on} instructions with {name}");
        assert!(off < on, "{off} instructions without {name}, {on} with it");
        assert!(on <= all, "{on} instructions with {name}, {all} with all");
    }
}

#[test]
fn from_container_has_code_for_what_is_on_only() {
    each_brings_its_code(Role::Container, Hook::Ingress, &FROM_CONTAINER);
}

#[test]
fn to_container_has_code_for_what_is_on_only() {
    each_brings_its_code(Role::Container, Hook::Egress, &TO_CONTAINER);
}

#[test]
fn from_netdev_has_code_for_what_is_on_only() {
    each_brings_its_code(Role::Netdev, Hook::Ingress, &FROM_NETDEV);
}

#[test]
fn to_netdev_has_code_for_what_is_on_only() {
    each_brings_its_code(Role::Netdev, Hook::Egress, &TO_NETDEV);
}

#[test]
fn a_device_without_ethernet_has_no_code_for_it() {
    let Some(fixture) = Fixture::new() else { return };
    for hook in [Hook::Ingress, Hook::Egress] {
        for setup in [Fixture::container, Fixture::netdev] {
            let ethernet = instructions(setup(&fixture, ID), hook);
            let ip = instructions(setup(&fixture, ID).without_ethernet(), hook);
            assert!(ip < ethernet, "{hook:?}: {ip} instructions, {ethernet} with Ethernet");
        }
    }
}

/// What the kernel keeps of a program beside its machine code, in bytes: room for what it was handed.
fn memory(endpoint: &Endpoint<'_>, hook: Hook) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", endpoint.program(hook).as_raw_fd());
    let facts = fs::read_to_string(path).expect("fdinfo");
    let memory = facts.lines().find_map(|line| line.strip_prefix("memlock:"));
    memory.expect("its memory").trim().parse().expect("a number")
}

#[test]
fn a_program_takes_at_most_72_kib_and_12_without_anything() {
    let Some(fixture) = Fixture::new() else { return };
    let enforce =
        Enforcement { ingress: Mode::Enforce, egress: Mode::Enforce, ..Enforcement::default() };
    for role in [Role::Container, Role::Netdev] {
        let plain = || match role {
            // Without any it would have to ask whether a source is the host's.
            Role::Container => fixture.container(ID).address(OWN4),
            Role::Netdev => fixture.netdev(1),
        };
        let (off, switches) =
            (plain().load(), [FROM_CONTAINER.as_slice(), &FROM_NETDEV, &TO_NETDEV]);
        let all = switches.concat().iter().fold(plain(), |setup, (_, on)| on(setup));
        let all = all.policy(enforce.clone()).load();
        for hook in [Hook::Ingress, Hook::Egress] {
            let memory = [memory(&off, hook), memory(&all, hook)];
            println!("{role} {hook:?}: {memory:?} bytes");
            assert!(memory[0] <= 12 << 10 && memory[1] <= 72 << 10, "{role} {hook:?}: {memory:?}");
        }
    }
}
