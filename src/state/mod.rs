//! The pinned maps, and who is attached.
//!
//! `pin` knows where everything lies in bpffs, `layout` what it is and `room` how full. `registry` reads back what runs, `config` what it was attached
//! with and `devices` where, `runtime` its variables and `clock` one of these. `maps`, `endpoints` and `ipcache` are the shared maps, the last two of them each a `verdict_map`, `spec` what an endpoint was asked to be, `policy` its rules in one `rule_set` of two, `id_rules` those of identities, `nics` the NICs that have some,
//! `conntrack` the flows; `flow_table` has the secret of their hashes, `scopes` tells whose they are and `generations` what makes verdicts stale. `addresses` is what
//! endpoints enter there, `delivery` whom they hand packets to, `events` the ring buffer.

pub mod addresses;
mod clock;
mod config;
pub mod conntrack;
pub mod counters;
pub mod delivery;
pub mod devices;
pub mod endpoints;
pub mod events;
pub mod flow_table;
pub mod generations;
pub mod id_labels;
pub mod id_rules;
pub mod ipcache;
pub mod layout;
pub mod maps;
pub mod nics;
pub mod pin;
pub mod policy;
pub mod registry;
pub mod room;
mod rule_set;
mod runtime;
pub mod scopes;
pub mod spec;
mod verdict_map;
