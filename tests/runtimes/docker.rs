//! Docker, whose runtime is cilmark's wrapper of runc: `cilmark oci install --docker` makes it so.

use super::{Host, Workload};
use crate::common::pages::blocks;
use crate::common::process::Run;
use crate::common::world::wait_for;

/// A Docker daemon, with an image `workload`.
pub struct Docker {
    pub host: Host,
}

impl Docker {
    pub fn new() -> Option<Docker> {
        Docker::with("")
    }

    fn with(options: &str) -> Option<Docker> {
        let docker = Docker { host: Host::new()? };
        docker.host.sh(&format!("cilmark oci install --docker {options}"));
        docker.start();
        docker.host.sh("tar -C /var/host/image -c . | docker import - workload");
        Some(docker)
    }

    pub fn start(&self) {
        self.host.daemon("dockerd", "docker info");
    }

    /// Starts a workload with these labels.
    pub fn run_with(&self, workload: &Workload, labels: &[(&str, String)], options: &str) -> Run {
        let labels: String =
            labels.iter().map(|(key, value)| format!("--label '{key}={value}' ")).collect();
        let Workload { name, .. } = workload;
        let command = workload.command();
        self.host
            .try_sh(&format!("docker run -d --name {name} {labels} {options} workload {command}"))
    }

    /// The same with all its labels; the container's id.
    pub fn run(&self, workload: &Workload, options: &str) -> String {
        let run = self.run_with(workload, &workload.keys(), options);
        assert_eq!(run.status, Some(0), "{run:?}");
        run.stdout.trim().to_owned()
    }

    /// Ends a workload, of which nothing may be left then.
    fn remove(&self, workload: &Workload) {
        self.host.sh(&format!("docker rm -f {}", workload.name));
        self.host.nothing_is_left();
    }
}

#[test]
fn the_first_datagram_is_stamped_and_policed() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let id = docker.run(&workload, "");
    workload.is_stamped_and_policed(&docker.host);
    docker.host.one_endpoint_of(&id);
    docker.remove(&workload);
}

#[test]
fn a_container_that_names_the_runtime_is_stamped_beside_one_that_does_not() {
    let Some(docker) = Docker::with("--not-default") else { return };
    let (named, other) = (Workload::new(1), Workload::new(2));
    docker.run(&other, "");
    other.is_left_alone(&docker.host);
    let id = docker.run(&named, "--runtime cilmark");
    named.is_stamped_and_policed(&docker.host);
    docker.host.one_endpoint_of(&id);
    docker.remove(&named);
}

#[test]
fn the_first_ipv6_datagram_is_stamped_and_policed() {
    let Some(docker) = Docker::new() else { return };
    docker.host.sh("docker network create --ipv6 --subnet fd00:40::/64 six");
    let workload = Workload::by_ipv6(1);
    docker.run(&workload, "--network six");
    workload.is_stamped_and_policed(&docker.host);
    docker.remove(&workload);
}

#[test]
fn a_container_without_labels_is_left_alone() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let run = docker.run_with(&workload, &[], "");
    assert_eq!(run.status, Some(0), "{run:?}");
    workload.is_left_alone(&docker.host);
    docker.host.nothing_is_left();
}

#[test]
fn a_label_that_it_does_not_know_stops_the_start_and_is_named() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let mut labels = workload.keys().to_vec();
    labels.push(("cilmark.polcy", "enforce".to_owned()));
    let run = docker.run_with(&workload, &labels, "");
    assert_ne!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("cilmark.polcy"), "{run:?}");
    assert_eq!(docker.host.seen(), [], "of a container that did not start");
    docker.host.nothing_is_left();
}

#[test]
fn a_container_without_labels_gets_what_the_file_says_of_births() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    // What belongs to the identity counts for whoever gets it.
    let file = format!(
        "version = 1\n[identities]\nweb = {}\n[births]\ndefault = \"web\"\npolicy = \"enforce\"\n\
         [rules]\nweb = [\"{}\"]\n",
        workload.identity,
        workload.rule()
    );
    docker.host.write("/etc/cilmark/cilmark.toml", &file);
    docker.host.sh("cilmark apply --yes");
    let run = docker.run_with(&workload, &[], "");
    assert_eq!(run.status, Some(0), "{run:?}");
    workload.is_stamped_and_policed(&docker.host);
    docker.host.sh(&format!("docker rm -f {}", workload.name));
    wait_for("the endpoint to go", || docker.host.status().is_empty());
}

#[test]
fn containers_that_share_a_network_have_one_identity() {
    let Some(docker) = Docker::new() else { return };
    let (first, second) = (Workload::new(1), Workload::new(2));
    let id = docker.run(&first, "");
    first.is_stamped_and_policed(&docker.host);
    let shared = format!("--network container:{}", first.name);
    let run = docker.run_with(&second, &second.keys(), &shared);
    assert_ne!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains(&second.identity.to_string()), "{run:?}");

    docker.host.sh(&format!("docker rm -f {}", second.name));
    let same = Workload { name: "same".to_owned(), ..first.clone() };
    docker.run(&same, &shared);
    docker.host.sh(&format!("docker rm -f {}", same.name));
    docker.host.forget();
    first.goes_on_stamped_and_policed(&docker.host);
    docker.host.one_endpoint_of(&id);
    docker.remove(&first);
}

#[test]
fn an_identity_on_the_network_of_the_host_stops_the_start() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let run = docker.run_with(&workload, &workload.keys(), "--network host");
    assert_ne!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("host's network"), "{run:?}");
    docker.host.nothing_is_left();
}

#[test]
fn each_network_of_a_container_is_attached() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    docker.host.sh("docker network create other");
    let [id, rules, policy] =
        workload.keys().map(|(key, value)| format!("--label '{key}={value}'"));
    let (name, command) = (&workload.name, workload.command());
    docker.host.sh(&format!(
        "docker create --name {name} {id} {rules} {policy} workload {command}
         docker network connect other {name}
         docker start {name}"
    ));
    workload.is_stamped_and_policed(&docker.host);
    assert_eq!(docker.host.status().len(), 2, "one on each network");
    docker.remove(&workload);
}

#[test]
fn it_is_stamped_again_after_a_restart() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let id = docker.run(&workload, "");
    workload.is_stamped_and_policed(&docker.host);
    docker.host.forget();
    docker.host.sh(&format!("docker restart -t 0 {}", workload.name));
    workload.is_stamped_and_policed(&docker.host);
    docker.host.one_endpoint_of(&id);
    docker.remove(&workload);
}

/// Kills what `victims` prints the numbers of; Docker starts the container again.
fn is_stamped_again_after_killing(victims: impl Fn(&str) -> String) {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let id = docker.run(&workload, "--restart always");
    workload.is_stamped_and_policed(&docker.host);
    docker.host.forget();
    docker.host.kill(&victims(&id));
    workload.is_stamped_and_policed(&docker.host);
    docker.host.one_endpoint_of(&id);
    docker.remove(&workload);
}

#[test]
fn it_is_stamped_again_after_it_was_killed() {
    is_stamped_again_after_killing(|id| format!("docker inspect -f '{{{{.State.Pid}}}}' {id}"));
}

#[test]
fn it_is_stamped_again_after_its_shim_was_killed() {
    is_stamped_again_after_killing(|id| format!("pgrep -f '[c]ontainerd-shim.* -id {id}'"));
}

#[test]
fn it_is_stamped_again_after_both_were_killed() {
    is_stamped_again_after_killing(|id| {
        format!(
            "pgrep -f '[c]ontainerd-shim.* -id {id}'; docker inspect -f '{{{{.State.Pid}}}}' {id}"
        )
    });
}

/// The next daemon ends what the one before it has started, and starts it again.
#[test]
fn it_is_stamped_again_after_the_daemon_was_killed() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let id = docker.run(&workload, "--restart always");
    workload.is_stamped_and_policed(&docker.host);
    docker.host.kill("pgrep -x dockerd; pgrep -x containerd");
    docker.host.sh("rm -f /run/docker.pid");
    docker.host.forget();
    docker.start();
    workload.is_stamped_and_policed(&docker.host);
    docker.host.one_endpoint_of(&id);
    docker.remove(&workload);
}

/// Docker tells nobody of a network that a running container is connected to.
#[test]
fn a_network_that_it_was_moved_to_is_attached_at_the_next_start() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let name = &workload.name;
    let id = docker.run(&workload, "");
    workload.is_stamped_and_policed(&docker.host);
    docker.host.sh(&format!(
        "docker network create other
         docker network disconnect bridge {name}
         docker network connect other {name}
         docker stop -t 0 {name}"
    ));
    docker.host.forget();
    docker.host.sh(&format!("docker start {name}"));
    workload.is_stamped_and_policed(&docker.host);
    docker.host.one_endpoint_of(&id);
    docker.host.sh(&format!("docker network disconnect other {name}"));
    docker.remove(&workload);
}

#[test]
fn it_is_stamped_again_after_a_reboot() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let id = docker.run(&workload, "--restart always");
    workload.is_stamped_and_policed(&docker.host);
    docker.host.forget();
    docker.host.reboot();
    docker.start();
    workload.is_stamped_and_policed(&docker.host);
    docker.host.one_endpoint_of(&id);
    docker.remove(&workload);
}

/// Docker gives a container the labels of its image.
#[test]
fn an_image_does_not_say_the_identity_of_its_containers() {
    let Some(docker) = Docker::new() else { return };
    let workload = Workload::new(1);
    let Workload { name, identity, .. } = &workload;
    docker.host.sh(&format!(
        "tar -C /var/host/image -c . | docker import --change 'LABEL cilmark.id={identity}' - labelled"
    ));
    let run = |labels: &str| {
        let command = workload.command();
        docker.host.try_sh(&format!("docker run -d --name {name} {labels} labelled {command}"))
    };
    let refused = run("");
    assert!(refused.status != Some(0) && refused.stderr.contains("its image says"), "{refused:?}");
    docker.remove(&workload);
    let other = run("--label cilmark.id=777");
    assert_eq!(other.status, Some(0), "{other:?}");
    docker.host.one_endpoint_of(other.stdout.trim());
    assert_eq!(docker.host.status()[0]["identity"], 777);
    docker.remove(&workload);
}

#[test]
fn two_containers_may_do_one_thing_each_by_pasting() {
    let Some(host) = Host::new() else { return };
    host.daemon("dockerd", "docker info");
    // What a registry would give.
    host.sh("mkdir -p /var/host/image/etc && echo web >/var/host/image/etc/hostname
         for name in cat httpd ping timeout wget; do ln -sf busybox /var/host/image/bin/$name; done
         tar -C /var/host/image -c . | docker import - busybox");
    let page = include_str!("../../README.md");
    let blocks = blocks(page, "## Two containers, each allowed one thing", "sh");
    let [start, _] = blocks.as_slice() else { panic!("{blocks:?}") };
    // Nothing of systemd runs there.
    assert!(start.contains("systemctl reload docker"), "{start}");
    let status = host.sh(&start.replace("systemctl reload docker", "pkill -HUP -x dockerd"));
    for word in ["1001", "1002", "enforce/enforce", "id-from=label", "rules-from=label"] {
        assert!(status.contains(word), "no {word} in {status}");
    }
    let asked = host.sh("docker exec client wget -qO- http://web/hostname");
    assert_eq!(asked.trim(), host.sh("docker exec web cat /etc/hostname").trim());
    // Of wget 128 and SIGTERM: nobody has answered, nor refused.
    for (denied, status) in [
        ("docker exec client ping -c1 -W1 web", 1),
        ("docker exec client timeout 1 wget -qO- http://web:81/", 143),
        ("docker exec web ping -c1 -W1 client", 1),
    ] {
        let run = host.try_sh(denied);
        assert_eq!(run.status, Some(status), "{denied}: {run:?}");
    }
    let monitor = host.try_sh("timeout 1 cilmark monitor").stdout;
    let hint = "to allow it: cilmark policy add";
    assert!(monitor.contains("icmp/8") && monitor.contains(hint), "{monitor}");
    host.sh("docker rm -f web client; docker network rm app");
    host.nothing_is_left();
}

#[test]
fn undoing_the_installation_leaves_the_daemon_as_it_was() {
    let Some(host) = Host::new() else { return };
    let before = "{\n  \"bip\": \"172.31.0.1/16\"\n}\n";
    host.write("/etc/docker/daemon.json", before);
    host.sh("cilmark oci install --docker");
    let file = || host.sh("cat /etc/docker/daemon.json");
    assert!(file().contains("172.31.0.1"), "{}", file());
    assert_eq!(host.sh("jq -r '.[\"default-runtime\"]' /etc/docker/daemon.json").trim(), "cilmark");
    host.sh("cilmark oci install --docker --undo");
    assert_eq!(host.sh("jq -c . /etc/docker/daemon.json").trim(), "{\"bip\":\"172.31.0.1/16\"}");
}
