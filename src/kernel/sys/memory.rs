//! Words that are shared with programs.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use libbpf_rs::{MapCore, MapHandle};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The memory of an array (`BPF_F_MMAPABLE`), mostly of one value, as .bss is. The datapath and other commands
/// read and write beside us: words are written one by one, none is copied back.
pub struct SharedValue {
    memory: NonNull<c_void>,
    length: NonZeroUsize,
}

impl SharedValue {
    /// Maps its first value into this process.
    pub fn of(map: &MapHandle) -> io::Result<SharedValue> {
        SharedValue::of_length(map, map.value_size() as usize)
    }

    /// Maps all its values, of a multiple of eight bytes each.
    pub fn of_all(map: &MapHandle) -> io::Result<SharedValue> {
        SharedValue::of_length(map, map.value_size() as usize * map.max_entries() as usize)
    }

    fn of_length(map: &MapHandle, length: usize) -> io::Result<SharedValue> {
        let length = NonZeroUsize::new(length)
            .ok_or_else(|| io::Error::from_raw_os_error(Errno::EINVAL as i32))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; only atomics look at it.
        let memory = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, map.as_fd(), 0) }?;
        Ok(SharedValue { memory, length })
    }

    /// The word of four bytes at this offset.
    pub fn u32_at(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: in the mapping and aligned, as `at` asserts; an atomic may be shared.
        unsafe { self.at::<AtomicU32>(offset).as_ref() }
    }

    /// Sets or clears bits of the word of four bytes at this offset.
    pub fn set_bits(&self, offset: usize, bits: u32, on: bool) {
        let word = self.u32_at(offset);
        match on {
            true => word.fetch_or(bits, Ordering::SeqCst),
            false => word.fetch_and(!bits, Ordering::SeqCst),
        };
    }

    /// The word of eight bytes at this offset.
    pub fn u64_at(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { self.at::<AtomicU64>(offset).as_ref() }
    }

    /// All words of eight bytes.
    pub fn u64s(&self) -> &[AtomicU64] {
        let length = self.length.get() / size_of::<AtomicU64>();
        // SAFETY: as many as are in the mapping, which begins with a page; atomics may be shared.
        unsafe { slice::from_raw_parts(self.memory.cast().as_ptr(), length) }
    }

    fn at<T>(&self, offset: usize) -> NonNull<T> {
        assert!(offset.is_multiple_of(align_of::<T>()));
        assert!(offset + size_of::<T>() <= self.length.get());
        // SAFETY: within the mapping.
        unsafe { self.memory.byte_add(offset) }.cast()
    }
}

impl Drop for SharedValue {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and no reference outlives `self`. Nothing can be done if it fails.
        let _ = unsafe { munmap(self.memory, self.length.get()) };
    }
}
