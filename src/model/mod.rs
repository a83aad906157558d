//! What cilmark talks about, as pure values: no kernel, no files, no output.

pub mod birth;
pub mod endpoint;
pub mod enforcement;
pub mod file;
pub mod flow;
pub mod frame;
pub mod hook;
pub mod identity;
pub mod interval;
pub mod labels;
pub mod libvirt;
pub mod mac;
pub mod mark;
pub mod origin;
pub mod owner;
pub mod policy;
pub mod prefix;
pub mod protocol;
pub mod rule;
pub mod rule_list;
pub mod serial;
pub mod spec;
pub mod text;
pub mod time;
pub mod wire;
pub mod wish;
