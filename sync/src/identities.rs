//! Numbers for labels, by Cilium's scheme (Cilium pkg/allocator/allocator.go).
//!
//! `id/<number>` says which labels a number is for, and `value/<labels>/<node>` that a node uses them. The first who uses
//! labels makes both under a lock of the labels; whoever finds the number there only adds himself. `known` has what
//! `id/` says, `obtain` is one attempt under the lock, `allocator` holds numbers as long as endpoints have the labels, and
//! `garbage` deletes numbers that nobody uses.

pub mod allocator;
pub mod garbage;
mod known;
mod obtain;
