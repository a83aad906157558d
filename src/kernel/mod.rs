//! What talks to the kernel and knows no endpoint. Nothing here prints or reads arguments.
//!
//! `abi` is the wire format with the C of src/bpf, whose object `skel` holds; `sys` are the calls that libbpf-rs does
//! not wrap, `insn` what a program is made of. `device`, `netns`, `ip_rules`, `sockets`, `processes`, `masquerade`,
//! `multicast`, `kernel_flows` and `filters` look at the host (`filters` by other programs, which `tool` runs), `netlink`
//! and `rtnetlink` ask it, `hooks` are those of a device, `order` tells what else runs there and `xdp` what runs before all
//! of it, `log` passes on what libbpf says, `syslog` is the system's log, `features` and `rights` are what may be done.
//! All `unsafe` is in `abi` (what may be read as bytes) and `sys`.

pub mod abi;
pub mod device;
pub mod features;
pub mod filters;
pub mod hooks;
pub(crate) mod insn;
pub mod ip_rules;
pub mod kernel_flows;
pub mod log;
pub mod masquerade;
pub mod multicast;
mod netlink;
pub mod netns;
pub mod order;
pub mod processes;
pub mod rights;
pub(crate) mod rtnetlink;
pub(crate) mod skel;
pub mod sockets;
pub mod sys;
pub mod syslog;
pub mod tool;
pub mod xdp;
