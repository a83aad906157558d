//! Elements of maps, without a buffer for each: what a million of them are read and written by.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libbpf_rs::{MapCore, MapHandle};
use libbpf_sys as bpf;
use nix::errno::Errno;

use super::check;

/// Reads the value of a key into a buffer of the map's own size; whether it is there. Not for maps with a value for each
/// CPU.
pub fn read_element(map: &MapHandle, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    check_sizes(map, key.len(), value.len(), 1)?;
    // SAFETY: the buffers have the map's own sizes, and outlive the call.
    let read = check(unsafe {
        bpf::bpf_map_lookup_elem(
            map.as_fd().as_raw_fd(),
            key.as_ptr().cast(),
            value.as_mut_ptr().cast(),
        )
    });
    match read {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes elements in their order, up to the first that is refused: how many were written, and why no more.
pub fn write_elements(
    map: &MapHandle,
    keys: &[u8],
    values: &[u8],
    count: u32,
) -> (u32, io::Result<()>) {
    if let Err(error) = check_sizes(map, keys.len(), values.len(), count as usize) {
        return (0, Err(error));
    }
    let mut written = count;
    // SAFETY: the buffers hold `count` keys and values of the map's own sizes, and outlive the call.
    let result = check(unsafe {
        bpf::bpf_map_update_batch(
            map.as_fd().as_raw_fd(),
            keys.as_ptr().cast(),
            values.as_ptr().cast(),
            &mut written,
            &options(),
        )
    });
    (written.min(count), result.map(|_| ()))
}

/// Deletes elements in their order, up to the first that is not there: how many were deleted, and why no more.
pub fn delete_elements(map: &MapHandle, keys: &[u8], count: u32) -> (u32, io::Result<()>) {
    let values = count as usize * map.value_size() as usize;
    if let Err(error) = check_sizes(map, keys.len(), values, count as usize) {
        return (0, Err(error));
    }
    let mut deleted = count;
    // SAFETY: the buffer holds `count` keys of the map's own size, and outlives the call.
    let result = check(unsafe {
        bpf::bpf_map_delete_batch(
            map.as_fd().as_raw_fd(),
            keys.as_ptr().cast(),
            &mut deleted,
            &options(),
        )
    });
    (deleted.min(count), result.map(|_| ()))
}

fn options() -> bpf::bpf_map_batch_opts {
    bpf::bpf_map_batch_opts { sz: size_of::<bpf::bpf_map_batch_opts>() as _, ..Default::default() }
}

fn check_sizes(map: &MapHandle, keys: usize, values: usize, count: usize) -> io::Result<()> {
    let fits =
        keys == count * map.key_size() as usize && values == count * map.value_size() as usize;
    match fits {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(Errno::EINVAL as i32)),
    }
}
