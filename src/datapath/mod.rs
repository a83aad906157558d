//! The only code that talks to the kernel. Nothing here prints or reads arguments.
//!
//! `load` turns an [`load::Spec`] into programs by way of `object` and `fold`, `attach` puts them on a
//! device's hooks, `order` tells what runs before them, `pin` knows where everything lies in bpffs,
//! `layout` what it is, `registry` reads back what runs and `words` its variables, `maps` and `ipcache` are
//! the pinned maps, `policy` an endpoint's rules, `nics` the NICs that have some, `conntrack` the flows,
//! `flow_table` tells whose they are, `generations` what makes verdicts stale, `addresses` is what endpoints enter
//! there, `delivery` whom they hand packets to, `events` the ring buffer; `explain` runs a private copy on one
//! packet; `device`, `netns` and `kernel_flows` look at the host, `netlink` and `rtnetlink` ask it; `adoption` takes
//! flows over that were up before.
//! All `unsafe` is in `abi` (what may be read as bytes) and `sys` (calls that libbpf-rs does not wrap).

pub mod abi;
pub mod addresses;
pub mod adoption;
pub mod attach;
pub mod conntrack;
pub mod delivery;
pub mod device;
pub mod events;
pub mod explain;
pub mod flow_table;
mod fold;
pub mod generations;
pub mod ipcache;
pub mod kernel_flows;
pub mod layout;
pub mod load;
pub mod log;
pub mod maps;
pub mod masquerade;
mod netlink;
pub mod netns;
pub mod nics;
mod object;
pub mod order;
pub mod pin;
pub mod policy;
pub mod registry;
mod rtnetlink;
mod skel;
pub mod sockets;
pub mod sys;
mod words;
