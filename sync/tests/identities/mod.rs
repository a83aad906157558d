//! Numbers for labels, in a real etcd.

mod allocation;
mod garbage;
mod holding;
