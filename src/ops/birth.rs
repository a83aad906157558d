//! A workload gets its identity and its rules before its first packet, by a hook of its runtime, and loses them when it
//! ends. What is said of it and what counts: [`crate::model::wish`].

mod born;
mod check;
mod end;
pub mod libvirt;
pub mod lxc;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use born::Born;
pub use check::{check, check_words};
pub use end::{End, end, end_device, finish_removals, keep_only};

use super::apply::files;
use super::attach::{self, Terms};
use super::cluster::number::Numbers;
use super::workload::{self, Namespace, Workload};
use super::{detach, identities};
use crate::model::birth::{self, Hook};
use crate::model::enforcement::Mode;
use crate::model::file::Wanted;
use crate::model::identity::{Identity, Names};
use crate::model::origin::Origin;
use crate::model::owner::Owner;
use crate::model::prefix::is_host;
use crate::model::rule::Rule;
use crate::model::spec::{EndpointSpec, IdentityRef};
use crate::model::wish::{self, Decided, Said, Wish};
use crate::state::pin::Root;

/// How long a hook waits for other commands while nothing comes of them: its runtime waits for it.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// A workload that a runtime starts.
pub struct Birth<'a> {
    /// By which hook it is told of.
    pub hook: Hook,
    /// Whose hook that is, such as `docker`.
    pub runtime: String,
    /// By what it is found again when it ends.
    pub owner: Owner,
    /// The network by CNI's configuration.
    pub network: Option<String>,
    /// The directory of its bundle, if it has one.
    pub bundle: Option<String>,
    /// What is said of it, the workload's own word first.
    pub said: Vec<Said>,
    /// The endpoint that the runtime's configuration asks for, in the place of the file's.
    pub options: Option<EndpointSpec>,
    /// The file, which need not be there.
    pub file: &'a Path,
}

impl Birth<'_> {
    /// Whether the workload or its runtime's configuration says which identity it has.
    fn names_identity(&self) -> bool {
        let names = |wish: &Wish| wish.id.is_some() || wish.labels.is_some();
        self.said.iter().any(|said| names(&said.wish))
            || self.options.as_ref().is_some_and(|options| names(&Wish::of_spec(options)))
    }
}

/// What a workload has of the network.
pub enum Network {
    /// This host's own.
    Host,
    /// Devices of its own.
    Own {
        /// Those that can be attached.
        interfaces: Vec<Workload>,
        /// Why each other can't be.
        others: Vec<String>,
        /// More may come when no hook is asked any more.
        is_incomplete: bool,
    },
}

impl Network {
    /// That of a namespace, whose devices may still be to come.
    pub fn of(namespace: &Namespace, may_come_later: bool) -> Result<Network> {
        if namespace.is_here()? {
            return Ok(Network::Host);
        }
        let (interfaces, others) = workload::find_all(namespace)?;
        let is_incomplete = may_come_later && interfaces.is_empty() && others.is_empty();
        Ok(Network::Own { interfaces, others, is_incomplete })
    }

    /// One device, if it can be found.
    pub fn one(workload: Result<Workload>) -> Network {
        let (interfaces, others) = match workload {
            Ok(workload) => (vec![workload], Vec::new()),
            Err(error) => (Vec::new(), vec![format!("{error:#}")]),
        };
        Network::Own { interfaces, others, is_incomplete: false }
    }
}

/// What has come of it, for each device: `None` for one that is left alone, or shared with a workload of the same identity.
pub type Attached = (String, Option<attach::Report>);

/// Attaches all interfaces of a workload, or none. Holds the root's lock.
pub fn attach(root: &Root, birth: &Birth<'_>, network: Network) -> Result<Vec<Attached>> {
    carry_out(root, birth, network, Existing::Replace)
}

/// The same for a workload that runs already: what it has with its identity is left as it is.
pub fn attach_missing(root: &Root, birth: &Birth<'_>, network: Network) -> Result<Vec<Attached>> {
    carry_out(root, birth, network, Existing::Keep)
}

/// What becomes of an endpoint that the workload has already, with the same identity.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Replace,
    Keep,
}

fn carry_out(
    root: &Root,
    birth: &Birth<'_>,
    network: Network,
    existing: Existing,
) -> Result<Vec<Attached>> {
    let specs = specs(root, birth, network)?;
    if specs.iter().all(|(_, spec)| spec.is_none()) && !is_shared(root, &specs)? {
        return Ok(specs.into_iter().map(|(workload, _)| (workload.device.name, None)).collect());
    }
    let _lock = super::prepare(root, false)?;
    let attached = attach_all(root, birth, specs, existing);
    detach::leave_nothing_of_a_failure(root, attached)
}

/// What each interface of a workload is to have; `None` for one that is left alone.
fn specs(
    root: &Root,
    birth: &Birth<'_>,
    network: Network,
) -> Result<Vec<(Workload, Option<EndpointSpec>)>> {
    let decision = Decision::of(root, birth)?;
    let (mut specs, mut numbers) = (Vec::new(), Numbers::of(root));
    for workload in decision.interfaces(root, network)? {
        let spec =
            decision.spec(&mut numbers, &workload).with_context(|| workload.device.name.clone())?;
        specs.push((workload, spec));
    }
    Ok(specs)
}

fn attach_all(
    root: &Root,
    birth: &Birth<'_>,
    specs: Vec<(Workload, Option<EndpointSpec>)>,
    existing: Existing,
) -> Result<Vec<Attached>> {
    end::remove_what_is_gone(root)?;
    let mut attached = Vec::new();
    for (workload, spec) in specs {
        let name = workload.device.name.clone();
        let report = attach_one(root, birth, &workload, spec, existing);
        match report.with_context(|| name.clone()) {
            Ok(report) => attached.push((name, report)),
            Err(error) => {
                end::undo(root, attached.iter().filter_map(|(_, report)| report.as_ref()));
                return Err(error);
            }
        }
    }
    Ok(attached)
}

/// `None` if the device has what it is to have already, or is shared.
fn attach_one(
    root: &Root,
    birth: &Birth<'_>,
    workload: &Workload,
    spec: Option<EndpointSpec>,
    existing: Existing,
) -> Result<Option<attach::Report>> {
    let device = &workload.device;
    let terms = Terms { origin: Origin::Hook, ifindex: Some(device.ifindex), ..Terms::default() };
    match (Born::on(root, device)?, spec) {
        (Some(there), spec) if there.owner != birth.owner => {
            if let Some(spec) = there.shared(root, birth, spec)? {
                attach::attach(root, &spec, &terms)?;
            }
            Ok(None)
        }
        (_, None) => Ok(None),
        (Some(there), Some(spec))
            if there.is_left_to(birth)
                || existing == Existing::Keep && there.is_as_wanted(root, &spec)? =>
        {
            Ok(None)
        }
        (there, Some(mut spec)) => {
            if let (Some(there), Some(birth)) = (there, &mut spec.birth) {
                birth.network = birth.network.take().or(there.birth.network);
            }
            attach::attach(root, &spec, &terms).map(Some)
        }
    }
}

/// Whether one of these devices is that of another workload, too.
fn is_shared(root: &Root, specs: &[(Workload, Option<EndpointSpec>)]) -> Result<bool> {
    for (workload, _) in specs {
        if Born::on(root, &workload.device)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether all of these have been attached by a hook.
fn are_born(root: &Root, interfaces: &[Workload]) -> Result<bool> {
    for workload in interfaces {
        if Born::on(root, &workload.device)?.is_none() {
            return Ok(false);
        }
    }
    Ok(!interfaces.is_empty())
}

/// What is known when it is decided what a workload gets.
struct Decision<'a> {
    birth: &'a Birth<'a>,
    wanted: Wanted,
    /// The names that are declared.
    known: Names,
    /// With those of the file.
    names: Names,
}

impl<'a> Decision<'a> {
    fn of(root: &Root, birth: &'a Birth<'a>) -> Result<Decision<'a>> {
        let known = identities::names(root)?;
        let wanted = files::in_force(birth.file, &known)?.unwrap_or_default();
        let names = known.declared().map(|(identity, name)| (identity, name.to_owned()));
        let of_file = wanted.names.iter().map(|(identity, name)| (*identity, name.clone()));
        let names = Names::new(names.chain(of_file));
        Ok(Decision { birth, wanted, known, names })
    }

    /// The interfaces that may get an identity.
    fn interfaces(&self, root: &Root, network: Network) -> Result<Vec<Workload>> {
        let birth = self.birth;
        let is_named = birth.names_identity();
        let is_meant = is_named || self.wanted.births.default.is_some();
        match network {
            Network::Host => {
                ensure!(
                    !is_named,
                    "it has an identity, and this host's network: what it sends is the host's; take the identity away, or \
                     give it a network of its own"
                );
                Ok(Vec::new())
            }
            Network::Own { is_incomplete: true, .. } if is_meant => bail!(
                "its network comes only after the last hook before its start, as with a user namespace of its own: start it \
                 without --userns, in a network that is there before, or by `cilmark oci runtime`, which attaches later"
            ),
            Network::Own { interfaces, others, .. } => {
                // What runs there already may have made others, such as the tun of a VPN, whose packets leave by these.
                ensure!(
                    !is_meant || others.is_empty() || are_born(root, &interfaces)?,
                    "{}",
                    others.join("; ")
                );
                ensure!(
                    !is_named || !interfaces.is_empty(),
                    "it has an identity, and no network device that it could have it for; take the identity away, or give \
                     it a network"
                );
                Ok(interfaces)
            }
        }
    }

    /// Who that is, if that may be a workload.
    fn identity(&self, id: &IdentityRef) -> Result<Identity> {
        let identity = id.resolve(&self.names)?;
        self.names.check_workload(identity)?;
        Ok(identity)
    }

    /// What an interface is to have; `None` if it is to be left alone.
    fn spec(&self, numbers: &mut Numbers<'_>, workload: &Workload) -> Result<Option<EndpointSpec>> {
        let Decision { birth, wanted, known, names } = self;
        let device = &workload.device.name;
        let mut said = birth.said.clone();
        if let (Some(first), Some(ip)) = (said.first_mut(), &workload.said_ip) {
            first.wish.ip = Some(ip.clone());
        }
        let base = match (&birth.options, wanted.of_device(device)?) {
            (Some(options), _) => {
                said.push(Said::by("config", Wish::of_spec(options)));
                options.clone()
            }
            (None, Some(endpoint)) => {
                said.push(Said::by(endpoint.place.to_string(), Wish::of_spec(&endpoint.spec)));
                endpoint.spec.clone()
            }
            (None, None) => EndpointSpec::new(device),
        };
        let births = &wanted.births;
        let (id, policy) = (births.default.clone(), births.policy);
        said.push(Said::by(wish::BY_DEFAULT, Wish { id, policy, ..Wish::default() }));
        let Some(decided) = wish::decide(&said, base)? else { return Ok(None) };
        let Decided { mut spec, id, id_from, rules_from, says_policy } = decided;
        spec.device = device.clone();
        workload.complete(&mut spec)?;
        workload.check_expected(&spec)?;
        // All whose devices match a pattern have its prefixes.
        let (prefixes, hosts) = spec.ip.listed.into_iter().partition(|ip| !is_host(ip));
        (spec.ip.listed, spec.shared_ip) = (hosts, [spec.shared_ip, prefixes].concat());
        match id {
            Some(id) => {
                let identity = self.identity(&id)?;
                // The file may name what is not declared yet.
                let is_known = id.resolve(known).is_ok_and(|it| it == identity);
                spec.id = Some(if is_known { id } else { IdentityRef::Number(identity) });
            }
            None => numbers.complete(&mut spec)?,
        }
        for text in spec.rules.iter_mut().flatten() {
            let rule = Rule::parse(text, names)?;
            *text = rule.text(&Names::default());
            // Rules that do nothing are not what anybody means who says rules and no more.
            if !says_policy {
                *spec.policy.of_mut(rule.direction) = Mode::Enforce;
            }
        }
        spec.owner = Some(birth.owner.clone());
        spec.birth = Some(birth::Birth {
            hook: birth.hook,
            runtime: birth.runtime.clone(),
            network: birth.network.clone(),
            bundle: birth.bundle.clone(),
            ifname: workload.ifname.clone(),
            id_from,
            rules_from,
            sharers: Vec::new(),
        });
        Ok(Some(spec))
    }
}
