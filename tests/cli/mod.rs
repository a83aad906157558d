//! Tier cli: the command, its arguments, and what it leaves in the kernel and in bpffs.

mod arguments;
mod bpffs;
mod confirm;
mod conntrack;
mod detach;
mod device;
mod enforcement;
mod explain;
mod foreground;
mod help;
mod hooks;
mod identity;
mod interruption;
mod ipcache;
mod kernel;
mod load;
mod lost_pins;
mod mark;
mod netns;
mod output;
mod pinned_maps;
mod policy;
mod replace;
mod role;
mod stale;
mod verdicts;
