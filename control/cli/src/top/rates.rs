//! What happened a second, from two looks at counters that only grow.

use penstock_dataplane_api::{Counters, DropCount};
use serde::Serialize;

/// Everything a second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Rates {
    pub(super) seconds: f64,
    pub(super) workers: Vec<WorkerRate>,
    pub(super) ports: Vec<PortRate>,
    /// Those that moved, the most first.
    pub(super) drops: Vec<DropRate>,
    /// Packets the hooks carried by themselves, and those they gave to the kernel.
    pub(super) offloaded_pps: f64,
    pub(super) to_kernel_pps: f64,
    pub(super) fallback_pps: f64,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct WorkerRate {
    pub(super) worker: u32,
    pub(super) core: Option<u32>,
    /// Share of its turns that found work.
    pub(super) busy_percent: f64,
    pub(super) rx_pps: f64,
    pub(super) tx_pps: f64,
    /// Packets of a turn that found work.
    pub(super) batch: f64,
    pub(super) drops: f64,
    pub(super) flows: u64,
    pub(super) snat_ports: u64,
    pub(super) free_frames: u64,
    pub(super) frames: u64,
}

/// One AF_XDP socket.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct PortRate {
    pub(super) ifname: String,
    pub(super) queue: u32,
    pub(super) worker: u32,
    pub(super) rx_pps: f64,
    pub(super) tx_pps: f64,
    /// Bits.
    pub(super) rx_bps: f64,
    pub(super) tx_bps: f64,
    /// What the kernel dropped before the worker saw it.
    pub(super) kernel_drops: f64,
}

/// One reason at one place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct DropRate {
    pub(super) place: String,
    pub(super) reason: String,
    pub(super) pps: f64,
    pub(super) total: u64,
}

impl Rates {
    /// What happened from `before` to `now`, `seconds` later. A counter that fell, because the
    /// dataplane was started anew, counts from nothing.
    pub(super) fn between(before: &Counters, now: &Counters, seconds: f64) -> Self {
        let rate = Rate { seconds };
        let mut drops = drops(before, now, rate);
        drops.sort_by(|one, other| other.pps.total_cmp(&one.pps));
        let hooks = |field: fn(&penstock_dataplane_api::HookReport) -> u64| {
            let sum = |counters: &Counters| counters.hooks.iter().map(field).sum();
            rate.of(sum(before), sum(now))
        };
        Self {
            seconds,
            workers: workers(before, now, rate),
            ports: ports(before, now, rate),
            drops,
            offloaded_pps: hooks(|hook| hook.offloaded),
            to_kernel_pps: hooks(|hook| hook.to_kernel),
            fallback_pps: hooks(|hook| hook.fallback),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    seconds: f64,
}

impl Rate {
    fn of(self, before: u64, now: u64) -> f64 {
        let grown = if now >= before { now - before } else { now };
        grown as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn workers(before: &Counters, now: &Counters, rate: Rate) -> Vec<WorkerRate> {
    let each = |now: &penstock_dataplane_api::WorkerReport| {
        let before = before.workers.iter().find(|w| w.worker == now.worker);
        let of = |field: fn(&penstock_dataplane_api::WorkerReport) -> u64| {
            rate.of(before.map_or(0, field), field(now))
        };
        let dropped = |w: &penstock_dataplane_api::WorkerReport| total(&w.drops);
        let busy = of(|w| w.busy_polls);
        WorkerRate {
            worker: now.worker,
            core: now.core,
            busy_percent: 100.0 * ratio(busy, of(|w| w.polls)),
            rx_pps: of(|w| w.rx),
            tx_pps: of(|w| w.tx),
            batch: ratio(of(|w| w.rx + w.handed_in), busy),
            drops: rate.of(before.map_or(0, dropped), dropped(now)),
            flows: now.flows,
            snat_ports: now.snat_ports,
            free_frames: now.frames.free,
            frames: now.frames.total,
        }
    };
    now.workers.iter().map(each).collect()
}

fn total(drops: &[DropCount]) -> u64 {
    drops.iter().map(|drop| drop.packets).sum()
}

fn ports(before: &Counters, now: &Counters, rate: Rate) -> Vec<PortRate> {
    let each = |now: &penstock_dataplane_api::PortReport| {
        let same = |port: &&penstock_dataplane_api::PortReport| {
            (&port.ifname, port.queue) == (&now.ifname, now.queue)
        };
        let before = before.ports.iter().find(same);
        let of = |field: fn(&penstock_dataplane_api::PortReport) -> u64| {
            rate.of(before.map_or(0, field), field(now))
        };
        PortRate {
            ifname: now.ifname.clone(),
            queue: now.queue,
            worker: now.worker,
            rx_pps: of(|port| port.rx_packets),
            tx_pps: of(|port| port.tx_packets),
            rx_bps: 8.0 * of(|port| port.rx_bytes),
            tx_bps: 8.0 * of(|port| port.tx_bytes),
            kernel_drops: of(|port| port.kernel_rx_dropped + port.kernel_rx_ring_full),
        }
    };
    let mut ports: Vec<PortRate> = now.ports.iter().map(each).collect();
    ports.sort_by(|one, other| (&one.ifname, one.queue).cmp(&(&other.ifname, other.queue)));
    ports
}

fn drops(before: &Counters, now: &Counters, rate: Rate) -> Vec<DropRate> {
    let places = |counters: &Counters| -> Vec<(String, String, u64)> {
        let hooks = counters
            .hooks
            .iter()
            .map(|hook| (format!("hook {}", hook.hook), hook.drops.clone()));
        let workers = counters
            .workers
            .iter()
            .map(|worker| (format!("worker {}", worker.worker), worker.drops.clone()));
        hooks
            .chain(workers)
            .flat_map(|(place, drops)| {
                drops
                    .into_iter()
                    .map(move |drop| (place.clone(), drop.reason, drop.packets))
            })
            .collect()
    };
    let known = places(before);
    let before = |place: &str, reason: &str| {
        let same = |entry: &&(String, String, u64)| (entry.0 == place) && (entry.1 == reason);
        known.iter().find(same).map_or(0, |entry| entry.2)
    };
    places(now)
        .into_iter()
        .map(|(place, reason, total)| DropRate {
            pps: rate.of(before(&place, &reason), total),
            place,
            reason,
            total,
        })
        .filter(|drop| drop.pps > 0.0)
        .collect()
}
