//! A worker's dealings with the other workers: packets over lanes, one wake-up a batch.

use std::sync::Arc;

use penstock_flow::{Ingress, UplinkId};
use penstock_packet::DropReason;
use penstock_xsk::{Packet, Umem};

use crate::handoff::{Ends, Receiver};
use crate::wake::Wake;

/// What a packet that crossed is to be done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Decide about it: the receiver owns its flow.
    Judge(Ingress),
    /// Only send it: the sender has no socket on that uplink.
    Send(UplinkId),
}

/// One worker's lanes and its neighbours' alarm clocks.
#[derive(Debug)]
pub struct Exchange {
    ends: Ends<Origin>,
    wakes: Vec<Arc<Wake>>,
    to_wake: Vec<bool>,
    next_lane: usize,
}

impl Exchange {
    /// A worker's lane ends and the alarm clocks of all workers.
    #[must_use]
    pub fn new(ends: Ends<Origin>, wakes: Vec<Arc<Wake>>) -> Self {
        Self {
            to_wake: vec![false; wakes.len()],
            ends,
            wakes,
            next_lane: 0,
        }
    }

    /// Whether there is a lane to `worker`: it exists and is another one.
    #[must_use]
    pub fn reaches(&self, worker: usize) -> bool {
        self.ends.to.get(worker).is_some_and(Option::is_some)
    }

    /// Copies a packet to another worker.
    ///
    /// # Errors
    /// The reason it did not cross; the packet is the caller's either way.
    pub fn send(
        &mut self,
        worker: usize,
        origin: Origin,
        packet: &Packet,
        umem: &Umem,
    ) -> Result<(), DropReason> {
        let lane = self.ends.to.get(worker).and_then(Option::as_ref);
        let lane = lane.ok_or(DropReason::HandoffFull)?;
        let copy = |buffer: &mut [u8]| {
            // The lane hands out exactly as many bytes as the packet has.
            let _ = umem.copy_out(packet, buffer);
        };
        lane.send(origin, packet.len(), copy)
            .map_err(|_| DropReason::HandoffFull)?;
        self.to_wake[worker] = true;
        Ok(())
    }

    /// The next packet from any lane, in turn; `None` in its place when no frame is free for it.
    pub fn receive(&mut self, umem: &mut Umem) -> Option<(Origin, Option<Packet>)> {
        let lanes = self.ends.from.len();
        for _ in 0..lanes {
            let lane = &self.ends.from[self.next_lane % lanes];
            self.next_lane = (self.next_lane + 1) % lanes;
            let mut taken = None;
            lane.receive(|origin, bytes| taken = Some((origin, umem.packet_from(bytes))));
            if taken.is_some() {
                return taken;
            }
        }
        None
    }

    /// Whether packets wait in any lane.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.ends.from.iter().all(Receiver::is_empty)
    }

    /// Wakes everybody something was sent to since the last call.
    pub fn notify(&mut self) {
        for (wake, due) in self.wakes.iter().zip(&mut self.to_wake) {
            if std::mem::take(due) {
                wake.notify();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use penstock_xsk::UmemConfig;

    use super::*;
    use crate::handoff;

    fn exchanges(workers: usize) -> Vec<Exchange> {
        let wakes: Vec<_> = (0..workers)
            .map(|_| Arc::new(Wake::new().unwrap()))
            .collect();
        handoff::mesh(workers)
            .into_iter()
            .map(|ends| Exchange::new(ends, wakes.clone()))
            .collect()
    }

    #[test]
    fn a_packet_of_several_frames_crosses_unharmed() {
        let mut exchanges = exchanges(3);
        let mut near = Umem::new(UmemConfig::new(64)).unwrap();
        let mut far = Umem::new(UmemConfig::new(64)).unwrap();
        let bytes: Vec<u8> = (0..9_015).map(|n| (n % 251) as u8).collect();
        let packet = near.packet_from(&bytes).unwrap();
        assert!(packet.frame_count() > 1);
        let origin = Origin::Judge(Ingress::Trunk);
        exchanges[0].send(2, origin, &packet, &near).unwrap();
        near.free_packet(packet);
        let (from, packet) = exchanges[2].receive(&mut far).unwrap();
        let packet = packet.unwrap();
        let mut copy = vec![0; 9_015];
        assert_eq!(far.copy_out(&packet, &mut copy), Some(9_015));
        assert_eq!((from, copy), (origin, bytes));
        far.free_packet(packet);
        assert!(exchanges[2].receive(&mut far).is_none());
        for umem in [near, far] {
            assert_eq!(umem.audit().free, 64, "no frame is lost");
        }
    }

    #[test]
    fn without_a_free_frame_the_packet_is_still_taken_out() {
        let mut exchanges = exchanges(2);
        let mut near = Umem::new(UmemConfig::new(4)).unwrap();
        let mut far = Umem::new(UmemConfig::new(1)).unwrap();
        let held = far.alloc().unwrap();
        let packet = near.packet_from(&[1; 60]).unwrap();
        let origin = Origin::Send(UplinkId(3));
        exchanges[0].send(1, origin, &packet, &near).unwrap();
        near.free_packet(packet);
        assert!(exchanges[1].has_waiting());
        assert!(matches!(exchanges[1].receive(&mut far), Some((from, None)) if from == origin));
        assert!(!exchanges[1].has_waiting());
        far.free(held);
    }

    #[test]
    fn nobody_hands_to_himself_or_to_nobody() {
        let exchanges = exchanges(2);
        assert!(!exchanges[0].reaches(0));
        assert!(exchanges[0].reaches(1));
        assert!(!exchanges[0].reaches(2));
    }
}
