//! `cilmark cluster` becomes `cilmark-sync cluster`: here with a stand-in that tells how it was called.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::common::World;
use crate::common::process::Run;

const STAND_IN: &str = "#!/bin/sh
printf '%s\\n' \"$@\" >/mnt/called
stat -Lc %i /proc/self/ns/net >/mnt/namespace
ulimit -Sn >/mnt/descriptors
echo out; echo err >&2; exit 7
";

/// Where cilmark alone is.
const ALONE: &str = "/mnt/alone";

fn world() -> Option<World> {
    let world = World::new()?;
    let binary = env!("CARGO_BIN_EXE_cilmark");
    world.sh(&format!(
        "mount -t tmpfs none /mnt && mkdir {ALONE} /mnt/path && touch {ALONE}/cilmark &&
         mount --bind {binary} {ALONE}/cilmark"
    ));
    Some(world)
}

fn put(directory: &str) {
    let path = Path::new(directory).join("cilmark-sync");
    fs::write(&path, STAND_IN).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(arguments: &[&str]) -> Run {
    command().args(arguments).output().unwrap().into()
}

fn command() -> Command {
    let mut command = Command::new(format!("{ALONE}/cilmark"));
    command.env_clear().env("PATH", "/mnt/path:/usr/bin:/bin");
    command
}

fn called() -> Vec<String> {
    fs::read_to_string("/mnt/called").expect("it was called").lines().map(str::to_owned).collect()
}

#[test]
fn it_becomes_the_other_program_with_all_that_was_given() {
    let Some(_world) = world() else { return };
    put(ALONE);
    for (given, passed) in [
        ("cluster", "--bpffs /sys/fs/bpf/cilmark cluster"),
        ("cluster status", "--bpffs /sys/fs/bpf/cilmark cluster status"),
        ("cluster --help", "--bpffs /sys/fs/bpf/cilmark cluster --help"),
        ("cluster init -h", "--bpffs /sys/fs/bpf/cilmark cluster init -h"),
        (
            "--json -vv --bpffs /x cluster list c1",
            "--bpffs /x --json --verbose --verbose cluster list c1",
        ),
        (
            "cluster list --stale --json --bpffs /x -v --config /c",
            "--bpffs /sys/fs/bpf/cilmark cluster list --stale --json --bpffs /x -v --config /c",
        ),
        ("cluster sweep -- --x", "--bpffs /sys/fs/bpf/cilmark cluster sweep -- --x"),
    ] {
        let run = run(&given.split(' ').collect::<Vec<_>>());
        let seen = (run.status, run.stdout.as_str(), run.stderr.as_str());
        assert_eq!(seen, (Some(7), "out\n", "err\n"), "{given}");
        assert_eq!(called(), passed.split(' ').collect::<Vec<_>>(), "{given}");
    }
}

#[test]
fn arguments_are_bytes() {
    let Some(_world) = world() else { return };
    put(ALONE);
    let odd = [OsStr::from_bytes(b"a\xffb"), OsStr::new("ä b"), OsStr::new("")];
    let output = command().args(["cluster", "sweep"]).args(odd).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let called = fs::read("/mnt/called").unwrap();
    assert!(called.ends_with(b"\nsweep\na\xffb\n\xc3\xa4 b\n\n"), "{called:?}");
}

#[test]
fn it_runs_in_the_namespace_and_with_the_limits_of_the_caller() {
    let Some(world) = world() else { return };
    put(ALONE);
    world.sh("ip netns add other");
    let other = fs::metadata("/run/netns/other").unwrap().ino();
    let limited = format!("ulimit -Sn 123; exec {ALONE}/cilmark --netns other cluster status");
    assert_eq!(world.try_sh(&limited).status.code(), Some(7));
    let of = |file: &str| fs::read_to_string(file).unwrap().trim().parse::<u64>().unwrap();
    assert_eq!((of("/mnt/namespace"), of("/mnt/descriptors")), (other, 123));
}

#[test]
fn the_program_beside_it_comes_before_one_in_path() {
    let Some(_world) = world() else { return };
    put("/mnt/path");
    assert_eq!(run(&["cluster", "status"]).status, Some(7));
    fs::write(format!("{ALONE}/cilmark-sync"), "no program").unwrap();
    assert_eq!(run(&["cluster", "status"]).status, Some(7));
    fs::write(format!("{ALONE}/cilmark-sync"), "#!/bin/sh\nexit 8\n").unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(format!("{ALONE}/cilmark-sync"), mode).unwrap();
    assert_eq!(run(&["cluster", "status"]).status, Some(8));
}

#[test]
fn without_the_other_program_it_says_what_to_install() {
    let Some(_world) = world() else { return };
    let words = ["cilmark-sync is neither beside /mnt/alone/cilmark nor in PATH", "install it"];
    run(&["cluster", "status"]).fails(1, &words);
}

#[test]
fn it_answers_for_lines_that_are_to_be_completed() {
    let Some(_world) = world() else { return };
    let line = "cilmark --bpffs /x cluster list e";
    let ask = ["completions", "bash", "--", line, " :"];
    let none = run(&ask);
    let said = (none.status, none.stdout.as_str(), none.stderr.as_str());
    assert_eq!(said, (Some(0), "", ""), "where it is not installed");
    put(ALONE);
    let asked = run(&ask);
    assert_eq!((asked.stdout.as_str(), asked.stderr.as_str()), ("out\n", ""));
    assert_eq!(called(), ["--bpffs", "/x", "completions", "bash", "--", line, " :"]);
}

#[test]
fn it_prints_the_pages_of_clusters() {
    let Some(_world) = world() else { return };
    run(&["man", "cluster", "init"]).fails(1, &["cilmark-sync is neither beside"]);
    put(ALONE);
    assert_eq!(run(&["man", "cluster", "init"]).stdout, "out\n");
    assert_eq!(called(), ["man", "cluster", "init"]);
    assert!(run(&["man", "cluster"]).stdout.contains("cilmark\\-cluster\\-init"), "its own");
}
