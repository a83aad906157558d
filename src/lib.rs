//! cilmark: Cilium-style security identities for any Linux network device.
//!
//! Data flows one way: `cli` to `model`, and `cli` to `datapath` to the kernel. A library only so
//! that tests and benchmarks reach the loader.

pub mod cli;
pub mod datapath;
pub mod model;
pub mod output;
