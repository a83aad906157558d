//! cilmark: Cilium-style security identities for any Linux network device.
//!
//! Data flows one way: `cli` to `state` and `program`, and these to `kernel`; all of them to `model`. A library only so
//! that tests and benchmarks reach the loader.

pub mod cli;
pub mod kernel;
pub mod model;
pub mod ops;
pub mod output;
pub mod program;
pub mod state;
