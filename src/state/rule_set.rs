//! Where rules lie: an endpoint has two sets of them.

/// `CM_POLICIES`.
pub const SETS: u32 = 2;

/// The two rule sets of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// `CM_POLICY_CURRENT`.
    Current = 0,
    /// `CM_POLICY_PREVIOUS`: what an unconfirmed change falls back to.
    Previous = 1,
}

/// Under which key the rules of a NIC lie in `cm_nic_policies`, or those of another endpoint in its own
/// `cm_policy_sets`.
pub(super) fn set_of(slot: Option<u8>, set: Slot) -> u32 {
    u32::from(slot.unwrap_or(0)) * SETS + set as u32
}
