//! Rules a run must keep for its figures to mean anything. A run that breaks one says which.
//!
//! Conservation and pinning are absolute. Losses in rings, time stolen by a hypervisor, work of
//! others and noise have bounds, all of them here.

use std::fs;
use std::thread;
use std::time::Duration;

use penstock_dataplane_api::{Counters, DropCount};

use crate::report::{Figure, Report};
use crate::testbed::Testbed;

/// Share of time a hypervisor may have taken.
const STEAL: f64 = 0.001;
/// Share of the processors that others may use before a run begins.
const OTHERS: f64 = 0.10;
/// How long that is watched.
const WATCHED: Duration = Duration::from_millis(500);
/// Share of a worker's packets that may be lost for want of room in its rings.
const RINGS: f64 = 0.01;
/// Half of a ratio's interval, as a share of it, within which its place is known well enough.
const NOISE: f64 = 0.10;
/// The fewest interleaved repeats (design section 6).
const REPEATS: usize = 5;
/// A contestant this near to the generator's own ceiling was not measured, the generator was.
const CEILING: f64 = 0.95;

/// How much is offered to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// What it can carry: nothing may be lost in rings.
    Within,
    /// As much as the generator has (maximum receive rate): what is too much is lost there, by
    /// name, and the report says how much.
    Beyond,
}

/// Watches a run from before its first measurement.
pub struct Guard {
    before: Processors,
    others: f64,
}

/// Hundredths of a second, of all processors (proc_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Processors {
    idle: u64,
    stolen: u64,
    all: u64,
}

impl Guard {
    /// Begins to watch. Nothing of the run's own may be at work yet.
    #[must_use]
    pub fn begin() -> Self {
        let first = Processors::now();
        thread::sleep(WATCHED);
        let before = Processors::now();
        Self {
            before,
            others: before.since(first).busy(),
        }
    }

    /// Judges what does not need a testbed: machine, build and noise.
    pub fn judge(&self, report: &mut Report) {
        if cfg!(debug_assertions) {
            report.invalidate("built without optimisation");
        }
        if self.others > OTHERS {
            report.invalidate(format!(
                "others used {:.0} % of the processors before the run",
                self.others * 100.0
            ));
        }
        let stolen = Processors::now().since(self.before).stolen();
        if stolen > STEAL {
            report.invalidate(format!(
                "the hypervisor took {:.2} % of the time (at most {} %)",
                stolen * 100.0,
                STEAL * 100.0
            ));
        }
        let repeats = report.figures.iter().map(|figure| figure.samples.len());
        if repeats.max().unwrap_or_default() < REPEATS {
            report.invalidate(format!("fewer than {REPEATS} interleaved repeats"));
        }
        judge_noise(report);
    }

    /// Judges the testbed's Penstock nodes: conservation, pinning, rings. Returns the number of
    /// packets without a fate.
    #[must_use]
    pub fn judge_testbed(testbed: &Testbed, offered: Offered, report: &mut Report) -> u64 {
        let mut unaccounted = 0;
        for (who, counters) in testbed.counters() {
            match counters {
                Ok(counters) => {
                    unaccounted += lost_track_of(&counters);
                    for problem in problems(&counters) {
                        report.invalidate(format!("{}: {problem}", who.name()));
                    }
                    for loss in ring_losses(&counters) {
                        let loss = format!("{}: {loss}", who.name());
                        match offered {
                            Offered::Within => report.invalidate(loss),
                            Offered::Beyond => report.note(loss),
                        }
                    }
                }
                Err(error) => report.invalidate(format!("{}: {error}", who.name())),
            }
        }
        unaccounted
    }
}

/// Says that a contestant was as fast as the generator, when it was.
pub fn judge_ceiling(report: &mut Report, what: &str, rate: f64, ceiling: f64) {
    if rate > CEILING * ceiling {
        report.invalidate(format!(
            "{what}: {:.2} of the generator's own {:.2} Mpps, so the generator is the bottleneck",
            rate / 1e6,
            ceiling / 1e6
        ));
    }
}

/// A target's verdict must be the same at both ends of the interval, or the interval narrow; a
/// ratio without a target is only remarked on.
fn judge_noise(report: &mut Report) {
    let wide = |figure: &&Figure| figure.unit == "ratio" && figure.uncertainty() > NOISE;
    let said = |figure: &Figure| {
        let percent = figure.uncertainty() * 100.0;
        format!("noise: {} is only known to {percent:.0} %", figure.name)
    };
    let undecided = |figure: &&Figure| match (figure.target, figure.interval) {
        (Some(target), Some((low, high))) => target.is_met_by(low) != target.is_met_by(high),
        _ => false,
    };
    let wide: Vec<Figure> = report.figures.iter().filter(wide).cloned().collect();
    for figure in wide.iter().filter(undecided) {
        report.invalidate(format!("{}, which decides nothing", said(figure)));
    }
    let worst = wide
        .iter()
        .max_by(|a, b| a.uncertainty().total_cmp(&b.uncertainty()));
    if let Some(worst) = worst {
        report.note(format!(
            "{} of {} ratios are known to more than {:.0} %; the worst: {}",
            wide.len(),
            report.figures.iter().filter(|f| f.unit == "ratio").count(),
            NOISE * 100.0,
            said(worst)
        ));
    }
}

impl Processors {
    fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(text.lines().next().unwrap_or_default())
    }

    /// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guest time is in
    /// user time already.
    fn parse(line: &str) -> Self {
        let fields: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or(0);
        Self {
            idle: field(3) + field(4),
            stolen: field(7),
            all: fields.iter().sum(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            idle: self.idle.saturating_sub(before.idle),
            stolen: self.stolen.saturating_sub(before.stolen),
            all: self.all.saturating_sub(before.all),
        }
    }

    fn busy(self) -> f64 {
        1.0 - self.idle as f64 / self.all.max(1) as f64
    }

    fn stolen(self) -> f64 {
        self.stolen as f64 / self.all.max(1) as f64
    }
}

/// What is wrong with a node's counters at any load.
fn problems(counters: &Counters) -> Vec<String> {
    let mut found = counters.violations();
    for worker in &counters.workers {
        if worker.core.is_none() {
            found.push(format!("worker {} is not pinned", worker.worker));
        }
    }
    found
}

/// Sockets that lost packets for want of room.
fn ring_losses(counters: &Counters) -> Vec<String> {
    let mut found = Vec::new();
    for port in &counters.ports {
        let lost = port.kernel_rx_dropped + port.kernel_rx_ring_full + port.kernel_rx_fill_empty;
        let share = lost as f64 / (lost + port.rx_packets).max(1) as f64;
        if share > RINGS {
            found.push(format!(
                "{} queue {}: {:.1} % of what was offered was lost in its rings (at most {:.0} % at a load it can carry)",
                port.ifname,
                port.queue,
                share * 100.0,
                RINGS * 100.0
            ));
        }
    }
    found
}

/// Packets by which the two sides of the hooks' and workers' equations differ.
fn lost_track_of(counters: &Counters) -> u64 {
    let sum = |drops: &[DropCount]| drops.iter().map(|row| row.packets).sum::<u64>();
    let hooks = counters.hooks.iter().map(|hook| {
        let passed = hook.to_worker + hook.to_kernel + hook.to_pod + hook.offloaded;
        hook.seen.abs_diff(passed + sum(&hook.drops))
    });
    let workers = counters.workers.iter().map(|worker| {
        let came = worker.rx + worker.originated + worker.handed_in;
        let went = worker.tx + worker.to_kernel + worker.handed_off;
        came.abs_diff(went + sum(&worker.drops))
    });
    hooks.chain(workers).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_dataplane_api::{Bucket, PortReport, WorkerReport};

    #[test]
    fn time_is_read_as_the_kernel_writes_it() {
        let before = Processors::parse("cpu  100 0 100 700 50 0 50 0 0 0");
        let after = Processors::parse("cpu  150 0 150 750 50 0 90 10 7 0");
        let between = after.since(before);
        assert!((between.busy() - 0.75).abs() < 1e-9);
        assert!((between.stolen() - 0.05).abs() < 1e-9);
    }

    #[test]
    fn noise_that_leaves_a_verdict_open_is_named() {
        let judged = |name: &str, samples: &[f64]| {
            let mut report = Report::new("egress-snat");
            report.push(Figure::new(name, "ratio", samples));
            judge_noise(&mut report);
            report
        };
        let held = "node cost, offload on, 64 B, 4 pods";
        let open = judged(held, &[0.2, 0.3, 0.41, 0.5, 0.9]);
        assert!(open.why_invalid[0].starts_with("noise: node cost"));
        let clear = judged(held, &[0.1, 0.2, 0.25, 0.3, 0.35]);
        assert!(clear.valid && clear.notes[0].contains("1 of 1 ratios"));
        let steady = judged(held, &[0.39, 0.4, 0.4, 0.4, 0.41]);
        assert!(steady.valid && steady.notes.is_empty());
        assert!(judged("of no target", &[1.0, 2.0, 3.0]).valid);
    }

    #[test]
    fn a_generator_at_its_end_is_named() {
        let mut report = Report::new("x");
        judge_ceiling(&mut report, "out", 0.7e6, 1.0e6);
        assert!(report.valid);
        judge_ceiling(&mut report, "out", 0.97e6, 1.0e6);
        assert!(!report.valid);
    }

    #[test]
    fn full_rings_free_workers_and_lost_packets_are_found() {
        let worker = WorkerReport {
            worker: 0,
            core: None,
            rx: 10,
            tx: 9,
            to_kernel: 0,
            originated: 0,
            handed_off: 0,
            handed_in: 0,
            snat: 0,
            flows: 0,
            flows_created: 0,
            flows_expired: 0,
            snat_ports: 0,
            offloaded: 0,
            offload_deferred: 0,
            polls: 0,
            busy_polls: 0,
            drops: Vec::new(),
            frames: Bucket::default(),
        };
        let port = PortReport {
            worker: 0,
            ifname: "trunk1".to_owned(),
            queue: 0,
            rx_packets: 10,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
            kernel_rx_dropped: 0,
            kernel_rx_ring_full: 5,
            kernel_rx_fill_empty: 0,
            kernel_tx_invalid: 0,
        };
        let counters = Counters {
            hooks: Vec::new(),
            workers: vec![worker],
            ports: vec![port],
        };
        assert_eq!(lost_track_of(&counters), 1);
        assert!(problems(&counters).contains(&"worker 0 is not pinned".to_owned()));
        assert!(ring_losses(&counters)[0].contains("33.3 %"));
    }
}
