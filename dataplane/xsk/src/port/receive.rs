//! The receiving half of a port: RX ring to packets, free frames to the fill ring.
//!
//! Guarantees: a packet is delivered whole or not at all; a chain that is too long, or that
//! contains a descriptor we do not believe, is freed whole and counted once. One commit per call.

use super::Port;
use crate::frame::{Frame, FrameSize, RawFrame};
use crate::packet::{Batch, Packet};
use crate::sys;
use crate::umem::Umem;

/// The frames of a packet whose last descriptor has not been seen yet.
///
/// It holds raw frames, not tokens, because a port must be able to change threads.
#[derive(Debug, Default)]
pub(super) struct Chain {
    parts: [Option<RawFrame>; Packet::MAX_FRAMES],
    count: usize,
    fault: Option<Fault>,
}

/// Why a chain is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    TooBig,
    BadDescriptor,
}

impl Chain {
    /// Adds one received frame (`None`: the descriptor was not believed). At the last one of a
    /// packet, returns the packet or why there is none.
    fn add(
        &mut self,
        raw: Option<RawFrame>,
        more: bool,
        umem: &mut Umem,
    ) -> Option<Result<Packet, Fault>> {
        match (raw, self.fault) {
            (None, _) => self.fail(Fault::BadDescriptor, umem),
            (Some(raw), Some(_)) => umem.free_raw(raw),
            (Some(raw), None) => match self.parts.get_mut(self.count) {
                Some(slot) => {
                    *slot = Some(raw);
                    self.count += 1;
                }
                None => {
                    umem.free_raw(raw);
                    self.fail(Fault::TooBig, umem);
                }
            },
        }
        if more {
            return None;
        }
        if let Some(fault) = self.fault.take() {
            return Some(Err(fault));
        }
        self.finish(umem.frame_size()).map(Ok)
    }

    /// Frees an unfinished chain, as when its port closes.
    pub(super) fn abandon(&mut self, umem: &mut Umem) {
        for raw in self.parts.iter_mut().filter_map(Option::take) {
            umem.free_raw(raw);
        }
        self.count = 0;
    }

    fn fail(&mut self, fault: Fault, umem: &mut Umem) {
        self.abandon(umem);
        self.fault.get_or_insert(fault);
    }

    fn finish(&mut self, size: FrameSize) -> Option<Packet> {
        self.count = 0;
        let mut frames = self
            .parts
            .iter_mut()
            .filter_map(Option::take)
            .map(|raw| Frame::from_raw(raw, size));
        let mut packet = Packet::from(frames.next()?);
        for frame in frames {
            // At most MAX_FRAMES parts exist, so there is always room.
            let full = packet.push(frame).is_err();
            debug_assert!(!full, "a chain has no more parts than a packet");
        }
        Some(packet)
    }
}

impl Port {
    /// Takes received packets from the RX ring until it is empty or the batch is full; returns
    /// how many were added.
    ///
    /// # Panics
    ///
    /// If `umem` is not the UMEM the port was bound with.
    pub fn receive(&mut self, umem: &mut Umem, batch: &mut Batch) -> usize {
        umem.check(self.umem);
        let before = batch.len();
        while !batch.is_full() {
            let Some(descriptor) = self.rx.take() else {
                break;
            };
            let raw = umem.take_received(self.id, descriptor.addr, descriptor.len);
            let more = descriptor.options & libc::XDP_PKT_CONTD != 0;
            match self.chain.add(raw, more, umem) {
                None => {}
                Some(Ok(packet)) => {
                    let full = batch.push(packet).is_err();
                    debug_assert!(!full, "the loop stops at a full batch");
                }
                Some(Err(Fault::TooBig)) => self.counters.rx_toobig += 1,
                Some(Err(Fault::BadDescriptor)) => self.counters.bad_desc += 1,
            }
        }
        self.rx.commit();
        batch.len() - before
    }

    /// Moves free frames to the fill ring until it is full or none are left, and wakes the driver
    /// if it asks; returns how many were moved.
    ///
    /// An empty fill ring makes the kernel drop what arrives, silently but for
    /// [`Statistics::fill_ring_empty`](crate::Statistics::fill_ring_empty): call it every step.
    ///
    /// # Panics
    ///
    /// If `umem` is not the UMEM the port was bound with.
    pub fn refill(&mut self, umem: &mut Umem) -> u32 {
        umem.check(self.umem);
        let room = self.fill.room(self.config.fill.get());
        let mut moved = 0;
        while moved < room {
            let Some(address) = umem.lend_for_receiving(self.id) else {
                break;
            };
            let pushed = self.fill.push(address);
            debug_assert!(pushed, "room was checked");
            moved += 1;
        }
        self.fill.commit();
        if self.fill.needs_wakeup() {
            self.counters.kicks += 1;
            // Nothing to do about a refusal here: a port that is down shows when it sends.
            let _later = sys::kick_rx(std::os::fd::AsFd::as_fd(&self.fd));
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UmemConfig;

    fn held(umem: &mut Umem) -> Option<RawFrame> {
        umem.alloc().map(|mut frame| {
            assert!(frame.set_len(100));
            frame.raw()
        })
    }

    fn umem() -> Umem {
        Umem::new(UmemConfig::new(16)).expect("memory")
    }

    #[test]
    fn a_chain_is_delivered_at_its_last_frame() {
        let mut umem = umem();
        let mut chain = Chain::default();
        for _ in 0..3 {
            let raw = held(&mut umem);
            assert!(chain.add(raw, true, &mut umem).is_none());
        }
        let raw = held(&mut umem);
        let packet = chain
            .add(raw, false, &mut umem)
            .expect("complete")
            .expect("sound");
        assert_eq!((packet.frame_count(), packet.len()), (4, 400));
        umem.free_packet(packet);
        assert_eq!(umem.audit().free, 16);
    }

    #[test]
    fn a_chain_that_is_too_long_is_freed_whole_and_reported_once() {
        let mut umem = umem();
        let mut chain = Chain::default();
        for _ in 0..7 {
            let raw = held(&mut umem);
            assert!(chain.add(raw, true, &mut umem).is_none());
        }
        let raw = held(&mut umem);
        let fault = chain
            .add(raw, false, &mut umem)
            .expect("ended")
            .expect_err("too long");
        assert_eq!(fault, Fault::TooBig);
        assert_eq!(umem.audit().free, 16);
        let raw = held(&mut umem);
        let packet = chain
            .add(raw, false, &mut umem)
            .expect("complete")
            .expect("the next is good");
        umem.free_packet(packet);
    }

    #[test]
    fn a_bad_descriptor_spoils_its_packet_only() {
        let mut umem = umem();
        let mut chain = Chain::default();
        let raw = held(&mut umem);
        assert!(chain.add(raw, true, &mut umem).is_none());
        assert!(chain.add(None, true, &mut umem).is_none());
        let raw = held(&mut umem);
        let fault = chain
            .add(raw, false, &mut umem)
            .expect("ended")
            .expect_err("spoilt");
        assert_eq!(fault, Fault::BadDescriptor);
        assert_eq!(umem.audit().free, 16);
    }

    #[test]
    fn an_abandoned_chain_leaves_nothing_held() {
        let mut umem = umem();
        let mut chain = Chain::default();
        let raw = held(&mut umem);
        assert!(chain.add(raw, true, &mut umem).is_none());
        chain.abandon(&mut umem);
        assert_eq!(umem.audit().free, 16);
    }

    /// Numbers without a pattern (xorshift), the same in every run.
    struct Dice(u64);

    impl Dice {
        fn throw(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, bound: usize) -> usize {
            (self.throw() % bound as u64) as usize
        }

        /// What a kernel that means harm would name: what it was lent, by now or in the past, a
        /// little beside it, another chunk, or anything.
        fn address(&mut self, lent: &[u64]) -> u64 {
            match self.below(8) {
                0 => self.throw(),
                1 => self.throw() % (20 * 4096),
                2 => (self.throw() << 48) | (self.throw() % (20 * 4096)),
                3 => {
                    lent.get(self.below(lent.len().max(1)))
                        .copied()
                        .unwrap_or(0)
                        ^ 0x7f
                }
                _ => lent
                    .get(self.below(lent.len().max(1)))
                    .copied()
                    .unwrap_or(0),
            }
        }

        fn length(&mut self) -> u32 {
            match self.below(4) {
                0 => self.throw() as u32,
                1 => self.below(5_000) as u32,
                _ => self.below(1_500) as u32,
            }
        }
    }

    /// Marks a packet as ours, or tells whether the mark still stands.
    fn mark(umem: &mut Umem, packet: &mut Packet, tag: u8, check: bool) -> bool {
        let bytes = umem.bytes_mut(packet.head_mut());
        let stands = bytes.iter().all(|byte| *byte == tag);
        bytes.fill(tag);
        stands || !check
    }

    /// Z8: descriptors and completions that lie, repeat themselves or name another port's frames.
    /// No frame is lost or had twice, and none in our hands is written by another.
    /// `PENSTOCK_FUZZ_RUNS` is a factor on the number of steps.
    #[test]
    fn z8_a_hostile_kernel_gets_at_nothing_it_was_not_lent() {
        let factor = std::env::var("PENSTOCK_FUZZ_RUNS").ok();
        let factor = factor.and_then(|factor| factor.parse().ok()).unwrap_or(1);
        let mut umem = umem();
        let handle = umem.handle();
        let ports = [handle.next_port(), handle.next_port()];
        let mut chains = [Chain::default(), Chain::default()];
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mut lent: Vec<u64> = Vec::new();
        let mut held: Vec<(Packet, u8)> = Vec::new();
        let (mut received, mut refused, mut completed) = (0, 0, 0);
        for step in 0..2_000_000 * factor {
            let at = dice.below(2);
            let port = ports[at];
            match dice.below(8) {
                0 | 1 => lent.extend(umem.lend_for_receiving(port)),
                2..=4 => {
                    let (address, length) = (dice.address(&lent), dice.length());
                    let raw = umem.take_received(port, address, length);
                    refused += usize::from(raw.is_none());
                    let ended = chains[at].add(raw, dice.below(4) == 0, &mut umem);
                    if let Some(Ok(mut packet)) = ended {
                        let tag = step as u8;
                        mark(&mut umem, &mut packet, tag, false);
                        held.push((packet, tag));
                        received += 1;
                    }
                }
                5 => {
                    let address = dice.address(&lent);
                    completed += usize::from(umem.take_completed(port, address));
                }
                _ => {
                    let Some(at) = held.len().checked_sub(1).map(|last| dice.below(last + 1))
                    else {
                        continue;
                    };
                    let (mut packet, tag) = held.swap_remove(at);
                    assert!(
                        mark(&mut umem, &mut packet, tag, true),
                        "written by another"
                    );
                    if dice.below(2) == 0 {
                        umem.free_packet(packet);
                    } else {
                        let frames = packet.into_frames();
                        lent.extend(frames.map(|frame| umem.lend_for_sending(frame, port)));
                    }
                }
            }
            if lent.len() > 64 {
                lent.drain(..32);
            }
            let counts = umem.audit();
            assert!(counts.is_balanced() && counts.total == 16, "{counts:?}");
        }
        // The kernel told the truth often enough for all of this to have happened.
        let happened = [received, refused, completed];
        assert!(happened.iter().all(|count| *count > 1_000), "{happened:?}");
    }
}
