//! The four AF_XDP rings: memory shared with the kernel, one producer and one consumer each.
//!
//! Guarantees: nothing is visible to the other side before `commit`; entries are read once, after
//! an acquire of the producer index, and written before a release of it. Indices obey
//! [`crate::index`], so a slot outside the ring is never touched whatever the kernel's memory
//! says.
//! It must not interpret entries: addresses are judged by [`crate::Umem`].
//!
//! The code that orders loads and stores is written over [`Memory`], so that the tests run it, as
//! it is, under a model checker with the kernel's half played by the opposite end.

#[cfg(test)]
mod model;

use std::mem::size_of;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::index::{ConsumerIndex, ProducerIndex};
use crate::sys::Mapping;

/// An entry of a ring: plain integers, valid for any bytes.
///
/// # Safety
///
/// As [`crate::sys::Plain`], and the alignment is at most 8.
pub(crate) unsafe trait Entry: Copy {}

// SAFETY: an integer of alignment 8.
unsafe impl Entry for u64 {}
// SAFETY: a `repr(C)` struct of integers, alignment 8.
unsafe impl Entry for libc::xdp_desc {}

/// Where the parts of a ring lie in its mapping (`struct xdp_ring_offset`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) producer: u64,
    pub(crate) consumer: u64,
    pub(crate) desc: u64,
    pub(crate) flags: u64,
}

impl From<libc::xdp_ring_offset> for Layout {
    fn from(offset: libc::xdp_ring_offset) -> Self {
        Self {
            producer: offset.producer,
            consumer: offset.consumer,
            desc: offset.desc,
            flags: offset.flags,
        }
    }
}

/// An index that the other side reads and writes too.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u32;
    fn store(&self, value: u32, order: Ordering);
}

impl Word for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        Self::load(self, order)
    }

    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        Self::store(self, value, order);
    }
}

/// A ring's memory, as one of its sides reaches it.
pub(crate) trait Memory {
    type Word: Word;
    type Entry: Copy;

    fn producer(&self) -> &Self::Word;
    fn consumer(&self) -> &Self::Word;

    /// Writes the entry for a free-running index; by the index rules nobody reads it meanwhile.
    fn write(&self, index: u32, entry: Self::Entry);

    /// Reads the entry for a free-running index; by the index rules nobody writes it meanwhile.
    fn read(&self, index: u32) -> Self::Entry;
}

/// One mapped ring.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _memory: Mapping,
}

// SAFETY: the pointers lead into `_memory`, which the value owns, and rings are used by one thread
// at a time because every operation needs `&mut` on the producer or consumer around them.
unsafe impl<T: Entry> Send for Shared<T> {}

impl<T: Entry> Shared<T> {
    /// Interprets `memory` as a ring of `size` entries; `None` if the layout does not fit in it.
    fn new(memory: Mapping, layout: Layout, size: u32) -> Option<Self> {
        let place = |offset: u64, bytes: usize| -> Option<NonNull<u8>> {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(bytes)?;
            if end > memory.bytes() || !start.is_multiple_of(8) && bytes != 4 {
                return None;
            }
            if !start.is_multiple_of(4) {
                return None;
            }
            // SAFETY: `start..end` was just checked to lie inside the mapping.
            Some(unsafe { memory.base().add(start) })
        };
        let entries = place(layout.desc, size_of::<T>().checked_mul(size as usize)?)?;
        Some(Self {
            producer: place(layout.producer, 4)?.cast(),
            consumer: place(layout.consumer, 4)?.cast(),
            flags: place(layout.flags, 4)?.cast(),
            entries: entries.cast(),
            size,
            _memory: memory,
        })
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: `new` checked place and alignment; the mapping lives as long as `self`.
        unsafe { self.flags.as_ref() }
    }

    /// Address of the entry for a free-running index.
    fn slot(&self, index: u32) -> NonNull<T> {
        let slot = (index & (self.size - 1)) as usize;
        // SAFETY: the mask keeps `slot` below `size`, and `new` checked that `size` entries fit.
        unsafe { self.entries.add(slot) }
    }
}

impl<T: Entry> Memory for Shared<T> {
    type Word = AtomicU32;
    type Entry = T;

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: as for `flags`.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `flags`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn write(&self, index: u32, entry: T) {
        // SAFETY: the slot is inside the mapping; the index rules say the kernel does not read it
        // before the next commit.
        unsafe { self.slot(index).write_volatile(entry) };
    }

    #[inline]
    fn read(&self, index: u32) -> T {
        // SAFETY: the slot is inside the mapping and any bytes are a valid `T`; volatile because a
        // check must see the same value as the use.
        unsafe { self.slot(index).read_volatile() }
    }
}

/// A ring of the kernel's that we write: fill or TX.
pub(crate) type Producer<T> = ProducerEnd<Shared<T>>;

/// The writing end of a ring.
#[derive(Debug)]
pub(crate) struct ProducerEnd<M> {
    shared: M,
    index: ProducerIndex,
    committed: u32,
}

impl<T: Entry> Producer<T> {
    /// Takes over a ring at its present index.
    pub(crate) fn new(memory: Mapping, layout: Layout, size: u32) -> Option<Self> {
        Some(Self::over(Shared::new(memory, layout, size)?, size))
    }

    /// Whether the kernel asks to be woken for this ring.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.shared.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<M: Memory> ProducerEnd<M> {
    fn over(shared: M, size: u32) -> Self {
        let start = shared.producer().load(Ordering::Relaxed);
        Self {
            shared,
            index: ProducerIndex::new(start, size),
            committed: start,
        }
    }

    /// Room for new entries; asks the kernel's index only if the cached one shows less than
    /// `wanted`.
    pub(crate) fn room(&mut self, wanted: u32) -> u32 {
        if self.index.room() < wanted {
            self.refresh();
        }
        self.index.room()
    }

    /// Writes one entry, invisible until `commit`; false if the ring is full as far as we know.
    #[must_use]
    pub(crate) fn push(&mut self, entry: M::Entry) -> bool {
        let Some(index) = self.index.claim() else {
            return false;
        };
        self.shared.write(index, entry);
        true
    }

    /// Makes everything pushed visible to the kernel.
    pub(crate) fn commit(&mut self) {
        if self.committed != self.index.next() {
            self.committed = self.index.next();
            self.shared
                .producer()
                .store(self.committed, Ordering::Release);
        }
    }

    /// Entries pushed that the kernel has not consumed.
    pub(crate) fn outstanding(&mut self) -> u32 {
        self.refresh();
        self.index.outstanding()
    }

    fn refresh(&mut self) {
        let consumer = self.shared.consumer().load(Ordering::Acquire);
        // An impossible index leaves the last good one: the ring then looks fuller than it is,
        // which is safe.
        self.index.observe(consumer);
    }
}

/// A ring of the kernel's that we read: RX or completion.
pub(crate) type Consumer<T> = ConsumerEnd<Shared<T>>;

/// The reading end of a ring.
#[derive(Debug)]
pub(crate) struct ConsumerEnd<M> {
    shared: M,
    index: ConsumerIndex,
    committed: u32,
}

impl<T: Entry> Consumer<T> {
    /// Takes over a ring at its present index.
    pub(crate) fn new(memory: Mapping, layout: Layout, size: u32) -> Option<Self> {
        Some(Self::over(Shared::new(memory, layout, size)?, size))
    }
}

impl<M: Memory> ConsumerEnd<M> {
    fn over(shared: M, size: u32) -> Self {
        let start = shared.consumer().load(Ordering::Relaxed);
        Self {
            shared,
            index: ConsumerIndex::new(start, size),
            committed: start,
        }
    }

    /// Takes the next entry; asks the kernel's index only when the known ones are used up.
    pub(crate) fn take(&mut self) -> Option<M::Entry> {
        if self.index.available() == 0 {
            let producer = self.shared.producer().load(Ordering::Acquire);
            self.index.observe(producer);
        }
        let index = self.index.take()?;
        Some(self.shared.read(index))
    }

    /// Gives the slots of everything taken back to the kernel.
    pub(crate) fn commit(&mut self) {
        if self.committed != self.index.next() {
            self.committed = self.index.next();
            self.shared
                .consumer()
                .store(self.committed, Ordering::Release);
        }
    }
}

/// Maps one ring of a socket.
pub(crate) fn map(
    fd: BorrowedFd<'_>,
    layout: Layout,
    entry_bytes: usize,
    (size, page_offset): (u32, u64),
) -> std::io::Result<Mapping> {
    let bytes = usize::try_from(layout.desc).unwrap_or(usize::MAX);
    let bytes = bytes.saturating_add(entry_bytes.saturating_mul(size as usize));
    Mapping::shared(fd, bytes, page_offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        producer: 0,
        consumer: 64,
        flags: 128,
        desc: 192,
    };
    const SIZE: u32 = 8;

    /// The kernel's half of a ring in plain memory.
    struct Peer {
        base: NonNull<u8>,
    }

    impl Peer {
        fn word(&self, offset: usize) -> &AtomicU32 {
            // SAFETY: offsets come from LAYOUT, inside the mapping, which the tests keep alive.
            let place = unsafe { self.base.add(offset) };
            // SAFETY: as above, and the offsets are multiples of 4.
            unsafe { place.cast::<AtomicU32>().as_ref() }
        }

        fn entry(&self, index: u32) -> NonNull<u64> {
            let offset = 192 + (index % SIZE) as usize * 8;
            // SAFETY: inside the mapping by the modulus.
            unsafe { self.base.add(offset) }.cast()
        }
    }

    fn memory(start: u32) -> (Mapping, Peer) {
        let memory = Mapping::anonymous(4096, 0).expect("one page");
        let peer = Peer {
            base: memory.base(),
        };
        peer.word(0).store(start, Ordering::Relaxed);
        peer.word(64).store(start, Ordering::Relaxed);
        (memory, peer)
    }

    #[test]
    fn nothing_is_visible_before_commit() {
        for start in [0, u32::MAX - 2] {
            let (memory, peer) = memory(start);
            let mut ring = Producer::<u64>::new(memory, LAYOUT, SIZE).expect("fits");
            for value in 0..8 {
                assert!(ring.push(value));
            }
            assert!(!ring.push(8), "a full ring takes no more");
            assert_eq!(peer.word(0).load(Ordering::Acquire), start);
            ring.commit();
            assert_eq!(peer.word(0).load(Ordering::Acquire), start.wrapping_add(8));
            for value in 0..8u32 {
                // SAFETY: the slot is inside the mapping and nobody writes it now.
                let seen = unsafe { peer.entry(start.wrapping_add(value)).read() };
                assert_eq!(seen, u64::from(value));
            }
            assert_eq!(ring.room(1), 0);
            peer.word(64)
                .store(start.wrapping_add(5), Ordering::Release);
            assert_eq!(ring.room(1), 5);
            assert_eq!(ring.outstanding(), 3);
        }
    }

    #[test]
    fn entries_are_read_once_and_released_on_commit() {
        for start in [0, u32::MAX - 2] {
            let (memory, peer) = memory(start);
            let mut ring = Consumer::<u64>::new(memory, LAYOUT, SIZE).expect("fits");
            assert_eq!(ring.take(), None);
            for value in 0..5u32 {
                let slot = peer.entry(start.wrapping_add(value));
                // SAFETY: the slot is inside the mapping and not published yet.
                unsafe { slot.write(u64::from(value) + 100) };
            }
            peer.word(0).store(start.wrapping_add(5), Ordering::Release);
            let taken: Vec<u64> = std::iter::from_fn(|| ring.take()).collect();
            assert_eq!(taken, [100, 101, 102, 103, 104]);
            assert_eq!(peer.word(64).load(Ordering::Acquire), start);
            ring.commit();
            assert_eq!(peer.word(64).load(Ordering::Acquire), start.wrapping_add(5));
        }
    }

    #[test]
    fn a_kernel_index_out_of_range_yields_nothing() {
        let (memory, peer) = memory(0);
        let mut ring = Consumer::<u64>::new(memory, LAYOUT, SIZE).expect("fits");
        peer.word(0).store(9, Ordering::Release);
        assert_eq!(ring.take(), None);
        peer.word(0).store(u32::MAX, Ordering::Release);
        assert_eq!(ring.take(), None);
    }

    #[test]
    fn a_layout_outside_the_mapping_is_refused() {
        let far = Layout {
            desc: 4096 - 8,
            ..LAYOUT
        };
        assert!(Producer::<u64>::new(memory(0).0, far, SIZE).is_none());
        let crooked = Layout {
            producer: 2,
            ..LAYOUT
        };
        assert!(Producer::<u64>::new(memory(0).0, crooked, SIZE).is_none());
        let huge = Layout {
            flags: u64::MAX,
            ..LAYOUT
        };
        assert!(Producer::<u64>::new(memory(0).0, huge, SIZE).is_none());
    }
}
