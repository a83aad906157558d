//! What runs before and behind a program of ours on its hook. TCX programs run in the order of their list, and before
//! all filters of clsact; these by priority (net/core/dev.c, `sch_handle_ingress`).

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use netlink_packet_core::{DefaultNla, NLM_F_DUMP, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use serde::Serialize;

use crate::kernel::hooks::{FILTER_HANDLE, HookKind, PRIORITY_FIRST, PRIORITY_LAST};
use crate::kernel::rtnetlink::{REDIRECTS_TO, request};
use crate::kernel::sys::{self, Hook};

/// Another program on a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Other {
    /// Which hook.
    pub hook: Hook,
    /// How it is attached.
    pub kind: HookKind,
    /// Its name, or the kind of a filter that has no program (`flower`, `u32`, `bpf` with classic code).
    pub name: String,
    /// The kernel's number of the program.
    pub program_id: Option<u32>,
    /// The index of the device that an action of the filter sends packets to (mirred).
    #[serde(skip)]
    pub redirects_to: Option<u32>,
}

/// What runs before one of our links on a device of the current namespace: what that drops, accepts for good or
/// redirects, ours never sees.
pub fn before_link(ifindex: u32, hook: Hook, link: u32) -> Result<Vec<Other>> {
    let others = on_tcx(ifindex, hook)?.into_iter().take_while(|(it, _)| *it != link);
    Ok(others.map(|(_, it)| it).collect())
}

/// What gets from it the packets that it passes.
pub fn behind_link(ifindex: u32, hook: Hook, link: u32) -> Result<Vec<Other>> {
    let others = on_tcx(ifindex, hook)?.into_iter().skip_while(|(it, _)| *it != link).skip(1);
    let mut behind: Vec<Other> = others.map(|(_, it)| it).collect();
    running_filters(ifindex, hook)?.iter().for_each(|filter| push(&mut behind, hook, filter));
    Ok(behind)
}

/// The same as [`before_link`] for our filter of this priority.
pub fn before_filter(ifindex: u32, hook: Hook, priority: u32) -> Result<Vec<Other>> {
    let mut before = Vec::new();
    if sys::has_tcx() {
        before.extend(on_tcx(ifindex, hook)?.into_iter().map(|(_, it)| it));
    }
    let filters = filters(ifindex, hook)?;
    let others = filters.iter().take_while(|filter| !is_ours(filter, priority));
    others.for_each(|filter| push(&mut before, hook, filter));
    Ok(before)
}

/// The same as [`behind_link`] for it.
pub fn behind_filter(ifindex: u32, hook: Hook, priority: u32) -> Result<Vec<Other>> {
    let mut behind = Vec::new();
    let filters = filters(ifindex, hook)?;
    let others = filters.iter().skip_while(|filter| !is_ours(filter, priority)).skip(1);
    others.for_each(|filter| push(&mut behind, hook, filter));
    Ok(behind)
}

/// A clsact filter that cilmark may have put on a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurFilter {
    /// Its priority.
    pub priority: u32,
    /// Its program.
    pub program: Other,
}

/// The clsact filters on a hook of a device of the current namespace that have a priority and the handle of ours.
pub fn our_filters(ifindex: u32, hook: Hook) -> Result<Vec<OurFilter>> {
    let of_priority = |filter: &TcMessage| {
        let priority =
            [PRIORITY_FIRST, PRIORITY_LAST].into_iter().find(|it| is_ours(filter, *it))?;
        Some(OurFilter { priority, program: of_filter(hook, filter)? })
    };
    Ok(running_filters(ifindex, hook)?.iter().filter_map(of_priority).collect())
}

fn is_ours(filter: &TcMessage, priority: u32) -> bool {
    (filter.header.info >> 16, u32::from(filter.header.handle)) == (priority, FILTER_HANDLE)
}

/// The links of a hook by their numbers, with their programs.
fn on_tcx(ifindex: u32, hook: Hook) -> Result<Vec<(u32, Other)>> {
    let all = sys::on_tcx(ifindex, hook).context("read the links of its hooks")?;
    let other = |program| of_program(hook, HookKind::Tcx, program, None);
    Ok(all.iter().map(|it| (it.link, other(it.program))).collect())
}

/// Further chains run only where one sends a packet there.
fn push(others: &mut Vec<Other>, hook: Hook, filter: &TcMessage) {
    if chain(filter) == 0
        && let Some(found) = of_filter(hook, filter)
        && !others.contains(&found)
    {
        others.push(found);
    }
}

/// The filters of a clsact hook, in the order in which they run.
fn filters(ifindex: u32, hook: Hook) -> Result<Vec<TcMessage>> {
    // TC_H_MIN_INGRESS, TC_H_MIN_EGRESS of include/uapi/linux/pkt_sched.h.
    let minor = match hook {
        Hook::Ingress => 0xfff2,
        Hook::Egress => 0xfff3,
    };
    let mut query = TcMessage::default();
    query.header.index = ifindex as i32;
    query.header.parent = TcHandle { major: u16::MAX, minor };
    let answers = request(RouteNetlinkMessage::GetTrafficFilter(query), NLM_F_DUMP)?;
    let filters = answers.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewTrafficFilter(filter) => Some(filter),
        _ => None,
    });
    Ok(filters.filter(|filter| filter.header.index == ifindex as i32).collect())
}

/// The same that run there: the qdisc `ingress` lists its filters for egress, too, and runs none.
fn running_filters(ifindex: u32, hook: Hook) -> Result<Vec<TcMessage>> {
    let mut filters = filters(ifindex, hook)?;
    if hook == Hook::Egress && !filters.is_empty() && !has_clsact(ifindex)? {
        filters.clear();
    }
    Ok(filters)
}

fn has_clsact(ifindex: u32) -> Result<bool> {
    let mut query = TcMessage::default();
    query.header.index = ifindex as i32;
    let answers = request(RouteNetlinkMessage::GetQueueDiscipline(query), NLM_F_DUMP)?;
    Ok(answers.iter().any(|message| match message {
        RouteNetlinkMessage::NewQueueDiscipline(qdisc) => {
            qdisc.header.index == ifindex as i32
                && qdisc.attributes.iter().any(|it| *it == TcAttribute::Kind("clsact".to_owned()))
        }
        _ => false,
    }))
}

fn chain(filter: &TcMessage) -> u32 {
    let chain = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Chain(chain) => Some(*chain),
        _ => None,
    });
    chain.unwrap_or(0)
}

/// `None` for the head of a list of filters.
fn of_filter(hook: Hook, filter: &TcMessage) -> Option<Other> {
    let (mut kind, mut program, mut redirects_to) = ("", None, None);
    for attribute in &filter.attributes {
        match attribute {
            TcAttribute::Kind(name) => kind = name,
            TcAttribute::Options(options) => {
                program = options.iter().find_map(|option| match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
                    _ => None,
                });
            }
            TcAttribute::Other(other) => redirects_to = redirects_to.or(redirect(other)),
            _ => {}
        }
    }
    if let Some(program) = program {
        return Some(of_program(hook, HookKind::Clsact, program, redirects_to));
    }
    // What holds the filters of a priority: of u32 a table has no node (`TC_U32_NODE`).
    let handle = u32::from(filter.header.handle);
    let is_head = if kind == "u32" { handle & 0xfff == 0 } else { handle == 0 };
    let (name, kind) = (kind.to_owned(), HookKind::Clsact);
    (!is_head).then_some(Other { hook, kind, name, program_id: None, redirects_to })
}

fn redirect(attribute: &DefaultNla) -> Option<u32> {
    let mut ifindex = [0; 4];
    let is_it = attribute.kind() == REDIRECTS_TO && attribute.value_len() == ifindex.len();
    is_it.then(|| {
        attribute.emit_value(&mut ifindex);
        u32::from_ne_bytes(ifindex)
    })
}

/// One that is gone by now, or has no name, goes by its number.
fn of_program(hook: Hook, kind: HookKind, id: u32, redirects_to: Option<u32>) -> Other {
    Other { hook, kind, name: program_name(id), program_id: Some(id), redirects_to }
}

/// A program's name, by the kernel's number.
pub fn program_name(id: u32) -> String {
    let facts = sys::open_program(id).and_then(|program| sys::program_facts(program.as_fd()));
    let name = facts.ok().map(|facts| facts.name).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| format!("program {id}"))
}
