//! Many containers at once, and what a start costs.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::docker::Docker;
use super::podman::Podman;
use super::{Host, Workload};

const AT_ONCE: usize = 10;
/// How often a start is measured.
const STARTS: u32 = 15;

/// Runs an action for each of them at once.
fn for_each(workloads: &[Workload], action: impl Fn(&Workload) + Sync) {
    thread::scope(|scope| {
        let action = &action;
        for workload in workloads {
            scope.spawn(move || action(workload));
        }
    });
}

/// Starts and ends so many, some at once. The next ones get the addresses, and the names of devices, of the last ones.
fn each_has_its_own_identity(
    count: u32,
    host: &Host,
    start: impl Fn(&Workload) + Sync,
    end: impl Fn(&Workload) + Sync,
) {
    let workloads: Vec<Workload> = (0..count).map(Workload::new).collect();
    for wave in workloads.chunks(AT_ONCE) {
        host.forget();
        for_each(wave, &start);
        for workload in wave {
            workload.is_stamped_and_policed(host);
        }
        assert_eq!(host.status().len(), wave.len());
        for_each(wave, &end);
        host.nothing_is_left();
    }
}

#[test]
fn each_of_a_hundred_has_its_own_identity_and_leaves_nothing() {
    let Some(docker) = Docker::new() else { return };
    let start = |workload: &Workload| drop(docker.run(workload, ""));
    let end =
        |Workload { name, .. }: &Workload| drop(docker.host.sh(&format!("docker rm -f {name}")));
    each_has_its_own_identity(100, &docker.host, start, end);
}

/// netavark calls its devices veth0, veth1 and so on, and takes each name again as soon as it is free.
#[test]
fn each_of_forty_that_share_the_names_of_their_devices_has_its_own_identity() {
    let Some(podman) = Podman::with_hooks() else { return };
    // netavark lets its bridge take the lowest address of its ports: whoever has asked for it before another one joins
    // sends to nobody. It keeps one that somebody sets, and is there as long as it has a port.
    podman.host.sh("podman run -d workload /bin/sleep 9999
         ip link set podman0 address 02:00:5e:00:53:01");
    let start = |workload: &Workload| drop(podman.run(workload, ""));
    let end = |Workload { name, .. }: &Workload| {
        drop(podman.host.sh(&format!("podman rm -f -t 0 {name}")))
    };
    each_has_its_own_identity(40, &podman.host, start, end);
}

/// Docker starts them all at once when it starts.
#[test]
fn each_has_its_own_identity_again_after_a_reboot() {
    let Some(docker) = Docker::new() else { return };
    let workloads: Vec<Workload> = (0..40).map(Workload::new).collect();
    for wave in workloads.chunks(AT_ONCE) {
        for_each(wave, |workload| drop(docker.run(workload, "--restart always")));
    }
    docker.host.forget();
    docker.host.reboot();
    docker.start();
    for workload in &workloads {
        workload.is_stamped_and_policed(&docker.host);
    }
    assert_eq!(docker.host.status().len(), workloads.len());
}

/// Prints medians, of a debug build: `cargo test --release` measures what users have. What is ours of a start is what
/// the hook takes longer than `cilmark attach`, and what the runtime takes longer than runc, which Docker calls to create
/// and to start.
#[test]
fn what_a_start_costs() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let run = |labels: &[(&str, String)], options: &str| {
        let run = docker.run_with(&workload, labels, options);
        assert_eq!(run.status, Some(0), "{run:?}");
    };
    let remove = || drop(docker.host.sh(&format!("docker rm -f {}", workload.name)));
    let whole = |options: &str| median(|| run(&workload.keys(), options), remove);
    let (by_runc, by_cilmark) = (whole("--runtime runc"), whole(""));

    // Beside another one: the first makes the maps that all share.
    docker.run(&Workload::new(2), "");
    let id = docker.run(&workload, "");
    let inspect = format!("docker inspect -f '{{{{.State.Pid}}}}' {id}");
    let pid = docker.host.sh(&inspect).trim().to_owned();
    let tasks = "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby";
    let state = format!(
        r#"{{"ociVersion": "1.0.2", "id": "{id}", "pid": {pid}, "status": "created", "bundle": "{tasks}/{id}"}}"#
    );
    docker.host.write("/var/host/state", &state);
    let forget = || drop(docker.host.try_sh(&format!("cilmark detach --owner {id}")));
    let time = |command: &str| {
        forget();
        median(|| drop(docker.host.sh(command)), forget)
    };
    let hook = time("cilmark oci createRuntime </var/host/state");
    let (identity, rule) = (workload.identity, workload.rule());
    let attach = time(&format!(
        "cilmark attach --pid {pid} --id {identity} --policy enforce --rule '{rule}' --owner {id}"
    ));
    let wrapper = time("cilmark oci runtime -- --version");
    let runc = time("runc --version");

    let own = hook.saturating_sub(attach) + 2 * wrapper.saturating_sub(runc);
    let line = format!(
        "docker run takes {by_runc:.0?} by runc and {by_cilmark:.0?} by cilmark; the hook {hook:.1?}, of which `cilmark \
         attach` {attach:.1?}; a call of the runtime {wrapper:.1?}, of which runc {runc:.1?}: {own:.1?} of a start are \
         ours\n"
    );
    std::io::stderr().write_all(line.as_bytes()).expect("write to stderr");
}

/// The median time of what is done so often, and undone after each time.
fn median(action: impl Fn(), undo: impl Fn()) -> Duration {
    let mut times: Vec<Duration> = (0..STARTS)
        .map(|_| {
            let begin = Instant::now();
            action();
            let taken = begin.elapsed();
            undo();
            taken
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}
