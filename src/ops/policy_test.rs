//! Which flows that are up a set of rules would allow, deny, or not know. Nothing is attached and nothing changed: the
//! verdicts are those of the reference ([`crate::model::policy::decide`]), about peers as they would be.

mod file;
mod flows;
mod subject;
mod summary;
mod ways;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;

pub use file::{of_device, of_files, of_running};
pub use flows::{Flows, Sources};
use flows::{Key, Known, Whose, live};
pub use subject::Subject;
use ways::Ways;

use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::model::identity::{Identity, Names};
use crate::model::policy::live::{By, Kind, LiveFlow, Verdict, Why};
use crate::model::policy::{Decision, decide};
use crate::model::protocol::TCP;
use crate::model::rule::{Action, Direction, L4, Rule};
use crate::ops::peers::{End, Line as IpcacheLine, Peers, Viewer};
use crate::state::pin::Root;

/// What is asked about.
pub struct Test {
    subjects: Vec<Subject>,
    /// Who is where, but for the subjects' own addresses.
    lines: HashMap<IpNet, IpcacheLine>,
    names: Names,
    /// How many NICs are judged or attached here.
    nics: usize,
    /// What the operator may not have thought of, a sentence each.
    pub notes: Vec<String>,
}

/// What would become of the flows that are up.
pub struct Outcome {
    judge: Judge,
    names: Names,
    judged: Vec<Judged>,
    /// How many have which verdict.
    pub counts: BTreeMap<Kind, usize>,
    /// Of those that no rule allows, those that are taken over, and go on.
    pub adopted: usize,
    /// Of those that no rule allows, those that are taken over if they are not idle then.
    pub adopted_if_active: usize,
    /// Of those that are unknown, those that depend on which end sends first.
    pub by_first_packet: usize,
    /// What the operator may not have thought of, a sentence each.
    pub notes: Vec<String>,
}

/// Why a flow would be stopped.
pub enum Stop {
    /// This rule would allow it.
    Lacks(String),
    /// A rule denies it, whatever others allow.
    Denies {
        /// The rule.
        rule: String,
        /// Whose it is, if it is not the endpoint's own.
        of: Option<Identity>,
    },
}

/// A flow at one of its endpoints.
struct Judged {
    subject: usize,
    key: Key,
    direction: Option<Direction>,
    peer: Option<Identity>,
    verdict: Verdict,
    is_adopted: bool,
    adopted_within: Option<Duration>,
    /// It is allowed: but if it is idle while flows are adopted, only if the end that began it sends first.
    depends_on_packet: bool,
    sources: Sources,
}

/// A flow at one of its endpoints, and what would become of it.
pub struct Line<'a> {
    /// The endpoint's device.
    pub device: &'a str,
    /// Of the first packet; `None` if nobody knows who began.
    pub direction: Option<Direction>,
    /// IP protocol.
    pub protocol: u8,
    /// The endpoint's own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Who is there; `None` if it can't be told.
    pub peer: Option<Identity>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The rule that decides, or what stands in its place.
    pub because: Option<String>,
    /// Rules of which each would allow it, if none does and none denies it.
    pub to_allow: Vec<String>,
    /// No rule allows it, and it goes on: it is taken over when its endpoint begins to enforce.
    pub is_adopted: bool,
    /// No rule allows it, and it is taken over if a packet of it comes within this time, since a socket of this host has it.
    pub adopted_within: Option<Duration>,
    /// Who knows it.
    pub sources: Sources,
}

impl Test {
    /// The names of identities, as they are going to be.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Looks at all flows of this namespace.
    pub fn run(self, root: &Root) -> Result<Outcome> {
        let found = self.flows(root)?;
        self.run_on(&found)
    }

    /// All flows of this namespace that concern who is judged: for each NIC the same, if cilmark knows flows of all.
    pub fn flows(&self, root: &Root) -> Result<Flows> {
        flows::read(root, &self.subjects)
    }

    /// Whether cilmark itself may know their flows.
    pub fn has_known_flows(&self) -> bool {
        self.subjects.iter().any(|it| it.known.is_some())
    }

    /// Looks at these flows, which are of this namespace.
    pub fn run_on(self, found: &Flows) -> Result<Outcome> {
        let Test { subjects, mut lines, names, nics, mut notes } = self;
        for subject in &subjects {
            let own = IpcacheLine::own(subject.identity, &subject.viewer);
            lines.extend(subject.addresses.iter().map(|address| (*address, own)));
        }
        let peers = Peers::of(lines, subjects.iter().map(|it| it.viewer))?;
        if found.kernel_has_none {
            notes.extend(untold(&subjects));
        }
        let mut judge = Judge { subjects, peers, decided: HashMap::new() };
        let (mut ways, mut judged, mut off) = (Ways::default(), Vec::new(), BTreeSet::new());
        for (key, known) in &found.all {
            let whose = match key.whose {
                Whose::Workload(index) => vec![index],
                Whose::Host => ways.of(key, known, &judge.subjects)?,
            };
            for subject in whose {
                match judge.judge(subject, key, known) {
                    Judged { verdict: Verdict::Allow(By::Off), direction, .. } => {
                        let device = &judge.subjects[subject].device;
                        off.extend(direction.map(|it| (device.clone(), it)));
                    }
                    flow => judged.push(flow),
                }
            }
        }
        if ways.are_guessed && nics > 1 {
            notes.push(
                "flows of this host are judged at the NIC by which their packets leave; what comes in by another one meets \
                 the rules of that one, too"
                    .to_owned(),
            );
        }
        notes.extend(off.into_iter().map(|(device, direction)| {
            format!("{device}: the policy of {direction} is off, and its flows are left out")
        }));
        judged.sort_unstable_by_key(|it| {
            let Key { protocol, local, remote, .. } = it.key;
            let ends = (remote.ip(), local.ip(), remote.port(), local.port());
            (it.verdict.kind(), it.subject, it.direction, protocol, ends)
        });
        let mut counts: BTreeMap<Kind, usize> = Kind::ALL.iter().map(|kind| (*kind, 0)).collect();
        for flow in &judged {
            *counts.entry(flow.verdict.kind()).or_default() += 1;
        }
        let idle = judged.iter().filter(|it| it.depends_on_packet).count();
        if idle > 0 {
            notes.push(format!(
                "{idle} of the allowed flows are known by sockets alone: one that is idle while flows are adopted (--adopt) \
                 goes on then only if the end that began it sends first"
            ));
        }
        let adopted = judged.iter().filter(|it| it.is_adopted).count();
        let adopted_if_active = judged.iter().filter(|it| it.adopted_within.is_some()).count();
        let waits = Verdict::Unknown(Why::FirstPacket);
        let by_first_packet = judged.iter().filter(|it| it.verdict == waits).count();
        Ok(Outcome {
            judge,
            names,
            judged,
            counts,
            adopted,
            adopted_if_active,
            by_first_packet,
            notes,
        })
    }
}

/// Workloads of which nobody knows the flows.
fn untold(subjects: &[Subject]) -> Option<String> {
    let is_untold = |it: &&Subject| it.viewer.role == Role::Container && it.known.is_none();
    let devices: Vec<&str> =
        subjects.iter().filter(is_untold).map(|it| it.device.as_str()).collect();
    (!devices.is_empty()).then(|| {
        format!(
            "the kernel tracks no connections here (nf_conntrack), so that of the flows of {} only those with this host, and \
             with workloads that have a policy, are known; with --policy audit cilmark gets to know them",
            devices.join(", ")
        )
    })
}

struct Judge {
    subjects: Vec<Subject>,
    peers: Peers,
    /// Many flows are the same to rules, and there may be thousands of these.
    decided: HashMap<(usize, Direction, Identity, u8, u16), Decision>,
}

impl Judge {
    fn judge(&mut self, index: usize, key: &Key, known: &Known) -> Judged {
        let subject = &self.subjects[index];
        let peers = &self.peers;
        let was_adopted =
            known.was_adopted && (subject.has_passed(known.passed) || !subject.asks_about_adopted);
        let is_adopted = was_adopted || (!known.is_kept && subject.adopts && known.may_be_adopted);
        let by_socket = subject.adopts_by_socket.filter(|_| {
            key.protocol == TCP && known.sources.socket && !known.is_kept && !is_adopted
        });
        let begins_anew =
            !known.is_kept && !is_adopted && by_socket.is_none() && !known.is_unanswered;
        let flow = LiveFlow { begins_anew, ..live(key, known) };
        let peer = |direction| peer(peers, subject, key, known, direction);
        let decided = &mut self.decided;
        let mut of = |flow: &LiveFlow| {
            flow.verdict(&subject.setting, peer, |direction, peer, protocol, service| {
                *decided.entry((index, direction, peer, protocol, service)).or_insert_with(|| {
                    decide(subject.policy.rules(), direction, peer, protocol, service)
                })
            })
        };
        let mut verdict = of(&flow);
        // What is taken over by a socket may have been begun by either end.
        let other = flow.direction.map(Direction::other);
        let is_allowed = verdict.kind() == Kind::Allow && verdict != Verdict::Allow(By::Off);
        let depends_on_packet = by_socket.is_some()
            && is_allowed
            && of(&LiveFlow { begins_anew: true, ..flow }) != verdict;
        let by_socket = by_socket.filter(|_| {
            verdict == Verdict::NoRule
                && of(&LiveFlow { direction: other, ..flow }).kind() != Kind::Deny
        });
        let may_be_proxys = subject.trusts_proxies
            && key.whose == Whose::Host
            && !known.sources.cilmark
            && flow.direction != Some(Direction::Ingress);
        if may_be_proxys && matches!(verdict, Verdict::NoRule | Verdict::Deny(_)) {
            verdict = Verdict::Unknown(Why::Proxy);
        }
        Judged {
            subject: index,
            key: *key,
            direction: flow.direction,
            peer: flow.direction.and_then(|direction| peer(direction).ok()),
            verdict,
            is_adopted: verdict == Verdict::NoRule && is_adopted,
            adopted_within: by_socket.filter(|_| verdict == Verdict::NoRule),
            depends_on_packet,
            sources: known.sources,
        }
    }
}

/// Who is at the other end of a flow of this direction.
fn peer(
    peers: &Peers,
    subject: &Subject,
    key: &Key,
    known: &Known,
    direction: Direction,
) -> Result<Identity, Why> {
    let address = key.remote.ip();
    if direction == Direction::Ingress
        && subject.viewer.role == Role::Container
        && let Some(sender) = known.sender
    {
        return translated(peers, &subject.viewer, address, sender);
    }
    let proof = peers.proof(address, &subject.viewer);
    let claimed = match proof {
        // Under an address of this host a workload may have come.
        Some(Identity::WORLD | Identity::HOST) | None => known.claimed.or(proof),
        proof => proof,
    };
    let label = subject.flow_labels.filter(|it| IpNet::from(*it).contains(&address));
    if direction == Direction::Ingress && claimed.is_none() && label.is_some() {
        return Err(Why::FlowLabel);
    }
    Ok(peers.at(&End { direction, address, claimed }, Some(&subject.viewer)))
}

/// Who sends to a workload from another address than it sees: what a packet's mark says of its sender stays with it.
fn translated(
    peers: &Peers,
    viewer: &Viewer,
    seen: IpAddr,
    sender: IpAddr,
) -> Result<Identity, Why> {
    let proof = peers.proof(sender, viewer);
    let from = |address, claimed| {
        peers.at(&End { direction: Direction::Ingress, address, claimed }, Some(viewer))
    };
    // A NIC that is attached marks what it knows by the ipcache.
    if proof == Some(Identity::WORLD) && from(sender, proof) != Identity::WORLD {
        return Err(Why::Translated);
    }
    Ok(from(seen, proof))
}

impl Outcome {
    /// Whether a rule denies any of them, or none allows it.
    pub fn cuts(&self) -> bool {
        self.counts[&Kind::Deny] + self.counts[&Kind::NoRule] > 0
    }

    /// What the first endpoint would stop a flow by that may come; `None` if it passes, or nobody can tell.
    pub fn stops(&mut self, flow: &LiveFlow) -> Option<Stop> {
        let LiveFlow { protocol, local, remote, direction, masqueraded, .. } = *flow;
        let key = Key { whose: Whose::Host, protocol, local, remote };
        // It is to come, so that its originator sends first.
        let known = Known { direction, masqueraded, is_unanswered: true, ..Known::default() };
        let judged = self.judge.judge(0, &key, &known);
        match judged.verdict {
            Verdict::NoRule => self.to_allow(&judged).pop().map(Stop::Lacks),
            Verdict::Deny(number) => {
                let subject = &self.judge.subjects[0];
                let is_own =
                    subject.policy.own().rules().any(|it| Some(it) == subject.policy.get(number));
                let rule = subject.policy.get(number)?.text(&self.names);
                Some(Stop::Denies { rule, of: (!is_own).then_some(subject.identity) })
            }
            Verdict::Allow(_) | Verdict::Unknown(_) => None,
        }
    }

    /// Whether the first endpoint has some rule that lets something of this direction and kind pass, whoever it is.
    pub fn opens(&self, direction: Direction, l4: L4) -> bool {
        let Some(subject) = self.judge.subjects.first() else { return true };
        let is_off =
            subject.setting.modes[usize::from(direction == Direction::Egress)] == Mode::Off;
        is_off
            || subject.policy.rules().iter().any(|listed| {
                let Rule { action, direction: of, l4: allowed, .. } = listed.rule;
                action == Action::Allow && of == direction && allowed.meet(l4).is_some()
            })
    }

    /// All of them, the worst first.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.judged.iter().map(|flow| self.line(flow))
    }

    fn line(&self, flow: &Judged) -> Line<'_> {
        let subject = &self.judge.subjects[flow.subject];
        let rule = |number| {
            let rule = subject.policy.get(number)?;
            Some(rule.text(&self.names))
        };
        let word = |text: &str| Some(text.to_owned());
        Line {
            device: &subject.device,
            direction: flow.direction,
            protocol: flow.key.protocol,
            local: flow.key.local,
            remote: flow.key.remote,
            peer: flow.peer,
            verdict: flow.verdict,
            because: match flow.verdict {
                Verdict::Deny(number) | Verdict::Allow(By::Rule(number)) => rule(number),
                Verdict::Allow(By::Failsafe) => word("failsafe port"),
                Verdict::Allow(By::Masqueraded) => word("masqueraded"),
                Verdict::Allow(By::Dhcp) => word("DHCP"),
                Verdict::Allow(By::Off) => word("policy off"),
                Verdict::Unknown(Why::Originator) => word("nobody knows which end began"),
                Verdict::Unknown(Why::FlowLabel) => {
                    word("its sender says by a flow label who it is")
                }
                Verdict::Unknown(Why::FirstPacket) => {
                    word("goes on only if the end that began it sends first")
                }
                Verdict::Unknown(Why::Translated) => {
                    word("its sender's address is translated on the way")
                }
                Verdict::Unknown(Why::Proxy) => {
                    word("no rule allows it, but it may be a trusted proxy's")
                }
                Verdict::NoRule if flow.direction.is_none() => {
                    word("nobody knows which end began; no rule allows it either way")
                }
                Verdict::NoRule => None,
            },
            to_allow: match flow.verdict {
                Verdict::NoRule => self.to_allow(flow),
                _ => Vec::new(),
            },
            is_adopted: flow.is_adopted,
            adopted_within: flow.adopted_within,
            sources: flow.sources,
        }
    }

    fn to_allow(&self, flow: &Judged) -> Vec<String> {
        let (Some(direction), Some(peer)) = (flow.direction, flow.peer) else { return Vec::new() };
        let rule = live(&flow.key, &Known::default()).allow(direction, peer);
        rule.into_iter().map(|rule| rule.text(&self.names)).collect()
    }
}
