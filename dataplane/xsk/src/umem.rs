//! Packet memory, and who owns each chunk of it.
//!
//! The ownership law: every chunk is in exactly one of these states, and
//! `free + held + receiving + sending + lost = total` at any moment.
//!
//! | state | owner | way in | way out |
//! |---|---|---|---|
//! | free | the free list | [`Umem::free`], completion, close | [`Umem::alloc`], refill |
//! | held | the worker, as a [`Frame`] | [`Umem::alloc`], receive | [`Umem::free`], send |
//! | receiving | the kernel, by a port's fill or RX ring | refill | receive, close |
//! | sending | the kernel, by a port's TX or completion ring | send | completion, close |
//! | lost | nobody | close of a port whose device or kernel may still write | none |
//!
//! The state of a chunk changes only here, and a chunk the kernel names is believed only if its
//! state says the kernel has it, from that very port. So a chunk cannot be freed twice, sent twice
//! or read while the device writes it, whatever the rings contain; that is what makes the slices
//! handed out by [`Umem::bytes_mut`] sound.

use std::io;
use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::config::{HugePages, UmemConfig};
use crate::error::SetupError;
use crate::frame::{Frame, FrameSize, HEADROOM, RawFrame};
use crate::packet::Packet;
use crate::sys::Mapping;

const HUGE_PAGE: usize = 2 << 20;

/// One past the largest frame count: 16 GiB of 4096-byte chunks.
const MAX_FRAMES: u32 = 1 << 22;

static NEXT_UMEM: AtomicU32 = AtomicU32::new(1);

/// A port's number within its UMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortId(u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Free,
    Held,
    Receiving(PortId),
    Sending(PortId),
    Lost,
}

/// How many chunks are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameCounts {
    /// On the free list.
    pub free: u32,
    /// In the worker's hands.
    pub held: u32,
    /// With the kernel for receiving.
    pub receiving: u32,
    /// With the kernel for sending.
    pub sending: u32,
    /// Given up at a close because somebody may still write to them.
    pub lost: u32,
    /// All.
    pub total: u32,
}

impl FrameCounts {
    /// Whether every chunk is accounted for.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.free + self.held + self.receiving + self.sending + self.lost == self.total
    }
}

/// What binding a port needs to know of a UMEM; can be cloned and sent to the control thread.
#[derive(Debug, Clone)]
pub struct UmemHandle {
    memory: Arc<Mapping>,
    id: NonZeroU32,
    size: FrameSize,
    frames: u32,
    next_port: Arc<AtomicU16>,
}

impl UmemHandle {
    pub(crate) fn id(&self) -> NonZeroU32 {
        self.id
    }

    /// A number no live port of this UMEM has (it wraps after 65,536 binds).
    pub(crate) fn next_port(&self) -> PortId {
        PortId(self.next_port.fetch_add(1, Ordering::Relaxed))
    }

    /// The registration for `XDP_UMEM_REG`.
    pub(crate) fn registration(&self) -> libc::xdp_umem_reg {
        let mut registration = crate::sys::zeroed::<libc::xdp_umem_reg>();
        registration.addr = self.memory.base().as_ptr() as u64;
        registration.len = u64::from(self.frames) * u64::from(self.size.get());
        registration.chunk_size = u32::from(self.size.get());
        registration
    }
}

/// Packet memory and its free list; owned by one worker.
#[derive(Debug)]
pub struct Umem {
    handle: UmemHandle,
    owners: Box<[Owner]>,
    free: Vec<u32>,
    huge: bool,
}

impl Umem {
    /// Maps packet memory; it is excluded from core dumps and not inherited by child processes.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the frame count is out of range, huge pages were required and are not
    /// there, or memory is short.
    pub fn new(config: UmemConfig) -> Result<Self, SetupError> {
        let UmemConfig {
            frames,
            frame_size: size,
            huge_pages,
        } = config;
        if frames == 0 || frames >= MAX_FRAMES {
            return Err(SetupError::Config {
                what: "the number of frames",
                expected: "from 1 to 4194303",
                got: u64::from(frames),
            });
        }
        let bytes = frames as usize * usize::from(size.get());
        let (memory, huge) = map(bytes, huge_pages)?;
        for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
            memory
                .advise(advice)
                .map_err(|source| SetupError::os("keep dumps and forks out of", "UMEM", source))?;
        }
        let id = NEXT_UMEM.fetch_add(1, Ordering::Relaxed);
        let handle = UmemHandle {
            memory: Arc::new(memory),
            id: NonZeroU32::new(id).unwrap_or(NonZeroU32::MAX),
            size,
            frames,
            next_port: Arc::default(),
        };
        let owners = vec![Owner::Free; frames as usize].into_boxed_slice();
        Ok(Self {
            handle,
            owners,
            free: (0..frames).rev().collect(),
            huge,
        })
    }

    /// What [`Port::bind`](crate::Port::bind) needs.
    #[must_use]
    pub fn handle(&self) -> UmemHandle {
        self.handle.clone()
    }

    /// Size of one chunk.
    #[must_use]
    pub fn frame_size(&self) -> FrameSize {
        self.handle.size
    }

    /// Whether the memory lies on reserved huge pages.
    #[must_use]
    pub fn on_huge_pages(&self) -> bool {
        self.huge
    }

    /// Frames on the free list.
    #[must_use]
    pub fn free_frames(&self) -> usize {
        self.free.len()
    }

    /// Takes an empty frame from the free list.
    #[must_use]
    pub fn alloc(&mut self) -> Option<Frame> {
        let chunk = self.free.pop()?;
        *self.owner_mut(chunk)? = Owner::Held;
        let raw = RawFrame {
            umem: self.handle.id,
            chunk,
            offset: HEADROOM,
            len: 0,
        };
        Some(Frame::from_raw(raw, self.handle.size))
    }

    /// Returns a frame to the free list.
    ///
    /// # Panics
    ///
    /// If the frame belongs to another UMEM.
    pub fn free(&mut self, frame: Frame) {
        self.free_raw(frame.raw());
    }

    /// Returns all frames of a packet to the free list.
    ///
    /// # Panics
    ///
    /// If the packet belongs to another UMEM.
    pub fn free_packet(&mut self, packet: Packet) {
        for frame in packet.into_frames() {
            self.free(frame);
        }
    }

    /// The packet bytes of a frame.
    ///
    /// # Panics
    ///
    /// If the frame belongs to another UMEM.
    #[must_use]
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        let start = self.start(frame);
        // SAFETY: `start` is valid for the frame's length (see `start`), the memory is
        // initialised (zeroed by mmap, then only overwritten), and a chunk with a `Frame` is
        // `Held`: the kernel does not write it, and we write it only through `&mut self`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), frame.len()) }
    }

    /// The packet bytes of a frame.
    ///
    /// # Panics
    ///
    /// If the frame belongs to another UMEM.
    #[must_use]
    pub fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let start = self.start(frame);
        // SAFETY: as for `bytes`; `&mut self` makes this the only slice into the UMEM.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), frame.len()) }
    }

    /// Everything from the frame's first byte to the end of its chunk, for building a packet;
    /// finish with [`Frame::set_len`]. What earlier packets left there is visible.
    ///
    /// # Panics
    ///
    /// If the frame belongs to another UMEM.
    #[must_use]
    pub fn room_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let start = self.start(frame);
        // SAFETY: as for `bytes_mut`; a frame's room ends with its chunk.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), frame.room()) }
    }

    /// Builds a packet that carries `bytes`, over as many frames as it takes; `None` if it takes
    /// more than [`Packet::MAX_FRAMES`] or there are not enough free ones.
    #[must_use]
    pub fn packet_from(&mut self, bytes: &[u8]) -> Option<Packet> {
        let room = usize::from(self.handle.size.room());
        let needed = bytes.len().div_ceil(room).max(1);
        if needed > Packet::MAX_FRAMES || needed > self.free.len() {
            return None;
        }
        let mut chunks = bytes.chunks(room);
        let mut packet = Packet::from(self.frame_from(chunks.next().unwrap_or_default())?);
        for chunk in chunks {
            let frame = self.frame_from(chunk)?;
            if let Err(frame) = packet.push(frame) {
                self.free(frame);
            }
        }
        Some(packet)
    }

    /// Copies a packet's bytes to the front of `to`; returns how many there are, or `None` if
    /// they do not fit.
    ///
    /// # Panics
    ///
    /// If the packet belongs to another UMEM.
    #[must_use]
    pub fn copy_out(&self, packet: &Packet, to: &mut [u8]) -> Option<usize> {
        let mut at = 0;
        for frame in packet.frames() {
            let end = at + frame.len();
            to.get_mut(at..end)?.copy_from_slice(self.bytes(frame));
            at = end;
        }
        Some(at)
    }

    /// Counts the chunks in each state, one by one. Too slow for every batch.
    #[must_use]
    pub fn audit(&self) -> FrameCounts {
        let mut counts = FrameCounts {
            // From the list, not from the states, so that the two check each other.
            free: self.free.len() as u32,
            total: self.handle.frames,
            ..FrameCounts::default()
        };
        for owner in &self.owners {
            match owner {
                Owner::Free => {}
                Owner::Held => counts.held += 1,
                Owner::Receiving(_) => counts.receiving += 1,
                Owner::Sending(_) => counts.sending += 1,
                Owner::Lost => counts.lost += 1,
            }
        }
        counts
    }

    /// Moves a free chunk to a port's fill ring; returns its address for the ring.
    pub(crate) fn lend_for_receiving(&mut self, port: PortId) -> Option<u64> {
        let chunk = self.free.pop()?;
        *self.owner_mut(chunk)? = Owner::Receiving(port);
        Some(self.address(chunk))
    }

    /// Moves a held frame to a port's TX ring; returns its address for the ring.
    ///
    /// # Panics
    ///
    /// If the frame belongs to another UMEM.
    pub(crate) fn lend_for_sending(&mut self, frame: Frame, port: PortId) -> u64 {
        let raw = frame.raw();
        self.check(raw.umem);
        if let Some(owner) = self.owner_mut(raw.chunk) {
            *owner = Owner::Sending(port);
        }
        self.address(raw.chunk) + u64::from(raw.offset)
    }

    /// Takes a chunk out of a port's RX ring. `None` if the descriptor names a chunk the kernel
    /// does not have from this port, or bytes outside the chunk; in the latter case the chunk
    /// goes back to the free list.
    pub(crate) fn take_received(
        &mut self,
        port: PortId,
        address: u64,
        len: u32,
    ) -> Option<RawFrame> {
        let (chunk, offset) = self.locate(address)?;
        let size = u32::from(self.handle.size.get());
        let umem = self.handle.id;
        let owner = self.owner_mut(chunk)?;
        if *owner != Owner::Receiving(port) {
            return None;
        }
        *owner = Owner::Held;
        let fits = len <= size && u32::from(offset) + len <= size;
        let len = if fits { len as u16 } else { 0 };
        let raw = RawFrame {
            umem,
            chunk,
            offset,
            len,
        };
        if !fits {
            self.free_raw(raw);
            return None;
        }
        Some(raw)
    }

    /// Takes a chunk out of a port's completion ring to the free list; false if the kernel does
    /// not have it from this port.
    #[must_use]
    pub(crate) fn take_completed(&mut self, port: PortId, address: u64) -> bool {
        let Some((chunk, _)) = self.locate(address) else {
            return false;
        };
        match self.owner_mut(chunk) {
            Some(owner) if *owner == Owner::Sending(port) => {
                *owner = Owner::Free;
                self.free.push(chunk);
                true
            }
            _ => false,
        }
    }

    /// Ends a port's use of the UMEM: what the kernel still has from it goes to the free list, or
    /// is written off if somebody may still write there. Returns the number written off.
    pub(crate) fn settle(&mut self, port: PortId, still_written: bool) -> u32 {
        let mut lost = 0;
        for (chunk, owner) in self.owners.iter_mut().enumerate() {
            if *owner != Owner::Receiving(port) && *owner != Owner::Sending(port) {
                continue;
            }
            if still_written {
                *owner = Owner::Lost;
                lost += 1;
            } else {
                *owner = Owner::Free;
                self.free.push(chunk as u32);
            }
        }
        lost
    }

    /// Frees a chunk by its raw form, if it is held: also the end of an incomplete chain.
    pub(crate) fn free_raw(&mut self, raw: RawFrame) {
        self.check(raw.umem);
        match self.owner_mut(raw.chunk) {
            Some(owner) if *owner == Owner::Held => {
                *owner = Owner::Free;
                self.free.push(raw.chunk);
            }
            _ => debug_assert!(false, "chunk {} was freed while not held", raw.chunk),
        }
    }

    /// Asserts that something belongs to this UMEM; soundness rests on it.
    pub(crate) fn check(&self, umem: NonZeroU32) {
        assert!(umem == self.handle.id, "a frame or port of another UMEM");
    }

    fn frame_from(&mut self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.alloc()?;
        if !frame.set_len(bytes.len()) {
            self.free(frame);
            return None;
        }
        self.bytes_mut(&mut frame).copy_from_slice(bytes);
        Some(frame)
    }

    fn owner_mut(&mut self, chunk: u32) -> Option<&mut Owner> {
        self.owners.get_mut(chunk as usize)
    }

    fn address(&self, chunk: u32) -> u64 {
        u64::from(chunk) * u64::from(self.handle.size.get())
    }

    /// Chunk and offset of an address the kernel wrote; `None` outside the UMEM.
    fn locate(&self, address: u64) -> Option<(u32, u16)> {
        let size = u64::from(self.handle.size.get());
        let chunk = u32::try_from(address / size).ok()?;
        let offset = u16::try_from(address % size).ok()?;
        (chunk < self.handle.frames).then_some((chunk, offset))
    }

    /// Where a frame's packet bytes start; valid for `frame.room()` bytes.
    fn start(&self, frame: &Frame) -> NonNull<u8> {
        let raw = frame.raw();
        self.check(raw.umem);
        let at = self.address(raw.chunk) as usize + usize::from(raw.offset);
        // SAFETY: frames are made only here and name a chunk below `frames` and an offset inside
        // it, so the address lies inside the mapping, whose length `new` computed from both.
        unsafe { self.handle.memory.base().add(at) }
    }
}

/// Maps at least `bytes`; the flag says whether on reserved huge pages.
fn map(bytes: usize, huge_pages: HugePages) -> Result<(Mapping, bool), SetupError> {
    if huge_pages != HugePages::Never {
        let whole = bytes.next_multiple_of(HUGE_PAGE);
        let flags = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        match Mapping::anonymous(whole, flags) {
            Ok(memory) => return Ok((memory, true)),
            Err(source) if huge_pages == HugePages::Require => {
                return Err(SetupError::HugePages {
                    bytes: whole,
                    source,
                });
            }
            Err(_) => {}
        }
    }
    let memory = Mapping::anonymous(bytes, 0)
        .map_err(|source: io::Error| SetupError::os("map packet memory", "UMEM", source))?;
    if huge_pages == HugePages::Try {
        // Transparent huge pages are a wish: a kernel without them says EINVAL and nothing is
        // lost.
        let _wish = memory.advise(libc::MADV_HUGEPAGE);
    }
    Ok((memory, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn umem(frames: u32) -> Umem {
        Umem::new(UmemConfig::new(frames)).expect("memory")
    }

    #[test]
    fn every_chunk_is_handed_out_once_and_comes_back() {
        let mut umem = umem(4);
        let mut frames: Vec<Frame> = std::iter::from_fn(|| umem.alloc()).collect();
        assert_eq!(frames.len(), 4);
        for (value, frame) in (1u8..).zip(&mut frames) {
            assert!(frame.set_len(3840));
            umem.bytes_mut(frame).fill(value);
        }
        for (value, frame) in (1u8..).zip(&frames) {
            assert!(
                umem.bytes(frame).iter().all(|byte| *byte == value),
                "frames overlap"
            );
        }
        assert_eq!(
            umem.audit(),
            FrameCounts {
                held: 4,
                total: 4,
                ..FrameCounts::default()
            }
        );
        frames.into_iter().for_each(|frame| umem.free(frame));
        assert_eq!(
            umem.audit(),
            FrameCounts {
                free: 4,
                total: 4,
                ..FrameCounts::default()
            }
        );
    }

    #[test]
    fn a_received_descriptor_is_believed_only_if_the_kernel_has_that_chunk_from_that_port() {
        let mut umem = umem(4);
        let (port, other) = (umem.handle().next_port(), umem.handle().next_port());
        let address = umem.lend_for_receiving(port).expect("free");
        assert_eq!(umem.audit().receiving, 1);
        assert!(
            umem.take_received(other, address, 60).is_none(),
            "another port's chunk"
        );
        assert!(
            umem.take_received(port, 4 * 4096, 60).is_none(),
            "past the end"
        );
        assert!(
            umem.take_received(port, u64::MAX, 60).is_none(),
            "far past the end"
        );
        assert!(
            umem.take_received(port, address + 4096, 60).is_none(),
            "a free chunk"
        );
        assert_eq!(umem.audit().receiving, 1);
        let raw = umem.take_received(port, address + 256, 60).expect("good");
        assert_eq!((raw.offset, raw.len), (256, 60));
        assert!(
            umem.take_received(port, address + 256, 60).is_none(),
            "twice"
        );
        umem.free_raw(raw);
        assert_eq!(umem.audit().free, 4);
    }

    #[test]
    fn a_length_past_the_chunk_is_refused_and_the_chunk_kept() {
        let mut umem = umem(2);
        let port = umem.handle().next_port();
        for len in [3841, 4096, 65_536, u32::MAX] {
            let address = umem.lend_for_receiving(port).expect("free");
            assert!(
                umem.take_received(port, address + 256, len).is_none(),
                "{len}"
            );
            assert_eq!(umem.audit().free, 2);
        }
    }

    #[test]
    fn a_completion_is_believed_once() {
        let mut umem = umem(2);
        let (port, other) = (umem.handle().next_port(), umem.handle().next_port());
        let frame = umem.alloc().expect("free");
        let address = umem.lend_for_sending(frame, port);
        assert_eq!(umem.audit().sending, 1);
        assert!(!umem.take_completed(other, address));
        assert!(!umem.take_completed(port, u64::MAX));
        assert!(umem.take_completed(port, address));
        assert!(!umem.take_completed(port, address), "twice");
        assert_eq!(
            umem.audit(),
            FrameCounts {
                free: 2,
                total: 2,
                ..FrameCounts::default()
            }
        );
    }

    #[test]
    fn settling_touches_only_the_closed_port() {
        for still_written in [false, true] {
            let mut umem = umem(8);
            let (port, other) = (umem.handle().next_port(), umem.handle().next_port());
            for _ in 0..3 {
                umem.lend_for_receiving(port).expect("free");
            }
            umem.lend_for_receiving(other).expect("free");
            let frame = umem.alloc().expect("free");
            umem.lend_for_sending(frame, port);
            let lost = umem.settle(port, still_written);
            let counts = umem.audit();
            assert_eq!(lost, if still_written { 4 } else { 0 });
            assert_eq!((counts.receiving, counts.lost), (1, lost));
            assert_eq!(counts.free, 7 - lost);
            assert!(counts.is_balanced());
        }
    }

    #[test]
    #[should_panic(expected = "another UMEM")]
    fn a_frame_of_another_umem_is_refused() {
        let (mut one, mut two) = (umem(1), umem(1));
        let frame = one.alloc().expect("free");
        two.free(frame);
    }

    #[test]
    fn frame_counts_out_of_range_are_refused() {
        for frames in [0, MAX_FRAMES, u32::MAX] {
            assert!(Umem::new(UmemConfig::new(frames)).is_err());
        }
    }

    #[test]
    fn umem_and_handle_can_move_to_a_worker() {
        fn must_be_send<T: Send>() {}
        must_be_send::<Umem>();
        must_be_send::<UmemHandle>();
        must_be_send::<crate::Port>();
        must_be_send::<crate::stamp::StampArray>();
    }
}
