//! Heartbeat stamps: a BPF array map in memory, written without a system call.
//!
//! Guarantees: a stamp is written whole (one aligned 64-bit store). It must not be used for
//! anything that has to be ordered with packet memory: readers are hooks that only compare ages.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::SetupError;
use crate::sys::{self, Mapping};

/// CLOCK_MONOTONIC in nanoseconds: the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    sys::monotonic_ns()
}

/// A mapped `BPF_MAP_TYPE_ARRAY` of `u64` values, created with `BPF_F_MMAPABLE`.
#[derive(Debug)]
pub struct StampArray {
    memory: Mapping,
    entries: u32,
}

impl StampArray {
    /// Maps the array behind `fd`, which has at least `entries` values of 8 bytes.
    ///
    /// # Errors
    ///
    /// [`SetupError::Os`] if it is not a mappable array or is smaller.
    pub fn map(fd: BorrowedFd<'_>, entries: u32) -> Result<Self, SetupError> {
        if entries == 0 {
            return Err(SetupError::Config {
                what: "stamps",
                expected: "at least 1",
                got: 0,
            });
        }
        // The kernel rounds the map up to whole pages and refuses to map more than that
        // (kernel/bpf/arraymap.c `array_map_mmap`).
        let memory = Mapping::shared(fd, entries as usize * size_of::<u64>(), 0)
            .map_err(|source| SetupError::os("map", "the heartbeat array", source))?;
        Ok(Self { memory, entries })
    }

    /// Number of stamps.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.entries
    }

    /// Never: an array has at least one stamp.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Writes stamp `index`; false, and no write, past the end.
    pub fn store(&self, index: u32, ns: u64) -> bool {
        match self.slot(index) {
            Some(slot) => {
                slot.store(ns, Ordering::Release);
                true
            }
            None => false,
        }
    }

    /// Reads stamp `index`; `None` past the end.
    #[must_use]
    pub fn load(&self, index: u32) -> Option<u64> {
        Some(self.slot(index)?.load(Ordering::Acquire))
    }

    fn slot(&self, index: u32) -> Option<&AtomicU64> {
        if index >= self.entries {
            return None;
        }
        let offset = index as usize * size_of::<u64>();
        // SAFETY: `index < entries`, and the mapping has 8 bytes for each entry.
        let place: NonNull<u8> = unsafe { self.memory.base().add(offset) };
        // SAFETY: inside the mapping, aligned because mappings start on a page, alive as long as
        // `self`, and shared with the kernel as an atomic word.
        Some(unsafe { place.cast::<AtomicU64>().as_ref() })
    }
}
