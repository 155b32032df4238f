//! The few BPF objects the tests need, assembled by hand: no compiler, no object files.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::{self, Plain};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_TCX_INGRESS: u32 = 46;

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    reserved: u32,
}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for MapCreate {}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for MapElement {}

#[repr(C)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for ProgramLoad {}

#[repr(C)]
struct ProgramQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    more: [u64; 4],
}
// SAFETY: a `repr(C)` struct of integers.
unsafe impl Plain for ProgramQuery {}

/// `struct bpf_insn`: opcode, registers (destination low, source high), offset, immediate.
const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    let [o0, o1] = offset.to_le_bytes();
    let [i0, i1, i2, i3] = immediate.to_le_bytes();
    u64::from_le_bytes([code, registers, o0, o1, i0, i1, i2, i3])
}

fn load(prog_type: u32, prog_flags: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut attributes = sys::zeroed::<ProgramLoad>();
    attributes.prog_type = prog_type;
    attributes.prog_flags = prog_flags;
    attributes.insn_cnt = instructions.len() as u32;
    attributes.insns = instructions.as_ptr() as u64;
    attributes.license = c"Apache-2.0".as_ptr() as u64;
    // SAFETY: the struct of this command; both addresses outlive the call.
    unsafe { sys::bpf(BPF_PROG_LOAD, &mut attributes) }.map(sys::owned)
}

/// An XDP program that returns a constant.
pub(super) fn xdp_constant(verdict: i32) -> io::Result<OwnedFd> {
    let code = [instruction(0xb7, 0, 0, verdict), instruction(0x95, 0, 0, 0)];
    load(BPF_PROG_TYPE_XDP, BPF_F_XDP_HAS_FRAGS, &code)
}

/// A TC program that lets everything through (`TCX_NEXT`).
pub(super) fn tc_next() -> io::Result<OwnedFd> {
    let code = [instruction(0xb7, 0, 0, -1), instruction(0x95, 0, 0, 0)];
    load(BPF_PROG_TYPE_SCHED_CLS, 0, &code)
}

/// How many TCX programs an interface's ingress hook has.
pub(super) fn tcx_ingress_count(ifindex: u32) -> io::Result<u32> {
    let mut attributes = sys::zeroed::<ProgramQuery>();
    attributes.target_ifindex = ifindex;
    attributes.attach_type = BPF_TCX_INGRESS;
    // SAFETY: the struct of this command; no address is set.
    unsafe { sys::bpf(BPF_PROG_QUERY, &mut attributes) }?;
    Ok(attributes.count)
}

fn create(map_type: u32, value_size: u32, max_entries: u32, map_flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        map_type,
        key_size: 4,
        value_size,
        max_entries,
        map_flags,
        reserved: 0,
    };
    // SAFETY: the struct of this command; it has no address.
    unsafe { sys::bpf(BPF_MAP_CREATE, &mut attributes) }.map(sys::owned)
}

/// A mappable array of `u64`.
pub(super) fn stamp_array(entries: u32) -> io::Result<OwnedFd> {
    create(BPF_MAP_TYPE_ARRAY, 8, entries, BPF_F_MMAPABLE)
}

/// Reads one `u64` of an array by system call.
pub(super) fn array_value(map: BorrowedFd<'_>, key: u32) -> io::Result<u64> {
    let mut value = 0u64;
    let mut attributes = sys::zeroed::<MapElement>();
    attributes.map_fd = map.as_raw_fd().cast_unsigned();
    attributes.key = &raw const key as u64;
    attributes.value = &raw mut value as u64;
    // SAFETY: key and value have the sizes of the map's and outlive the call.
    unsafe { sys::bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes) }?;
    Ok(value)
}

/// An XDP program that redirects queue q to the socket in slot q, and passes what has none.
#[derive(Debug)]
pub(super) struct Redirect {
    pub(super) map: OwnedFd,
    pub(super) program: OwnedFd,
}

impl Redirect {
    pub(super) fn load() -> io::Result<Self> {
        let map = create(BPF_MAP_TYPE_XSKMAP, 4, 8, 0)?;
        let code = [
            // r2 = ctx->rx_queue_index
            instruction(0x61, 0x12, 16, 0),
            // r1 = map (two slots, BPF_PSEUDO_MAP_FD)
            instruction(0x18, 0x11, 0, map.as_raw_fd()),
            instruction(0, 0, 0, 0),
            // r3 = XDP_PASS
            instruction(0xb7, 0x03, 0, 2),
            // return bpf_redirect_map(r1, r2, r3)
            instruction(0x85, 0, 0, 51),
            instruction(0x95, 0, 0, 0),
        ];
        let program = load(BPF_PROG_TYPE_XDP, BPF_F_XDP_HAS_FRAGS, &code)?;
        Ok(Self { map, program })
    }

    /// Puts a socket into the slot of its queue.
    pub(super) fn point(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = socket.as_raw_fd();
        let mut attributes = sys::zeroed::<MapElement>();
        attributes.map_fd = self.map.as_fd().as_raw_fd().cast_unsigned();
        attributes.key = &raw const queue as u64;
        attributes.value = &raw const value as u64;
        // SAFETY: key and value have the sizes of the map's and outlive the call.
        unsafe { sys::bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
    }
}
