//! From what an endpoint should be to programs in the kernel: configuration, maps, load.

mod reuse;

use std::cmp::Reverse;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv6Net};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle};
use reuse::{
    Shared, leave_out_policy_maps, make_alone, share_flow_table, share_maps, share_nics,
    share_policy_calls, share_policy_maps, share_stack_flows,
};

use crate::kernel::abi::{
    self, cm_config, cm_delivery, cm_ipv6, cm_net4, cm_net6, cm_policy_mode, cm_program, cm_role,
};
use crate::kernel::device::{Device, Framing};
use crate::kernel::skel::{CilmarkSkelBuilder, OpenCilmarkSkel};
use crate::kernel::sys::{self, Hook};
use crate::model::endpoint::{EndpointId, Role, Scope};
use crate::model::enforcement::{Failsafe, Mode, VerdictLog};
use crate::model::identity::Identity;
use crate::model::prefix::{hosts, is_host};
use crate::program::object;
pub use crate::program::object::Folding;
use crate::state::conntrack;
use crate::state::pin::Root;
use crate::state::policy;
use crate::state::registry::Inherited;

/// Above this many a second and CPU the datapath counts events instead of sending them.
const EVENTS_PER_SECOND: u32 = 10_000;

/// What an endpoint is and does, when all that was asked for has been looked up; one to one with `struct cm_config`.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Its number.
    pub id: EndpointId,
    /// Which two of the four programs it gets.
    pub role: Role,
    /// What its packets are stamped with.
    pub identity: Identity,
    /// Whose its flows are, or nobody's: then loading gives it a scope of its own, if it keeps any.
    pub scope: Scope,
    /// Inode of the network namespace of the device.
    pub netns: u64,
    /// Where it is attached.
    pub device: Device,
    /// The only MAC that a container may send from; `None` for any.
    pub source_mac: Option<[u8; 6]>,
    /// What the ARP responder answers.
    pub mac: [u8; 6],
    /// A container's own addresses and prefixes, or a NIC's addresses; at most [`max_addresses`] of a family count, and as
    /// many prefixes.
    pub addresses: Vec<IpNet>,
    /// Those that other containers may have, too.
    pub shared: Vec<IpNet>,
    /// What other devices of the host have; as many as there is room for.
    pub others: Vec<IpAddr>,
    /// The priority of the clsact filter; 0 with TCX.
    pub tc_priority: u32,
    /// Of a NIC with a policy, in `cm_nics`: [`crate::state::nics::slot_for`].
    pub nic_slot: u8,
    /// What is switched on.
    pub features: Features,
    /// What its policy does.
    pub policy: Enforcement,
}

/// What an endpoint's policy does, but for its rules.
#[derive(Debug, Clone, Default)]
pub struct Enforcement {
    /// What becomes of packets to it.
    pub ingress: Mode,
    /// What becomes of packets from it.
    pub egress: Mode,
    /// Ports that stay open on a NIC.
    pub failsafe: Failsafe,
    /// Until when unknown TCP flows may be old ones: coarse monotonic clock, ns; 0 for never.
    pub adopt_until_ns: u64,
    /// Conntrack maps of its own.
    pub ct_local: bool,
    /// Which verdicts become events.
    pub verdict_log: VerdictLog,
}

/// What is off unless asked for.
#[derive(Debug, Clone, Default)]
pub struct Features {
    /// Answer a container's ARP requests with the device's MAC.
    pub arp_responder: bool,
    /// Believe PROXY_INGRESS and PROXY_EGRESS marks.
    pub trust_proxy: bool,
    /// Write the identity into the IPv6 flow label.
    pub flow_label: bool,
    /// Read identities from the flow labels of sources in this prefix.
    pub trust_flow_label: Option<Ipv6Net>,
    /// Stamp what a NIC receives with the identity of its sender.
    pub stamp_remote: bool,
    /// Deliver to workloads of this host past its stack, and if it is one, be delivered to.
    pub local_delivery: bool,
    /// Let a container advertise routers and offer leases.
    pub router: bool,
    /// Take an address for a proof that an attached workload of this host has sent a packet.
    pub by_address: bool,
    /// Believe IDENTITY marks that another program of this host has set.
    pub trust_marks: bool,
    /// Take no other address for this host's than those of its NICs and of the ipcache.
    pub host_addresses_listed: bool,
    /// The addresses were named, and are not those of the device.
    pub given_addresses: bool,
}

/// Sizes of maps that are made at their first use; `None` takes what is there, or the default.
#[derive(Debug, Clone, Default)]
pub struct Sizes {
    /// Entries of `cm_ipcache`, and of `cm_ipcache_cidr`.
    pub ipcache: Option<u32>,
    /// Flows that `cm_flows4` has room for, and `cm_flows6`.
    pub ct: Option<u32>,
    /// Entries of an endpoint's `cm_policy`, and of its rules' counters.
    pub policy: Option<u32>,
    /// Pieces of its `cm_spec`; `None` makes none.
    pub spec: Option<u32>,
}

/// An endpoint's programs, in the kernel but on no hook yet.
pub struct Loaded {
    ingress: OwnedFd,
    egress: OwnedFd,
    takes_delivery: bool,
    /// Whose the flows are that they keep.
    pub scope: Scope,
    /// What the programs were loaded with.
    pub(super) configured: cm_config,
    /// The same as a map, their `.rodata`.
    pub config: MapHandle,
    /// `cm_spec`, still empty, if it was asked for.
    pub spec: Option<MapHandle>,
    /// `cm_policy_call`, with local delivery. The kernel empties an array of programs when its last
    /// descriptor or pin goes, whoever still calls into it.
    pub policy_calls: Option<MapHandle>,
    /// What opening the object and the pinned maps took.
    pub open_time: Duration,
    /// What making maps, verifying and compiling took.
    pub load_time: Duration,
}

impl Loaded {
    /// The program for a hook.
    pub fn program(&self, hook: Hook) -> BorrowedFd<'_> {
        match hook {
            Hook::Ingress => self.ingress.as_fd(),
            Hook::Egress => self.egress.as_fd(),
        }
    }

    /// What others tail-call to deliver here; `None` without local delivery.
    pub fn callee(&self) -> Option<BorrowedFd<'_>> {
        self.takes_delivery.then(|| self.program(Hook::Egress))
    }

    /// Whose they are.
    pub(super) fn id(&self) -> Result<EndpointId> {
        self.configured.endpoint().context("programs of an endpoint without a number")
    }

    /// The kernel's numbers of the maps that its programs use.
    pub fn map_ids(&self) -> Result<Vec<u32>> {
        Ok(sys::program_facts(self.ingress.as_fd()).context("read the program")?.map_ids)
    }
}

impl Resolved {
    /// The configuration that the programs are loaded with.
    pub fn config(&self) -> cm_config {
        let mut config = cm_config {
            netns: self.netns,
            endpoint_id: self.id.get().into(),
            role: match self.role {
                Role::Container => cm_role::CM_ROLE_CONTAINER,
                Role::Netdev => cm_role::CM_ROLE_NETDEV,
            },
            identity: self.identity.0,
            scope: self.scope.get(),
            identity_nb: self.identity.0.to_be(),
            ifindex: self.device.ifindex,
            tc_priority: self.tc_priority,
            nic_slot: self.nic_slot,
            device: abi::chars_of(&self.device.name),
            mac: self.mac,
            l3_device: (self.device.framing == Some(Framing::Ip)).into(),
            arp_responder: self.features.arp_responder.into(),
            trust_proxy: self.features.trust_proxy.into(),
            flow_label: self.features.flow_label.into(),
            stamp_remote: self.features.stamp_remote.into(),
            events_per_second: EVENTS_PER_SECOND,
            policy: [self.policy.ingress.into(), self.policy.egress.into()],
            policy_verdict_log: abi::verdict_log(self.policy.verdict_log),
            jiffies_per_second: sys::jiffies_per_second(),
            adopt_until_ns: self.policy.adopt_until_ns,
            ct_local: self.policy.ct_local.into(),
            local_delivery: self.features.local_delivery.into(),
            delivery: self.delivery(),
            router: self.features.router.into(),
            by_address: self.features.by_address.into(),
            trust_marks: self.features.trust_marks.into(),
            given_addresses: self.features.given_addresses.into(),
            source_mac: self.source_mac.unwrap_or_default(),
            link_local_by_mac: (!self.addresses.iter().any(is_link_local)).into(),
            accept_local: self.device.accepts_local.into(),
            masqueraded_lifetime: self.device.masqueraded,
            in_vrf: self.device.in_vrf.into(),
            host_addresses_listed: self.features.host_addresses_listed.into(),
            bridge_port: self.device.bridge_mac.is_some().into(),
            bridge_mac: self.device.bridge_mac.unwrap_or_default(),
            ..cm_config::default()
        };
        let hosts: Vec<IpAddr> = hosts(&self.addresses).collect();
        config.ipv4_count = fill(&mut config.ipv4, v4(&hosts));
        config.ipv6_count = fill(&mut config.ipv6, v6(&hosts));
        config.shared_ipv4 = self.shared_bits(hosts.iter().filter(|it| it.is_ipv4()));
        config.shared_ipv6 = self.shared_bits(hosts.iter().filter(|it| it.is_ipv6()));
        // What does not fit the routing tables tell, where the device forwards.
        let others4 = &mut config.ipv4[config.ipv4_count as usize..];
        let others6 = &mut config.ipv6[config.ipv6_count as usize..];
        config.other_ipv4_count = fill(others4, v4(&self.others)) as u8;
        config.other_ipv6_count = fill(others6, v6(&self.others)) as u8;
        if self.role == Role::Netdev {
            let failsafe = &self.policy.failsafe;
            config.failsafe_count = [
                fill(&mut config.failsafe_ingress, failsafe.ingress.iter().map(Into::into)),
                fill(&mut config.failsafe_egress, failsafe.egress.iter().map(Into::into)),
            ];
            config.ipv4_nodeport = v4(&hosts).next().unwrap_or_default();
            config.ipv6_nodeport = v6(&hosts).next().unwrap_or_default();
        } else {
            self.fill_prefixes(&mut config);
        }
        if let Some(prefix) = self.features.trust_flow_label {
            config.trust_flow_label = 1;
            config.flow_label_prefix = prefix.network().into();
            config.flow_label_mask = prefix.netmask().into();
        }
        config
    }

    /// Which of these are shared, a bit for each.
    fn shared_bits<'a, T: Copy + Into<IpNet> + 'a>(&self, own: impl Iterator<Item = &'a T>) -> u8 {
        let own = own.zip(0..u8::BITS);
        let bits = own.filter(|(own, _)| self.shared.contains(&(**own).into()));
        bits.fold(0, |bits, (_, index)| bits | 1 << index)
    }

    fn fill_prefixes(&self, config: &mut cm_config) {
        let mut nets: Vec<IpNet> = self.addresses.clone();
        nets.retain(|net| !is_host(net));
        nets.sort_by_key(|net| Reverse(net.prefix_len()));
        let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = nets.iter().partition(|net| net.addr().is_ipv4());
        let net4 = |net: &IpNet| match net {
            IpNet::V4(net) => Some(cm_net4 {
                address: u32::from_ne_bytes(net.network().octets()),
                mask: u32::from_ne_bytes(net.netmask().octets()),
                length: net.prefix_len().into(),
            }),
            IpNet::V6(_) => None,
        };
        let net6 = |net: &IpNet| match net {
            IpNet::V6(net) => Some(cm_net6 {
                address: net.network().into(),
                mask: net.netmask().into(),
                length: net.prefix_len().into(),
            }),
            IpNet::V4(_) => None,
        };
        config.ipv4_net_count = fill(&mut config.ipv4_nets, v4.iter().filter_map(net4)) as u8;
        config.ipv6_net_count = fill(&mut config.ipv6_nets, v6.iter().filter_map(net6)) as u8;
        config.shared_ipv4_nets = self.shared_bits(v4.iter());
        config.shared_ipv6_nets = self.shared_bits(v6.iter());
    }

    fn delivery(&self) -> cm_delivery {
        match self.role {
            Role::Container if !self.features.local_delivery => cm_delivery::CM_DELIVERY_NONE,
            Role::Container if self.device.is_tap() => cm_delivery::CM_DELIVERY_EGRESS,
            Role::Container => cm_delivery::CM_DELIVERY_PEER,
            Role::Netdev => cm_delivery::CM_DELIVERY_NONE,
        }
    }
}

/// How many addresses of one family a configuration holds.
pub fn max_addresses() -> usize {
    cm_config::default().ipv4.len()
}

fn is_link_local(own: &IpNet) -> bool {
    // A prefix of fewer bits is about other addresses, too, and so about none of these.
    matches!(own, IpNet::V6(net) if net.addr().is_unicast_link_local() && net.prefix_len() >= 10)
}

/// Network byte order.
fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = u32> {
    addresses.iter().filter_map(|ip| match ip {
        IpAddr::V4(v4) => Some(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(_) => None,
    })
}

fn v6(addresses: &[IpAddr]) -> impl Iterator<Item = cm_ipv6> {
    addresses.iter().filter_map(|ip| match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(cm_ipv6::from(*v6)),
    })
}

/// Fills from the front and counts; what does not fit is left to the ipcache.
fn fill<T>(slots: &mut [T], values: impl Iterator<Item = T>) -> u32 {
    slots.iter_mut().zip(values).map(|(slot, value)| *slot = value).count() as u32
}

/// Loads a role's two programs with a configuration, over the shared maps, which are made and pinned
/// if they are not there, and over those of the programs that these ones replace. Unless it is a copy, the
/// caller holds the root's lock.
pub fn load(
    root: &Root,
    role: Role,
    config: &cm_config,
    sizes: &Sizes,
    inherited: &Inherited,
) -> Result<Loaded> {
    load_as(Folding::of_environment()?, root, role, config, sizes, inherited)
}

/// The same, folded or not.
pub fn load_as(
    folding: Folding,
    root: &Root,
    role: Role,
    config: &cm_config,
    sizes: &Sizes,
    inherited: &Inherited,
) -> Result<Loaded> {
    let start = Instant::now();
    let mut storage = MaybeUninit::uninit();
    let mut open = CilmarkSkelBuilder::default().open(&mut storage).context("open the object")?;
    let shared = Shared::of(root, config.explain == 0);
    let mut config = *config;
    share_flow_table(&mut open, &shared, &mut config)?;
    let config = &config;
    let rodata = open.maps.rodata_data.as_deref_mut().context("the object has no .rodata")?;
    rodata.config = *config;
    let bss = open.maps.bss_data.as_deref_mut().context("the object has no .bss")?;
    bss.confirm = inherited.confirm;
    // The only one that it may send from; else what it has sent from last.
    bss.has_stack_flows = inherited.has_stack_flows;
    bss.workload_mac = config.workload_mac().map_or(inherited.workload_mac, abi::mac_word);
    match sizes.spec {
        Some(pieces) => open.maps.cm_spec.set_max_entries(pieces),
        None => open.maps.cm_spec.set_autocreate(false),
    }
    .context("size the spec")?;
    share_maps(&mut open, &shared, sizes)?;
    share_policy_calls(&mut open, &shared, config)?;
    share_stack_flows(&mut open, &shared, config)?;
    share_policy_maps(&mut open, &shared, config, sizes)?;
    let config = &with_flows(&mut open, *config)?;
    share_nics(&mut open, &shared, config)?;
    inherit(&mut open, config, sizes, inherited)?;
    let programs = match role {
        Role::Container => [
            ("from_container", cm_program::CM_FROM_CONTAINER),
            ("to_container", cm_program::CM_TO_CONTAINER),
        ],
        Role::Netdev => {
            [("from_netdev", cm_program::CM_FROM_NETDEV), ("to_netdev", cm_program::CM_TO_NETDEV)]
        }
    };
    let open_time = start.elapsed();
    let made = object::load(open, config, &programs, folding).inspect_err(|_| shared.take_back());
    let made = made.with_context(|| {
        format!(
            "load the programs of endpoint {} ({}); it takes root or CAP_NET_ADMIN and CAP_SYS_ADMIN, \
             and RUST_LOG=libbpf=trace shows the verifier's reasons",
            config.endpoint_id,
            config.device_name()
        )
    })?;
    let mut programs = made.programs.into_iter();
    let mut next = || programs.next().context("a program is missing");
    Ok(Loaded {
        ingress: next()?,
        egress: next()?,
        takes_delivery: config.delivery != cm_delivery::CM_DELIVERY_NONE,
        scope: config.scope(),
        configured: *config,
        config: made.config,
        spec: made.spec,
        policy_calls: made.policy_calls,
        open_time,
        load_time: start.elapsed() - open_time,
    })
}

/// What the programs have to know of the table of flows: its sizes.
fn with_flows(open: &mut OpenCilmarkSkel<'_>, config: cm_config) -> Result<cm_config> {
    let buckets = [open.maps.cm_flows4.max_entries(), open.maps.cm_flows6.max_entries()];
    let config = conntrack::configure(config, buckets);
    let rodata = open.maps.rodata_data.as_deref_mut().context("the object has no .rodata")?;
    rodata.config = config;
    Ok(config)
}

/// The program `edit_flows`, over a pair of maps that are there.
pub fn load_flow_editor(flow_seed: [u64; 8], flows: [&MapHandle; 2]) -> Result<OwnedFd> {
    let mut storage = MaybeUninit::uninit();
    let mut open = CilmarkSkelBuilder::default().open(&mut storage).context("open the object")?;
    for mut map in open.open_object_mut().maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let variables = name.ends_with(".rodata") || name.ends_with(".bss");
        match name.as_str() {
            "cm_flows4" => map.reuse_fd(flows[0].as_fd())?,
            "cm_flows6" => map.reuse_fd(flows[1].as_fd())?,
            _ if variables => {}
            _ => map.set_autocreate(false)?,
        }
    }
    // There are flows where somebody has a policy.
    let policy = [cm_policy_mode::CM_POLICY_AUDIT; 2];
    let config = cm_config { flow_seed, policy, ..cm_config::default() };
    let config = with_flows(&mut open, config)?;
    let programs = [("edit_flows", cm_program(0))];
    let made = object::load(open, &config, &programs, Folding::of_environment()?)?;
    made.programs.into_iter().next().context("no program was loaded")
}

/// Makes the shared maps that are not there, and nothing else.
pub fn create_maps(root: &Root, sizes: &Sizes) -> Result<()> {
    let mut storage = MaybeUninit::uninit();
    let mut open = CilmarkSkelBuilder::default().open(&mut storage).context("open the object")?;
    share_maps(&mut open, &Shared::of(root, true), sizes)?;
    leave_out_policy_maps(&mut open)?;
    let maps = &mut open.maps;
    let private = [&mut maps.cm_policy_sets, &mut maps.cm_rule_stats, &mut maps.cm_steps];
    let of_nics = [&mut maps.cm_nics, &mut maps.cm_nic_policies];
    let unused = [&mut maps.cm_policy_call, &mut maps.cm_path_flows, &mut maps.cm_forwarded];
    let others = [&mut maps.cm_flow_table, &mut maps.cm_spec];
    for map in private.into_iter().chain(of_nics).chain(unused).chain(others) {
        map.set_autocreate(false)?;
    }
    object::select(&mut open, &[]);
    sys::prepare_object(open.open_object_mut()).with_context(|| {
        format!("create the maps in {}; it takes root or CAP_BPF", root.path().display())
    })?;
    Ok(())
}

/// Makes one of the shared maps, if it is not there, which no program uses.
pub fn create_map(root: &Root, name: &str) -> Result<()> {
    match root.map(name).exists() {
        true => Ok(()),
        false => make_alone(&Shared::of(root, true), name).map(drop),
    }
}

fn inherit(
    open: &mut OpenCilmarkSkel<'_>,
    config: &cm_config,
    sizes: &Sizes,
    inherited: &Inherited,
) -> Result<()> {
    let maps = &mut open.maps;
    if let Some(counters) = &inherited.counters {
        maps.cm_counters.reuse_fd(counters.as_fd()).context("hand on the counters")?;
    }
    if config.nic_slot().is_some() {
        maps.cm_policy_sets.set_autocreate(false).context("leave out the rules of others")?;
    } else if let Some(policies) = &inherited.policies {
        maps.cm_policy_sets.reuse_fd(policies.as_fd()).context("hand on the rules")?;
    }
    match &inherited.steps {
        Some(steps) => maps.cm_steps.reuse_fd(steps.as_fd()).context("hand on the steps")?,
        None => maps.cm_steps.set_autocreate(config.explain != 0)?,
    }
    // Those of an endpoint without a policy have but one entry.
    let there = inherited.rule_counters.as_ref().filter(|map| map.max_entries() > 1);
    match (there, sizes.policy) {
        (Some(map), None) if config.has_policy() => {
            maps.cm_rule_stats.reuse_fd(map.as_fd()).context("hand on the rules' counters")
        }
        (Some(map), Some(entries)) if config.has_policy() && map.max_entries() == entries => {
            maps.cm_rule_stats.reuse_fd(map.as_fd()).context("hand on the rules' counters")
        }
        _ if config.has_policy() => {
            let entries = sizes.policy.unwrap_or(policy::ENTRIES);
            maps.cm_rule_stats.set_max_entries(entries).context("size the rules' counters")
        }
        _ => Ok(()),
    }
}
