//! On a healthy host nothing is found.

use super::{Findings, attached, doctor, doctor_as};
use crate::common::World;
use crate::common::process::Run;
use crate::common::world::wait_for;

/// A host with a NIC that enforces, a workload, names and lines of the ipcache.
fn host() -> Option<World> {
    let world = World::new()?;
    world.workload("red", 1);
    world.sh("ip netns add wire
         ip link add eth0 type veth peer name eth0 netns wire
         ip addr add 192.0.2.2/24 dev eth0 && ip addr add 2001:db8::2/64 dev eth0 nodad
         ip link set eth0 up && ip -n wire link set eth0 up
         ip route add default via 192.0.2.1 && ip -6 route add default via 2001:db8::1");
    world.cilmark_ok("identity set 300 web");
    world.cilmark_ok("identity set 500 office");
    world.cilmark_ok("ipcache set 198.51.100.0/24 office");
    world.cilmark_ok("ipcache set 203.0.113.7 501");
    world.cilmark_ok("attach eth0 --policy audit");
    world.cilmark_ok("policy add eth0 allow ingress from any tcp/443 allow egress to any");
    world.cilmark_ok("attach eth0 --policy enforce --yes");
    world.cilmark_ok("attach red --id web --ip 10.1.0.10 --ip fd00:1::10 --policy enforce");
    world.cilmark_ok("policy add red allow ingress from world tcp/80 allow egress to any");
    world.cilmark_ok("policy add @web allow ingress from office tcp/9100");
    Some(world)
}

#[test]
fn a_healthy_host_has_no_warning_and_a_line_of_each_part() {
    let Some(world) = host() else { return };
    let _sshd = world.spawn("socat TCP-LISTEN:22,fork,reuseaddr -");
    wait_for("the server", || !world.sh("ss -Hlnt").is_empty());
    let found = doctor(&world);
    assert_eq!((found.status, found.bad()), (Some(0), vec![]));
    let checks = found.checks();
    let of_parts = [
        "capabilities bpf tcx jit bpffs pins limits",
        "stale moved interrupted confirmation rules proof forwarding ssh",
        "hooks devices mark",
        "ipcache addresses names nics flows policies",
    ];
    for check in of_parts.iter().flat_map(|it| it.split(' ')).chain(["first enforcement"]) {
        assert!(checks.contains(check), "{check} in {checks:?}");
    }
    found.is_fine("first enforcement");
    for namespace in ["red", "wire"] {
        let found = doctor_as(&world, &format!("--netns {namespace}"));
        assert_eq!((found.status, found.bad()), (Some(0), vec![]), "{namespace}");
    }
}

#[test]
fn what_is_not_bad_enough_is_left_out_and_counted() {
    let Some(world) = attached("red --id 300 --policy enforce") else { return };
    let found = doctor(&world);
    assert_eq!(found.bad().len(), 1, "{:?}", found.bad());
    let run = world.cilmark("doctor --level warning");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(matches!(lines[..], [_, line] if line.starts_with("warning  red")), "{run:?}");
    let counts = format!("0 problems, 1 warning, {} ok\n", found.count() - 1);
    assert_eq!((run.status, &run.stderr), (Some(0), &counts));
    let run = world.cilmark("doctor --level warning --json");
    assert_eq!(Findings::read(run.status, &run.stdout).bad(), found.bad());
    world.sh("rm -f /sys/fs/bpf/cilmark/endpoints/1/*gress; tc qdisc del dev red clsact || true");
    let run = world.cilmark("doctor --level problem --json");
    let found = Findings::read(run.status, &run.stdout);
    assert!(found.bad().len() == found.count() && found.count() > 0, "{run:?}");
    assert_eq!(run.status, Some(1));
}

#[test]
fn people_and_programs_read_the_same() {
    let Some(world) = host() else { return };
    let found = doctor(&world);
    let run = world.cilmark("doctor");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!((run.status, lines.len()), (Some(0), found.count() + 1), "{run:?}");
    assert!(lines[1..].iter().all(|line| line.starts_with("ok ")), "{run:?}");
    world.sh("ip link del red");
    let warned = world.cilmark("doctor").stdout;
    let line = warned.lines().find(|line| line.starts_with("warning")).expect("a warning");
    assert!(line.contains(" stale ") && line.contains("; `cilmark detach id:"), "{line}");
}

#[test]
fn nothing_is_changed_by_it() {
    let Some(world) = host() else { return };
    let state = || {
        let devices = world.sh("ls /sys/class/net; cat /proc/modules 2>/dev/null || true");
        // Without what counts packets, of which the kernel sends some by itself.
        let commands = ["status red --spec", "status eth0 --spec", "ipcache list", "identity list"];
        let listed = commands.map(|command| world.cilmark_ok(command));
        (world.pins(), devices, listed)
    };
    let before = state();
    doctor(&world);
    assert_eq!(state(), before);
}

#[test]
fn who_has_no_rights_hears_that_and_what_could_be_found_out() {
    let Some(world) = host() else { return };
    let run: Run = world.cilmark_of_a_user(&["doctor", "--json"]).output().unwrap().into();
    let found = Findings::read(run.status, &run.stdout);
    assert_eq!((found.status, run.stderr.as_str()), (Some(1), ""));
    for check in ["capabilities", "endpoints"] {
        let lines = found.of(check);
        assert!(lines.iter().any(|line| line.ends_with("run it as root")), "{lines:?}");
    }
    found.is_fine("limits");
}
