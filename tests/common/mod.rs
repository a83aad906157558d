//! What tests are made of.

pub mod bpf;
pub mod code;
pub mod fixture;
pub mod flood;
pub mod flow;
pub mod machine;
pub mod many;
pub mod packet;
pub mod pages;
pub mod process;
pub mod program;
pub mod random;
pub mod steps;
pub mod third_party;
pub mod traffic;
pub mod transfer;
pub mod wire;
pub mod world;

pub use fixture::Fixture;
pub use world::World;
