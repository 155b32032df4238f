//! One worker: the batch loop and what becomes of each packet. Read this first.
//!
//! ```text
//! receive ─► look (all) ─► forward ─┬─ Forward ──► trunk (pods) or uplink
//!                                   ├─ ToKernel ─► trunk
//!                                   ├─ HandOff ──► the worker that owns the flow
//!                                   ├─ Hold ─────► until its datagram's first fragment comes
//!                                   ├─ Reject ───► counted, answered by an ICMP error
//!                                   └─ Drop ─────► counted
//!                                  then: send · reclaim · refill · expire · publish
//! ```
//!
//! Nothing here locks, allocates, logs or blocks while there are packets. Every packet is counted
//! once on its way in and once on its way out (`stats`).

use std::sync::Arc;

use penstock_flow::{Ingress, Look, OutIf, Snapshot, Timestamp, Verdict, forward_seen};
use penstock_packet::frame_length;
use penstock_xsk::{Batch, Packet};

use crate::bench::Bench;
use crate::errand::Errands;
use crate::exchange::Origin;
use crate::live::{Live, Numbered};
use crate::ports::{TRUNK, Way};
use crate::pulse::Pulse;
use crate::rest::Rest;

/// Flows looked at per loop for having expired.
const EXPIRE_BUDGET: usize = 32;

/// One worker's whole world; it shares nothing else.
#[derive(Debug)]
pub struct Worker {
    pub(crate) pulse: Pulse,
    pub(crate) live: Arc<Live<Snapshot>>,
    pub(crate) snapshot: Arc<Numbered<Snapshot>>,
    pub(crate) passed: u64,
    pub(crate) batch: Batch,
    pub(crate) looks: Vec<Look>,
    pub(crate) bench: Bench,
    pub(crate) errands: Errands,
    pub(crate) rest: Rest,
}

impl Worker {
    /// Works until told to stop.
    pub fn run(mut self) {
        loop {
            // Read before the commands: who has passed a snapshot has done what came before it.
            let number = self.live.number();
            if !self.errands.run(&mut self.bench, &self.snapshot.snapshot) {
                break;
            }
            if number != self.passed {
                self.snapshot = self.live.load();
                self.bench.engine.adopt(&self.snapshot.snapshot);
                self.passed = number;
                self.errands.pass(number);
            }
            let busy = self.run_once();
            self.rest.after(busy, &self.bench, &self.errands);
        }
        self.pulse.stop();
    }

    /// One batch from every socket and lane; says whether there was anything to do.
    fn run_once(&mut self) -> bool {
        let now = self.pulse.tick();
        if self.pulse.was_away() {
            self.bench.discard_stale(&mut self.batch);
        }
        let snapshot = &self.snapshot.snapshot;
        let mut packets = 0;
        for at in 0..self.bench.ports.count() {
            let ingress = self.bench.receive(at, &mut self.batch);
            packets += self.batch.len();
            let scene = Scene {
                ingress,
                handed: false,
                snapshot,
                now,
            };
            self.bench.look(&self.batch, ingress, &mut self.looks);
            for (packet, look) in self.batch.drain().zip(&self.looks) {
                self.bench.judge(packet, look, scene);
            }
        }
        packets += self.bench.take_in(snapshot, now);
        self.bench.drop_overdue(now);
        self.bench.ports.turn(&mut self.bench.tally);
        self.bench.exchange.notify();
        let heard = self.bench.talk(snapshot, now);
        let expired = self.bench.engine.expire(now, EXPIRE_BUDGET);
        self.bench.tally.poll(packets > 0);
        if packets > 0 || expired > 0 || heard > 0 {
            self.errands.publish(&self.bench);
        }
        packets > 0 || self.bench.ports.has_unsent()
    }
}

/// Where and when a packet is judged, and by which rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) ingress: Ingress,
    /// Whether another worker handed it over.
    pub(crate) handed: bool,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now: Timestamp,
}

impl Bench {
    /// Looks at a whole batch before any of it is judged.
    fn look(&mut self, batch: &Batch, ingress: Ingress, looks: &mut Vec<Look>) {
        let umem = self.ports.umem();
        looks.clear();
        looks.extend(batch.packets().iter().map(|packet| {
            self.engine
                .look(umem.bytes(packet.head()), packet.len(), ingress)
        }));
        self.engine.locate(looks);
    }

    /// One packet.
    pub(crate) fn judge(&mut self, mut packet: Packet, look: &Look, scene: Scene<'_>) {
        let Scene {
            ingress,
            handed,
            snapshot,
            now,
        } = scene;
        let length = packet.len();
        let view = penstock_flow::Packet {
            head: self.ports.umem().bytes_mut(packet.head_mut()),
            length,
            ingress,
            handed,
        };
        match forward_seen(&mut self.engine, snapshot, view, look, now) {
            Verdict::Forward(out) => self.forward(packet, out),
            Verdict::ToKernel => self.ports.send(TRUNK, packet, Way::Kernel, &mut self.tally),
            Verdict::HandOff(worker) => {
                self.hand_off(packet, usize::from(worker), Origin::Judge(ingress));
            }
            Verdict::Hold(datagram) => self.hold(packet, datagram, scene),
            Verdict::Reject(rejection) => {
                self.answer(&packet, &rejection, snapshot, now);
                self.discard(packet, rejection.reason);
            }
            Verdict::Drop(reason) => self.discard(packet, reason),
        }
        if !self.held.is_empty() {
            self.release(snapshot, now);
        }
    }

    pub(crate) fn forward(&mut self, mut packet: Packet, out: OutIf) {
        let umem = self.ports.umem();
        // RFC 894: what follows the datagram is padding of the link it came by.
        let length = frame_length(umem.bytes(packet.head()));
        packet.trim(length, umem);
        match out {
            OutIf::Endpoint => self
                .ports
                .send(TRUNK, packet, Way::Forward, &mut self.tally),
            OutIf::Uplink(uplink) => self.transmit(packet, uplink),
        }
    }
}
