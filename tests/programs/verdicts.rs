//! What the tests of policy share.

pub use cilmark::model::enforcement::{Failsafe, Mode};
pub use cilmark::program::load::Enforcement;

/// No rule allows it.
pub const POLICY: u32 = 133;
/// A rule denies it.
pub const POLICY_DENY: u32 = 181;
/// A later fragment without its first.
pub const FRAGMENT_NOT_FOUND: u32 = 175;
/// Forbidden to the host, whatever the rules say.
pub const FORBIDDEN_ICMP6: u32 = 176;

/// Both directions enforced, and nothing that stays open.
pub fn enforcing() -> Enforcement {
    Enforcement { ingress: Mode::Enforce, egress: Mode::Enforce, ..Enforcement::default() }
}
