//! Who is judged: what files ask for over what there is, an endpoint under other rules, or as it is.

use std::collections::{BTreeSet, HashMap, HashSet};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;

use super::Test;
use super::subject::{Asked, Subject, judged};
use crate::kernel::{device, netns};
use crate::model::endpoint::{EndpointId, Role};
use crate::model::enforcement::{Mode, Modes};
use crate::model::file::Wanted;
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::model::prefix::format_prefix;
use crate::model::rule::Rule;
use crate::model::rule_list::RuleList;
use crate::model::spec::EndpointSpec;
use crate::ops::apply::{self, Attached, EndpointState, Now};
use crate::ops::attach::Machine;
use crate::ops::peers::{self, Line, Viewer};
use crate::ops::rules::in_force;
use crate::ops::targets::policy_of;
use crate::ops::{identities, spec, targets};
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// What files ask for, over what there is: their endpoints, or that of one device, and those that carry an identity
/// whose rules they name. `login_port` is that of the SSH server by which the operator has come.
pub fn of_files(
    root: &Root,
    wanted: &Wanted,
    only: Option<&str>,
    login_port: Option<u16>,
) -> Result<Test> {
    let mut now = Now::of(root, netns::current()?)?;
    let mut builder = Builder::new(root, login_port, names_after(&now, wanted))?;
    let devices = apply::devices(wanted, only, &now)?;
    if let Some(only) = only {
        ensure!(!devices.is_empty(), "the file has no endpoint for {only}");
    }
    builder.add_lines(wanted, &now)?;
    let mut attached = std::mem::take(&mut now.endpoints);
    attached.retain(|it| !it.endpoint.stale);
    for (name, wish) in &devices {
        let Some(device) = device::find(name)? else {
            builder.notes.push(format!("there is no device {name}: nothing was tested for it"));
            continue;
        };
        let at = attached.iter().position(|it| it.endpoint.ifindex == device.ifindex);
        let running = at.map(|at| attached.swap_remove(at));
        if let Some(running) = running.as_ref().filter(|it| it.state.origin == Origin::Hook) {
            builder.add_attached(running, wanted, &now)?;
            continue;
        }
        let asked = apply::asked_of(wish, &device);
        if wish.spec.ip.from_netns {
            builder.notes.push(format!(
                "{name} has addresses that only the hook of its runtime knows, and is left out"
            ));
            continue;
        }
        let mut own = running.as_ref().map(|it| it.state.rules.clone()).unwrap_or_default();
        own.replace(Origin::File, wish.rules.as_deref().unwrap_or_default());
        let identity = match &asked.id {
            Some(id) => id.resolve(&builder.names)?,
            None if asked.has_identity_by_labels() => {
                running.as_ref().map_or(Identity::INIT, |it| it.state.identity)
            }
            None => Identity::HOST,
        };
        let of_identity = of_identity(identity, wanted, &now);
        let added = builder.add(
            &asked,
            identity,
            running.as_ref().map(|it| &it.endpoint),
            (&own, &of_identity),
        );
        added.with_context(|| format!("{}: {name}", wish.place))?;
    }
    if only.is_none() {
        for it in attached.iter().filter(|it| wanted.rules.contains_key(&it.state.identity)) {
            builder.add_attached(it, wanted, &now)?;
        }
    }
    let test = builder.test();
    if test.subjects.is_empty() {
        let why = match test.notes[..] {
            [] => "the file names no endpoint, and nobody here carries an identity whose rules it names"
                .to_owned(),
            _ => test.notes.join("; "),
        };
        bail!("nothing was tested: {why}");
    }
    Ok(test)
}

/// The endpoint of a device, with these rules and no others of its own. What is not attached is judged as `attach`
/// would make it; what has no policy, as if it enforced both directions.
pub fn of_device(root: &Root, device: &str, own: &[Rule], login_port: Option<u16>) -> Result<Test> {
    let names = identities::names(root)?;
    let mut list = RuleList::default();
    list.add(own, Origin::Command);
    let mut builder = Builder::new(root, login_port, names)?;
    let now = Now::of(root, netns::current()?)?;
    let found = device::by_name(device)?;
    let both = Modes::both(Mode::Enforce);
    let is_it = |it: &&Attached| !it.endpoint.stale && it.endpoint.ifindex == found.ifindex;
    if let Some(it) = now.endpoints.iter().find(is_it) {
        let of_identity = now.rules.get(&it.state.identity).cloned().unwrap_or_default();
        let EndpointState { spec, identity, .. } = &it.state;
        let policy = if spec.policy.are_off() { both } else { spec.policy };
        let spec = EndpointSpec { device: found.name, policy, ..spec.clone() };
        builder.add(&spec, *identity, Some(&it.endpoint), (&list, &of_identity))?;
        return Ok(builder.test());
    }
    let spec = EndpointSpec { policy: both, ..EndpointSpec::new(found.name) };
    if Machine::of(&spec)?.role == Role::Container {
        bail!(
            "{device} looks like a workload's and is not attached, so that nobody knows its addresses: attach it, or test \
             a file that has them"
        );
    }
    let of_identity = now.rules.get(&Identity::HOST).cloned().unwrap_or_default();
    builder.add(&spec, Identity::HOST, None, (&list, &of_identity))?;
    Ok(builder.test())
}

/// An endpoint of this namespace as it is, with the rules in force, in both directions if its policy is off.
pub fn of_running(root: &Root, endpoint: &Endpoint) -> Result<Test> {
    let names = identities::names(root)?;
    let kept = spec::current(root, endpoint, &names)?;
    let spec = EndpointSpec { device: endpoint.device.clone(), ..kept };
    let policy = in_force(&policy_of(root, endpoint)?, endpoint)?;
    let mut of_identity = RuleList::default();
    of_identity.add(&policy.of_identity().collect::<Vec<_>>(), Origin::Command);
    let mut builder = Builder::new(root, None, names)?;
    let identity = Identity(endpoint.config.identity);
    builder.add(&spec, identity, Some(endpoint), (&policy.own(), &of_identity))?;
    Ok(builder.test())
}

struct Builder<'a> {
    root: &'a Root,
    login_port: Option<u16>,
    names: Names,
    lines: HashMap<IpNet, Line>,
    /// NICs of this namespace that are attached.
    nics: HashSet<String>,
    subjects: Vec<Subject>,
    notes: Vec<String>,
    /// That have neither a policy nor rules.
    left_out: usize,
}

impl<'a> Builder<'a> {
    fn new(root: &'a Root, login_port: Option<u16>, names: Names) -> Result<Builder<'a>> {
        let found = targets::all(root, None)?;
        let viewers: HashMap<EndpointId, Viewer> =
            found.endpoints.iter().filter_map(|it| Some((it.id, Viewer::of(it)?))).collect();
        let lines = peers::lines(root, |id| viewers.get(&id).copied())?;
        let netns = netns::current()?;
        let is_nic =
            |it: &&Endpoint| !it.stale && it.netns == netns && it.role() == Some(Role::Netdev);
        let nics = found.endpoints.iter().filter(is_nic).map(|it| it.device.clone()).collect();
        let (subjects, notes) = (Vec::new(), Vec::new());
        Ok(Builder { root, login_port, names, lines, nics, subjects, notes, left_out: 0 })
    }

    /// An endpoint's own address stays its own.
    fn add_lines(&mut self, wanted: &Wanted, now: &Now) -> Result<()> {
        for (prefix, identity) in &wanted.lines {
            match now.own_lines.get(prefix) {
                Some((own, owner)) if own != identity => self.notes.push(format!(
                    "{} is an address of endpoint {owner}, whose identity counts",
                    format_prefix(prefix)
                )),
                Some(_) => {}
                None => _ = self.lines.insert(*prefix, Line::of(*identity)),
            }
        }
        Ok(())
    }

    fn add_attached(&mut self, it: &Attached, wanted: &Wanted, now: &Now) -> Result<()> {
        let EndpointState { spec, identity, rules, .. } = &it.state;
        let of_identity = of_identity(*identity, wanted, now);
        // Its device may have another name by now.
        let spec = &EndpointSpec { device: it.endpoint.device.clone(), ..spec.clone() };
        self.add(spec, *identity, Some(&it.endpoint), (rules, &of_identity))
            .with_context(|| it.endpoint.device.clone())
    }

    fn add(
        &mut self,
        spec: &EndpointSpec,
        identity: Identity,
        running: Option<&Endpoint>,
        (own, of_identity): (&RuleList, &RuleList),
    ) -> Result<()> {
        if spec.policy.are_off() && own.is_empty() && of_identity.is_empty() {
            self.left_out += 1;
            if running.is_none() && spec.role != Some(Role::Netdev) {
                let viewer = Viewer {
                    role: Role::Container,
                    netns: netns::current()?,
                    by_address: spec.by_address,
                };
                let own = Line::own(identity, &viewer);
                self.lines.extend(spec.ip.listed.iter().map(|prefix| (*prefix, own)));
            }
            return Ok(());
        }
        if spec.policy.are_off() {
            self.notes.push(format!(
                "{}: the policy is off, and judged as if it enforced both directions",
                spec.device
            ));
        }
        let judged = judged(spec.policy);
        let asked = Asked { spec, identity, running, own, of_identity, judged };
        let subject = Subject::of(self.root, &asked, self.login_port)?;
        if subject.viewer.role == Role::Container && subject.addresses.is_empty() {
            self.notes.push(format!(
                "{} has no addresses (--ip), by which the flows of a workload are found",
                spec.device
            ));
        }
        self.subjects.push(subject);
        Ok(())
    }

    fn test(self) -> Test {
        let Builder { names, lines, mut nics, subjects, mut notes, left_out, .. } = self;
        let judged = subjects.iter().filter(|it| it.viewer.role == Role::Netdev);
        nics.extend(judged.map(|it| it.device.clone()));
        if left_out > 0 {
            let (have, are) = match left_out {
                1 => ("endpoint has", "is"),
                _ => ("endpoints have", "are"),
            };
            notes.push(format!("{left_out} {have} neither a policy nor rules, and {are} left out"));
        }
        Test { subjects, lines, names, nics: nics.len(), notes }
    }
}

/// The rules of an identity, with those of the files in the place of their own.
fn of_identity(identity: Identity, wanted: &Wanted, now: &Now) -> RuleList {
    let mut list = now.rules.get(&identity).cloned().unwrap_or_default();
    if let Some(rules) = wanted.rules.get(&identity) {
        list.replace(Origin::File, rules);
    }
    list
}

/// The names, as they are going to be.
fn names_after(now: &Now, wanted: &Wanted) -> Names {
    let taken: BTreeSet<&String> = wanted.names.values().collect();
    let kept = now.names.iter().filter(|(identity, (name, _))| {
        !wanted.names.contains_key(identity) && !taken.contains(name)
    });
    let kept = kept.map(|(identity, (name, _))| (*identity, name.clone()));
    let named = wanted.names.iter().map(|(identity, name)| (*identity, name.clone()));
    Names::new(kept.chain(named).collect::<Vec<_>>())
}
