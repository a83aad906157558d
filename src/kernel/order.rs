//! What runs before a program of ours on its hook: what that drops, accepts for good or redirects, ours never
//! sees. TCX programs run in the order of their list, and before all filters of clsact; these by priority.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use serde::Serialize;

use crate::kernel::hooks::{FILTER_HANDLE, HookKind};
use crate::kernel::rtnetlink::request;
use crate::kernel::sys::{self, Hook};

/// Another program on a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Before {
    /// Which hook.
    pub hook: Hook,
    /// How it is attached.
    pub kind: HookKind,
    /// Its name, or the kind of a filter that has no program (`flower`, `u32`, `bpf` with classic code).
    pub name: String,
    /// The kernel's number of the program.
    pub program_id: Option<u32>,
}

/// What runs before one of our links on a device of the current namespace.
pub fn before_link(ifindex: u32, hook: Hook, link: u32) -> Result<Vec<Before>> {
    let all = sys::on_tcx(ifindex, hook).context("read the links of its hooks")?;
    let others = all.iter().take_while(|it| it.link != link);
    Ok(others.map(|it| of_program(hook, HookKind::Tcx, it.program)).collect())
}

/// The same for our filter of this priority.
pub fn before_filter(ifindex: u32, hook: Hook, priority: u32) -> Result<Vec<Before>> {
    let mut before = Vec::new();
    if sys::has_tcx() {
        let all = sys::on_tcx(ifindex, hook).context("read the links of its hooks")?;
        before.extend(all.iter().map(|it| of_program(hook, HookKind::Tcx, it.program)));
    }
    for filter in filters(ifindex, hook)? {
        let handle = u32::from(filter.header.handle);
        if (filter.header.info >> 16, handle) == (priority, FILTER_HANDLE) {
            break;
        }
        // Further chains run only where one sends a packet there.
        if chain(&filter) == 0
            && let Some(found) = of_filter(hook, &filter)
            && !before.contains(&found)
        {
            before.push(found);
        }
    }
    Ok(before)
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

fn chain(filter: &TcMessage) -> u32 {
    let chain = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Chain(chain) => Some(*chain),
        _ => None,
    });
    chain.unwrap_or(0)
}

/// `None` for the head of a list of BPF programs.
fn of_filter(hook: Hook, filter: &TcMessage) -> Option<Before> {
    let mut kind = "";
    for attribute in &filter.attributes {
        match attribute {
            TcAttribute::Kind(name) => kind = name,
            TcAttribute::Options(options) => {
                let program = options.iter().find_map(|option| match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
                    _ => None,
                });
                if let Some(program) = program {
                    return Some(of_program(hook, HookKind::Clsact, program));
                }
            }
            _ => {}
        }
    }
    let is_head = kind == "bpf" && u32::from(filter.header.handle) == 0;
    let name = kind.to_owned();
    (!is_head).then_some(Before { hook, kind: HookKind::Clsact, name, program_id: None })
}

/// One that is gone by now, or has no name, goes by its number.
fn of_program(hook: Hook, kind: HookKind, id: u32) -> Before {
    let facts = sys::open_program(id).and_then(|program| sys::program_facts(program.as_fd()));
    let name = facts.ok().map(|facts| facts.name).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("program {id}"));
    Before { hook, kind, name, program_id: Some(id) }
}
