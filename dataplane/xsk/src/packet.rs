//! A packet: one to four frames in a row, and a batch of packets.
//!
//! Guarantees: at least one frame, in order, all of one UMEM; move-only like [`Frame`]. Packets
//! longer than [`Packet::MAX_FRAMES`] never exist: the port that receives one frees and counts it.

use crate::frame::Frame;
use crate::umem::Umem;

/// A chain of 1 to [`Packet::MAX_FRAMES`] frames that carry one packet.
#[derive(Debug)]
#[must_use = "a packet that is dropped is lost to its UMEM: free it, send it or keep it"]
pub struct Packet {
    head: Frame,
    rest: [Option<Frame>; Self::MAX_FRAMES - 1],
}

impl From<Frame> for Packet {
    fn from(head: Frame) -> Self {
        Self {
            head,
            rest: [const { None }; Self::MAX_FRAMES - 1],
        }
    }
}

impl Packet {
    /// Most frames in one packet: enough for an MTU of 9001 on 2048-byte chunks with room left,
    /// five times over on 4096.
    pub const MAX_FRAMES: usize = 4;

    /// The first frame; headers are parsed from here only.
    pub fn head(&self) -> &Frame {
        &self.head
    }

    /// The first frame.
    pub fn head_mut(&mut self) -> &mut Frame {
        &mut self.head
    }

    /// All frames in order.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        std::iter::once(&self.head).chain(self.rest.iter().flatten())
    }

    /// Number of frames.
    #[must_use]
    pub fn frame_count(&self) -> usize {
        1 + self.rest.iter().flatten().count()
    }

    /// Packet bytes over all frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames().map(Frame::len).sum()
    }

    /// Whether there are no packet bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a frame.
    ///
    /// # Errors
    ///
    /// Gives the frame back when the packet is full.
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        match self.rest.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(frame);
                Ok(())
            }
            None => Err(frame),
        }
    }

    /// Cuts the packet to `len` bytes and frees the frames that are no longer needed; longer or
    /// equal lengths change nothing. The head stays even when `len` is 0.
    pub fn trim(&mut self, len: usize, umem: &mut Umem) {
        let mut left = len.saturating_sub(cut(&mut self.head, len));
        for slot in &mut self.rest {
            if left == 0 {
                if let Some(frame) = slot.take() {
                    umem.free(frame);
                }
            } else if let Some(frame) = slot {
                left -= cut(frame, left);
            }
        }
    }

    /// Takes the packet apart.
    pub(crate) fn into_frames(self) -> impl Iterator<Item = Frame> {
        std::iter::once(self.head).chain(self.rest.into_iter().flatten())
    }
}

/// Shortens a frame to at most `len` bytes and returns how many it has.
fn cut(frame: &mut Frame, len: usize) -> usize {
    let kept = frame.len().min(len);
    let fits = frame.set_len(kept);
    debug_assert!(fits, "shortening always fits");
    kept
}

/// Up to [`Batch::CAPACITY`] packets, allocated once.
#[derive(Debug)]
pub struct Batch {
    packets: Vec<Packet>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// Most packets in a batch.
    pub const CAPACITY: usize = 64;

    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            packets: Vec::with_capacity(Self::CAPACITY),
        }
    }

    /// Appends a packet.
    ///
    /// # Errors
    ///
    /// Gives the packet back when the batch is full.
    pub fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.is_full() {
            return Err(packet);
        }
        self.packets.push(packet);
        Ok(())
    }

    /// Takes all packets out, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Packet> {
        self.packets.drain(..)
    }

    /// The packets, in order.
    pub fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// Number of packets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Whether no more fit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.packets.len() >= Self::CAPACITY
    }
}
