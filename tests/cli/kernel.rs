//! What is asked of the kernel, and what is said about it.

use libbpf_rs::btf::Btf;

use crate::common::World;
use crate::common::machine::{hooks, skip};

#[test]
fn tcx_is_refused_by_name_where_the_kernel_has_none() {
    let Some(world) = World::new() else { return };
    if hooks().contains(&"tcx") {
        return skip("this kernel has TCX");
    }
    world.veth("red");
    world
        .cilmark("attach red --id 300 --hook tcx")
        .fails(1, &["this kernel has no TCX (Linux 6.6 has)", "--hook clsact"]);
    assert_eq!(world.pins(), [""; 0]);
    world.cilmark_ok("attach red --id 300");
    assert_eq!(world.status("red")["hook"], "clsact");
}

#[test]
fn status_tells_which_hook_is_in_use() {
    let Some(world) = World::new() else { return };
    for (device, choice, hook) in [
        ("red", "", hooks()[0]),
        ("blue", "--hook auto", hooks()[0]),
        ("green", "--hook clsact", "clsact"),
    ] {
        world.veth(device);
        world.cilmark_ok(&format!("attach {device} --id 300 {choice}"));
        assert_eq!(world.status(device)["hook"], hook);
        let table = world.cilmark_ok(&format!("status {device}"));
        assert!(table.lines().nth(1).unwrap().contains(&format!(" {hook} ")), "{table}");
    }
}

#[test]
fn nothing_needs_the_types_of_the_kernel() {
    let Some(world) = World::new() else { return };
    // Where the kernel was built with them, this is the first place where libbpf looks for them.
    world.sh("! test -d /sys/kernel/btf || mount -t tmpfs tmpfs /sys/kernel/btf");
    assert!(Btf::from_vmlinux().is_err(), "they are somewhere else");
    world.workload("red", 1);
    world.veth("blue");
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10 --policy enforce --local-delivery");
    world.cilmark_ok("attach blue --role netdev --policy enforce --yes");
    world.cilmark_ok("policy add red allow egress to any tcp/80");
    let told = world.cilmark("explain red from --src 10.1.0.10 --dst 10.0.0.2 --dport 80");
    assert!(told.stdout.contains("10.0.0.2"), "{told:?}");
    for listing in ["status", "ipcache list", "policy list red", "conntrack list", "metrics"] {
        world.cilmark_ok(listing);
    }
    world.cilmark_ok("detach --all");
}
