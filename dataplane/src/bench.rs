//! What a worker has at hand, and the ways a packet can leave it. The way through is in `worker`.
//!
//! Every way out counts the packet once, whether or not it succeeds.

use penstock_flow::fragments::{Datagram, Waiting};
use penstock_flow::{Engine, Ingress, Rejection, Snapshot, Timestamp, UplinkId};
use penstock_packet::DropReason;
use penstock_packet::icmp::MAX_ERROR;
use penstock_xsk::{Batch, Packet};

use crate::exchange::{Exchange, Origin};
use crate::line::Line;
use crate::ports::{Ports, Way};
use crate::stats::Tally;
use crate::worker::Scene;

/// Everything a packet passes on its way.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) ports: Ports,
    pub(crate) engine: Engine,
    pub(crate) exchange: Exchange,
    pub(crate) line: Line,
    pub(crate) tally: Tally,
    /// Fragments that came before their first.
    pub(crate) held: Waiting<(Packet, Ingress, bool)>,
}

impl Bench {
    /// Receives from socket `at`; says where that is.
    pub(crate) fn receive(&mut self, at: usize, batch: &mut Batch) -> Ingress {
        self.ports.receive(at, batch, &mut self.tally);
        self.ports
            .uplink(at)
            .map_or(Ingress::Trunk, Ingress::Uplink)
    }

    /// Sends by an uplink; one with fewer queues than workers is reached through worker 0, which
    /// has queue 0 of every uplink.
    pub(crate) fn transmit(&mut self, packet: Packet, uplink: UplinkId) {
        match self.ports.seat_of(uplink) {
            Some(at) => self.ports.send(at, packet, Way::Forward, &mut self.tally),
            None if self.exchange.reaches(0) => self.hand_off(packet, 0, Origin::Send(uplink)),
            None => self.discard(packet, DropReason::NoUplink),
        }
    }

    /// Copies to another worker; the packet is gone from here either way.
    pub(crate) fn hand_off(&mut self, packet: Packet, worker: usize, origin: Origin) {
        match self
            .exchange
            .send(worker, origin, &packet, self.ports.umem())
        {
            Ok(()) => self.tally.totals.handed_off += 1,
            Err(reason) => self.tally.drop(reason),
        }
        self.ports.umem().free_packet(packet);
    }

    /// Takes up to a batch of what other workers handed over; says how much it was.
    pub(crate) fn take_in(&mut self, snapshot: &Snapshot, now: Timestamp) -> usize {
        let mut packets = 0;
        while packets < Batch::CAPACITY {
            let Some((origin, packet)) = self.exchange.receive(self.ports.umem()) else {
                break;
            };
            packets += 1;
            self.tally.totals.handed_in += 1;
            match (packet, origin) {
                (None, _) => self.tally.drop(DropReason::UmemEmpty),
                (Some(packet), Origin::Judge(ingress)) => {
                    let scene = Scene {
                        ingress,
                        handed: true,
                        snapshot,
                        now,
                    };
                    self.judge_alone(packet, scene);
                }
                (Some(packet), Origin::Send(uplink)) => self.transmit(packet, uplink),
            }
        }
        packets
    }

    /// Keeps a fragment until its first one comes, where there is room for it.
    #[cold]
    pub(crate) fn hold(&mut self, packet: Packet, datagram: Datagram, scene: Scene<'_>) {
        let held = (packet, scene.ingress, scene.handed);
        if let Err((packet, ..)) = self.held.push(datagram, held, scene.now) {
            self.discard(packet, DropReason::FragLimit);
        }
    }

    /// Judges again what was held for a datagram whose first fragment has come now.
    #[cold]
    pub(crate) fn release(&mut self, snapshot: &Snapshot, now: Timestamp) {
        let Some(datagram) = self.engine.begun() else {
            return;
        };
        while let Some((packet, ingress, handed)) = self.held.take(datagram) {
            let scene = Scene {
                ingress,
                handed,
                snapshot,
                now,
            };
            self.judge_alone(packet, scene);
        }
    }

    /// Tells the clerk what the engine wishes, and the engine what the clerk says.
    pub(crate) fn talk(&mut self, snapshot: &Snapshot, now: Timestamp) -> usize {
        self.line.talk(&mut self.engine, snapshot, now)
    }

    /// Drops the fragments whose first one did not come.
    pub(crate) fn drop_overdue(&mut self, now: Timestamp) {
        while let Some((packet, ..)) = self.held.overdue(now) {
            self.discard(packet, DropReason::Stale);
        }
    }

    /// Judges a packet that did not come in a batch.
    fn judge_alone(&mut self, packet: Packet, scene: Scene<'_>) {
        let head = self.ports.umem().bytes(packet.head());
        let mut look = self.engine.look(head, packet.len(), scene.ingress);
        self.engine.locate(std::slice::from_mut(&mut look));
        self.judge(packet, &look, scene);
    }

    /// Tells the sender why, when that is allowed.
    #[cold]
    pub(crate) fn answer(
        &mut self,
        packet: &Packet,
        why: &Rejection,
        snapshot: &Snapshot,
        now: Timestamp,
    ) {
        let mut answer = [0; MAX_ERROR];
        let umem = self.ports.umem();
        let head = umem.bytes(packet.head());
        let made = self.engine.reject(head, why, snapshot, now, &mut answer);
        let Some((length, out)) = made else {
            return;
        };
        if let Some(answer) = umem.packet_from(&answer[..length]) {
            self.tally.totals.originated += 1;
            self.forward(answer, out);
        }
    }

    /// Ends a packet under a name.
    pub(crate) fn discard(&mut self, packet: Packet, reason: DropReason) {
        self.tally.drop(reason);
        self.ports.umem().free_packet(packet);
    }

    /// Drops what waited while this worker was not running: it is too old to be worth anything.
    #[cold]
    pub(crate) fn discard_stale(&mut self, batch: &mut Batch) {
        for at in 0..self.ports.count() {
            loop {
                self.ports.receive(at, batch, &mut self.tally);
                if batch.is_empty() {
                    break;
                }
                for packet in batch.drain() {
                    self.discard(packet, DropReason::Stale);
                }
            }
        }
        while let Some((_, packet)) = self.exchange.receive(self.ports.umem()) {
            self.tally.totals.handed_in += 1;
            self.tally.drop(DropReason::Stale);
            if let Some(packet) = packet {
                self.ports.umem().free_packet(packet);
            }
        }
    }
}
