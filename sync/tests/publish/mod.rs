//! What hosts publish in a real etcd.

mod addresses;
mod endpoints;
mod presence;
