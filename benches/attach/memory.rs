//! What an endpoint takes of the kernel's memory.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::{Context, Result};
use cilmark::kernel::sys;
use cilmark::model::endpoint::EndpointId;
use cilmark::state::pin::Root;
use cilmark::state::registry::Endpoint;
use libbpf_rs::{MapCore, MapHandle};

/// In KiB, of both programs together and of all maps that are its own: measure, of what, how much.
pub fn of_endpoint(root: &Root, id: EndpointId) -> Result<Vec<(&'static str, &'static str, f64)>> {
    let endpoint = Endpoint::read(root, id)?;
    let (mut instructions, mut compiled, mut locked) = (0, 0, 0);
    for program in endpoint.program_ids() {
        let program = sys::open_program(program)?;
        let facts = sys::program_facts(program.as_fd())?;
        instructions += facts.instructions * 8;
        compiled += facts.compiled_bytes;
        locked += memlock(program.as_fd())?;
    }
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    Ok(vec![
        ("program memory", "translated", kib(instructions.into())),
        ("program memory", "compiled", kib(compiled.into())),
        ("program memory", "memlock", kib(locked)),
        ("map memory", "memlock", kib(own_maps(root, id, &endpoint)?)),
    ])
}

/// Of the maps that no other endpoint uses.
fn own_maps(root: &Root, id: EndpointId, endpoint: &Endpoint) -> Result<u64> {
    let mut shared = Vec::new();
    for entry in fs::read_dir(root.path())? {
        let path = entry?.path();
        if path.is_file() {
            shared.push(MapHandle::from_pinned_path(&path)?.info()?.info.id);
        }
    }
    let mut own = endpoint.map_ids();
    own.sort_unstable();
    own.dedup();
    own.retain(|map| !shared.contains(map));
    let mut sum = 0;
    for map in own {
        sum += memlock(MapHandle::from_map_id(map)?.as_fd())?;
    }
    // An inner map, which no program names.
    let rules = root.endpoint(id).map("cm_policy");
    if rules.exists() {
        sum += memlock(MapHandle::from_pinned_path(rules)?.as_fd())?;
    }
    Ok(sum)
}

/// Bytes that the kernel accounts for an object: pages of a program without what it was compiled to,
/// all memory of a map.
fn memlock(object: BorrowedFd<'_>) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", object.as_raw_fd());
    let text = fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.with_context(|| format!("{path} tells no memlock"))?.trim().parse()?)
}
