//! `apply --confirm`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cilmark::kernel::netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

/// What is tried: the NIC's rules, a line, and the identity of workloads.
fn other(files: &Files) {
    let text = FILE.replace("tcp/443", "tcp/444").replace("= 300", "= 301");
    files.write("cilmark.toml", &text.replace("id = \"web\"", "id = \"db\""));
}

/// Processes of ours that are in this namespace.
fn processes() -> Vec<Pid> {
    let own = netns::current().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_cilmark"));
    let is_ours = |process: &Path| {
        fs::metadata(process.join("ns/net")).is_ok_and(|namespace| namespace.ino() == own)
            && fs::read_link(process.join("exe")).is_ok_and(|exe| exe == binary)
    };
    let all = fs::read_dir("/proc").unwrap().map(|process| process.unwrap().path());
    let ours = all.filter(|process| is_ours(process));
    ours.map(|it| Pid::from_raw(it.file_name().unwrap().to_str().unwrap().parse().unwrap()))
        .collect()
}

fn no_clock_runs(world: &World) -> bool {
    let status = world.cilmark_json("status");
    status.as_array().unwrap().iter().all(|line| line["confirm_deadline"].is_null())
}

#[test]
fn rules_go_back_also_if_the_process_is_killed_that_was_to_put_all_back() {
    let Some((world, files, path)) = world() else { return };
    world.cilmark_ok(&format!("apply {path} --yes"));
    let before = state(&world);
    other(&files);
    world.cilmark_ok(&format!("apply {path} --confirm 1s"));
    let left = processes();
    assert_eq!(left.len(), 1);
    kill(left[0], Signal::SIGKILL).unwrap();
    wait_for("the rules go back", || state(&world)["rules"][2] == before["rules"][2]);
    assert_eq!(world.status("eth0")["ingress_policy"], "enforce");
    world.cilmark(&format!("confirm {path}")).fails(1, &["too late"]);
    // Lines and identities stay, which the next one puts right.
    assert_ne!(state(&world)["ipcache"], before["ipcache"]);
    files.write("cilmark.toml", FILE);
    world.cilmark_ok(&format!("apply {path} --yes"));
    for key in ["ipcache", "rules", "names", "status"] {
        assert_eq!(state(&world)[key], before[key]);
    }
}

#[test]
fn a_command_that_is_killed_leaves_no_trial_and_the_next_one_is_for_good() {
    let Some((world, files, path)) = world() else { return };
    world.cilmark_ok(&format!("apply {path} --yes"));
    other(&files);
    let mut steps = Steps::start(&format!("apply {path} --confirm 2s"));
    let rules = || world.cilmark_ok("policy list eth0 --json");
    while steps.go_on() && !rules().contains("tcp/444") {}
    assert!(rules().contains("tcp/444"));
    steps.kill();
    world.cilmark(&format!("confirm {path}")).fails(1, &["too late"]);
    world.cilmark_ok(&format!("apply {path} --yes"));
    assert!(rules().contains("tcp/444") && no_clock_runs(&world));
}

#[test]
fn another_apply_waits_for_the_one_that_is_on_trial() {
    let Some((world, files, path)) = world() else { return };
    world.cilmark_ok(&format!("apply {path} --yes"));
    other(&files);
    world.cilmark_ok(&format!("apply {path} --confirm 100s"));
    for flags in ["--yes", "--confirm 60s", "--yes --prune"] {
        let run = world.cilmark(&format!("apply {path} {flags}"));
        run.fails(1, &["applied with --confirm and waits", "goes back by itself in "]);
    }
    world.cilmark_ok(&format!("confirm {path}"));
    world.cilmark_ok(&format!("apply {path} --yes"));
}

#[test]
fn what_somebody_changes_while_a_file_is_on_trial_stays() {
    let Some((world, files, path)) = world() else { return };
    world.cilmark_ok(&format!("apply {path} --yes"));
    let before = state(&world);
    other(&files);
    world.cilmark_ok(&format!("apply {path} --confirm 3s"));
    world.cilmark_ok("policy add eth0 allow ingress from any udp/9 --yes");
    world.cilmark_ok("ipcache set 203.0.113.0/24 999");
    world.cilmark_ok("detach ve-b");
    let rules = |device: &str| world.cilmark_ok(&format!("policy list {device} --json"));
    wait_for("it goes back", || rules("eth0").contains("tcp/443") && processes().is_empty());
    assert!(rules("eth0").contains("udp/9") && !rules("eth0").contains("tcp/444"));
    assert!(no_clock_runs(&world));
    let line = world.cilmark_json("ipcache get 203.0.113.1");
    assert_eq!(line[0]["identity"], 999, "{line}");
    assert_eq!(world.status("ve-a")["identity"], 1234);
    assert!(world.cilmark("status ve-b").stderr.contains("not attached"));
    files.write("cilmark.toml", FILE);
    world.cilmark_ok(&format!("apply {path} --yes"));
    assert_eq!(state(&world)["ipcache"], before["ipcache"]);
}

#[test]
fn a_nic_that_a_file_takes_over_on_trial_is_a_commands_again() {
    let Some((world, files, _)) = world() else { return };
    world.cilmark_ok("attach eth0 --role netdev --policy enforce --failsafe tcp/2222 --yes");
    world.cilmark_ok("policy add eth0 allow ingress from any udp/9 --yes");
    let get = || {
        let mut status = world.status("eth0");
        (status["packets"], status["adopt"]) = (Value::Null, Value::Null);
        (status, world.cilmark_json("policy list eth0"), world.cilmark_ok("export --all"))
    };
    let before = get();
    let text = "version = 1\n[[endpoint]]\ndevice = \"eth0\"\nrole = \"netdev\"\npolicy = \"audit\"\n\
                rules = [\"allow ingress from any tcp/443\"]\n";
    let path = files.write("taken.toml", text);
    world.cilmark_ok(&format!("apply {path} --confirm 1s"));
    assert_eq!(world.status("eth0")["ingress_policy"], "audit");
    wait_for("it goes back", || get() == before);
    assert_eq!(world.cilmark_ok("export"), "version = 1\n");
}

#[test]
fn a_trial_ends_with_the_boot_and_with_what_is_pinned() {
    let Some((world, files, path)) = world() else { return };
    world.cilmark_ok(&format!("apply {path} --yes"));
    other(&files);
    world.cilmark_ok(&format!("apply {path} --confirm 100s"));
    // As if the machine had gone down.
    processes().into_iter().for_each(|it| kill(it, Signal::SIGKILL).unwrap());
    world.cilmark_ok("detach --all");
    world.sh("rm -rf /sys/fs/bpf/cilmark");
    let trial = format!("{path}.trial");
    let text = fs::read_to_string(&trial).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(&trial, text.replace(boot.trim(), "another")).unwrap();
    world.cilmark(&format!("apply {path} --boot")).fails(1, &["nobody has confirmed it"]);
    world.cilmark(&format!("confirm {path}")).fails(1, &["too late"]);
    let rules = world.cilmark_ok("policy list eth0 --json");
    assert!(rules.contains("tcp/443"), "{rules}");
    // Removed while it waits: nothing comes back.
    world.cilmark_ok(&format!("apply {path} --confirm 1s"));
    world.sh("rm -rf /sys/fs/bpf/cilmark");
    wait_for("the process ends", || processes().is_empty());
    assert_eq!(world.pins(), [""; 0]);
    world.cilmark_ok(&format!("apply {path} --yes"));
}
