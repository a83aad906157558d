//! Cilium's formats in etcd, without I/O: keys, values, and what Cilium accepts of them (read in Cilium 1.19).

pub mod accept;
pub mod cluster_config;
pub mod keys;
pub mod labels;
pub mod pair;
pub mod range;
