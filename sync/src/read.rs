//! What clusters say, into the ipcache.
//!
//! `reader` follows one cluster's etcd and tells the `table` what it says; `writer` brings into the ipcache what the table has
//! changed, many at once.

pub mod reader;
pub mod table;
pub mod writer;
