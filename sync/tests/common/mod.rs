//! What tests are made of.

pub mod allocators;
pub mod certificates;
pub mod directory;
pub mod host;
pub mod machine;
pub mod server;

pub use server::Etcd;
