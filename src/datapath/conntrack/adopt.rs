//! Entering flows that were up before anybody asked a policy about them.

use std::net::SocketAddr;
use std::ops::AddAssign;

use anyhow::{Context, Result};
use libbpf_rs::MapCore;
use plain::Plain;

use super::{Conntrack, ESTABLISHED, Key, Parts};
use crate::datapath::abi::{cm_ct_adopted, cm_ct_entry, cm_ct_lifetime, cm_direction, cm_reason};
use crate::datapath::maps::{self, TypedMap};
use crate::datapath::pin::Root;
use crate::datapath::sys;
use crate::model::endpoint::EndpointId;
use crate::model::frame::TCP;
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

impl AddAssign for Adopted {
    fn add_assign(&mut self, other: Adopted) {
        self.entered += other.entered;
        self.no_room += other.no_room;
    }
}

impl Conntrack {
    /// Enters flows of a container, or of NICs, the first ones if there is no room for all. A flow that is
    /// known already stays as it is, unless it was denied: audit has let it pass, and enforcement would
    /// have left no entry.
    pub fn adopt(
        &self,
        root: &Root,
        scope: Option<EndpointId>,
        flows: &[Existing],
    ) -> Result<Adopted> {
        let now = sys::jiffies64().context("read the kernel's jiffies")?;
        let rate = sys::jiffies_per_second();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for flow in flows {
            let parts = Parts {
                scope: scope.map_or(0, EndpointId::get),
                protocol: flow.protocol,
                local: flow.local.ip(),
                local_port: flow.local.port(),
                remote: flow.remote.ip(),
                remote_port: flow.remote.port(),
            };
            let lifetime = u64::from(lifetime(flow)) * u64::from(rate);
            let entry = entry(flow, now + lifetime);
            match parts.key() {
                Some(Key::V4(key)) => v4.push((key, entry)),
                Some(Key::V6(key)) => v6.push((key, entry)),
                None => {}
            }
        }
        let mut adopted = enter(&self.v4, &v4)?;
        adopted += enter(&self.v6, &v6)?;
        if self.owner.is_none() {
            maps::count(root, cm_reason::CM_CT_CREATED, adopted.entered as u64)?;
        }
        Ok(adopted)
    }
}

/// Seconds. What the kernel forgets sooner is over: under masquerade a stranger could send to the host itself
/// by what is left of it.
fn lifetime(flow: &Existing) -> u32 {
    let most = match flow.protocol {
        TCP => cm_ct_lifetime::CM_CT_LIFETIME_ESTABLISHED,
        _ if flow.masqueraded => cm_ct_lifetime::CM_CT_LIFETIME_MASQUERADED,
        _ => cm_ct_lifetime::CM_CT_LIFETIME_OTHER,
    };
    flow.seconds_left.map_or(most.0, |left| left.min(most.0))
}

fn entry(flow: &Existing, expires: u64) -> cm_ct_entry {
    let direction = match flow.direction {
        Direction::Ingress => cm_direction::CM_INGRESS,
        Direction::Egress => cm_direction::CM_EGRESS,
    };
    cm_ct_entry {
        // Allowed in an epoch that never was: the next packet asks the rules.
        verdict: 1,
        expires,
        claimed_identity: 0,
        direction: direction.0 as u8,
        state: ESTABLISHED,
        adopted: match flow.originator {
            Originator::Unknown => cm_ct_adopted::CM_CT_ADOPTED_UNKNOWN,
            Originator::Known => cm_ct_adopted::CM_CT_ADOPTED_KNOWN,
        }
        .0 as u8,
        masqueraded: flow.masqueraded.into(),
    }
}

/// One by one: a batch ends at the first entry that is there already.
fn enter<K: Plain + Default>(
    map: &TypedMap<K, cm_ct_entry>,
    flows: &[(K, cm_ct_entry)],
) -> Result<Adopted> {
    if flows.is_empty() {
        return Ok(Adopted::default());
    }
    // A full LRU map makes room by forgetting, perhaps what others still need.
    let most = map.handle().max_entries() as usize;
    let room = most.saturating_sub(map.entries()?.len());
    let mut adopted = Adopted { entered: 0, no_room: flows.len().saturating_sub(room) };
    for (key, entry) in flows.iter().take(room) {
        if map.set_new(key, entry)? {
            adopted.entered += 1;
        } else if map.get(key)?.is_some_and(|there| there.verdict & 1 == 0) {
            map.set(key, entry)?;
        }
    }
    Ok(adopted)
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
        assert_eq!(flow(TCP, true, Some(300)), 300);
        assert_eq!(flow(17, false, Some(120)), 60);
        assert_eq!(flow(17, true, Some(120)), 25);
        assert_eq!(flow(17, true, Some(7)), 7);
        assert_eq!(flow(17, false, None), 60);
    }
}
