//! What tests are made of.

pub mod bpf;
pub mod code;
pub mod flood;
pub mod flow;
pub mod lab;
pub mod machine;
pub mod many;
pub mod packet;
pub mod process;
pub mod program;
pub mod random;
pub mod stranger;
pub mod talk;
pub mod transfer;
pub mod wire;
pub mod world;

pub use lab::Lab;
pub use world::World;
