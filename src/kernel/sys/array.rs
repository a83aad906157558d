//! Arrays that are written whole.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use libbpf_rs::{MapCore, MapHandle};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use plain::Plain;

/// Writes an array (`BPF_F_MMAPABLE`) that no program sees yet through its memory: a million elements
/// take as long as copying them.
pub fn fill_array<T: Plain>(map: &MapHandle, elements: &[T]) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(Errno::EINVAL as i32);
    let length = NonZeroUsize::new(size_of_val(elements)).ok_or_else(invalid)?;
    // The kernel rounds elements up to eight bytes.
    let fits = map.value_size() as usize == size_of::<T>() && size_of::<T>().is_multiple_of(8);
    if !fits || map.max_entries() as usize != elements.len() {
        return Err(invalid());
    }
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, of all of the map.
    let memory: NonNull<_> =
        unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, map.as_fd(), 0) }?;
    // SAFETY: the mapping is as long as `elements`, page-aligned, and nobody else's.
    unsafe { ptr::copy_nonoverlapping(elements.as_ptr(), memory.as_ptr().cast(), elements.len()) };
    // SAFETY: mapped above, and no reference to it is left.
    unsafe { munmap(memory, length.get()) }?;
    Ok(())
}
