//! The client of etcd with real ones, each in a network namespace of its own. What cilmark-sync does to hosts is tested
//! with the datapath, in `tests/cluster/` of cilmark.

mod commands;
mod common;
mod etcd;
mod identities;
mod publish;
mod read;
