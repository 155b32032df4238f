//! The conservation law over [`Counters`]: every packet forwarded, passed to the kernel or dropped
//! under one name, nothing left over.
//!
//! Counters of different parts are read one after the other, so the law is exact only for a quiet
//! dataplane; a reader that wants to assert it reads twice and sees that nothing moved.

use std::collections::BTreeMap;

use crate::{Counters, DropCount};

impl Counters {
    /// Every equation that does not hold, with both sides.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut law = |name: String, left: u64, right: u64| {
            if left != right {
                found.push(format!("{name}: {left} != {right}"));
            }
        };
        for hook in &self.hooks {
            let passed = hook.to_worker + hook.to_kernel + hook.to_pod + hook.offloaded;
            let out = passed + sum(&hook.drops);
            law(format!("hook {}", hook.hook), hook.seen, out);
        }
        for worker in &self.workers {
            law(
                format!("worker {}", worker.worker),
                worker.rx + worker.originated + worker.handed_in,
                worker.tx + worker.to_kernel + worker.handed_off + sum(&worker.drops),
            );
            let frames = worker.frames;
            let placed = frames.free + frames.receiving + frames.sending;
            law(
                format!("frames of worker {}", worker.worker),
                frames.total,
                placed,
            );
        }
        for (hook, received) in self.received_behind_hooks() {
            law(
                format!("hook {hook} to its sockets"),
                self.hook_sum(hook, |row| row.to_worker),
                received,
            );
        }
        found
    }

    /// Packets by drop reason, hooks and workers together.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut by_reason = BTreeMap::new();
        let hooks = self.hooks.iter().flat_map(|hook| &hook.drops);
        let workers = self.workers.iter().flat_map(|worker| &worker.drops);
        for row in hooks.chain(workers) {
            *by_reason.entry(row.reason.clone()).or_default() += row.packets;
        }
        by_reason
    }

    /// Packets received by workers.
    #[must_use]
    pub fn worker_rx(&self) -> u64 {
        self.workers.iter().map(|worker| worker.rx).sum()
    }

    /// Packets that hooks carried for the workers.
    #[must_use]
    pub fn offloaded(&self) -> u64 {
        self.hooks.iter().map(|hook| hook.offloaded).sum()
    }

    /// Packets that went by the dataplane: workers received them, or hooks carried them.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.worker_rx() + self.offloaded()
    }

    /// Packets that one kind of hook passed to the kernel.
    #[must_use]
    pub fn to_kernel(&self, hook: &str) -> u64 {
        self.hook_sum(hook, |row| row.to_kernel)
    }

    /// These counters without those that move while nothing happens.
    #[must_use]
    pub fn without_polls(&self) -> Self {
        let mut quiet = self.clone();
        for worker in &mut quiet.workers {
            worker.polls = 0;
            worker.busy_polls = 0;
        }
        quiet
    }

    fn hook_sum(&self, hook: &str, value: impl Fn(&crate::HookReport) -> u64) -> u64 {
        self.hooks
            .iter()
            .filter(|row| row.hook == hook)
            .map(value)
            .sum()
    }

    /// What the sockets behind each redirecting hook received, or the kernel lost there and counted.
    fn received_behind_hooks(&self) -> BTreeMap<&'static str, u64> {
        let mut received = BTreeMap::from([("trunk-rx", 0), ("uplink", 0)]);
        for port in &self.ports {
            let hook = if port.ifname.starts_with("trunk") {
                "trunk-rx"
            } else {
                "uplink"
            };
            *received.entry(hook).or_default() +=
                port.rx_packets + port.kernel_rx_dropped + port.kernel_rx_ring_full;
        }
        received
    }
}

fn sum(drops: &[DropCount]) -> u64 {
    drops.iter().map(|row| row.packets).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HookReport;

    fn pod_hook(seen: u64, spoofed: u64) -> Counters {
        let drops = vec![DropCount {
            reason: "spoof_ip".to_owned(),
            packets: spoofed,
        }];
        let hook = HookReport {
            hook: "pod".to_owned(),
            seen,
            to_worker: 3,
            to_kernel: 2,
            fallback: 1,
            to_pod: 0,
            offloaded: 4,
            offloaded_bytes: 400,
            drops,
        };
        Counters {
            hooks: vec![hook],
            workers: Vec::new(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn a_packet_without_a_fate_is_a_violation() {
        assert_eq!(pod_hook(10, 1).violations(), Vec::<String>::new());
        assert_eq!(pod_hook(11, 1).violations(), ["hook pod: 11 != 10"]);
        assert_eq!(
            pod_hook(10, 1).drops(),
            BTreeMap::from([("spoof_ip".to_owned(), 1)])
        );
    }
}
