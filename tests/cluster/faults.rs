//! What goes wrong with etcd, networks, hosts and clocks, and that hosts have nothing in their ipcaches meanwhile that the store
//! did not say, lose nothing that holds, and agree soon afterwards.

mod deaths;
mod disputes;
mod stores;
