//! Entering flows that were up before anybody asked a policy about them.

use std::net::SocketAddr;

use anyhow::Result;

use super::{ANSWERED, CONFIRMED, Conntrack, ESTABLISHED, NIC_SHIFT, Parts, now, ticks};
use crate::kernel::abi::{
    cm_ct_lifetime, cm_ct_picked_up, cm_direction, cm_flow, cm_flow_edit, cm_flow_edit_kind,
    cm_flow_edited,
};
use crate::model::endpoint::Scope;
use crate::model::protocol::{TCP, UDP};
use crate::model::rule::Direction;

/// Whether the direction of a flow is that of its first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Originator {
    /// Nobody saw who began.
    Unknown,
    /// Somebody did.
    Known,
}

/// A flow as an endpoint sees it, established and not asked about yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Existing {
    /// TCP or UDP.
    pub protocol: u8,
    /// The endpoint's own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Of the first packet, as far as that is known.
    pub direction: Direction,
    /// Whether it is.
    pub originator: Originator,
    /// A workload's, under an address of this host.
    pub masqueraded: bool,
    /// When the kernel forgets it, which is no earlier than the datapath may.
    pub seconds_left: Option<u32>,
}

/// What has become of existing flows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// Entries that were made.
    pub entered: usize,
    /// Flows for which there was no room beside what the maps know.
    pub no_room: usize,
}

impl Conntrack {
    /// Enters flows of a container, or of the NIC of a slot, the first ones if there is no room for all. A flow that is
    /// known already stays as it is, unless it was denied: audit has let it pass, and enforcement would
    /// have left no entry. One that only other NICs have let pass is this one's, too, from now on.
    pub fn adopt(&self, scope: Scope, slot: u8, flows: &[Existing]) -> Result<Adopted> {
        let now = now()?;
        let edits = flows.iter().filter_map(|flow| {
            let parts = Parts {
                scope,
                protocol: flow.protocol,
                local: flow.local.ip(),
                local_port: flow.local.port(),
                remote: flow.remote.ip(),
                remote_port: flow.remote.port(),
            };
            let edit = parts.edit(cm_flow_edit_kind::CM_FLOW_EDIT_ADD)?;
            let expires = now.wrapping_add(ticks(lifetime(flow)));
            Some(cm_flow_edit { expires, flow: entry(flow, slot, now), ..edit })
        });
        let edits: Vec<cm_flow_edit> = edits.collect();
        let done = self.editor()?.run(&edits)?;
        let count = |what| done.iter().filter(|edit| edit.edited == what).count();
        Ok(Adopted {
            entered: count(cm_flow_edited::CM_FLOW_DONE),
            no_room: count(cm_flow_edited::CM_FLOW_NO_ROOM),
        })
    }
}

/// Seconds. What the kernel forgets sooner is over: under masquerade a stranger could send to the host itself
/// by what is left of it.
fn lifetime(flow: &Existing) -> u32 {
    let most = match flow.protocol {
        TCP => cm_ct_lifetime::CM_CT_LIFETIME_ESTABLISHED,
        UDP => cm_ct_lifetime::CM_CT_LIFETIME_UDP_STREAM,
        _ => cm_ct_lifetime::CM_CT_LIFETIME_OTHER,
    };
    flow.seconds_left.map_or(most.0, |left| left.saturating_sub(1).min(most.0))
}

fn entry(flow: &Existing, slot: u8, now: u32) -> cm_flow {
    let direction = match flow.direction {
        Direction::Ingress => cm_direction::CM_INGRESS,
        Direction::Egress => cm_direction::CM_EGRESS,
    };
    cm_flow {
        // Allowed in an epoch that never was: the next packet asks the rules.
        verdict: 1 << (16 + slot),
        rule: u32::from(slot) << NIC_SHIFT,
        born: now as u16,
        direction: direction.0 as u8,
        state: ESTABLISHED | ANSWERED | CONFIRMED,
        picked_up: match flow.originator {
            Originator::Unknown => cm_ct_picked_up::CM_CT_PICKED_UP_UNKNOWN,
            Originator::Known => cm_ct_picked_up::CM_CT_PICKED_UP_KNOWN,
        }
        .0 as u8,
        masqueraded: flow.masqueraded.into(),
        ..cm_flow::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_lives_as_long_as_the_datapath_and_the_kernel_both_would_let_it() {
        let flow = |protocol, masqueraded, seconds_left| {
            let end = "192.0.2.1:1".parse().unwrap();
            let (local, remote) = (end, end);
            lifetime(&Existing {
                protocol,
                local,
                remote,
                direction: Direction::Egress,
                originator: Originator::Known,
                masqueraded,
                seconds_left,
            })
        };
        assert_eq!(flow(TCP, false, Some(432_000)), 21600);
        assert_eq!(flow(TCP, true, Some(300)), 299);
        assert_eq!(flow(17, false, Some(180)), 120);
        assert_eq!(flow(17, true, Some(120)), 119);
        assert_eq!(flow(17, true, Some(7)), 6);
        assert_eq!(flow(17, false, None), 120);
    }
}
