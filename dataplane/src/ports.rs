//! A worker's sockets and the packet memory they share.
//!
//! The trunk comes first and stays; uplinks come and go. A packet given to [`Ports::send`] is
//! counted here, whatever becomes of it: sent, refused because the ring is full, or dropped by
//! the kernel when it is flushed.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use penstock_flow::UplinkId;
use penstock_packet::DropReason;
use penstock_xsk::{Batch, Mode, Packet, Port, PortState, Umem};

use crate::stats::{Gauges, PortCells, PortTotals, Tally};

/// The trunk's place among a worker's sockets.
pub const TRUNK: usize = 0;

/// A socket on its way to its worker.
#[derive(Debug)]
pub struct NewPort {
    /// The uplink it belongs to; absent for the trunk.
    pub uplink: Option<UplinkId>,
    /// The bound socket.
    pub port: Port,
    /// Where its counters are read.
    pub cells: Arc<PortCells>,
}

/// Which way a packet is counted when it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Forwarded.
    Forward,
    /// Given to the kernel stack.
    Kernel,
}

#[derive(Debug)]
struct Seat {
    uplink: Option<UplinkId>,
    port: Port,
    cells: Arc<PortCells>,
    totals: PortTotals,
    toobig_counted: u64,
    /// The kernel was too short of something to take all that is queued.
    unsent: bool,
}

/// All sockets of one worker, and its UMEM.
#[derive(Debug)]
pub struct Ports {
    umem: Umem,
    seats: Vec<Seat>,
}

impl Ports {
    /// Packet memory and the trunk's socket.
    #[must_use]
    pub fn new(umem: Umem, trunk: NewPort) -> Self {
        let mut ports = Self {
            umem,
            seats: Vec::with_capacity(1 + crate::validate::MAX_UPLINKS),
        };
        ports.add(trunk);
        ports
    }

    /// The packet memory.
    pub fn umem(&mut self) -> &mut Umem {
        &mut self.umem
    }

    /// Takes a socket over and gives it frames to receive into.
    pub fn add(&mut self, new: NewPort) {
        let mut port = new.port;
        port.refill(&mut self.umem);
        self.seats.push(Seat {
            uplink: new.uplink,
            port,
            cells: new.cells,
            totals: PortTotals::default(),
            toobig_counted: 0,
            unsent: false,
        });
    }

    /// Closes all sockets of an uplink; their frames come back to the free list.
    pub fn remove(&mut self, uplink: UplinkId) {
        while let Some(at) = self.seat_of(uplink) {
            let seat = self.seats.remove(at);
            seat.port.close(&mut self.umem);
        }
    }

    /// Number of sockets.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seats.len()
    }

    /// The uplink of socket `at`; absent for the trunk.
    #[must_use]
    pub fn uplink(&self, at: usize) -> Option<UplinkId> {
        self.seats[at].uplink
    }

    /// The socket by which this worker reaches an uplink.
    #[must_use]
    pub fn seat_of(&self, uplink: UplinkId) -> Option<usize> {
        self.seats
            .iter()
            .position(|seat| seat.uplink == Some(uplink))
    }

    /// Receives from socket `at` and counts what came.
    pub fn receive(&mut self, at: usize, batch: &mut Batch, tally: &mut Tally) {
        let seat = &mut self.seats[at];
        let received = seat.port.receive(&mut self.umem, batch);
        let toobig = seat.port.counters().rx_toobig;
        if received == 0 && toobig == seat.toobig_counted {
            return;
        }
        let bytes: usize = batch.packets().iter().map(Packet::len).sum();
        seat.totals.rx_packets += received as u64;
        seat.totals.rx_bytes += bytes as u64;
        tally.totals.rx += received as u64 + (toobig - seat.toobig_counted);
        tally.drop_many(DropReason::RxToobig, toobig - seat.toobig_counted);
        seat.toobig_counted = toobig;
    }

    /// Queues a packet on socket `at`; the kernel sees it at the next [`Ports::turn`].
    pub fn send(&mut self, at: usize, packet: Packet, way: Way, tally: &mut Tally) {
        let seat = &mut self.seats[at];
        let length = packet.len() as u64;
        match seat.port.send(&mut self.umem, packet) {
            Ok(()) => {
                seat.totals.tx_packets += 1;
                seat.totals.tx_bytes += length;
                match way {
                    Way::Forward => tally.totals.tx += 1,
                    Way::Kernel => tally.totals.to_kernel += 1,
                }
            }
            Err(packet) => {
                self.umem.free_packet(packet);
                tally.drop(match way {
                    Way::Forward => DropReason::TxFull,
                    Way::Kernel => DropReason::Reinject,
                });
            }
        }
    }

    /// Sends what is queued, takes back what was sent, and offers frames to receive into.
    pub fn turn(&mut self, tally: &mut Tally) {
        for seat in &mut self.seats {
            let outcome = seat.port.flush();
            seat.unsent = outcome.state == PortState::Later && seat.port.mode() == Mode::Copy;
            if outcome.busy > 0 {
                let busy = u64::from(outcome.busy);
                seat.totals.tx_packets = seat.totals.tx_packets.saturating_sub(busy);
                tally.unsend(busy);
            }
            seat.port.reclaim(&mut self.umem);
            seat.port.refill(&mut self.umem);
        }
    }

    /// Whether something queued waits for the kernel to be able to take it.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.seats.iter().any(|seat| seat.unsent)
    }

    /// The sockets, for poll(2).
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.seats.iter().map(|seat| seat.port.as_fd())
    }

    /// Makes every socket's counts visible.
    pub fn publish(&self) {
        for seat in &self.seats {
            seat.cells.publish(&seat.totals);
        }
    }

    /// Counts frames one by one and asks the kernel for its statistics; not for every batch.
    pub fn survey(&mut self, gauges: &mut Gauges) {
        let counts = self.umem.audit();
        gauges.frames_free = u64::from(counts.free + counts.held);
        gauges.frames_receiving = u64::from(counts.receiving);
        gauges.frames_sending = u64::from(counts.sending);
        gauges.frames_total = u64::from(counts.total - counts.lost);
        for seat in &mut self.seats {
            // A socket whose interface is gone has nothing more to say.
            let Ok(kernel) = seat.port.statistics() else {
                continue;
            };
            seat.totals.kernel_rx_dropped = kernel.rx_dropped;
            seat.totals.kernel_rx_ring_full = kernel.rx_ring_full;
            seat.totals.kernel_rx_fill_empty = kernel.fill_ring_empty;
            seat.totals.kernel_tx_invalid = kernel.tx_invalid_descs;
        }
        self.publish();
    }
}
