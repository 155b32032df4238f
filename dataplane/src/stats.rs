//! Counters: what a worker counts with, and where others read it.
//!
//! A worker counts in plain integers of its own ([`Tally`]) and publishes them once a batch into
//! [`Cells`], whose every atomic has that one writer: relaxed stores, no read-modify-write.
//!
//! Law, once a worker is idle (see `WorkerReport`):
//! `rx + originated + handed_in = tx + to_kernel + handed_off + sum(drops)`.

use std::sync::atomic::{AtomicU64, Ordering};

use penstock_dataplane_api::{Bucket, DropCount, PortReport, WorkerReport};
use penstock_packet::DropReason;

/// Defines the plain and the shared form of one set of counters, so that neither can lack one.
macro_rules! counters {
    ($(#[$doc:meta])* $plain:ident, $cells:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $plain { $($(#[$field_doc])* pub $field: u64,)* }

        #[derive(Debug, Default)]
        struct $cells { $($field: AtomicU64,)* }

        impl $cells {
            fn store(&self, values: &$plain) {
                $(self.$field.store(values.$field, Ordering::Relaxed);)*
            }

            fn load(&self) -> $plain {
                $plain { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// What a worker counts, since start. Meanings are those of `WorkerReport`.
    Totals, TotalCells {
        /// Received.
        rx,
        /// Given to uplinks, or to pods through the trunk, and not refused.
        tx,
        /// Given to the kernel stack through the trunk, and not refused.
        to_kernel,
        /// Made here: ICMP errors.
        originated,
        /// Given to other workers.
        handed_off,
        /// Taken from other workers.
        handed_in,
        /// Loop iterations.
        polls,
        /// Loop iterations that found work.
        busy_polls,
    }
}

counters! {
    /// What the flow engine says about itself.
    Gauges, GaugeCells {
        /// Packets translated, since start.
        snat,
        /// Flows now.
        flows,
        /// Flows created since start.
        flows_created,
        /// Flows removed by time since start.
        flows_expired,
        /// SNAT ports in use now.
        snat_ports,
        /// Flows now that hooks carry or may know.
        offloaded,
        /// Wishes about offload that found no room, since start.
        offload_deferred,
        /// UMEM frames in the free list.
        frames_free,
        /// UMEM frames in fill rings or being received.
        frames_receiving,
        /// UMEM frames in TX rings or awaiting completion.
        frames_sending,
        /// UMEM frames in all.
        frames_total,
    }
}

counters! {
    /// One socket's counters. Meanings are those of `PortReport`.
    PortTotals, PortTotalCells {
        /// Packets received.
        rx_packets,
        /// Bytes received.
        rx_bytes,
        /// Packets sent.
        tx_packets,
        /// Bytes sent.
        tx_bytes,
        /// XDP_STATISTICS rx_dropped.
        kernel_rx_dropped,
        /// XDP_STATISTICS rx_ring_full.
        kernel_rx_ring_full,
        /// XDP_STATISTICS rx_fill_ring_empty_descs.
        kernel_rx_fill_empty,
        /// XDP_STATISTICS tx_invalid_descs.
        kernel_tx_invalid,
    }
}

/// A worker's own count; published by [`Cells::publish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Everything that is not a drop.
    pub totals: Totals,
    drops: [u64; DropReason::COUNT],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            totals: Totals::default(),
            drops: [0; DropReason::COUNT],
        }
    }
}

impl Tally {
    /// Counts one packet that ends here, by its reason.
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason.index()] += 1;
    }

    /// Counts one loop.
    pub fn poll(&mut self, busy: bool) {
        self.totals.polls += 1;
        self.totals.busy_polls += u64::from(busy);
    }

    /// Counts `packets` packets that end here.
    pub fn drop_many(&mut self, reason: DropReason, packets: u64) {
        self.drops[reason.index()] += packets;
    }

    /// Takes back `packets` that were counted as sent and that the kernel then dropped. Which of
    /// those queued they were is not known: forwarded ones are blamed first.
    pub fn unsend(&mut self, packets: u64) {
        let forwarded = packets.min(self.totals.tx);
        let punted = (packets - forwarded).min(self.totals.to_kernel);
        self.totals.tx -= forwarded;
        self.totals.to_kernel -= punted;
        self.drop_many(DropReason::TxBusy, forwarded + punted);
    }

    /// Packets lost to `reason` so far.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// What came in and what went out; equal when no packet is in hand.
    #[must_use]
    pub fn balance(&self) -> (u64, u64) {
        let totals = &self.totals;
        (
            totals.rx + totals.originated + totals.handed_in,
            totals.tx + totals.to_kernel + totals.handed_off + self.drops.iter().sum::<u64>(),
        )
    }
}

/// A worker's counters as everybody else sees them; on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Cells {
    totals: TotalCells,
    gauges: GaugeCells,
    drops: [AtomicU64; DropReason::COUNT],
    passed_generation: AtomicU64,
}

impl Default for Cells {
    fn default() -> Self {
        Self {
            totals: TotalCells::default(),
            gauges: GaugeCells::default(),
            drops: [const { AtomicU64::new(0) }; DropReason::COUNT],
            passed_generation: AtomicU64::new(0),
        }
    }
}

impl Cells {
    /// Makes a worker's counts visible.
    pub fn publish(&self, tally: &Tally, gauges: &Gauges) {
        self.totals.store(&tally.totals);
        self.gauges.store(gauges);
        for (cell, count) in self.drops.iter().zip(tally.drops) {
            cell.store(count, Ordering::Relaxed);
        }
    }

    /// Says that no packet will be judged by a snapshot older than `version` any more.
    pub fn pass(&self, version: u64) {
        self.passed_generation.store(version, Ordering::Release);
    }

    /// The version last passed.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed_generation.load(Ordering::Acquire)
    }

    /// One worker's row of the report.
    #[must_use]
    pub fn report(&self, worker: u32, core: Option<u32>) -> WorkerReport {
        let totals = self.totals.load();
        let gauges = self.gauges.load();
        WorkerReport {
            worker,
            core,
            rx: totals.rx,
            tx: totals.tx,
            to_kernel: totals.to_kernel,
            originated: totals.originated,
            handed_off: totals.handed_off,
            handed_in: totals.handed_in,
            snat: gauges.snat,
            flows: gauges.flows,
            flows_created: gauges.flows_created,
            flows_expired: gauges.flows_expired,
            snat_ports: gauges.snat_ports,
            offloaded: gauges.offloaded,
            offload_deferred: gauges.offload_deferred,
            polls: totals.polls,
            busy_polls: totals.busy_polls,
            drops: self.drops(),
            frames: Bucket {
                free: gauges.frames_free,
                receiving: gauges.frames_receiving,
                sending: gauges.frames_sending,
                total: gauges.frames_total,
            },
        }
    }

    fn drops(&self) -> Vec<DropCount> {
        DropReason::ALL
            .iter()
            .map(|&reason| DropCount {
                reason: reason.label().to_owned(),
                packets: self.drops[reason.index()].load(Ordering::Relaxed),
            })
            .filter(|row| row.packets > 0)
            .collect()
    }
}

/// One socket's counters as everybody else sees them.
#[derive(Debug)]
#[repr(align(128))]
pub struct PortCells {
    /// Owning worker.
    pub worker: u32,
    /// Interface name.
    pub ifname: String,
    /// Queue of the interface.
    pub queue: u32,
    totals: PortTotalCells,
}

impl PortCells {
    /// Counters of a new socket.
    #[must_use]
    pub fn new(worker: u32, ifname: &str, queue: u32) -> Self {
        Self {
            worker,
            ifname: ifname.to_owned(),
            queue,
            totals: PortTotalCells::default(),
        }
    }

    /// Makes a socket's counts visible.
    pub fn publish(&self, totals: &PortTotals) {
        self.totals.store(totals);
    }

    /// One socket's row of the report.
    #[must_use]
    pub fn report(&self) -> PortReport {
        let totals = self.totals.load();
        PortReport {
            worker: self.worker,
            ifname: self.ifname.clone(),
            queue: self.queue,
            rx_packets: totals.rx_packets,
            rx_bytes: totals.rx_bytes,
            tx_packets: totals.tx_packets,
            tx_bytes: totals.tx_bytes,
            kernel_rx_dropped: totals.kernel_rx_dropped,
            kernel_rx_ring_full: totals.kernel_rx_ring_full,
            kernel_rx_fill_empty: totals.kernel_rx_fill_empty,
            kernel_tx_invalid: totals.kernel_tx_invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_back_keeps_the_law() {
        let mut tally = Tally::default();
        tally.totals.rx = 5;
        tally.totals.tx = 2;
        tally.totals.to_kernel = 3;
        tally.unsend(4);
        assert_eq!(tally.totals.tx + tally.totals.to_kernel, 1);
        assert_eq!(tally.dropped(DropReason::TxBusy), 4);
        assert_eq!(tally.balance(), (5, 5));
        tally.unsend(9);
        assert_eq!(tally.balance(), (5, 5), "no more than was sent");
    }

    #[test]
    fn what_is_published_is_what_is_read() {
        let mut tally = Tally::default();
        tally.totals.rx = 7;
        tally.totals.tx = 5;
        for reason in DropReason::ALL.iter().take(2) {
            tally.drop(*reason);
        }
        let (into, out) = tally.balance();
        assert_eq!((into, out), (7, 7));
        let cells = Cells::default();
        let gauges = Gauges {
            flows: 3,
            ..Gauges::default()
        };
        cells.publish(&tally, &gauges);
        let report = cells.report(4, Some(1));
        assert_eq!((report.worker, report.rx, report.tx), (4, 7, 5));
        assert_eq!(report.flows, 3);
        assert_eq!(report.drops.len(), 2, "zero rows are left out");
        assert_eq!(report.drops[0].reason, DropReason::ALL[0].label());
    }
}
