//! The SNAT pipeline in memory: parse to rewritten frame, without a kernel.
//!
//! Hit path by number of flows and batch size, both families; the first packet of a flow; a storm
//! of expiries; memory per flow; allocations per packet.

use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;

use super::Options;
use crate::allocations;
use crate::pipeline::{Family, Load, Meter, Order, Rig};
use crate::report::{Figure, Machine, Report, Target, commit};

/// Numbers of flows, with the bound on cycles a packet where the design has one.
const FLOWS: [(u32, Option<f64>); 4] = [
    (64, None),
    (4_096, Some(100.0)),
    (65_536, None),
    (1_000_000, Some(160.0)),
];

const BATCHES: [usize; 2] = [32, 256];

/// Flows a worker looks at for expiry in one loop.
const EXPIRE_BUDGET: usize = 32;

/// Measures everything, in interleaved repeats.
pub(super) fn run(options: &Options) -> Result<Report> {
    let machine = Machine::here();
    let mut meter = Meter::new()?;
    let mut why_invalid = Vec::new();
    if !core_affinity::get_core_ids().is_some_and(|cores| {
        cores
            .last()
            .is_some_and(|core| core_affinity::set_for_current(*core))
    }) {
        why_invalid.push("not pinned to a core".to_owned());
    }
    let mut figures = Vec::new();
    let steps = FLOWS.len() * BATCHES.len() * 2 + 2;
    let bar = ProgressBar::new(steps as u64);
    for family in [Family::Ip4, Family::Ip6] {
        for (flows, bound) in FLOWS {
            for batch in BATCHES {
                bar.inc(1);
                let point = Point {
                    family,
                    flows,
                    batch,
                };
                let costs = hits(point, options, &mut meter)?;
                figures.extend(point.figures(&costs, bound));
                let allocations: u64 = costs.iter().map(|cost| cost.allocations).sum();
                if allocations > 0 {
                    why_invalid.push(format!("{allocations} allocations at {flows} flows"));
                }
            }
        }
    }
    figures.extend(beginnings_and_ends(options, &mut meter, &bar)?);
    bar.finish_and_clear();
    Ok(Report {
        scenario: "pipeline".to_owned(),
        valid: why_invalid.is_empty(),
        why_invalid,
        machine: Machine {
            counter: Some(meter.counter()),
            ..machine
        },
        commit: commit(),
        figures,
    })
}

/// One measured constellation.
#[derive(Debug, Clone, Copy)]
struct Point {
    family: Family,
    flows: u32,
    batch: usize,
}

/// What one repeat of it said.
#[derive(Debug, Clone, Copy)]
struct Hit {
    cycles: f64,
    mpps: f64,
    allocations: u64,
}

impl Point {
    fn figures(self, hits: &[Hit], bound: Option<f64>) -> [Figure; 2] {
        let family = match self.family {
            Family::Ip4 => "snat4",
            Family::Ip6 => "forward6",
        };
        let name = format!("{family}_flows_{}_batch_{}", self.flows, self.batch);
        let cycles: Vec<f64> = hits.iter().map(|hit| hit.cycles).collect();
        let mpps: Vec<f64> = hits.iter().map(|hit| hit.mpps).collect();
        // The design's bound is on SNAT with a worker's usual batch.
        let bound = bound.filter(|_| self.family == Family::Ip4);
        let cycles = Figure::new(&format!("{name}_cycles_per_packet"), "cycles", &cycles);
        let cycles = match bound {
            Some(bound) => cycles.against("VPP nat44-ed", Some(Target::AtMost(bound))),
            None => cycles,
        };
        [cycles, Figure::new(&format!("{name}_mpps"), "Mpps", &mpps)]
    }
}

/// Packets of known flows.
fn hits(point: Point, options: &Options, meter: &mut Meter) -> Result<Vec<Hit>> {
    let mut rig = Rig::new(point.flows)?;
    let mut load = Load::new(point.family, point.batch);
    let mut order = Order::new(point.flows);
    let batches = point.flows.div_ceil(point.batch as u32);
    for _ in 0..batches {
        load.write(std::iter::from_fn(|| Some(order.step())));
        rig.send(&mut load, meter)?;
    }
    let time = Duration::from_secs_f64(options.seconds / 4.0);
    (0..options.repeats)
        .map(|_| {
            meter.reset();
            let before = allocations::count();
            while meter.elapsed() < time {
                load.write(std::iter::from_fn(|| Some(order.step())));
                rig.send(&mut load, meter)?;
            }
            let cost = meter.cost();
            Ok(Hit {
                cycles: cost.cycles,
                mpps: 1_000.0 / cost.nanos,
                allocations: allocations::count() - before,
            })
        })
        .collect()
}

/// A million flows from the first packet to the last expiry.
fn beginnings_and_ends(
    options: &Options,
    meter: &mut Meter,
    bar: &ProgressBar,
) -> Result<Vec<Figure>> {
    const FLOWS: u32 = 1_000_000;
    const BATCH: usize = 32;
    let mut rates = Vec::new();
    let mut expiries = Vec::new();
    let mut polls = Vec::new();
    let mut bytes = [0; 2];
    bar.inc(1);
    for _ in 0..options.repeats {
        let mut rig = Rig::new(FLOWS)?;
        let mut load = Load::new(Family::Ip4, BATCH);
        let mut order = Order::new(FLOWS);
        meter.reset();
        for _ in 0..FLOWS as usize / BATCH {
            load.write(std::iter::from_fn(|| Some(order.step())));
            rig.send(&mut load, meter)?;
        }
        rates.push(1e9 / meter.cost().nanos);
        bytes = rig.bytes_per_flow();
        meter.reset();
        let cost = rig.expire(EXPIRE_BUDGET, meter);
        expiries.push(cost.mean_nanos);
        polls.push(cost.worst_piece.as_nanos() as f64 / 1_000.0);
    }
    bar.inc(1);
    let [four, six] = bytes.map(|bytes| bytes as f64);
    let bound = Some(Target::AtMost(256.0));
    Ok(vec![
        Figure::new("new_sessions_per_second", "1/s", &rates)
            .against("the design", Some(Target::AtLeast(1e6))),
        Figure::new("expiry_per_flow", "ns", &expiries),
        Figure::new("expiry_worst_poll", "us", &polls),
        Figure::new("memory_per_flow_4", "bytes", &[four]).against("the design", bound),
        Figure::new("memory_per_flow_6", "bytes", &[six]).against("the design", bound),
    ])
}
