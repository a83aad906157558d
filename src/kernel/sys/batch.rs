//! Maps that are read whole.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use libbpf_rs::{MapCore, MapHandle};
use libbpf_sys as bpf;
use nix::errno::Errno;

use super::check;

/// Entries that [`for_each_batch`] asks for first.
const FIRST_BATCH: usize = 512;

/// Reads a whole map in batches: the bytes of up to `most` keys and of their values at a time, the
/// first time of fewer, since most maps are small. libbpf-rs has this as an iterator, which takes a
/// batch that is not quite full for the last one; a hash map gives whole buckets only.
pub fn for_each_batch(
    map: &MapHandle,
    most: usize,
    handle: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    batches(map, most, 0, handle)
}

/// The same of an array whose values have a lock: each is read under it.
pub fn for_each_batch_locked(
    map: &MapHandle,
    most: usize,
    handle: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    batches(map, most, bpf::BPF_F_LOCK.into(), handle)
}

fn batches(
    map: &MapHandle,
    most: usize,
    elem_flags: u64,
    mut handle: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    let options = bpf::bpf_map_batch_opts {
        sz: size_of::<bpf::bpf_map_batch_opts>() as _,
        elem_flags,
        ..Default::default()
    };
    let (key_size, value_size) = (map.key_size() as usize, map.value_size() as usize);
    let mut count = most.min(FIRST_BATCH);
    let mut keys = vec![0u8; count * key_size];
    let mut values = vec![0u8; count * value_size];
    // Where the kernel is: a bucket number in a hash map, a key in a trie.
    let mut position = vec![0u8; key_size.max(size_of::<u32>())];
    let mut first = true;
    loop {
        let mut read = count as u32;
        let from = if first { ptr::null_mut() } else { position.as_mut_ptr().cast() };
        // SAFETY: the buffers hold `count` keys and values of the map's own sizes, the position
        // what the kernel keeps there, and all outlive the call.
        let result = unsafe {
            bpf::bpf_map_lookup_batch(
                map.as_fd().as_raw_fd(),
                from,
                position.as_mut_ptr().cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &mut read,
                &options,
            )
        };
        let end = match check(result) {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The next bucket holds more than that; the position stays before it.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && count < most => {
                read = 0;
                false
            }
            Err(error) => return Err(error),
        };
        let read = read as usize;
        handle(&keys[..read * key_size], &values[..read * value_size]);
        if end {
            return Ok(());
        }
        first = false;
        count = most.min(count * 4);
        keys.resize(count * key_size, 0);
        values.resize(count * value_size, 0);
    }
}
