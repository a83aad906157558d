//! Where rules lie: an endpoint has two sets of them.

use crate::model::wire::{CM_POLICIES, CM_POLICY_CURRENT, CM_POLICY_PREVIOUS};

/// The two rule sets of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// What counts.
    Current = CM_POLICY_CURRENT as isize,
    /// What an unconfirmed change falls back to.
    Previous = CM_POLICY_PREVIOUS as isize,
}

/// Under which key the rules of a NIC lie in `cm_nic_policies`, or those of another endpoint in its own
/// `cm_policy_sets`.
pub(super) fn set_of(slot: Option<u8>, set: Slot) -> u32 {
    u32::from(slot.unwrap_or(0)) * CM_POLICIES + set as u32
}
