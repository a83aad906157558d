//! The skeleton that build.rs generates from src/bpf/cilmark.bpf.c.

#![allow(missing_docs, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/cilmark.skel.rs"));
