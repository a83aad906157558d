//! LXC, whose network scripts are `cilmark hook lxc`. The keys are comments of the container's configuration.

use super::{Host, Workload};
use crate::common::world::wait_for;

fn host_with_bridge() -> Option<Host> {
    let host = Host::new()?;
    host.sh("ip link add lxcbr0 type bridge; ip addr add 10.70.0.1/24 dev lxcbr0; ip link set lxcbr0 up");
    Some(host)
}

/// Writes a container's configuration, with these keys.
fn define(host: &Host, workload: &Workload, keys: &[(&str, String)]) {
    let Workload { name, .. } = workload;
    let keys: String = keys.iter().map(|(key, value)| format!("# {key} = {value}\n")).collect();
    let config = format!(
        "{keys}
lxc.uts.name = {name}
lxc.rootfs.path = dir:/var/lib/lxc/{name}/rootfs
lxc.apparmor.profile = unconfined
lxc.init.cmd = {}
lxc.hook.version = 1
lxc.net.0.type = veth
lxc.net.0.link = lxcbr0
lxc.net.0.flags = up
lxc.net.0.name = eth0
lxc.net.0.ipv4.address = 10.70.0.10/24
lxc.net.0.ipv4.gateway = 10.70.0.1
lxc.net.0.script.up = /usr/bin/cilmark hook lxc
lxc.net.0.script.down = /usr/bin/cilmark hook lxc
",
        workload.command()
    );
    host.write(&format!("/var/lib/lxc/{name}/config"), &config);
    host.sh(&format!("cp -a /var/host/image /var/lib/lxc/{name}/rootfs"));
}

fn start(host: &Host, Workload { name, .. }: &Workload) {
    host.sh(&format!("lxc-start -n {name} -l DEBUG -o /var/host/log/lxc"));
}

fn stop(host: &Host, Workload { name, .. }: &Workload) {
    host.sh(&format!("lxc-stop -k -n {name}"));
}

fn is_stopped(host: &Host, Workload { name, .. }: &Workload) -> bool {
    host.sh(&format!("lxc-info -n {name} -s")).contains("STOPPED")
}

#[test]
fn the_first_datagram_is_stamped_and_policed() {
    let Some(host) = host_with_bridge() else { return };
    let workload = Workload::new(1);
    define(&host, &workload, &workload.keys());
    for _start_and_restart in 0..2 {
        host.forget();
        start(&host, &workload);
        workload.is_stamped_and_policed(&host);
        host.one_endpoint_of(&workload.name);
        stop(&host, &workload);
        host.nothing_is_left();
    }
}

#[test]
fn a_container_without_keys_is_left_alone() {
    let Some(host) = host_with_bridge() else { return };
    let workload = Workload::new(1);
    define(&host, &workload, &[]);
    start(&host, &workload);
    workload.is_left_alone(&host);
    host.nothing_is_left();
    stop(&host, &workload);
}

#[test]
fn a_key_that_it_does_not_know_stops_the_start_and_is_named_in_the_log() {
    let Some(host) = host_with_bridge() else { return };
    let workload = Workload::new(1);
    let mut keys = workload.keys().to_vec();
    keys.push(("cilmark.polcy", "enforce".to_owned()));
    define(&host, &workload, &keys);
    let run = host.try_sh(&format!("lxc-start -n {} -l DEBUG -o /var/host/log/lxc", workload.name));
    assert_ne!(run.status, Some(0), "{run:?}");
    let log = host.sh("cat /var/host/log/lxc");
    assert!(log.contains("cilmark.polcy"), "{log}");
    assert_eq!(host.seen(), [], "of a container that did not start");
    host.nothing_is_left();
}

#[test]
fn nothing_is_left_after_it_was_killed() {
    let Some(host) = host_with_bridge() else { return };
    let workload = Workload::new(1);
    define(&host, &workload, &workload.keys());
    start(&host, &workload);
    workload.is_stamped_and_policed(&host);
    host.kill(&format!("lxc-info -n {} -p -H", workload.name));
    wait_for("its end", || is_stopped(&host, &workload));
    host.nothing_is_left();
}

/// Nobody calls a script then. The next start finds what the last one has left.
#[test]
fn it_is_stamped_again_after_its_monitor_was_killed() {
    let Some(host) = host_with_bridge() else { return };
    let workload = Workload::new(1);
    define(&host, &workload, &workload.keys());
    start(&host, &workload);
    workload.is_stamped_and_policed(&host);
    let Workload { name, .. } = &workload;
    host.kill(&format!("pgrep -f '[l]xc monitor.* {name}'; lxc-info -n {name} -p -H"));
    wait_for("its end", || is_stopped(&host, &workload));
    host.forget();
    start(&host, &workload);
    workload.is_stamped_and_policed(&host);
    host.one_endpoint_of(name);
    stop(&host, &workload);
    host.nothing_is_left();
}

#[test]
fn it_is_stamped_again_after_a_reboot() {
    let Some(host) = host_with_bridge() else { return };
    let workload = Workload::new(1);
    define(&host, &workload, &workload.keys());
    start(&host, &workload);
    workload.is_stamped_and_policed(&host);
    host.reboot();
    host.sh("ip link add lxcbr0 type bridge; ip addr add 10.70.0.1/24 dev lxcbr0; ip link set lxcbr0 up");
    host.forget();
    start(&host, &workload);
    workload.is_stamped_and_policed(&host);
    host.one_endpoint_of(&workload.name);
    stop(&host, &workload);
    host.nothing_is_left();
}
