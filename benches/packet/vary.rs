//! The programs of vary.bpf.c: compiled here, one instance for each case.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use cilmark::kernel::sys;
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, ObjectBuilder, OpenObject};

use crate::world::compile_bpf;

const ETHERNET: u32 = 14;

/// How packets differ from one another; one to one with `vary` of vary.bpf.c.
#[derive(Debug, Clone, Copy)]
pub struct Vary {
    /// 4 or 6.
    pub family: u8,
    /// The remote address, which is that of a number, is the source.
    pub from_remote: bool,
    /// The numbers are those below.
    pub keys: u32,
    /// One number after the other, instead of any.
    pub in_order: bool,
    /// Another source port each time.
    pub new_flows: bool,
    /// By the number the destination port is one of so many; it stays if there are none.
    pub rules: u32,
    /// The first of those.
    pub first_port: u16,
}

/// A program that tail-calls another one on packets that it has changed.
pub struct Wrapper {
    pub program: OwnedFd,
    /// The kernel empties an array of programs when nobody holds it.
    pub _calls: MapHandle,
}

/// A program that looks a key up and does nothing else, and the map that it looks into.
pub struct Bare {
    pub program: OwnedFd,
    pub map: MapHandle,
}

/// The map of a program.
#[derive(Clone, Copy)]
pub enum Store<'a> {
    /// To be made, for so many entries.
    New(u32),
    /// Another program's.
    Shared(&'a MapHandle),
}

impl Vary {
    fn words(&self) -> [u32; 9] {
        let (source, length, l4) = if self.family == 4 { (12, 4, 20) } else { (8, 16, 40) };
        let (source, destination) = (ETHERNET + source, ETHERNET + source + length);
        let (remote, local) =
            if self.from_remote { (source, destination) } else { (destination, source) };
        [
            self.keys,
            self.in_order.into(),
            (self.family == 6).into(),
            remote,
            local,
            ETHERNET + l4,
            self.new_flows.into(),
            self.rules,
            self.first_port.into(),
        ]
    }

    /// An instance that hands its packets to a program.
    pub fn wrap(&self, program: BorrowedFd<'_>) -> Result<Wrapper> {
        let (wrapper, calls) = load(self, "vary_packet", "programs", Store::New(1))?;
        let descriptor = program.as_raw_fd().to_ne_bytes();
        calls.update(&0u32.to_ne_bytes(), &descriptor, MapFlags::ANY).context("tail-call")?;
        Ok(Wrapper { program: wrapper, _calls: calls })
    }

    /// The program of this name over the map of this name.
    pub fn bare(&self, program: &str, map: &str, store: Store<'_>) -> Result<Bare> {
        load(self, program, map, store).map(|(program, map)| Bare { program, map })
    }
}

/// Removes what is in a hash map.
pub fn empty(map: &MapHandle) -> Result<()> {
    const BATCH: usize = 1 << 15;
    if map.map_type() == MapType::Array {
        let keys: Vec<u8> = (0..map.max_entries()).flat_map(u32::to_ne_bytes).collect();
        let zeros = vec![0; map.value_size() as usize * map.max_entries() as usize];
        let count = map.max_entries();
        return map
            .update_batch(&keys, &zeros, count, MapFlags::ANY, MapFlags::ANY)
            .context("empty a map");
    }
    let mut all = Vec::new();
    sys::for_each_batch(map, BATCH, |keys, _| all.extend_from_slice(keys))?;
    let size = map.key_size() as usize;
    if all.is_empty() {
        return Ok(());
    }
    let count = (all.len() / size) as u32;
    map.delete_batch(&all, count, MapFlags::ANY, MapFlags::ANY).context("empty a map")
}

fn load(vary: &Vary, program: &str, map: &str, store: Store<'_>) -> Result<(OwnedFd, MapHandle)> {
    let mut open = open()?;
    for mut other in open.progs_mut() {
        let is_wanted = other.name() == program;
        other.set_autoload(is_wanted);
    }
    for mut other in open.maps_mut() {
        let name = other.name().to_string_lossy().into_owned();
        if name.ends_with(".rodata") {
            let bytes = vary.words().map(u32::to_ne_bytes).concat();
            let value = other.initial_value_mut().context("the object has no .rodata")?;
            value[..bytes.len()].copy_from_slice(&bytes);
        } else if name == map {
            match store {
                Store::New(entries) => other.set_max_entries(entries)?,
                Store::Shared(there) => other.reuse_fd(there.as_fd())?,
            }
        } else if !name.ends_with(".bss") {
            other.set_autocreate(false)?;
        }
    }
    let object = open.load().with_context(|| format!("load {program}"))?;
    let wanted = object.progs().find(|other| other.name() == program);
    let wanted = wanted.with_context(|| format!("no program is called {program}"))?;
    let map = object.maps().find(|other| other.name() == map).context("its map is missing")?;
    Ok((wanted.as_fd().try_clone_to_owned()?, MapHandle::try_from(&map)?))
}

fn open() -> Result<OpenObject> {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    let object = match OBJECT.get() {
        Some(object) => object,
        None => {
            let compiled = compile_bpf("benches/vary.bpf.c")?;
            OBJECT.get_or_init(|| compiled)
        }
    };
    ObjectBuilder::default().open_memory(object).context("open vary.bpf.o")
}
