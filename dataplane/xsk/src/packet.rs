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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UmemConfig;

    fn umem() -> Umem {
        Umem::new(UmemConfig::new(8)).expect("memory")
    }

    #[test]
    fn bytes_survive_the_way_in_and_out_over_several_frames() {
        let mut umem = umem();
        for len in [1, 60, 3840, 3841, 9015, 4 * 3840] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let packet = umem.packet_from(&bytes).expect("fits");
            assert_eq!(packet.len(), len);
            assert_eq!(packet.frame_count(), len.div_ceil(3840));
            let mut out = vec![0; 4 * 3840];
            assert_eq!(umem.copy_out(&packet, &mut out), Some(len));
            assert_eq!(&out[..len], &bytes);
            assert_eq!(umem.copy_out(&packet, &mut out[..len - 1]), None);
            umem.free_packet(packet);
        }
        assert!(umem.packet_from(&[0; 4 * 3840 + 1]).is_none());
        assert_eq!(umem.audit().free, 8);
    }

    #[test]
    fn trim_cuts_bytes_and_frees_the_frames_behind_the_cut() {
        let cases = [
            (9015, 3),
            (9000, 3),
            (7680, 2),
            (7681, 3),
            (3841, 2),
            (3840, 1),
            (60, 1),
            (0, 1),
        ];
        for (len, frames) in cases {
            let mut umem = umem();
            let mut packet = umem.packet_from(&[1; 9015]).expect("fits");
            packet.trim(len, &mut umem);
            assert_eq!((packet.len(), packet.frame_count()), (len, frames));
            assert_eq!(umem.free_frames(), 8 - frames);
            packet.trim(20_000, &mut umem);
            assert_eq!(packet.len(), len, "trim never lengthens");
            umem.free_packet(packet);
            assert_eq!(umem.audit().free, 8);
        }
    }

    #[test]
    fn a_full_packet_and_a_full_batch_give_back_what_does_not_fit() {
        let mut umem = Umem::new(UmemConfig::new(80)).expect("memory");
        let mut packet = umem.packet_from(&[1; 4 * 3840]).expect("fits");
        let spare = umem.alloc().expect("free");
        let spare = packet.push(spare).expect_err("full");
        umem.free(spare);
        umem.free_packet(packet);

        let mut batch = Batch::new();
        for _ in 0..Batch::CAPACITY {
            let packet = umem.packet_from(&[1]).expect("free");
            batch.push(packet).expect("room");
        }
        let packet = umem.packet_from(&[1]).expect("free");
        let packet = batch.push(packet).expect_err("full");
        umem.free_packet(packet);
        for packet in batch.drain() {
            umem.free_packet(packet);
        }
        assert!(batch.is_empty());
        assert_eq!(umem.audit().free, 80);
    }
}
