//! Changes rules: of all endpoints or of none, and if there is a deadline with a way back.

pub mod list;
mod lost;
mod plan;
mod transaction;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
pub use lost::restore;
use plan::Plan;
pub use plan::{in_force, settle, wait_for_identity};
pub use transaction::confirm;

use super::identities;
use super::targets::{self, Targets, policy_of};
use crate::kernel::abi::cm_config;
use crate::model::endpoint::EndpointId;
use crate::model::enforcement::{Confirmation, Fallback, Grace, Mode};
use crate::model::identity::{Identity, Names};
use crate::model::origin::{Origin, Origins};
use crate::model::policy::effect::{Setting, Void, void};
use crate::model::rule::Rule;
use crate::model::rule_list::{IdentityRules, RuleList};
use crate::model::shell::word;
use crate::state::id_rules::IdRules;
use crate::state::pin::Root;
use crate::state::policy::Slot;
use crate::state::registry::Endpoint;

/// Whose rules change, and how.
pub struct Request<'a> {
    /// Whose.
    pub targets: &'a Targets,
    /// Only what is in this namespace; an identity's rules are everywhere.
    pub netns: Option<u64>,
    /// How.
    pub edit: Edit,
    /// Where rules are enforced.
    pub grace: Grace,
}

/// A change of one list of rules.
pub struct Change {
    /// Whose.
    pub whose: Whose,
    /// How.
    pub edit: Edit,
}

/// Who has rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// An endpoint, its own.
    Endpoint(EndpointId),
    /// An identity: every endpoint that carries it has them, too.
    Identity(Identity),
}

/// What becomes of the rules.
#[derive(Debug, Clone)]
pub enum Edit {
    /// These come behind those that are there, by a command.
    Add(Vec<Rule>),
    /// These go, whoever has made them; each has to be there.
    Remove(Vec<Rule>),
    /// All go, whoever has made them.
    Flush,
    /// Those of one who makes rules become these; those of others stay.
    Replace(Origin, Vec<Rule>),
}

/// Who may be cut off by a change.
#[derive(Debug, Default)]
pub struct Risk {
    /// NICs that drop what no rule allows.
    pub nics: Vec<String>,
}

/// What has come of changes.
#[derive(Debug, Default)]
pub struct Reports {
    /// Of identities.
    pub identities: Vec<OfIdentity>,
    /// Of all endpoints whose rules they are about, each once.
    pub endpoints: Vec<Report>,
}

/// What has come of the change of an identity's rules.
#[derive(Debug)]
pub struct OfIdentity {
    /// Whose.
    pub identity: Identity,
    /// How many rules it had.
    pub before: usize,
    /// How many it has.
    pub after: usize,
    /// Whether any is another one.
    pub is_changed: bool,
    /// Rules to be added that it had already.
    pub had: Vec<Rule>,
    /// The devices of the endpoints that carry it.
    pub carriers: Vec<String>,
    /// How long somebody has to confirm them, if they are on trial.
    pub time_left: Option<Duration>,
}

/// What has come of the change of an endpoint's rules.
#[derive(Debug)]
pub struct Report {
    /// Its device.
    pub device: String,
    /// Only what its identity has was to change.
    pub is_by_identity: bool,
    /// How many rules it had, with those of its identity.
    pub before: usize,
    /// How many it has.
    pub after: usize,
    /// Whether any is another one.
    pub is_changed: bool,
    /// Rules to be added that it had already.
    pub had: Vec<Rule>,
    /// Rules that were to be added or removed, and that its identity has, too.
    pub of_identity: Vec<Rule>,
    /// Its identity.
    pub identity: Identity,
    /// Rules that do not do what they say, and did before or were not there.
    pub void: Vec<(Rule, Void)>,
    /// Whether the rules count.
    pub standing: Standing,
    /// Who has to confirm them, if anybody has: the rules of its identity are on trial, and the endpoint's go with them.
    pub confirms_identity: bool,
}

/// Whether rules that were just changed count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They do, as far as the endpoint's modes say.
    InForce,
    /// For so long, unless somebody confirms them.
    Pending(Duration, Otherwise),
    /// An earlier change that nobody has confirmed has taken this one with it.
    TooLate,
    /// The endpoint only audits, since nobody confirmed in time.
    FellBackToAudit,
    /// The endpoint has its policy off.
    Off,
}

/// What comes back if nobody confirms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// The endpoint only audits.
    Audit,
    /// The last rules that were confirmed.
    Confirmed,
    /// The rules before this change.
    Before,
}

/// What a change risks, for who has to agree to it before anything is locked.
pub fn risk(root: &Root, request: &Request<'_>) -> Result<Risk> {
    let endpoints = request.targets.select_alive(root, request.netns)?;
    let (mut risk, mut enforces) = (Risk::default(), false);
    for endpoint in &endpoints {
        enforces |= endpoint.enforces()?;
        if endpoint.is_enforcing_nic()? {
            risk.nics.push(endpoint.device.clone());
        }
    }
    let whose = || match request.targets {
        Targets::Identity(identity) => format!("no endpoint that carries @{identity} enforces any"),
        _ => format!("{} enforces none", endpoints[0].device),
    };
    ensure!(
        enforces || request.grace == Grace::Permanent,
        "--confirm is for rules that are enforced, and {}",
        whose()
    );
    Ok(risk)
}

/// Changes the rules. Fails if a NIC has begun to enforce them since somebody looked at a risk that was none.
pub fn change(root: &Root, request: &Request<'_>, risk: &Risk) -> Result<Reports> {
    let consent = !risk.nics.is_empty();
    if let Targets::Identity(identity) = request.targets {
        let whose = Whose::Identity(targets::resolve(root, identity)?);
        let change = Change { whose, edit: request.edit.clone() };
        return change_each(root, &[change], request.grace, consent);
    }
    let endpoints = request.targets.select_alive(root, request.netns)?;
    let edits = endpoints.iter().map(|endpoint| (endpoint.id, &request.edit)).collect();
    transaction::run(root, endpoints, &edits, &BTreeMap::new(), request.grace, consent)
}

/// Changes many lists of rules, all or none: of endpoints, of identities, or of both. A change that goes back by itself
/// does so everywhere at the same moment. NICs that enforce are refused unless `consent` says that somebody knows. Nothing
/// has changed where it fails. The caller holds the root's lock.
pub fn change_each(
    root: &Root,
    changes: &[Change],
    grace: Grace,
    consent: bool,
) -> Result<Reports> {
    let (endpoints, edits, of_identities) = each(root, changes)?;
    transaction::run(root, endpoints, &edits, &of_identities, grace, consent)
}

/// Fails if these changes could not be made now; changes nothing.
pub fn check_each(root: &Root, changes: &[Change]) -> Result<()> {
    let (endpoints, edits, of_identities) = each(root, changes)?;
    transaction::check_all(root, endpoints, &edits, &of_identities)
}

/// Edits, by whose rules they are about.
type Edits<'a, K> = BTreeMap<K, &'a Edit>;

/// Whom changes concern, and how.
fn each<'a>(
    root: &Root,
    changes: &'a [Change],
) -> Result<(Vec<Endpoint>, Edits<'a, EndpointId>, Edits<'a, Identity>)> {
    let (mut edits, mut of_identities) = (BTreeMap::new(), BTreeMap::new());
    for Change { whose, edit } in changes {
        let is_second = match whose {
            Whose::Endpoint(id) => edits.insert(*id, edit).is_some(),
            Whose::Identity(identity) => of_identities.insert(*identity, edit).is_some(),
        };
        ensure!(!is_second, "two changes of the rules of {whose:?}");
    }
    let mut endpoints = match of_identities.is_empty() {
        true => Vec::new(),
        false => targets::alive(root)?,
    };
    endpoints.retain(|it| {
        edits.contains_key(&it.id) || of_identities.keys().any(|identity| it.carries(*identity))
    });
    let there: BTreeSet<EndpointId> = endpoints.iter().map(|it| it.id).collect();
    for id in edits.keys().filter(|id| !there.contains(id)) {
        let endpoint = Endpoint::read(root, *id)?;
        endpoint.check_alive()?;
        endpoints.push(endpoint);
    }
    Ok((endpoints, edits, of_identities))
}

/// Makes these the rules of one who makes rules, of an endpoint or an identity, and leaves those of others.
pub fn replace_of(
    root: &Root,
    whose: Whose,
    origin: Origin,
    rules: Vec<Rule>,
    grace: Grace,
    consent: bool,
) -> Result<Reports> {
    let change = Change { whose, edit: Edit::Replace(origin, rules) };
    change_each(root, &[change], grace, consent)
}

/// The rules of an identity as they are now.
pub fn of_identity(root: &Root, identity: Identity) -> Result<IdentityRules> {
    let rules = IdRules::open(root)?.map(|map| map.get(identity)).transpose()?;
    Ok(rules.unwrap_or_default())
}

impl Edit {
    /// Which rules were there already. `identity` is that of an endpoint, with its rules.
    fn apply(
        &self,
        root: &Root,
        whose: &str,
        list: &mut RuleList,
        identity: Option<(Identity, &RuleList)>,
    ) -> Result<Vec<Rule>> {
        match self {
            Edit::Add(rules) => Ok(list.add(rules, Origin::Command)),
            Edit::Remove(rules) => {
                let missing = list.remove(rules);
                if missing.is_empty() {
                    return Ok(Vec::new());
                }
                bail!(missing_rules(&identities::names(root)?, whose, &missing, identity))
            }
            Edit::Flush => {
                *list = RuleList::default();
                Ok(Vec::new())
            }
            Edit::Replace(origin, rules) => {
                list.replace(*origin, rules);
                Ok(Vec::new())
            }
        }
    }

    /// The rules that it names.
    fn rules(&self) -> &[Rule] {
        match self {
            Edit::Add(rules) | Edit::Remove(rules) | Edit::Replace(_, rules) => rules,
            Edit::Flush => &[],
        }
    }
}

/// Why rules can't be removed.
fn missing_rules(
    names: &Names,
    whose: &str,
    missing: &[Rule],
    identity: Option<(Identity, &RuleList)>,
) -> String {
    let text =
        |rules: &[Rule]| -> Vec<String> { rules.iter().map(|rule| rule.text(names)).collect() };
    let quoted = |rules: &[Rule]| format!("`{}`", text(rules).join("`, `"));
    if let Some((identity, rules)) = identity {
        let its: HashSet<Rule> = rules.rules().collect();
        let (its, nobodys): (Vec<Rule>, Vec<Rule>) =
            missing.iter().partition(|rule| its.contains(rule));
        if nobodys.is_empty() {
            let name = at(identity, names);
            return format!(
                "{whose} has {} from its identity, {name}; `cilmark policy del {} {}` removes it there, and so \
                 from all that carry it; nothing has changed",
                quoted(&its),
                word(&name),
                text(&its).join(" ")
            );
        }
    }
    format!(
        "{whose} has no rule {}; `cilmark policy list {}` shows those that it has, and nothing has changed",
        quoted(missing),
        word(whose)
    )
}

/// An identity as commands take it in the place of a device.
pub fn at(identity: Identity, names: &Names) -> String {
    match names.name(identity) {
        Some(name) => format!("@{name}"),
        None => format!("@{identity}"),
    }
}

impl Report {
    fn of(
        plan: &Plan<'_>,
        edit: Option<&Edit>,
        had: Vec<Rule>,
        identity: &IdentityRules,
    ) -> Result<Report> {
        let modes = plan.endpoint.config.modes();
        // That all of them are off is told once.
        let setting = plan.endpoint.config.setting().filter(|_| modes != [Mode::Off; 2]);
        let void = setting.map(|setting| {
            let [before, after] =
                [&plan.before, &plan.after].map(|policy| void(policy.rules(), &setting));
            new_void(&before, after)
        });
        let is_changed = !plan.before.has_the_rules_of(&plan.after);
        let confirmation = plan.endpoint.confirmation()?;
        let named: HashSet<&Rule> = edit.iter().flat_map(|edit| edit.rules()).collect();
        let is_own = |had: &Rule| {
            plan.before.rules().iter().any(|it| it.rule == *had && it.origins != Origins::NONE)
        };
        Ok(Report {
            device: plan.endpoint.device.clone(),
            is_by_identity: edit.is_none(),
            before: plan.before.rules().len(),
            after: plan.after.rules().len(),
            is_changed,
            had: had.into_iter().filter(is_own).collect(),
            of_identity: identity.now.rules().filter(|rule| named.contains(rule)).collect(),
            identity: Identity(plan.endpoint.config.identity),
            void: void.unwrap_or_default(),
            standing: match confirmation {
                Confirmation::Pending(_, left) if is_changed => {
                    Standing::Pending(left, Otherwise::of(plan.confirmation))
                }
                Confirmation::Over(Fallback::Rules) if is_changed => Standing::TooLate,
                Confirmation::Over(Fallback::Audit) => Standing::FellBackToAudit,
                _ if modes == [Mode::Off; 2] => Standing::Off,
                _ => Standing::InForce,
            },
            confirms_identity: matches!(confirmation, Confirmation::Pending(Fallback::Rules, _))
                && identity.deadline() == Some(plan.endpoint.confirmed_by()?),
        })
    }
}

impl Otherwise {
    /// By what had been to confirm before.
    fn of(before: Confirmation) -> Otherwise {
        match before {
            Confirmation::Pending(Fallback::Audit, _) => Otherwise::Audit,
            Confirmation::Pending(Fallback::Rules, _) => Otherwise::Confirmed,
            _ => Otherwise::Before,
        }
    }
}

/// Rules that do nothing since an attachment with another configuration than before, whose modes have been told.
pub fn void_since(root: &Root, before: &Endpoint, after: &cm_config) -> Result<Vec<(Rule, Void)>> {
    let (Some(old), Some(new)) = (before.config.setting(), after.setting()) else {
        return Ok(Vec::new());
    };
    let endpoint = Endpoint::read(root, before.id)?;
    let policy = policy_of(root, &endpoint)?.read(Slot::Current)?;
    let not_off = |setting: &Setting| -> Vec<(Rule, Void)> {
        let voids = void(policy.rules(), setting).into_iter();
        voids.filter(|(_, why)| !matches!(why, Void::Off(_))).collect()
    };
    Ok(new_void(&not_off(&old), not_off(&new)))
}

fn new_void(before: &[(Rule, Void)], mut after: Vec<(Rule, Void)>) -> Vec<(Rule, Void)> {
    let before: HashSet<Rule> = before.iter().map(|(rule, _)| *rule).collect();
    after.retain(|(rule, _)| !before.contains(rule));
    after
}
