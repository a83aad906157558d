//! What rules of others do to the marks of identities: pure, of what their tools print.

pub mod iptables;
pub mod layouts;
pub mod nft;
pub mod outcome;
pub mod ruleset;
pub mod value;
pub mod walk;
