//! Programs of others on the hooks of what is attached.

use cilmark::kernel::sys::Hook;
use libbpf_rs::XdpFlags;

use super::doctor;
use crate::common::World;
use crate::common::machine::{by_each_hook, skip};
use crate::common::third_party::{ThirdParty, xdp, xdp_without_a_link};

/// The device `nic`, attached as a NIC.
fn nic(flags: &str) -> Option<World> {
    let world = World::new()?;
    world.veth("nic");
    attach(&world, flags);
    Some(world)
}

fn attach(world: &World, flags: &str) {
    world.cilmark_ok(&format!("attach nic --role netdev --yes {flags}"));
}

/// Does what a cure says.
fn follow(world: &World, finding: &str) {
    let command = finding.split("`cilmark ").nth(1).and_then(|it| it.split('`').next());
    world.cilmark_ok(&format!("{} --yes", command.expect("a command")));
}

#[test]
fn what_runs_before_a_policy_that_enforces_is_a_warning_and_its_cure_goes_before_it() {
    by_each_hook(|kind| {
        let Some(world) = World::new() else { return };
        world.veth("nic");
        let _others = [Hook::Ingress, Hook::Egress].map(|hook| match kind {
            "tcx" => ThirdParty::on_tcx("nic", hook),
            _ => ThirdParty::on_clsact("nic", hook, 100),
        });
        attach(&world, &format!("--ingress-policy enforce --hook {kind}"));
        let found = doctor(&world).of("program before");
        assert_eq!(found.len(), 2, "{found:#?}");
        let warning = "warning nic: third_party runs before cilmark on ingress: cilmark does not see packets that it \
                       drops, accepts or redirects, and the policy that enforces is not asked about them; \
                       `cilmark attach nic --keep --first` goes before it";
        assert_eq!(found[0], warning);
        assert!(found[1].starts_with("ok nic: third_party runs before cilmark on egress"));
        follow(&world, &found[0]);
        let found = doctor(&world);
        assert_eq!(found.of("program before"), [""; 0]);
        assert_eq!(found.of("program behind").len(), 2);
        found.is_fine("program behind");
        assert_eq!(world.status("nic")["ingress_policy"], "enforce");
    });
}

#[test]
fn a_tcx_program_before_a_filter_of_ours_is_cured_by_tcx() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("nic");
    let _other = ThirdParty::on_tcx("nic", Hook::Egress);
    attach(&world, "--policy enforce --hook clsact");
    let found = doctor(&world).has("program before", "warning", &["--keep --hook tcx --first`"]);
    follow(&world, &found);
    assert_eq!(doctor(&world).of("program before"), [""; 0]);
}

#[test]
fn a_workloads_source_check_is_guarded_as_a_policy_is() {
    by_each_hook(|kind| {
        let Some(world) = World::new() else { return };
        world.veth("red");
        let _other = ThirdParty::on_clsact("red", Hook::Ingress, 100);
        let attach = format!(
            "attach red --id 300 --hook clsact --role container {}",
            match kind {
                "tcx" => "--ip 10.1.0.10",
                _ => "",
            }
        );
        world.cilmark_ok(&attach);
        let level = if kind == "tcx" { "warning" } else { "ok" };
        let found = doctor(&world).has("program before", level, &["third_party"]);
        assert_eq!(found.contains("the source check is not asked"), kind == "tcx", "{found}");
    });
}

#[test]
fn a_filter_that_redirects_is_told_with_the_device_that_it_redirects_to() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    world.veth("other");
    let filter = |kind: &str, action: &str| {
        world.sh(&format!(
            "tc qdisc add dev nic {kind}
             tc filter add dev nic {} protocol all pref 10 u32 match u32 0 0 action mirred egress {action} dev other",
            if kind == "ingress" { "parent ffff:" } else { "ingress" }
        ));
    };
    filter("clsact", "redirect");
    attach(&world, "--policy enforce --hook clsact");
    let words = ["u32 runs before cilmark on ingress", "; u32 redirects to other"];
    let found = doctor(&world).has("program before", "warning", &words);
    follow(&world, &found);
    let found = doctor(&world);
    assert_eq!(found.of("program before"), [""; 0]);
    found.has("program behind", "ok", &["u32 runs behind cilmark on ingress"]);
    world.sh("tc qdisc del dev nic clsact");
    // A copy goes elsewhere, and the packet goes on.
    filter("clsact", "mirror");
    attach(&world, "--policy enforce --hook clsact");
    let found = doctor(&world).has("program before", "warning", &["u32"]);
    assert!(!found.contains("redirects to"), "{found}");
}

#[test]
fn filters_whose_pins_are_gone_are_told_and_taken_off() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    attach(&world, "--policy enforce --hook clsact");
    let elsewhere = "--bpffs /sys/fs/bpf/other";
    world.veth("red");
    world.cilmark_ok(&format!("{elsewhere} attach red --id 300 --hook clsact"));
    assert_eq!(doctor(&world).of("lost filter"), [""; 0]);
    world.sh("rm -r /sys/fs/bpf/cilmark");
    let words =
        ["nic: from_netdev and to_netdev of cilmark on it", "pref 50000 handle 0xc11 bpf` takes"];
    let cure = doctor(&world).has("lost filter", "warning", &words);
    world.sh(cure.split('`').nth(1).expect("a command"));
    assert_eq!(doctor(&world).of("lost filter"), [""; 0]);
    attach(&world, "--policy enforce --hook clsact");
    world.cilmark_ok(&format!("{elsewhere} detach red"));
}

#[test]
fn filters_of_the_qdisc_ingress_run_on_ingress_alone() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("nic");
    world.sh("tc qdisc add dev nic ingress
         tc filter add dev nic parent ffff: pref 10 bpf da bytecode '1,6 0 0 0'
         tc filter add dev nic parent ffff: pref 20 protocol all u32 match u32 0 0 flowid 1:1");
    attach(&world, "--policy enforce");
    doctor(&world).has("program behind", "ok", &["bpf and u32 run behind cilmark on ingress"]);
}

#[test]
fn xdp_programs_are_told_and_those_that_pass_the_stack_by_are_a_warning() {
    let Some(world) = nic("--policy enforce") else { return };
    let passes = xdp("passes", "nic");
    let words = ["passes runs by XDP (native), before all hooks", "what it drops, sends back or"];
    doctor(&world).has("XDP program", "ok", &words);
    // A process that another test is about to start has its descriptor for a moment, too.
    passes.1.detach().unwrap();
    let _to_sockets = xdp("to_sockets", "nic");
    let words = [
        "to_sockets runs by XDP (native), before all hooks, and gives packets to sockets of AF_XDP: the policy that \
         enforces is not asked about these",
        "a BPF link keeps it",
    ];
    doctor(&world).has("XDP program", "warning", &words);
    attach(&world, "--policy audit");
    doctor(&world).has("XDP program", "ok", &["which cilmark does not see"]);
}

#[test]
fn xdp_programs_of_the_device_below_are_told() {
    let Some(world) = World::new() else { return };
    world.veth("nic");
    if !world.try_sh("ip link add nic.5 link nic type vlan id 5").status.success() {
        return skip("this kernel has no VLANs");
    }
    world.cilmark_ok("attach nic.5 --policy enforce --yes");
    let _to_sockets = xdp("to_sockets", "nic");
    let words = ["nic.5: to_sockets runs by XDP (native) on nic,"];
    doctor(&world).has("XDP program", "warning", &words);
}

#[test]
fn an_xdp_program_that_nobody_holds_is_taken_off_as_the_cure_says() {
    let Some(world) = World::new() else { return };
    world.sh("ip netns add far; ip -n far link add 'n;c' type veth peer name p");
    world.veth("'n;c'");
    for namespace in ["", "--netns far"] {
        world.cilmark_ok(&format!("{namespace} attach n;c --role netdev --policy enforce --yes"));
        let put = |flags| match namespace {
            "" => xdp_without_a_link("to_sockets", "n;c", flags),
            _ => world.inside("far", || xdp_without_a_link("to_sockets", "n;c", flags)),
        };
        for (flags, mode) in [(XdpFlags::DRV_MODE, "native"), (XdpFlags::SKB_MODE, "generic")] {
            put(flags);
            let line = doctor(&world).has("XDP program", "warning", &[&format!("XDP ({mode})")]);
            let cure = line.rsplit('`').nth(1).expect("a command");
            world.sh(cure);
            assert_eq!(doctor(&world).of("XDP program"), [""; 0], "{cure}");
        }
    }
}

#[test]
fn ciliums_own_programs_are_named_as_a_second_datapath() {
    let Some(world) = World::with_tcx() else { return };
    world.veth("nic");
    attach(&world, "");
    assert_eq!(doctor(&world).of("Cilium"), [""; 0]);
    let _cilium = ThirdParty::of_cilium("nic", Hook::Ingress);
    let words =
        ["Cilium's agent has cil_from_netdev here", "two datapaths on one device", "detach nic"];
    doctor(&world).has("Cilium", "warning", &words);
}

/// Where each side is, packets say: who is behind sees what the other lets pass, and the identity that it has stamped.
#[test]
fn chains_of_nftables_are_behind_on_ingress_and_before_on_egress() {
    let Some(world) = World::new() else { return };
    world.workload("red", 1);
    world.cilmark_ok("attach red --id 300 --ip 10.1.0.10,fd00:1::10 --policy audit");
    world.cilmark_ok("policy add red allow ingress from host icmp/8");
    assert_eq!(doctor(&world).of("nftables hook"), [""; 0]);
    world.sh("nft add table netdev fw
         nft 'add chain netdev fw in { type filter hook ingress device red priority 0; }'
         nft 'add rule netdev fw in icmp type echo-request meta mark 0x012c0f00 counter'");
    doctor(&world).has(
        "nftables hook",
        "ok",
        &["netdev fw chain in runs behind cilmark on ingress"],
    );
    world.sh("ip netns exec red ping -qc1 -W20 10.1.0.1");
    assert!(world.sh("nft list chain netdev fw in").contains("counter packets 1"));
    world.sh("nft flush table netdev fw; nft delete chain netdev fw in");
    if !world
        .try_sh("nft 'add chain netdev fw out { type filter hook egress device red priority 0; }'")
        .status
        .success()
    {
        return skip("this nftables has no egress hook");
    }
    doctor(&world).has("nftables hook", "ok", &["chain out runs before cilmark on egress"]);
    let asked = || world.cilmark_json("policy list red")[0]["packets"].as_u64().expect("a number");
    let before = asked();
    world.sh("ping -qc1 -W20 10.1.0.10");
    let passed = asked();
    assert!(passed > before);
    world.sh("nft add rule netdev fw out ip daddr 10.1.0.10 drop");
    assert!(!world.try_sh("ping -qc1 -W0.1 10.1.0.10").status.success());
    assert_eq!(asked(), passed, "cilmark has not seen it");
}

#[test]
fn where_nobody_else_is_it_says_so() {
    let Some(world) = nic("--policy enforce") else { return };
    let found = doctor(&world);
    found.has("hooks", "ok", &["no program of others"]);
    world.cilmark_ok("detach nic");
    assert_eq!(doctor(&world).of("hooks"), [""; 0]);
}
