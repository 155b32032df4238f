//! One worker: the batch loop and what becomes of each packet. Read this first.
//!
//! ```text
//! receive ─► forward ─┬─ Forward ──► trunk (pods) or uplink        then: send · reclaim · refill
//!                     ├─ ToKernel ─► trunk                               expire · publish
//!                     ├─ HandOff ──► the worker that owns the flow
//!                     ├─ Reject ───► counted, answered by an ICMP error
//!                     └─ Drop ─────► counted
//! ```
//!
//! Nothing here locks, allocates, logs or blocks while there are packets. Every packet is counted
//! once on its way in and once on its way out (`stats`).

use std::sync::Arc;

use penstock_flow::{
    Engine, Ingress, OutIf, Rejection, Snapshot, Timestamp, UplinkId, Verdict, forward,
};
use penstock_packet::icmp::MAX_ERROR;
use penstock_packet::{DropReason, frame_length};
use penstock_xsk::{Batch, Packet};

use crate::errand::Errands;
use crate::exchange::{Exchange, Origin};
use crate::live::{Live, Numbered};
use crate::ports::{Ports, TRUNK, Way};
use crate::pulse::Pulse;
use crate::rest::Rest;
use crate::stats::Tally;

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
    pub(crate) bench: Bench,
    pub(crate) errands: Errands,
    pub(crate) rest: Rest,
}

/// Everything a packet passes on its way.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) ports: Ports,
    pub(crate) engine: Engine,
    pub(crate) exchange: Exchange,
    pub(crate) tally: Tally,
}

impl Worker {
    /// Works until told to stop.
    pub fn run(mut self) {
        loop {
            // Read before the commands: who has passed a snapshot has done what came before it.
            let number = self.live.number();
            if !self.errands.run(&mut self.bench) {
                break;
            }
            if number != self.passed {
                self.snapshot = self.live.load();
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
        let snapshot = &self.snapshot.snapshot;
        let mut packets = 0;
        for at in 0..self.bench.ports.count() {
            let ingress = self.bench.receive(at, &mut self.batch);
            packets += self.batch.len();
            for packet in self.batch.drain() {
                self.bench.judge(packet, ingress, snapshot, now);
            }
        }
        packets += self.bench.take_in(snapshot, now);
        self.bench.ports.turn(&mut self.bench.tally);
        self.bench.exchange.notify();
        let expired = self.bench.engine.expire(now, EXPIRE_BUDGET);
        self.bench.tally.poll(packets > 0);
        if packets > 0 || expired > 0 {
            self.errands.publish(&self.bench);
        }
        packets > 0 || self.bench.ports.has_unsent()
    }
}

impl Bench {
    fn receive(&mut self, at: usize, batch: &mut Batch) -> Ingress {
        self.ports.receive(at, batch, &mut self.tally);
        self.ports
            .uplink(at)
            .map_or(Ingress::Trunk, Ingress::Uplink)
    }

    fn judge(&mut self, mut packet: Packet, ingress: Ingress, snapshot: &Snapshot, now: Timestamp) {
        let length = packet.len();
        let view = penstock_flow::Packet {
            head: self.ports.umem().bytes_mut(packet.head_mut()),
            length,
            ingress,
        };
        match forward(&mut self.engine, snapshot, view, now) {
            Verdict::Forward(out) => self.forward(packet, out),
            Verdict::ToKernel => self.ports.send(TRUNK, packet, Way::Kernel, &mut self.tally),
            Verdict::HandOff(worker) => {
                self.hand_off(packet, usize::from(worker), Origin::Judge(ingress));
            }
            Verdict::Reject(rejection) => {
                self.answer(&packet, &rejection, snapshot, now);
                self.discard(packet, rejection.reason);
            }
            Verdict::Drop(reason) => self.discard(packet, reason),
        }
    }

    fn forward(&mut self, mut packet: Packet, out: OutIf) {
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

    /// Sends by an uplink; one with fewer queues than workers is reached through worker 0, which
    /// has queue 0 of every uplink.
    fn transmit(&mut self, packet: Packet, uplink: UplinkId) {
        match self.ports.seat_of(uplink) {
            Some(at) => self.ports.send(at, packet, Way::Forward, &mut self.tally),
            None if self.exchange.reaches(0) => self.hand_off(packet, 0, Origin::Send(uplink)),
            None => self.discard(packet, DropReason::NoUplink),
        }
    }

    fn hand_off(&mut self, packet: Packet, worker: usize, origin: Origin) {
        match self
            .exchange
            .send(worker, origin, &packet, self.ports.umem())
        {
            Ok(()) => self.tally.totals.handed_off += 1,
            Err(reason) => self.tally.drop(reason),
        }
        self.ports.umem().free_packet(packet);
    }

    fn take_in(&mut self, snapshot: &Snapshot, now: Timestamp) -> usize {
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
                    self.judge(packet, ingress, snapshot, now);
                }
                (Some(packet), Origin::Send(uplink)) => self.transmit(packet, uplink),
            }
        }
        packets
    }

    /// Tells the sender why, when that is allowed.
    #[cold]
    fn answer(&mut self, packet: &Packet, why: &Rejection, snapshot: &Snapshot, now: Timestamp) {
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

    fn discard(&mut self, packet: Packet, reason: DropReason) {
        self.tally.drop(reason);
        self.ports.umem().free_packet(packet);
    }
}
