//! Numbers for labels, by Cilium's scheme (Cilium pkg/allocator/allocator.go).

pub mod allocator;
pub mod garbage;
