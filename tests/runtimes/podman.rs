//! Podman, by OCI hooks beside netavark and by CNI plugins.

use super::{Host, Workload};
use crate::common::process::Run;

/// cgroupfs, as nothing here is systemd; no limit, as the machine may keep all controllers to itself.
const CONFIG: &str = r#"
[containers]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
cni_plugin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
"#;

pub struct Podman {
    pub host: Host,
}

impl Podman {
    fn new(backend: &str) -> Option<Podman> {
        let host = Host::new()?;
        let config = format!("{CONFIG}network_backend = \"{backend}\"\n");
        host.write("/etc/containers/containers.conf", &config);
        host.sh("tar -C /var/host/image -c . | podman import - workload");
        Some(Podman { host })
    }

    /// Beside netavark.
    pub fn with_hooks() -> Option<Podman> {
        let podman = Podman::new("netavark")?;
        podman.host.sh("cilmark oci install --podman");
        Some(podman)
    }

    /// With a CNI network for each workload, named like it, since what Podman tells of the container has no annotation.
    fn with_cni(workloads: &[&Workload]) -> Option<Podman> {
        let podman = Podman::new("cni")?;
        podman.host.sh("mkdir -p /opt/cni/bin; cilmark cni install");
        for (number, workload) in workloads.iter().enumerate() {
            let Workload { name, identity, .. } = workload;
            let rule = workload.rule();
            let network = format!(
                r#"{{"cniVersion": "0.4.0", "name": "{name}", "plugins": [
                  {{"type": "bridge", "bridge": "br{number}", "isGateway": true, "ipMasq": true, "ipam":
                    {{"type": "host-local", "routes": [{{"dst": "0.0.0.0/0"}}], "ranges": [[{{"subnet": "10.50.{number}.0/24"}}]]}}}},
                  {{"type": "portmap", "capabilities": {{"portMappings": true}}}},
                  {{"type": "firewall"}},
                  {{"type": "cilmark-cni", "id": "{identity}", "rules": ["{rule}"], "policy": "enforce"}}]}}"#
            );
            podman.host.write(&format!("/etc/cni/net.d/{name}.conflist"), &network);
        }
        Some(podman)
    }

    fn run_with(&self, workload: &Workload, keys: &[(&str, String)], options: &str) -> Run {
        let keys: String =
            keys.iter().map(|(key, value)| format!("--annotation '{key}={value}' ")).collect();
        let Workload { name, .. } = workload;
        let command = workload.command();
        self.host
            .try_sh(&format!("podman run -d --name {name} {keys} {options} workload {command}"))
    }

    /// Starts a workload with its annotations; the container's id.
    pub fn run(&self, workload: &Workload, options: &str) -> String {
        let run = self.run_with(workload, &workload.keys(), options);
        assert_eq!(run.status, Some(0), "{run:?}");
        run.stdout.trim().to_owned()
    }

    /// Starts a workload on its own network.
    fn run_by_cni(&self, workload: &Workload, options: &str) -> String {
        let options = format!("--network {} {options}", workload.name);
        let run = self.run_with(workload, &[], &options);
        assert_eq!(run.status, Some(0), "{run:?}");
        run.stdout.trim().to_owned()
    }

    /// Kills those of a container that these fields name.
    fn kill(&self, id: &str, fields: &[&str]) {
        let fields: String = fields.iter().map(|field| format!("{{{{{field}}}}} ")).collect();
        self.host.kill(&format!("podman inspect -f '{fields}' {id}"));
    }

    /// Ends a workload, of which nothing may be left then.
    fn remove(&self, workload: &Workload) {
        self.host.sh(&format!("podman rm -f -t 0 {}", workload.name));
        self.host.nothing_is_left();
    }
}

#[test]
fn the_first_datagram_is_stamped_and_policed() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let id = podman.run(&workload, "");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.remove(&workload);
}

#[test]
fn the_first_ipv6_datagram_is_stamped_and_policed() {
    let Some(podman) = Podman::with_hooks() else { return };
    podman.host.sh("podman network create --ipv6 --subnet fd00:40::/64 six");
    let workload = Workload::by_ipv6(1);
    podman.run(&workload, "--network six");
    workload.is_stamped_and_policed(&podman.host);
    podman.remove(&workload);
}

#[test]
fn containers_of_a_pod_are_stamped_until_the_last_one_ends() {
    let Some(podman) = Podman::with_hooks() else { return };
    let first = Workload::new(1);
    // Of one identity, since they have one network.
    let second = Workload { name: "second".to_owned(), ..first.clone() };
    podman.host.sh(
        "podman pod create --name pod --share-parent=false --infra-command '/bin/sleep 9999' --infra-image workload",
    );
    podman.run(&first, "--pod pod");
    first.is_stamped_and_policed(&podman.host);
    podman.run(&second, "--pod pod");
    podman.host.sh(&format!("podman rm -f -t 0 {}", first.name));
    podman.host.forget();
    second.goes_on_stamped_and_policed(&podman.host);
    podman.host.sh(&format!("podman rm -f -t 0 {}", second.name));
    podman.host.nothing_is_left();
    podman.host.sh("podman pod rm -f -t 0 pod");
}

/// The network comes after the last hook then.
#[test]
fn an_identity_with_a_user_namespace_stops_the_start_and_says_why() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let run = podman.run_with(&workload, &workload.keys(), "--uidmap 0:100000:5000");
    assert_ne!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("--userns"), "{run:?}");
    assert_eq!(podman.host.seen(), [], "of a container that did not start");
    podman.host.nothing_is_left();
}

/// Podman before 4.5.1 gives a container the annotations of its image.
#[test]
fn an_image_does_not_say_the_identity_of_its_containers() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let Workload { name, identity, .. } = &workload;
    podman.host.sh(&format!(
        "printf 'FROM workload\n' | podman build --annotation cilmark.id={identity} -t annotated -"
    ));
    let command = workload.command();
    let run = podman.host.try_sh(&format!("podman run -d --name {name} annotated {command}"));
    assert!(run.status == Some(0) || run.stderr.contains("its image says"), "{run:?}");
    podman.host.nothing_is_left();
    podman.host.sh(&format!("podman rm -f -t 0 {name}"));
}

#[test]
fn a_container_without_annotations_is_left_alone() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let run = podman.run_with(&workload, &[], "");
    assert_eq!(run.status, Some(0), "{run:?}");
    workload.is_left_alone(&podman.host);
    podman.host.nothing_is_left();
}

#[test]
fn an_annotation_that_it_does_not_know_stops_the_start_and_is_named() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let mut keys = workload.keys().to_vec();
    keys.push(("cilmark.polcy", "enforce".to_owned()));
    let run = podman.run_with(&workload, &keys, "");
    assert_ne!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("cilmark.polcy"), "{run:?}");
    assert_eq!(podman.host.seen(), [], "of a container that did not start");
    podman.host.nothing_is_left();
}

#[test]
fn it_is_stamped_again_after_a_restart() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let id = podman.run(&workload, "");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.forget();
    podman.host.sh(&format!("podman restart -t 0 {}", workload.name));
    workload.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.remove(&workload);
}

#[test]
fn it_is_stamped_again_after_it_was_killed() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let id = podman.run(&workload, "--restart always");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.forget();
    podman.kill(&id, &[".State.Pid"]);
    workload.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.remove(&workload);
}

/// conmon is what Podman has for a shim. Without it Podman calls no hook any more: what is left goes when the next
/// workload starts.
#[test]
fn the_next_start_removes_what_is_left_after_its_monitor_was_killed() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let id = podman.run(&workload, "");
    workload.is_stamped_and_policed(&podman.host);
    podman.kill(&id, &[".State.ConmonPid", ".State.Pid"]);
    podman.host.sh(&format!("podman rm -f -t 0 {}", workload.name));
    let next = Workload::new(2);
    let id = podman.run(&next, "");
    next.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.remove(&next);
}

/// netavark tells nobody of a network that a running container is connected to.
#[test]
fn a_network_that_it_was_moved_to_is_attached_at_the_next_start() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let name = &workload.name;
    podman.host.sh("podman network create first; podman network create second");
    let id = podman.run(&workload, "--network first");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.sh(&format!(
        "podman network disconnect first {name}
         podman network connect second {name}
         podman stop -t 0 {name}"
    ));
    podman.host.forget();
    podman.host.sh(&format!("podman start {name}"));
    workload.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.host.sh(&format!("podman network disconnect second {name}"));
    podman.remove(&workload);
}

#[test]
fn it_is_stamped_again_after_a_reboot() {
    let Some(podman) = Podman::with_hooks() else { return };
    let workload = Workload::new(1);
    let id = podman.run(&workload, "--restart always");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.forget();
    podman.host.reboot();
    // As podman-restart.service does.
    podman.host.sh("podman start --all --filter restart-policy=always");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.remove(&workload);
}

#[test]
fn the_first_datagram_is_stamped_and_policed_by_cni() {
    let workload = Workload::new(1);
    let Some(podman) = Podman::with_cni(&[&workload]) else { return };
    let id = podman.run_by_cni(&workload, "");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.host.forget();
    podman.host.sh(&format!("podman restart -t 0 {}", workload.name));
    workload.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.remove(&workload);
}

/// Not before it is connected: the bridge's plugin comes before cilmark's, and the workload runs already.
#[test]
fn it_is_stamped_on_a_cni_network_that_it_was_moved_to() {
    let workload = Workload::new(1);
    let moved = Workload { name: "other".to_owned(), identity: 501, ..workload.clone() };
    let Some(podman) = Podman::with_cni(&[&workload, &moved]) else { return };
    let Workload { name, .. } = &workload;
    let id = podman.run_by_cni(&workload, "");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.sh(&format!("podman network disconnect {name} {name}"));
    podman.host.nothing_is_left();
    podman.host.sh(&format!("podman network connect {} {name}", moved.name));
    podman.host.forget();
    moved.goes_on_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.remove(&workload);
}

#[test]
fn it_is_stamped_by_cni_again_after_it_was_killed() {
    let workload = Workload::new(1);
    let Some(podman) = Podman::with_cni(&[&workload]) else { return };
    let id = podman.run_by_cni(&workload, "--restart always");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.forget();
    podman.kill(&id, &[".State.Pid"]);
    workload.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.remove(&workload);
}

#[test]
fn it_is_stamped_by_cni_again_after_a_reboot() {
    let workload = Workload::new(1);
    let Some(podman) = Podman::with_cni(&[&workload]) else { return };
    let id = podman.run_by_cni(&workload, "--restart always");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.forget();
    podman.host.reboot();
    // As Podman's tmpfiles.d does at boot, since host-local remembers whose an address was.
    podman.host.sh("rm -r /var/lib/cni/networks");
    podman.host.sh("podman start --all --filter restart-policy=always");
    workload.is_stamped_and_policed(&podman.host);
    podman.host.one_endpoint_of(&id);
    podman.remove(&workload);
}
