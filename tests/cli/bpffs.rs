//! Where the pins go, and what lies there.

use std::fs;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::common::World;
use crate::common::process::{Run, cilmark};

#[test]
fn without_bpffs_every_command_that_writes_says_so_and_changes_nothing() {
    let Some(world) = World::without_bpffs() else { return };
    world.veth("red");
    for arguments in ["attach red --id 1234", "ipcache set 10.0.0.1 7", "identity set 300 db"] {
        world.cilmark(arguments).fails(
            1,
            &["/sys/fs/bpf/cilmark is not on a BPF file system", "mount -t bpf bpf /sys/fs/bpf"],
        );
    }
    assert_eq!(fs::read_dir("/sys/fs/bpf").unwrap().count(), 0);
    assert_ne!(statfs("/sys/fs/bpf").unwrap().filesystem_type(), BPF_FS_MAGIC);
    assert!(!world.sh("tc qdisc show dev red").contains("clsact"));
}

#[test]
fn without_bpffs_an_empty_answer_says_that_it_may_be_wrong() {
    const WORDS: &str = "what is attached can't be seen from here";
    let Some(world) = World::without_bpffs() else { return };
    for arguments in ["status", "status --json", "detach --all"] {
        let run = world.cilmark(arguments);
        assert!(run.status == Some(0) && run.stderr.contains(WORDS), "{run:?}");
    }
    world.sh("mount -t bpf bpf /sys/fs/bpf");
    for arguments in ["status", "detach --all"] {
        let run = world.cilmark(arguments);
        assert!(run.status == Some(0) && !run.stderr.contains(WORDS), "{run:?}");
    }
}

#[test]
fn mount_bpffs_mounts_it_and_is_content_if_it_is_mounted() {
    let Some(world) = World::without_bpffs() else { return };
    world.veth("red");
    // The machine's own, below the fresh /sys.
    let before = mounts_of_bpffs();
    world.cilmark_ok("attach red --id 1234 --mount-bpffs");
    assert_eq!(statfs("/sys/fs/bpf").unwrap().filesystem_type(), BPF_FS_MAGIC);
    world.cilmark_ok("attach red --id 1235 --mount-bpffs");
    assert_eq!(mounts_of_bpffs(), before + 1);
    world.cilmark_ok("detach red");
}

fn mounts_of_bpffs() -> usize {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(" /sys/fs/bpf bpf ")).count()
}

#[test]
fn bpffs_elsewhere_is_a_world_of_its_own() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.cilmark_ok("--bpffs /sys/fs/bpf/a/b attach red --id 1234");
    assert!(world.pins().contains(&"a/b/endpoints/1/config".to_owned()));
    assert_eq!(world.cilmark_json("status"), serde_json::json!([]));
    let run: Run = cilmark(&["status", "--json"])
        .env("CILMARK_BPFFS", "/sys/fs/bpf/a/b")
        .output()
        .unwrap()
        .into();
    assert!(run.stdout.contains("\"red\""), "{run:?}");
    let run: Run = cilmark(&["detach", "red"])
        .env("CILMARK_BPFFS", "/sys/fs/bpf/a/b")
        .output()
        .unwrap()
        .into();
    assert_eq!(run.status, Some(0), "{run:?}");
    assert_eq!(world.pins(), ["a"], "the directory that was not ours to make stays");
}

#[test]
fn a_directory_that_bpffs_or_we_cannot_use_is_an_error() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    let attach = |dir: &str| world.cilmark(&format!("attach red --id 7 --bpffs {dir}"));
    attach("/sys/fs/bpf/with.dot").fails(1, &["/sys/fs/bpf/with.dot", "no dot"]);
    attach("relative").fails(2, &["'relative' for '--bpffs <DIR>'", "absolute"]);
    attach("/tmp").fails(1, &["/tmp is not on a BPF file system"]);
    attach("/run/nowhere/cilmark").fails(1, &["file system; attach with --mount-bpffs, or name"]);
    world.sh("mount -t tmpfs none /mnt && touch /mnt/file");
    attach("/mnt/cilmark").fails(1, &["/mnt/cilmark is not on a BPF file system; name another"]);
    assert_eq!(world.pins(), [""; 0]);
}

#[test]
fn a_root_that_somebody_else_made_or_could_change_is_not_used() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    for directory in ["cilmark", "cilmark/endpoints"] {
        world.sh(&format!(
            "mkdir -p /sys/fs/bpf/{directory} && chown 65534 /sys/fs/bpf/{directory}"
        ));
        for arguments in ["attach red --id 300", "ipcache set 10.0.0.1 7", "identity set 300 db"] {
            let at = format!("/sys/fs/bpf/{directory} belongs to user 65534");
            world.cilmark(arguments).fails(1, &[&at, "--bpffs"]);
        }
        world.sh("rm -r /sys/fs/bpf/cilmark");
    }
    world.cilmark_ok("attach red --id 300");
    assert_eq!(world.sh("stat -c %u:%a /sys/fs/bpf/cilmark"), "0:700\n");
}

#[test]
fn an_endpoint_has_exactly_these_pins() {
    let Some(world) = World::new() else { return };
    world.veth("red");
    world.veth("blue");
    let shared = [
        "cilmark",
        "cilmark/cm_devices",
        "cilmark/cm_endpoint_net",
        "cilmark/cm_endpoints",
        "cilmark/cm_events",
        "cilmark/cm_generations",
        "cilmark/cm_identities",
        "cilmark/cm_ipcache",
        "cilmark/cm_ipcache_cidr",
        "cilmark/cm_ipcache_idx",
        "cilmark/cm_metrics",
        "cilmark/cm_stats",
        "cilmark/endpoints",
    ];
    let with = |ids: &[u16]| {
        let mut pins: Vec<String> = shared.map(str::to_owned).into();
        for id in ids {
            pins.push(format!("cilmark/endpoints/{id}"));
            pins.extend(
                ["config", "egress", "ingress", "spec"]
                    .map(|pin| format!("cilmark/endpoints/{id}/{pin}")),
            );
        }
        pins.sort();
        pins
    };
    world.cilmark_ok("attach red --id 1234 --endpoint-id 7");
    assert_eq!(world.pins(), with(&[7]));
    world.cilmark_ok("attach blue --id 1235 --hook clsact");
    assert_eq!(world.pins(), with(&[1, 7]));
    world.cilmark_ok("attach red --id 1235");
    assert_eq!(world.pins(), with(&[1, 7]), "replacing leaves nothing more");
    world.cilmark_ok("detach blue");
    assert_eq!(world.pins(), with(&[7]));
}

#[test]
fn files_in_a_directory_that_is_not_on_bpffs_are_left_alone() {
    let Some(world) = World::new() else { return };
    world.sh("mkdir -p /run/netns/files/endpoints/7
         touch /run/netns/files/cm_notes /run/netns/files/endpoints/7/data");
    for command in ["detach --all", "detach id:7", "ipcache del 10.0.0.1", "ipcache flush"] {
        let run = world.cilmark(&format!("--bpffs /run/netns/files {command}"));
        assert_eq!(run.status, Some(1), "{command}: {run:?}");
        assert!(run.stderr.contains("is not on a BPF file system"), "{command}: {run:?}");
    }
    world.sh("test -e /run/netns/files/cm_notes -a -e /run/netns/files/endpoints/7/data");
}
