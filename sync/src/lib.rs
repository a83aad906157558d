//! cilmark-sync: shares identities and addresses between hosts through etcd, in the format that Cilium reads and writes.
//!
//! ```text
//!  etcd of this cluster ─┐                     ┌─> cm_ipcache, cm_id_labels   (cilmark::ops::cluster)
//!  etcds of other ones ──┴─> etcd ──> read ────┘
//!  endpoints of this host ───────> publish ──> etcd ──> etcd of this cluster
//!  `attach --labels` ──> service ──> identities ─┘
//! ```
//! `cilium` has the formats and what Cilium accepts, without I/O. `service` runs the others and answers commands.

pub mod cilium;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod etcd;
pub mod identities;
pub mod publish;
pub mod read;
pub mod service;
pub mod setup;
pub mod withdraw;
