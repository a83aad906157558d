//! A reference of the documented semantics (docs/architecture.md), written against the documents and not
//! against the datapath: it shares no code with it, nor with the compiler of rules.
//!
//! Where the documents leave freedom it says *either*, and what follows from that is uncertain.

pub mod delivery;
pub mod flows;
mod host;
mod messages;
mod programs;
mod questions;
pub mod rules;
mod source;
mod verdict;
pub mod wire;

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};

pub use programs::UNREADABLE;

use flows::{Flow, FragmentKey, Kept, Key};
use questions::Question;
use rules::Rule;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    Ingress,
    Egress,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    Off,
    Audit,
    Enforce,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    FromContainer,
    ToContainer,
    FromNetdev,
    ToNetdev,
}

impl Program {
    pub fn direction(self) -> Direction {
        match self {
            Program::FromContainer | Program::ToNetdev => Direction::Egress,
            Program::ToContainer | Program::FromNetdev => Direction::Ingress,
        }
    }
}

/// What an endpoint is and does.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub is_container: bool,
    pub id: u16,
    pub identity: u32,
    pub ifindex: u32,
    /// Of its device.
    pub mac: [u8; 6],
    pub has_ethernet: bool,
    pub addresses: Vec<IpAddr>,
    /// Of a workload, beside them.
    pub prefixes: Vec<IpNet>,
    pub ingress: Mode,
    pub egress: Mode,
    pub rules: Vec<Rule>,
    pub failsafe_ingress: Vec<(u8, u16)>,
    pub failsafe_egress: Vec<(u8, u16)>,
    /// The only one that a workload may send from.
    pub workload_mac: Option<[u8; 6]>,
    /// The MAC of the bridge that it is a port of.
    pub bridge: Option<[u8; 6]>,
    pub trusted_labels: Option<Ipv6Net>,
    pub switches: Switches,
}

#[derive(Debug, Clone, Default)]
pub struct Switches {
    pub arp_responder: bool,
    pub trust_proxy: bool,
    pub flow_label: bool,
    pub stamp_remote: bool,
    pub local_delivery: bool,
    pub router: bool,
    pub by_address: bool,
    pub trust_marks: bool,
}

impl Endpoint {
    pub fn mode(&self, direction: Direction) -> Mode {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }

    pub fn enforces(&self, direction: Direction) -> bool {
        self.mode(direction) == Mode::Enforce
    }

    /// Whether its source is checked.
    pub fn is_bound(&self) -> bool {
        !(self.addresses.is_empty() && self.prefixes.is_empty())
    }

    pub fn has_policy(&self) -> bool {
        self.ingress != Mode::Off || self.egress != Mode::Off
    }
}

/// A line of the ipcache.
#[derive(Debug, Clone)]
pub struct Line {
    pub prefix: IpNet,
    pub identity: u32,
    /// Whether attaching a NIC has entered it.
    pub is_host: bool,
}

/// Whose an address is among those that are attached.
#[derive(Debug, Clone)]
pub struct Owner {
    pub id: u16,
    pub ifindex: u32,
    pub is_container: bool,
    /// In this network namespace.
    pub is_here: bool,
}

/// A frame with what the stack knows of it.
#[derive(Debug, Clone)]
pub struct Arrival<'a> {
    pub frame: &'a [u8],
    pub mark: u32,
    /// 0 for what this host generates.
    pub ingress_ifindex: u32,
    pub is_gso: bool,
    /// By another endpoint's program, and not by the stack.
    pub is_delivered: bool,
}

/// All that verdicts depend on.
#[derive(Debug, Default)]
pub struct Machine {
    /// Whether its stack is asked behind the programs, and what is judged is what both let pass.
    pub has_stack: bool,
    pub forwards: bool,
    /// Its addresses, and the broadcast addresses of its networks.
    pub local: Vec<IpAddr>,
    pub ipcache: Vec<Line>,
    pub owners: HashMap<IpAddr, Owner>,
    /// The same of workloads' prefixes.
    pub prefix_owners: HashMap<IpNet, Owner>,
    /// Those with a policy, by their numbers.
    pub nics: HashMap<u16, Endpoint>,
    /// Grows with each change of rules, ipcache and endpoints.
    pub epoch: u32,
    flows: HashMap<Key, Flow>,
    questions: HashMap<questions::Key, Question>,
    fragments: HashMap<FragmentKey, Kept>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Must {
    Pass,
    Drop,
    /// Answered by the program itself, or delivered.
    Redirect,
    Either,
}

/// What has to become of a packet.
#[derive(Debug)]
pub struct Judgement {
    pub must: Must,
    pub why: &'static str,
    /// The mark that it has afterwards if it passes.
    pub mark: u32,
    change: Vec<Change>,
}

/// What becomes known with a packet that passes.
#[derive(Debug)]
enum Change {
    Flow(Key, Flow),
    Question(questions::Key, Question),
    Fragment(FragmentKey, Kept),
}

impl Judgement {
    fn new(must: Must, why: &'static str) -> Judgement {
        Judgement { must, why, mark: 0, change: Vec::new() }
    }

    fn pass(why: &'static str) -> Judgement {
        Judgement::new(Must::Pass, why)
    }

    fn either(why: &'static str) -> Judgement {
        Judgement::new(Must::Either, why)
    }

    /// Of a first fragment that audit lets pass.
    fn may_leave_ports(&mut self, endpoint: &Endpoint, ip: &wire::Ip) {
        if flows::is_readable_first(ip) && self.must == Must::Either {
            let kept = Kept::from_first(endpoint, Direction::Ingress, ip).into_iter();
            self.change.extend(kept.map(|(key, kept)| Change::Fragment(key, kept)));
        }
    }

    fn drop_if(is_enforced: bool, why: &'static str) -> Judgement {
        Judgement::new(if is_enforced { Must::Drop } else { Must::Pass }, why)
    }
}

impl Machine {
    pub fn new(forwards: bool, local: Vec<IpAddr>) -> Machine {
        Machine { forwards, local, ..Machine::default() }
    }

    /// Forgets what packets have left.
    pub fn forget(&mut self) {
        self.flows.clear();
        self.questions.clear();
        self.fragments.clear();
    }

    /// Takes in what a packet may have left behind.
    pub fn suspect(&mut self, judgement: Judgement) {
        if judgement.must != Must::Drop {
            self.learn(Judgement { must: Must::Either, ..judgement }, true);
        }
    }

    /// Takes in what became of a packet.
    pub fn learn(&mut self, judgement: Judgement, has_passed: bool) {
        if !has_passed {
            return;
        }
        let is_certain = judgement.must != Must::Either;
        for change in judgement.change {
            match change {
                Change::Flow(key, mut flow) => {
                    flow.is_certain &= is_certain;
                    self.flows.insert(key, flow);
                }
                Change::Question(key, mut question) => {
                    question.is_certain &= is_certain;
                    self.questions.insert(key, question);
                }
                Change::Fragment(key, mut kept) => {
                    kept.is_certain &= is_certain;
                    self.fragments.insert(key, kept);
                }
            }
        }
    }
}
