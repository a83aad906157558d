//! CNI plugins without an engine: called by hand for runc, and by containerd's `ctr run --cni`.

use super::{Host, Workload};
use crate::common::process::Running;
use crate::common::world::wait_for;

/// cni ADD|DEL|GC ID NETNS [ARGS]: runs the plugins of a configuration as libcni does: each gets what the one before
/// it said, and at DEL, backwards, what the last one has said. Result and cache go to /run, as a reboot empties it.
const RUNNER: &str = r#"#!/bin/bash
set -euo pipefail
export CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=$3 CNI_ARGS=${4:-} CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin
config=/etc/cni/net.d/10-workload.conflist
result=/run/cni-$2
touch "$result"
count=$(jq '.plugins | length' $config)
order=$(seq 0 $((count - 1)))
[ "$1" != DEL ] || order=$(seq $((count - 1)) -1 0)
for i in $order; do
	plugin=$(jq --argjson i "$i" --slurpfile result "$result" '{cniVersion, name} + .plugins[$i] +
		if $result == [] then {} else {prevResult: $result[0]} end' $config)
	said=$("$CNI_PATH/$(jq -r .type <<<"$plugin")" <<<"$plugin") || { echo "$said"; exit 1; }
	[ "$1" != ADD ] || echo "$said" >"$result"
done
[ "$1" != DEL ] || rm "$result"
"#;

/// A host with plugins, and a network whose last plugin is cilmark's with these keys of its own.
fn with_plugins(keys: &str) -> Option<Host> {
    let host = Host::new()?;
    host.sh("mkdir -p /opt/cni/bin && ln -s /usr/lib/cni/* /opt/cni/bin");
    host.sh("cilmark cni install");
    let network = format!(
        r#"{{"cniVersion": "0.4.0", "name": "workloads", "plugins": [
          {{"type": "ptp", "ipam": {{"type": "host-local", "subnet": "10.60.0.0/24", "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
          {{"type": "cilmark-cni"{keys}}}]}}"#
    );
    host.write("/etc/cni/net.d/10-workload.conflist", &network);
    host.write("/var/host/cni", RUNNER);
    host.sh("chmod +x /var/host/cni");
    Some(host)
}

/// A bundle that runs a workload, in the network namespace of its name if it is not runc that makes it. Without
/// limits, as the machine may keep all controllers to itself.
fn bundle(host: &Host, workload: &Workload, has_namespace: bool) {
    let Workload { name, .. } = workload;
    let command = workload.command();
    let path =
        if has_namespace { format!("{{path: \"/run/netns/{name}\"}}") } else { "{}".to_owned() };
    host.sh(&format!(
        "mkdir -p /var/host/{name} && cd /var/host/{name} && rm -f config.json && runc spec
         jq '.process.terminal = false | .process.args = (\"{command}\" / \" \") | .root.path = \"/var/host/image\"
           | del(.linux.resources) | (.linux.namespaces[] | select(.type == \"network\")) += {path}
           ' config.json >new && mv new config.json"
    ));
}

/// Runs a workload by hand: its namespace, the plugins, runc.
fn start(host: &Host, workload: &Workload) {
    let Workload { name, .. } = workload;
    let [id, rules, policy] = workload.keys().map(|(key, value)| format!("{key}={value}"));
    bundle(host, workload, true);
    host.sh(&format!(
        "ip netns add {name}
         /var/host/cni ADD {name} /run/netns/{name} 'IgnoreUnknown=1;{id};{rules};{policy}'
         runc run -d -b /var/host/{name} {name} </dev/null >>/var/host/log/runc 2>&1"
    ));
}

/// Kills a workload of runc and forgets it, but for its network.
fn kill(host: &Host, workload: &Workload) {
    let Workload { name, .. } = workload;
    host.sh(&format!("kill -KILL $(runc state {name} | jq .pid); runc delete --force {name}"));
}

#[test]
fn the_first_datagram_of_runc_is_stamped_and_policed() {
    let Some(host) = with_plugins("") else { return };
    let workload = Workload::new(1);
    let Workload { name, .. } = &workload;
    start(&host, &workload);
    workload.is_stamped_and_policed(&host);
    host.one_endpoint_of(name);
    kill(&host, &workload);
    host.sh(&format!("/var/host/cni DEL {name} /run/netns/{name}"));
    host.nothing_is_left();
}

#[test]
fn nothing_is_left_if_the_namespace_went_before_the_plugins() {
    let Some(host) = with_plugins("") else { return };
    let workload = Workload::new(1);
    let Workload { name, .. } = &workload;
    start(&host, &workload);
    workload.is_stamped_and_policed(&host);
    kill(&host, &workload);
    host.sh(&format!("ip netns del {name}; /var/host/cni DEL {name} ''"));
    host.nothing_is_left();
    host.sh(&format!("/var/host/cni DEL {name} ''"));
}

#[test]
fn it_is_stamped_again_after_a_reboot() {
    let Some(host) = with_plugins("") else { return };
    let workload = Workload::new(1);
    let Workload { name, .. } = &workload;
    start(&host, &workload);
    workload.is_stamped_and_policed(&host);
    host.forget();
    host.reboot();
    // An engine forgets what was there before it starts it again.
    host.sh(&format!(
        "runc delete --force {name} 2>/dev/null || true; /var/host/cni DEL {name} ''"
    ));
    host.nothing_is_left();
    start(&host, &workload);
    workload.is_stamped_and_policed(&host);
    host.one_endpoint_of(name);
    kill(&host, &workload);
    host.sh(&format!("/var/host/cni DEL {name} /run/netns/{name}"));
    host.nothing_is_left();
}

#[test]
fn an_argument_that_it_does_not_know_fails_and_is_named() {
    let Some(host) = with_plugins("") else { return };
    host.sh("ip netns add w1");
    let run = host.try_sh(
        "/var/host/cni ADD w1 /run/netns/w1 'IgnoreUnknown=1;cilmark.id=5;cilmark.polcy=enforce'",
    );
    assert_ne!(run.status, Some(0), "{run:?}");
    assert!(run.stdout.contains("cilmark.polcy"), "the error object names it: {run:?}");
    host.sh("/var/host/cni DEL w1 /run/netns/w1");
    host.nothing_is_left();
}

/// containerd, and a workload's keys in the network's configuration, as ctr hands on none.
fn with_containerd(workload: &Workload) -> Option<Host> {
    let Workload { identity, .. } = workload;
    let keys =
        format!(r#", "id": "{identity}", "rules": ["{}"], "policy": "enforce""#, workload.rule());
    let host = with_plugins(&keys)?;
    bundle(&host, workload, false);
    host.daemon("containerd", "ctr version");
    Some(host)
}

/// Starts a workload, which runs as long as the guard does not end it.
fn ctr_run(host: &Host, Workload { name, .. }: &Workload, options: &str) -> Running {
    host.spawn(&format!(
        "ctr run --cni {options} --config /var/host/{name}/config.json {name} >>/var/host/log/ctr 2>&1"
    ))
}

#[test]
fn the_first_datagram_of_ctr_is_stamped_and_policed() {
    let workload = Workload::new(1);
    let Some(host) = with_containerd(&workload) else { return };
    let Workload { name, .. } = &workload;
    let mut run = ctr_run(&host, &workload, "--rm");
    workload.is_stamped_and_policed(&host);
    host.one_endpoint_of(&format!("default-{name}"));
    // It ends with its workload, after the plugins.
    host.sh(&format!("ctr task kill -s KILL {name}"));
    run.wait();
    host.nothing_is_left();
}

/// `ctr run --detach` never calls the plugins again. A collection does it, as engines of CNI 1.1 start one.
#[test]
fn a_collection_removes_what_ctr_has_left() {
    let workload = Workload::new(1);
    let Some(host) = with_containerd(&workload) else { return };
    let Workload { name, .. } = &workload;
    assert!(ctr_run(&host, &workload, "--detach").wait().success());
    workload.is_stamped_and_policed(&host);
    host.sh(&format!("ctr task kill -s KILL {name}"));
    wait_for("the task's end", || host.sh("ctr task ls").contains("STOPPED"));
    host.sh(&format!("ctr task rm {name}; ctr container rm {name}"));
    host.sh(
        r#"echo '{"cniVersion": "1.1.0", "name": "workloads", "type": "cilmark-cni", "cni.dev/valid-attachments": []}' |
           CNI_COMMAND=GC CNI_PATH=/opt/cni/bin /opt/cni/bin/cilmark-cni"#,
    );
    host.nothing_is_left();
}
