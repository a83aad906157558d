//! The client.

mod keys;
mod leases;
mod locks;
mod members;
mod stores;
mod tls;
mod watches;
