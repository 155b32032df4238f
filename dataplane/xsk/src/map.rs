//! Walking a BPF hash map in batches.
//!
//! Guarantees: one system call reads many entries; a walk is resumed where it stopped, so work per
//! call is bounded; entries that stay are seen once, those that come or go meanwhile perhaps. The
//! buffers are the size the kernel says the map's entries have, whoever made the map.
//!
//! Here and not with the maps' owner because it is a system call with addresses. The binding of
//! libbpf-rs 0.27 takes a batch that is not full for the last one, which it need not be.
//!
//! References: bpf(2) `BPF_MAP_LOOKUP_BATCH`, kernel/bpf/hashtab.c.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::{self, Plain};

/// bpf(2) commands.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// `enum bpf_map_type`.
const BPF_MAP_TYPE_HASH: u32 = 1;

/// The kernel wants a whole hash bucket to fit; with as many buckets as entries none is as long.
const BATCH_MIN: u32 = 64;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The `info` member of `union bpf_attr`.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_map_info`.
#[derive(Default)]
#[repr(C)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

// SAFETY: `repr(C)` structs of integers without padding.
unsafe impl Plain for LookupBatch {}
// SAFETY: as above.
unsafe impl Plain for GetInfo {}
// SAFETY: as above.
unsafe impl Plain for MapInfo {}

/// One walk over a map.
#[derive(Debug)]
pub struct MapWalk {
    map: OwnedFd,
    key_bytes: usize,
    value_bytes: usize,
    batch: u32,
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Where the next batch begins; `None` at the start.
    cursor: Option<u32>,
    ended: bool,
}

impl MapWalk {
    /// Prepares to walk `map`, `batch` entries with each system call, 64 at least.
    ///
    /// # Errors
    /// `InvalidInput` for what is no BPF hash map; whatever the kernel reports.
    pub fn new(map: BorrowedFd<'_>, batch: u32) -> io::Result<Self> {
        let info = info(map)?;
        if info.kind != BPF_MAP_TYPE_HASH {
            let kind = info.kind;
            let message = format!("a BPF map of type {kind} is no hash map");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let batch = batch.max(BATCH_MIN);
        let (key_bytes, value_bytes) = (info.key_size as usize, info.value_size as usize);
        Ok(Self {
            map: map.try_clone_to_owned()?,
            key_bytes,
            value_bytes,
            batch,
            keys: vec![0; batch as usize * key_bytes],
            values: vec![0; batch as usize * value_bytes],
            cursor: None,
            ended: false,
        })
    }

    /// Reads one batch: keys and values, possibly none of them. `None` after the last one.
    ///
    /// # Errors
    /// Whatever the kernel reports; the walk may be tried again.
    pub fn next_batch(&mut self) -> io::Result<Option<impl Iterator<Item = (&[u8], &[u8])>>> {
        if self.ended {
            return Ok(None);
        }
        let count = self.read()?;
        let keys = self.keys.chunks_exact(self.key_bytes);
        let values = self.values.chunks_exact(self.value_bytes);
        Ok(Some(keys.zip(values).take(count)))
    }

    fn read(&mut self) -> io::Result<usize> {
        let (mut from, mut next) = (self.cursor.unwrap_or(0), 0_u32);
        let from = self.cursor.is_some().then_some(&raw mut from);
        let mut attributes = LookupBatch {
            in_batch: from.map_or(0, |from| from.expose_provenance() as u64),
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: self.keys.as_mut_ptr().expose_provenance() as u64,
            values: self.values.as_mut_ptr().expose_provenance() as u64,
            count: self.batch,
            map_fd: self.map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: `LookupBatch` is the kernel's struct for this command. `keys` and `values` hold
        // `count` entries of the sizes the kernel gave for this very map, which never change; the
        // cursors of a hash map are 32 bits; all outlive the call.
        let read = unsafe { sys::bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) };
        match read {
            Ok(_) => self.cursor = Some(next),
            // The map's end, with what was left before it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.ended = true,
            Err(error) => return Err(error),
        }
        Ok(attributes.count as usize)
    }
}

fn info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut attributes = GetInfo {
        bpf_fd: map.as_raw_fd().cast_unsigned(),
        info_len: size_of::<MapInfo>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: `GetInfo` is the kernel's struct for this command; `info` is as long as it says and
    // outlives the call. The kernel writes no more than that.
    unsafe { sys::bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}
