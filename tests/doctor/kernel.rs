//! What the kernel and the root are found to be.

use cilmark::kernel::sys;
use nix::sys::utsname::uname;

use super::{Findings, attached, doctor, doctor_as};
use crate::common::World;
use crate::common::process::Run;

#[test]
fn a_kernel_that_does_what_it_should_is_ok_in_each_respect() {
    let Some(world) = World::new() else { return };
    let found = doctor(&world);
    assert_eq!((found.status, found.bad()), (Some(0), vec![]));
    for check in ["capabilities", "bpf", "jit", "bpffs", "pins", "limits"] {
        found.is_fine(check);
    }
    let tcx = if sys::has_tcx() { "has TCX" } else { "has no TCX" };
    found.has("tcx", "ok", &[tcx]);
}

#[test]
fn whether_routes_can_be_asked_for_by_mark_is_what_the_version_says() {
    let Some(world) = World::new() else { return };
    let release = uname().expect("uname").release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|it: char| !it.is_ascii_digit()).map_while(|it| it.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let words = if version >= (6, 10) { "programs can ask" } else { "programs can't ask" };
    doctor(&world).has("marked routes", "ok", &[words]);
}

#[test]
fn an_ordinary_user_is_told_which_rights_are_missing() {
    let Some(world) = World::new() else { return };
    let run: Run = world.cilmark_of_a_user(&["doctor", "--json"]).output().unwrap().into();
    let found = Findings::read(run.status, &run.stdout);
    found.has(
        "capabilities",
        "problem",
        &["lacks CAP_NET_ADMIN and CAP_SYS_ADMIN", "run it as root"],
    );
    assert_eq!(found.status, Some(1));
    for check in ["endpoints", "first enforcement", "hooks", "devices", "maps"] {
        let fine = found.of(check).into_iter().filter(|line| line.starts_with("ok "));
        assert_eq!(fine.count(), 0, "{check} could not be read");
    }
    // With one of them the other is missing.
    let net_admin = "setpriv --bounding-set -all,+net_admin --inh-caps -all,+net_admin";
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let output = world.try_sh(&format!("{net_admin} {binary} doctor --json"));
    let run: Run = output.into();
    Findings::read(run.status, &run.stdout).has(
        "capabilities",
        "problem",
        &["lacks CAP_SYS_ADMIN:"],
    );
}

#[test]
fn a_missing_bpffs_is_a_problem_until_it_is_mounted() {
    let Some(world) = World::without_bpffs() else { return };
    let found = doctor(&world);
    let mount = "mount -t bpf bpf /sys/fs/bpf";
    found.has(
        "bpffs",
        "problem",
        &["/sys/fs/bpf/cilmark is not on a BPF file system", mount, "--netns"],
    );
    assert_eq!(found.status, Some(1));
    world.sh(mount);
    doctor(&world).is_fine("bpffs");
}

#[test]
fn a_root_of_somebody_else_is_a_problem() {
    let Some(world) = World::new() else { return };
    world.sh("mkdir -p /sys/fs/bpf/cilmark/endpoints && chown 65534 /sys/fs/bpf/cilmark");
    doctor(&world).has("bpffs", "problem", &["belongs to user 65534", "remove it"]);
    doctor_as(&world, "--bpffs /sys/fs/bpf/other").is_fine("bpffs");
}

#[test]
fn pins_that_this_version_does_not_know_are_a_problem() {
    let Some(world) = attached("red --id 300") else { return };
    doctor(&world).is_fine("pins");
    world.sh("bpftool map create /sys/fs/bpf/cilmark/cm_later type hash key 4 value 4 entries 1 name cm_later");
    doctor(&world).has(
        "pins",
        "problem",
        &["cm_later is nothing that this cilmark knows", "use that one"],
    );
    world.sh("rm /sys/fs/bpf/cilmark/cm_later");
    doctor(&world).is_fine("pins");
}

#[test]
fn a_pin_that_was_removed_is_named_and_comes_back_as_the_cure_says() {
    let Some(world) = attached("red --id 300") else { return };
    world.sh("rm /sys/fs/bpf/cilmark/cm_ipcache");
    let before = world.pins();
    doctor(&world).has("pins", "problem", &["cm_ipcache is gone", "`cilmark attach red --keep`"]);
    assert_eq!(world.pins(), before, "doctor changes nothing");
    world.cilmark_ok("attach red --keep");
    doctor(&world).is_fine("pins");
}

#[test]
fn too_few_descriptors_for_a_change_are_a_problem() {
    let Some(world) = World::new() else { return };
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let run: Run = world.try_sh(&format!("ulimit -n 40; {binary} doctor --json")).into();
    Findings::read(run.status, &run.stdout).has(
        "limits",
        "problem",
        &["64 descriptors", "`ulimit -n`"],
    );
}

#[test]
fn what_a_file_has_attached_and_no_unit_brings_back_is_warned_of() {
    let Some(world) = World::new() else { return };
    world.sh("mount -t tmpfs tmpfs /etc && mount -t tmpfs tmpfs /run
         mkdir -p /run/systemd/system /etc/cilmark /etc/systemd/system/sysinit.target.wants");
    world.veth("red");
    world.sh("printf 'version = 1\\n[[endpoint]]\\ndevice = \"red\"\\nid = 300\\n' >/etc/cilmark/cilmark.toml");
    assert_eq!(doctor(&world).of("boot"), Vec::<String>::new(), "nothing is attached");
    world.cilmark_ok("attach red --id 300");
    assert_eq!(doctor(&world).of("boot"), Vec::<String>::new(), "and not by the file");
    world.cilmark_ok("detach red");
    world.cilmark_ok("apply --yes /etc/cilmark/cilmark.toml");
    let missing = ["not installed", "as red", "systemctl enable cilmark.service", "docs/boot.md"];
    doctor(&world).has("boot", "warning", &missing);
    // As `systemctl enable` does it; the link alone starts nothing.
    let unit = "/etc/systemd/system/cilmark.service";
    world.sh(&format!("ln -s {unit} /etc/systemd/system/sysinit.target.wants/"));
    doctor(&world).has("boot", "warning", &missing);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/cilmark.service");
    world.sh(&format!("cp {source} {unit}"));
    doctor(&world).has("boot", "ok", &["at boot"]);
    // As `systemctl mask` does it.
    world.sh(&format!("ln -sf /dev/null {unit}"));
    doctor(&world).has("boot", "warning", &["masked", "`systemctl unmask cilmark.service"]);
    world.sh("rm /etc/systemd/system/sysinit.target.wants/cilmark.service");
    world.sh(&format!("rm {unit}; cp {source} {unit}"));
    doctor(&world).has("boot", "warning", &["not enabled", "`systemctl enable cilmark.service`"]);
}

#[test]
fn who_reads_only_the_beginning_ends_it_in_peace() {
    let Some(world) = World::new() else { return };
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let output = world.try_sh(&format!("{binary} doctor 2>&1 | head -n 1; {binary} doctor | true"));
    let run: Run = output.into();
    assert!(run.status == Some(0) && run.stdout.contains("CHECK"), "{run:?}");
    assert!(!run.stderr.contains("panicked") && run.stderr.is_empty(), "{run:?}");
}
