//! What becomes of one packet, and why: a private copy of an endpoint's programs runs on it, and nothing changes.

mod path;
mod report;
mod steps;

use std::slice;

use anyhow::Result;
use path::Path;
pub use report::{Arrival, Conntrack, Part, Report, Step};

use super::targets;
use crate::kernel::abi::{cm_confirm, cm_event, cm_fallback, cm_policy_mode};
use crate::kernel::sys::Hook;
use crate::kernel::{device, netns};
use crate::model::endpoint::{Role, Selector};
use crate::model::enforcement::Mode;
use crate::model::frame::Frame;
use crate::model::mark::Mark;
use crate::program::explain::{self, Original, Question};
use crate::state::pin::Root;
use crate::state::registry::Endpoint;

/// Locally administered, and nobody's.
const OTHER_MAC: [u8; 6] = [0x02, 0xc1, 0x1a, 0, 0, 0x02];

/// The packet, and what is known of it.
pub struct Request<'a> {
    /// At whose hook.
    pub endpoint: &'a Selector,
    /// Only what is in this namespace.
    pub netns: Option<u64>,
    /// Ingress: what comes from the device; egress: what goes to it.
    pub hook: Hook,
    /// The packet.
    pub packet: Packet,
    /// Its mark; by default what its source address tells.
    pub mark: Option<Mark>,
    /// The device that it came in by, 0 for what this host sends; by default what its source address tells.
    pub ingress_ifindex: Option<u32>,
    /// As if both directions had this mode.
    pub mode: Option<Mode>,
}

/// A packet, whole or by what a person says of it.
pub enum Packet {
    /// As it comes to the hook.
    Bytes(Vec<u8>),
    /// It gets the MACs that it would have.
    Frame(Frame),
}

/// Finds out what becomes of it.
pub fn explain(root: &Root, request: &Request<'_>) -> Result<Report> {
    let found = targets::named(root, request.netns, slice::from_ref(request.endpoint))?;
    let endpoint = found.select(request.endpoint)?;
    endpoint.check_alive()?;
    let packet = match &request.packet {
        Packet::Bytes(bytes) => bytes.clone(),
        Packet::Frame(frame) => bytes_at(endpoint, request.hook, frame)?,
    };
    let usual = Path::of(root, endpoint, request.hook, &packet)?;
    let ingress_ifindex = request.ingress_ifindex.unwrap_or(usual.ingress_ifindex);
    // A mark belongs to the way that it came.
    let came_so = ingress_ifindex == usual.ingress_ifindex;
    let mark = request.mark.unwrap_or(if came_so { usual.mark } else { Mark(0) });
    let question = Question {
        hook: request.hook,
        packet: &packet,
        mark: mark.0,
        ingress_ifindex,
        mode: request.mode,
    };
    let answer = explain::explain(root, Original::of(endpoint, question.hook)?, &question)?;
    let arrival = Arrival {
        program: program(endpoint.role(), request.hook),
        mark,
        length: packet.len(),
        ingress_ifindex,
        because: usual.because.filter(|_| request.ingress_ifindex.is_none()),
    };
    Report::of(root, endpoint, arrival, answer)
}

/// What the rules would say, were they enforced, about a flow that begins with a packet which an endpoint's
/// hook meets: the event of that. A direction whose policy is off asks none. `None` where nobody can tell.
pub fn verdict_on(
    root: &Root,
    endpoint: &Endpoint,
    hook: Hook,
    frame: &Frame,
) -> Result<Option<cm_event>> {
    let packet = bytes_at(endpoint, hook, frame)?;
    let path = Path::of(root, endpoint, hook, &packet)?;
    let mut original = Original::of(endpoint, hook)?;
    for mode in &mut original.config.policy {
        if *mode == cm_policy_mode::CM_POLICY_AUDIT {
            *mode = cm_policy_mode::CM_POLICY_ENFORCE;
        }
    }
    if original.inherited.confirm.fallback == cm_fallback::CM_FALLBACK_AUDIT {
        original.inherited.confirm = cm_confirm::default();
    }
    let (mark, ingress_ifindex) = (path.mark.0, path.ingress_ifindex);
    let question = Question { hook, packet: &packet, mark, ingress_ifindex, mode: None };
    Ok(explain::explain(root, original, &question)?.event)
}

fn program(role: Option<Role>, hook: Hook) -> &'static str {
    match (hook, role) {
        (Hook::Ingress, Some(Role::Netdev)) => "from_netdev",
        (Hook::Egress, Some(Role::Netdev)) => "to_netdev",
        (Hook::Ingress, _) => "from_container",
        (Hook::Egress, _) => "to_container",
    }
}

/// The frame as it comes to a hook. What a device receives must be for it, or the host takes no notice.
fn bytes_at(endpoint: &Endpoint, hook: Hook, frame: &Frame) -> Result<Vec<u8>> {
    let mut frame = frame.clone();
    if endpoint.config.l3_device == 0 {
        let device =
            netns::within(endpoint.netns, || device::by_index(endpoint.ifindex))?.flatten();
        let own = device.map_or(endpoint.config.mac, |device| device.mac);
        let other = endpoint.config.workload_mac().unwrap_or(OTHER_MAC);
        frame.macs = Some(if hook == Hook::Ingress { [own, other] } else { [other, own] });
    }
    frame.bytes()
}
