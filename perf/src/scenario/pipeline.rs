//! The SNAT pipeline in memory: parse to rewritten frame, without a kernel.
//!
//! Hit path by number of flows and batch size, both families; the first packet of a flow; a storm
//! of expiries; memory per flow; allocations per packet.

use anyhow::Result;

use super::Session;
use crate::allocations;
use crate::pipeline::{Family, Load, Meter, Order, Rig};
use crate::report::{Axis, Chart, Figure, Report};
use crate::validity::Guard;

const FLOWS: [u32; 4] = [64, 4_096, 65_536, 1_000_000];

const BATCHES: [usize; 2] = [32, 256];

/// Flows a worker looks at for expiry in one loop.
const EXPIRE_BUDGET: usize = 32;

/// Measures everything, in interleaved repeats.
pub(super) fn run(session: &Session) -> Result<Report> {
    let mut report = Report::new("pipeline");
    let guard = Guard::begin();
    let mut meter = Meter::new()?;
    report.machine.counter = Some(meter.counter());
    if !core_affinity::get_core_ids().is_some_and(|cores| {
        cores
            .last()
            .is_some_and(|core| core_affinity::set_for_current(*core))
    }) {
        report.invalidate("not pinned to a core");
    }
    session.expect((FLOWS.len() * BATCHES.len() * 2 + 1) as u32);
    let axis = Axis::Log {
        label: "flows".to_owned(),
    };
    let mut chart = Chart::lines("Cycles a packet by number of flows", axis, "cycles");
    for family in [Family::Ip4, Family::Ip6] {
        for batch in BATCHES {
            let mut line = Vec::new();
            for flows in FLOWS {
                let point = Point {
                    family,
                    flows,
                    batch,
                };
                session.say(point.name());
                let costs = session.turn("engine", || hits(point, session, &mut meter))?;
                let [cycles, mpps] = point.figures(&costs);
                line.push((f64::from(flows), cycles.value));
                report.push(cycles);
                report.push(mpps);
                let allocations: u64 = costs.iter().map(|cost| cost.allocations).sum();
                if allocations > 0 {
                    report.invalidate(format!("{allocations} allocations at {flows} flows"));
                }
                session.step();
            }
            chart.add(
                &format!("{}, batches of {batch}", family_name(family)),
                line,
            );
        }
    }
    report.charts.push(chart);
    beginnings_and_ends(session, &mut meter, &mut report)?;
    guard.judge(&mut report);
    Ok(report)
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ip4 => "snat4",
        Family::Ip6 => "forward6",
    }
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
    fn name(self) -> String {
        let family = family_name(self.family);
        format!("{family}_flows_{}_batch_{}", self.flows, self.batch)
    }

    fn figures(self, hits: &[Hit]) -> [Figure; 2] {
        let name = self.name();
        let cycles: Vec<f64> = hits.iter().map(|hit| hit.cycles).collect();
        let mpps: Vec<f64> = hits.iter().map(|hit| hit.mpps).collect();
        [
            Figure::new(format!("{name}_cycles_per_packet"), "cycles", &cycles),
            Figure::new(format!("{name}_mpps"), "Mpps", &mpps),
        ]
    }
}

/// Packets of known flows.
fn hits(point: Point, session: &Session, meter: &mut Meter) -> Result<Vec<Hit>> {
    let mut rig = Rig::new(point.flows)?;
    let mut load = Load::new(point.family, point.batch);
    let mut order = Order::new(point.flows);
    let batches = point.flows.div_ceil(point.batch as u32);
    for _ in 0..batches {
        load.write(std::iter::from_fn(|| Some(order.step())));
        rig.send(&mut load, meter)?;
    }
    let time = session.options.duration() / 2;
    (0..session.options.repeats)
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
fn beginnings_and_ends(session: &Session, meter: &mut Meter, report: &mut Report) -> Result<()> {
    const FLOWS: u32 = 1_000_000;
    const BATCH: usize = 32;
    let mut rates = Vec::new();
    let mut expiries = Vec::new();
    let mut polls = Vec::new();
    let mut bytes = [0; 2];
    session.say("a million first packets and expiries");
    for _ in 0..session.options.repeats {
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
    session.step();
    let [four, six] = bytes.map(|bytes| bytes as f64);
    for figure in [
        Figure::new("new_sessions_per_second", "1/s", &rates),
        Figure::new("expiry_per_flow", "ns", &expiries),
        Figure::new("expiry_worst_poll", "us", &polls),
        Figure::new("memory_per_flow_4", "bytes", &[four]),
        Figure::new("memory_per_flow_6", "bytes", &[six]),
    ] {
        report.push(figure);
    }
    Ok(())
}
