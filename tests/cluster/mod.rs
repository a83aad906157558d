//! Hosts that share identities and addresses through a real etcd.

#![allow(dead_code)]

mod certificates;
mod checker;
mod client;
mod fixtures;
mod history;
mod host;
mod lab;
mod store;
