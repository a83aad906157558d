//! From a configuration to programs on hooks.
//!
//! `load` turns a [`load::Spec`] into programs by way of `object` and `fold`, `attach` puts them on a device's hooks,
//! and `explain` runs a private copy of them on one packet.

pub mod attach;
pub mod explain;
mod fold;
pub mod load;
pub(crate) mod object;
