//! What runs: from an endpoint's pins to its links, programs and configuration. It believes the
//! kernel, not the pins, so that it tells the truth even after a command that died half way.

mod lookup;
pub mod shared;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Error, Result, bail, ensure};
use ipnet::IpNet;
use libbpf_rs::query::{LinkInfo, LinkTypeInfo};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use log::debug;

pub use lookup::Found;

use crate::kernel::abi::{self, bss, cm_config, cm_confirm, cm_counters, cm_metrics, u32_key};
use crate::kernel::device::{self, Device};
use crate::kernel::hooks::{HOOKS, HookKind, Place, filter_program};
use crate::kernel::netns;
use crate::kernel::order::{self, Other};
use crate::kernel::sys::{self, Hook, OnTcx, ProgramFacts};
use crate::model::endpoint::{EndpointId, Role};
use crate::model::enforcement::Mode;
use crate::model::identity::Identity;
use crate::model::shell::word;
use crate::state::config::{pinned_config, read_config};
use crate::state::devices::Devices;
use crate::state::layout::{self, HELD_BY_ALL};
use crate::state::nics;
use crate::state::pin::Root;

/// An attached endpoint, or what is left of one.
pub struct Endpoint {
    /// Its number.
    pub id: EndpointId,
    /// The configuration of the programs that run, else the pinned one, else zeros.
    pub config: cm_config,
    /// TCX or clsact.
    pub kind: HookKind,
    /// The device's name now; when it was attached, if nobody knows better.
    pub device: String,
    /// Inode of the namespace that its device is in, which may have moved; 0 if nobody can tell.
    pub netns: u64,
    /// The device's number there.
    pub ifindex: u32,
    /// The device is gone, or one of the two programs is not on its hook.
    pub stale: bool,
    /// The device is gone; otherwise what is stale lacks a program only.
    pub is_gone: bool,
    /// As far as its links tell it is gone, and a device with its name and number is in its place: the same, if somebody has
    /// detached both links, or a new one in a namespace whose number has come again.
    pub has_double: bool,
    pub(super) programs: [Option<Running>; 2],
    /// The number of the pinned configuration, if no program tells its maps.
    pinned_config: Option<u32>,
}

/// A program that was found through its pin.
pub(super) struct Running {
    program: OwnedFd,
    facts: ProgramFacts,
    link: Option<TcxLink>,
    /// The names of its maps, as far as they have been read.
    map_names: RefCell<Vec<OsString>>,
}

#[derive(Clone, Copy)]
struct TcxLink {
    id: u32,
    /// 0 when the device is gone. Of the namespace that the device is in now.
    ifindex: u32,
}

impl Endpoint {
    /// The endpoints that have to do with a device of a namespace: those whose configuration names
    /// it by index or by name, those that have none, and those whose links are on it, since it may have
    /// come from another namespace. `all` tells of that who is concerned even after a command that died half
    /// way, since a replacement leaves namespace, index and number as they are.
    pub fn concerning(
        root: &Root,
        all: &Devices,
        netns: u64,
        device: &Device,
    ) -> Result<Vec<Endpoint>> {
        let (mut concerned, mut others) = (Vec::new(), Vec::new());
        for (id, at) in all.iter() {
            let is_named = at.is_none_or(|at| {
                at.netns == netns && (at.ifindex == device.ifindex || at.name() == device.name)
            });
            if is_named { &mut concerned } else { &mut others }.push(id);
        }
        let mut links = on_hooks(device.ifindex)?;
        links.retain(|it| !concerned.iter().any(|id| has_link(root, *id, &[it.link])));
        links.retain(|it| may_be_of(root, it.program));
        if !links.is_empty() {
            let links: Vec<u32> = links.into_iter().map(|it| it.link).collect();
            concerned.extend(others.into_iter().filter(|id| has_link(root, *id, &links)));
        }
        concerned
            .into_iter()
            .map(|id| layout::check_endpoint(root, id).and_then(|()| Endpoint::read(root, id)))
            .collect()
    }

    /// Reads one endpoint; whatever is missing makes it stale. What can't be looked at, for want of
    /// rights or of descriptors, is an error: who took it for missing would clean up what runs.
    pub fn read(root: &Root, id: EndpointId) -> Result<Endpoint> {
        Endpoint::read_pins(root, id).with_context(|| format!("read endpoint {id}"))
    }

    fn read_pins(root: &Root, id: EndpointId) -> Result<Endpoint> {
        let mut programs = Running::of_endpoint(root, id)?;
        for (program, hook) in programs.iter_mut().zip(HOOKS) {
            if program.is_none() {
                *program = Running::in_filter(root, id, hook).context("look at its filters")?;
            }
        }
        // A link that somebody has detached has no device any more, and the other one has.
        if programs.iter().flatten().any(|running| !running.is_detached()) {
            programs.iter_mut().for_each(|program| _ = program.take_if(|it| it.is_detached()));
        }
        let running = programs.iter().flatten().next();
        let map = match running {
            Some(running) => running.config_map(),
            None => {
                MapHandle::from_pinned_path(root.endpoint(id).config()).context("open its config")
            }
        };
        let pinned_config = match (running, &map) {
            (None, Ok(map)) => map.info().ok().map(|info| info.info.id),
            _ => None,
        };
        let config = map.and_then(|map| read_config(&map));
        let config =
            config.inspect_err(|error| debug!("endpoint {id}: {error:#}")).unwrap_or_default();
        let by_tcx = match running {
            Some(running) => running.link.is_some(),
            None => config.endpoint_id != 0 && config.tc_priority == 0,
        };
        let mut endpoint = Endpoint {
            id,
            config,
            kind: if by_tcx { HookKind::Tcx } else { HookKind::Clsact },
            device: config.device_name(),
            netns: config.netns,
            ifindex: config.ifindex,
            is_gone: false,
            has_double: false,
            stale: programs.iter().any(Option::is_none),
            programs,
            pinned_config,
        };
        endpoint.look_at_device().context("look at its device")?;
        Ok(endpoint)
    }

    /// Corrects name, place and staleness by what the device's namespace says.
    fn look_at_device(&mut self) -> Result<()> {
        let linked_to =
            self.programs.iter().flatten().find_map(|running| Some(running.link?.ifindex));
        self.ifindex = linked_to.unwrap_or(self.config.ifindex);
        match (self.ifindex, linked_to) {
            (0, _) => {
                (self.stale, self.is_gone) = (true, true);
                self.has_double = self.is_in_place()?;
            }
            (_, Some(_)) => self.find_linked_device()?,
            (_, None) => self.look_at_filters()?,
        }
        Ok(())
    }

    /// Whether a device with its name and number is where its own was.
    fn is_in_place(&self) -> Result<bool> {
        let ifindex = self.config.ifindex;
        if ifindex == 0 {
            return Ok(false);
        }
        let there = netns::within(self.config.netns, || device::by_index(ifindex))?.flatten();
        Ok(there.is_some_and(|it| it.name == self.config.device_name()))
    }

    /// A link that has a device is alive, in whichever namespace that is now, and even where nobody can
    /// look.
    fn find_linked_device(&mut self) -> Result<()> {
        let name = || -> Result<Option<String>> {
            let Some(device) = device::by_index(self.ifindex)? else { return Ok(None) };
            Ok(self.is_linked_to(self.ifindex)?.then_some(device.name))
        };
        let home = netns::within(self.config.netns, name)?;
        let seen = match home {
            Some(Some(name)) => Some((self.config.netns, name)),
            _ => netns::search(name)?,
        };
        match (seen, netns::is_there(self.config.netns)?) {
            (Some((netns, name)), _) => (self.netns, self.device) = (netns, name),
            (None, true) => self.netns = 0,
            (None, false) => {}
        }
        Ok(())
    }

    /// Filters go with the device, and also where it moves to another namespace.
    fn look_at_filters(&mut self) -> Result<()> {
        let seen = netns::within(self.config.netns, || {
            let Some(device) = device::by_index(self.ifindex)? else { return Ok(None) };
            Ok(Some((device.name, self.on_hooks(self.ifindex)?)))
        })?;
        match seen.flatten() {
            Some((name, true)) => self.device = name,
            Some((name, false)) => {
                (self.stale, self.is_gone) = (true, name != self.config.device_name());
            }
            None => (self.stale, self.is_gone) = (true, true),
        }
        Ok(())
    }

    /// Whether it drops what no rule allows, in either direction.
    pub fn enforces(&self) -> Result<bool> {
        Ok(self.modes_in_force()?.contains(&Mode::Enforce))
    }

    /// Whether it does so for this host, so that a change of its rules may cut somebody off.
    pub fn is_enforcing_nic(&self) -> Result<bool> {
        Ok(self.role() == Some(Role::Netdev) && self.enforces()?)
    }

    /// Whether its packets are stamped with this identity, and its rules are the identity's, too.
    pub fn carries(&self, identity: Identity) -> bool {
        self.role().is_some() && self.config.identity == identity.0
    }

    /// Whether its device has moved to another namespace than the one in which it was attached.
    pub fn has_moved(&self) -> bool {
        !self.is_gone && self.netns != self.config.netns
    }

    /// Whether its programs are on this device of the current namespace, as far as they run.
    pub fn is_on(&self, device: &Device, netns: u64) -> bool {
        !self.is_gone && (self.netns, self.ifindex) == (netns, device.ifindex)
    }

    /// The same as one of this device of the current namespace, if it has that for a double, for whoever says that it is no
    /// other.
    pub fn believed_on(self, device: &Device, netns: u64) -> Endpoint {
        let cm_config { netns: home, ifindex, .. } = self.config;
        match self.has_double && (home, ifindex) == (netns, device.ifindex) {
            true => Endpoint { ifindex, is_gone: false, has_double: false, ..self },
            false => self,
        }
    }

    /// Whether one of its programs is on its device, which is the one that it was attached to, then. Of any
    /// other, name and number may be those of a device that is gone.
    pub fn has_a_program_there(&self) -> Result<bool> {
        if !self.stale {
            return Ok(true);
        }
        let is_there = |(hook, running): (&Hook, &Option<Running>)| match running {
            Some(Running { link: Some(link), .. }) => link.ifindex != 0,
            Some(Running { facts, .. }) => {
                filter_program(self.ifindex, *hook, self.config.tc_priority) == Some(facts.id)
            }
            None => false,
        };
        let there =
            netns::within(self.netns, || Ok(HOOKS.iter().zip(&self.programs).any(is_there)));
        Ok(there?.unwrap_or(false))
    }

    /// Whether one of its links is on a device of the current namespace.
    fn is_linked_to(&self, ifindex: u32) -> Result<bool> {
        let links = on_hooks(ifindex)?;
        let mut own = self.programs.iter().flatten().filter_map(|running| running.link);
        Ok(own.any(|own| links.iter().any(|it| it.link == own.id)))
    }

    /// Whether both programs are in its filters on the hooks of this device.
    fn on_hooks(&self, ifindex: u32) -> Result<bool> {
        Ok(HOOKS.iter().zip(&self.programs).all(|(hook, running)| {
            let there = filter_program(ifindex, *hook, self.config.tc_priority);
            running.as_ref().is_some_and(|running| there == Some(running.facts.id))
        }))
    }

    /// Its role; `None` if no configuration could be read.
    pub fn role(&self) -> Option<Role> {
        self.config.role()
    }

    /// Its number, if the maps of its flows are its own.
    pub fn owns_flows(&self) -> Option<EndpointId> {
        (self.config.ct_local != 0).then_some(self.id)
    }

    /// Its addresses and prefixes.
    pub fn addresses(&self) -> Vec<IpNet> {
        self.config.addresses()
    }

    /// The kernel's numbers of the maps that are its own or that it shares with other endpoints.
    pub fn map_ids(&self) -> Vec<u32> {
        let mut ids = Vec::new();
        let of_programs = self.programs.iter().flatten().flat_map(|running| &running.facts.map_ids);
        for id in of_programs.copied().chain(self.pinned_config) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// The kernel's numbers of the maps that its configuration is read from: one, unless a command has died half way.
    pub(super) fn config_ids(&self) -> Result<BTreeSet<u32>> {
        let mut found: BTreeSet<u32> = self.pinned_config.into_iter().collect();
        for running in self.programs.iter().flatten() {
            let config = running.config_map()?;
            found.insert(config.info()?.info.id);
        }
        Ok(found)
    }

    /// The kernel's numbers of its programs.
    pub fn program_ids(&self) -> Vec<u32> {
        self.programs.iter().flatten().map(|running| running.facts.id).collect()
    }

    /// Fails if it is dead, so that nothing would come of what is said to it.
    pub fn check_alive(&self) -> Result<()> {
        let Endpoint { id, device, .. } = self;
        let its = word(device);
        ensure!(
            !self.has_double,
            "endpoint {id} ({device}) is stale: its links were detached from both hooks, or its device is another one \
             now; `cilmark attach {its} --keep` puts its programs back, and `cilmark detach id:{id}` removes what \
             is left"
        );
        ensure!(
            !self.is_gone,
            "endpoint {id} ({device}) is stale: its device is gone, and one that gets its name again is \
             another one; `cilmark attach {its}` gives that an endpoint, and `cilmark detach id:{id}` \
             removes what is left of this"
        );
        ensure!(
            !self.stale,
            "endpoint {id} ({device}) is stale: not all of its programs are on the device's hooks; \
             `cilmark attach {its}` puts them back, and keeps its rules, and `cilmark detach id:{id}` \
             removes what is left"
        );
        Ok(())
    }

    /// A map that its programs use; those that no other endpoint has outlive the programs that fill them.
    pub(super) fn own_map(&self, name: &str) -> Option<MapHandle> {
        self.programs.iter().flatten().find_map(|running| running.map(name).ok()?)
    }

    /// What programs that replace its own go on with.
    pub fn inherited(&self) -> Result<Inherited> {
        // Rules in tries, as they were once: nobody else must take them for none.
        ensure!(
            self.own_map("cm_policies").is_none(),
            "endpoint {} was attached by an older cilmark, whose rules this one can't read; `policy list` \
             of that one shows them: detach {}, attach it again, and add them anew",
            self.id,
            self.config.device_name()
        );
        Ok(Inherited {
            confirm: cm_confirm::default(),
            counters: self.own_map("cm_counters"),
            policies: self.own_map("cm_policy_sets"),
            rule_counters: self.own_map("cm_rule_stats"),
            steps: None,
            nics: self.own_map(nics::NICS),
            workload_mac: self.variable(offset_of!(bss, workload_mac)).unwrap_or(0),
            has_stack_flows: self.variable(offset_of!(bss, has_stack_flows)).unwrap_or(0),
        })
    }

    /// Packets that passed and packets that were dropped, both directions and all CPUs together.
    pub fn counters(&self) -> Result<(cm_metrics, cm_metrics)> {
        let mut sums = (cm_metrics::default(), cm_metrics::default());
        for counters in self.counters_of_cpus()? {
            for (sum, of_cpu) in
                [(&mut sums.0, counters.forwarded), (&mut sums.1, counters.dropped)]
            {
                for direction in of_cpu {
                    sum.packets += direction.packets;
                    sum.bytes += direction.bytes;
                }
            }
        }
        Ok(sums)
    }

    /// Events that were lost since the last one that was not, all CPUs together.
    pub fn lost_events(&self) -> Result<u64> {
        let of_cpus = self.counters_of_cpus()?;
        Ok(of_cpus.iter().map(|counters| u64::from(counters.lost)).sum())
    }

    fn counters_of_cpus(&self) -> Result<Vec<cm_counters>> {
        let Some(map) = self.own_map("cm_counters") else { return Ok(Vec::new()) };
        let of_cpus = map.lookup_percpu(abi::bytes_of(&u32_key(0)), MapFlags::ANY)?;
        let counters = |bytes: Vec<u8>| abi::from_bytes(&bytes[..size_of::<cm_counters>()]);
        of_cpus.unwrap_or_default().into_iter().map(counters).collect()
    }

    /// What the program on a hook was loaded with, and the confirmation that it waits for.
    pub fn running(&self, hook: Hook) -> Result<(cm_config, cm_confirm)> {
        let index = HOOKS.iter().position(|other| *other == hook);
        let running = index.and_then(|index| self.programs[index].as_ref());
        let running = running.with_context(|| format!("endpoint {} is stale", self.id))?;
        let config = running.config_map()?;
        let config = read_config(&config)?;
        let (words, at) = match config.nic_slot() {
            Some(slot) => (nics::NICS, nics::clock_offset(slot)),
            None => (".bss", offset_of!(bss, confirm)),
        };
        let words = running.map(words)?.with_context(|| format!("its program has no {words}"))?;
        let key = u32_key(0);
        let value = words.lookup(abi::bytes_of(&key), MapFlags::ANY)?.context("an empty .bss")?;
        let confirm = value.get(at..at + size_of::<cm_confirm>()).context("a short .bss")?;
        Ok((config, abi::from_bytes(confirm)?))
    }

    /// What other programs get its packets first on its hooks; nothing of one that is stale.
    pub fn programs_before(&self) -> Result<Vec<Other>> {
        self.others(order::before_link, order::before_filter)
    }

    /// What other programs get on its hooks what its own have passed; nothing of one that is stale.
    pub fn programs_behind(&self) -> Result<Vec<Other>> {
        self.others(order::behind_link, order::behind_filter)
    }

    /// What is found on both hooks, by the link there or by the priority of the filter.
    fn others(
        &self,
        of_link: fn(u32, Hook, u32) -> Result<Vec<Other>>,
        of_filter: fn(u32, Hook, u32) -> Result<Vec<Other>>,
    ) -> Result<Vec<Other>> {
        if self.stale {
            return Ok(Vec::new());
        }
        let of_hooks = netns::within(self.netns, || {
            let of_hook = |(hook, running): (&Hook, &Option<Running>)| {
                let link = running.as_ref().and_then(|running| running.link);
                match (self.kind, link) {
                    (HookKind::Tcx, None) => Ok(Vec::new()),
                    (HookKind::Tcx, Some(link)) => of_link(self.ifindex, *hook, link.id),
                    (HookKind::Clsact, _) => {
                        of_filter(self.ifindex, *hook, self.config.tc_priority)
                    }
                }
            };
            HOOKS.iter().zip(&self.programs).map(of_hook).collect::<Result<Vec<_>>>()
        })?;
        Ok(of_hooks.unwrap_or_default().into_iter().flatten().collect())
    }

    /// What runs now, for somebody who replaces it by programs of another configuration.
    pub fn previous(&self, next: &cm_config) -> Result<Previous> {
        let [ingress, egress] = &self.programs;
        // The kernel takes no other program for a link that is on no hook.
        let program = |running: &Option<Running>| {
            let running = running.as_ref().filter(|running| !running.is_detached());
            running.map(|running| running.program.try_clone()).transpose()
        };
        let relaxes = |hook| next.mode_on(hook) < self.config.mode_on(hook);
        let egress_first = relaxes(Hook::Egress) && !relaxes(Hook::Ingress);
        let by_filter = self.programs.iter().flatten().find(|it| it.link.is_none());
        let tc_priority = match by_filter {
            Some(running) => running.config()?.tc_priority,
            None => self.config.tc_priority,
        };
        Ok(Previous {
            config: self.config,
            order: if egress_first { [Hook::Egress, Hook::Ingress] } else { HOOKS },
            kind: self.kind,
            tc_priority,
            is_first: self.programs_before()?.is_empty(),
            is_mixed: by_filter.is_some()
                && self.programs.iter().flatten().any(|it| it.link.is_some()),
            programs: [program(ingress)?, program(egress)?],
        })
    }
}

impl Running {
    /// By a link that is on no device.
    fn is_detached(&self) -> bool {
        self.link.is_some_and(|link| link.ifindex == 0)
    }

    /// What it was loaded with.
    fn config(&self) -> Result<cm_config> {
        read_config(&self.config_map()?)
    }

    fn config_map(&self) -> Result<MapHandle> {
        self.map(".rodata")?.context("its program has no .rodata")
    }

    /// Those on ingress and egress, as far as they are pinned.
    fn of_endpoint(root: &Root, id: EndpointId) -> Result<[Option<Running>; 2]> {
        let pins = root.endpoint(id);
        let mut programs = [None, None];
        for (program, hook) in programs.iter_mut().zip(HOOKS) {
            match Running::open(&pins.hook(hook)) {
                Ok(running) => *program = Some(running),
                Err(error) if is_missing(&error) => debug!("endpoint {id}, {hook:?}: {error:#}"),
                Err(error) => return Err(error),
            }
        }
        Ok(programs)
    }

    /// The one in our filter, which runs without its pin. It is the endpoint's if it was loaded with the
    /// configuration that is pinned.
    fn in_filter(root: &Root, id: EndpointId, hook: Hook) -> Result<Option<Running>> {
        let Some(config) = pinned_config(root, id).filter(|config| config.tc_priority != 0) else {
            return Ok(None);
        };
        let pinned = MapHandle::from_pinned_path(root.endpoint(id).config())?.info()?.info.id;
        let program = netns::within(config.netns, || {
            let number = filter_program(config.ifindex, hook, config.tc_priority);
            number.map(|number| sys::open_program(number).context("open it")).transpose()
        })?;
        let Some(program) = program.flatten() else { return Ok(None) };
        let running = Running::of(program, None)?;
        Ok(running.facts.map_ids.contains(&pinned).then_some(running))
    }

    fn open(path: &std::path::Path) -> Result<Running> {
        let pinned = sys::open_pin(path).with_context(|| format!("open {}", path.display()))?;
        let (program, link) = if sys::is_link(pinned.as_fd())? {
            let info = LinkInfo::from_fd(pinned.as_fd()).context("read the link")?;
            let ifindex = match info.info {
                LinkTypeInfo::Tcx(tcx) => tcx.ifindex,
                _ => bail!("{} is a link of another type", path.display()),
            };
            let program = sys::open_program(info.prog_id).context("open the link's program")?;
            (program, Some(TcxLink { id: info.id, ifindex }))
        } else {
            (pinned, None)
        };
        Running::of(program, link)
    }

    fn of(program: OwnedFd, link: Option<TcxLink>) -> Result<Running> {
        let mut facts = sys::program_facts(program.as_fd()).context("read the program")?;
        facts.map_ids.sort_unstable_by_key(|id| Reverse(*id));
        Ok(Running { program, facts, link, map_names: RefCell::default() })
    }

    /// The map of the program whose name ends so, if it has one. The youngest first: those of an endpoint's
    /// own were made after the shared ones.
    pub(super) fn map(&self, suffix: &str) -> Result<Option<MapHandle>> {
        let open = |id| MapHandle::from_map_id(id).with_context(|| format!("open map {id}"));
        let is_it = |name: &OsString| name.as_bytes().ends_with(suffix.as_bytes());
        let mut names = self.map_names.borrow_mut();
        if let Some(at) = names.iter().position(is_it) {
            return open(self.facts.map_ids[at]).map(Some);
        }
        for id in &self.facts.map_ids[names.len()..] {
            let map = open(*id)?;
            names.push(map.name().to_owned());
            if names.last().is_some_and(is_it) {
                return Ok(Some(map));
            }
        }
        Ok(None)
    }
}

/// What has a link on either TCX hook of a device of the current namespace.
fn on_hooks(ifindex: u32) -> Result<Vec<OnTcx>> {
    if !sys::has_tcx() {
        return Ok(Vec::new());
    }
    let on = |hook: &Hook| sys::on_tcx(ifindex, *hook).context("read the links of its hooks");
    let mut found = HOOKS.iter().map(on).collect::<Result<Vec<_>>>()?.concat();
    found.retain(|it| it.link != 0);
    Ok(found)
}

/// Whether a program may be an endpoint's, which holds what all of them hold: not where it is certain that it holds
/// nothing of that.
fn may_be_of(root: &Root, program: u32) -> bool {
    let held = || -> Option<bool> {
        let facts = sys::program_facts(sys::open_program(program).ok()?.as_fd()).ok()?;
        let mut held = false;
        for name in HELD_BY_ALL {
            let pinned = MapHandle::from_pinned_path(root.map(name)).ok()?.info().ok()?.info.id;
            held |= facts.map_ids.contains(&pinned);
        }
        Some(held)
    };
    held().unwrap_or(true)
}

/// Whether one of these links is pinned for an endpoint.
fn has_link(root: &Root, id: EndpointId, links: &[u32]) -> bool {
    HOOKS.iter().any(|hook| {
        let Ok(pinned) = sys::open_pin(&root.endpoint(id).hook(*hook)) else { return false };
        let is_link = sys::is_link(pinned.as_fd()).unwrap_or(false);
        is_link && LinkInfo::from_fd(pinned.as_fd()).is_ok_and(|link| links.contains(&link.id))
    })
}

/// Nothing is there, or something of another kind, which says the same about the endpoint.
fn is_missing(error: &Error) -> bool {
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(kind) => kind == io::ErrorKind::NotFound,
        None => !error.is::<libbpf_rs::Error>(),
    }
}

/// What to go back to if replacing fails, and what to take off when it has succeeded.
pub struct Previous {
    /// What the programs were loaded with.
    pub config: cm_config,
    /// Which hook gets its new program first: the one whose policy relaxes, so that no packet meets
    /// more policy than before or after.
    pub order: [Hook; 2],
    /// TCX or clsact.
    pub kind: HookKind,
    /// The priority of the clsact filter.
    pub tc_priority: u32,
    /// Nothing runs before it on either hook.
    pub is_first: bool,
    /// One is on its hook by TCX and one by clsact, since a change from one to the other has ended half way.
    pub is_mixed: bool,
    /// The programs on ingress and egress, as far as they run.
    pub programs: [Option<OwnedFd>; 2],
}

impl Previous {
    /// The kernel moves no link: one that is to be the first is made anew, unless it is that.
    pub fn is_at(&self, place: Place) -> bool {
        let has_to_move = place.kind == HookKind::Tcx && place.first && !self.is_first;
        !self.is_mixed
            && self.kind == place.kind
            && self.tc_priority == place.tc_priority()
            && !has_to_move
    }
}

/// What programs begin with: an endpoint's own maps that are not pinned, of the programs that these
/// replace, and what counts from their first packet on.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The confirmation that they wait for.
    pub confirm: cm_confirm,
    /// `cm_counters`.
    pub counters: Option<MapHandle>,
    /// `cm_policy_sets`; the rules of a NIC with a policy stay where they are.
    pub policies: Option<MapHandle>,
    /// `cm_nics`, of which a private copy gets one of its own.
    pub nics: Option<MapHandle>,
    /// `cm_rule_stats`.
    pub rule_counters: Option<MapHandle>,
    /// What local delivery knows of the workload's MAC: `workload_mac` of the datapath.
    pub workload_mac: u64,
    /// Whether `cm_path_flows` has any of its flows: a variable of the datapath, too.
    pub has_stack_flows: u64,
    /// `cm_steps`, of the private copy that calls this one.
    pub steps: Option<MapHandle>,
}
