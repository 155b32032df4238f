//! TCP throughput of real sockets: to the outside through SNAT and back, to a pod of another node,
//! and to a pod of the same one; 1 and 8 streams; segments for an MTU of 1500 and of 9001.
//!
//! The MTU is the pod's: its end of the pair decides the segments' size both ways. The wire is
//! finished (the fabric segments what it delivers), so what comes in is as on a real one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Session;
use crate::load::bulk::{Bulk, Direction};
use crate::place::Place;
use crate::report::{Chart, Figure, Report};
use crate::stats;
use crate::targets::KERNEL;
use crate::testbed::{Plan, Side, Testbed, Who};
use crate::validity::{Guard, Offered};

const MTUS: [u32; 2] = [1_500, 9_001];
const STREAMS: [usize; 2] = [1, 8];
/// Slow start is over, and connection tracking warm, after this share of a measurement.
const WARM_UP: f64 = 0.5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    ToOutside,
    FromOutside,
    ToPeer,
    ToNeighbor,
}

impl Path {
    const ALL: [Self; 4] = [
        Self::ToOutside,
        Self::FromOutside,
        Self::ToPeer,
        Self::ToNeighbor,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ToOutside => "out, SNAT",
            Self::FromOutside => "in, SNAT",
            Self::ToPeer => "out, pod to pod",
            Self::ToNeighbor => "same node",
        }
    }
}

pub(super) fn run(session: &Session) -> Result<Report> {
    let mut report = Report::new("tcp-bulk");
    let guard = Guard::begin();
    let mut unaccounted = 0;
    for &pods in &session.options.pods {
        let points = MTUS.len() * STREAMS.len() * Path::ALL.len();
        session.expect(session.options.repeats * points as u32);
        let plan = Plan {
            peers: true,
            ..Plan::new(pods)
        };
        let testbed = Testbed::build(session, &plan)?;
        testbed.describe(&mut report);
        report.note("TCP's ends run where the scheduler puts them, both on this machine");
        for mtu in MTUS {
            set_mtu(&testbed, mtu)?;
            let mut chart = chart(pods, mtu);
            let mut at = 0;
            for path in Path::ALL {
                for streams in STREAMS {
                    let point = format!("{}, streams {streams}, MTU {mtu}", path.name());
                    session.say(format!("{pods} pods, {point}"));
                    let samples =
                        measure(&testbed, session, path, streams).with_context(|| point.clone())?;
                    draw(&mut chart, at, &samples);
                    at += 1;
                    add(&mut report, &format!("{point}, {pods} pods"), &samples);
                }
            }
            report.charts.push(chart);
        }
        unaccounted += Guard::judge_testbed(&testbed, Offered::Beyond, &mut report);
    }
    report.push(Figure::new(
        "packets unaccounted for",
        "packets",
        &[unaccounted as f64],
    ));
    guard.judge(&mut report);
    Ok(report)
}

type Samples = BTreeMap<Who, Vec<f64>>;

/// Gbit/s of each contestant, in turns.
fn measure(testbed: &Testbed, session: &Session, path: Path, streams: usize) -> Result<Samples> {
    let duration = session.options.duration();
    let warm_up: Duration = duration.mul_f64(WARM_UP);
    let mut samples = Samples::new();
    for _ in 0..session.options.repeats {
        for side in testbed.sides() {
            let bulk = Bulk {
                client: side.pod(),
                server: server(testbed, side, path)?,
                streams,
                direction: if path == Path::FromOutside {
                    Direction::In
                } else {
                    Direction::Out
                },
            };
            let rate = session
                .turn(side.who.name(), || bulk.run(warm_up, duration))
                .with_context(|| side.who.name())?;
            samples.entry(side.who).or_default().push(rate);
        }
        session.step();
    }
    Ok(samples)
}

fn server<'a>(testbed: &'a Testbed, side: &'a Side, path: Path) -> Result<&'a Place> {
    match path {
        Path::ToOutside | Path::FromOutside => Ok(testbed.outside()),
        Path::ToPeer => side.peer(),
        Path::ToNeighbor => Ok(side.neighbor()),
    }
}

fn set_mtu(testbed: &Testbed, mtu: u32) -> Result<()> {
    let mtu = mtu.to_string();
    for side in testbed.sides() {
        for place in [side.pod(), side.neighbor(), side.peer()?] {
            place
                .netns
                .ip(&["link", "set", &place.ifname, "mtu", &mtu])?;
        }
    }
    Ok(())
}

/// Ratios of both settings. The design's targets are for Penstock as it is installed, offload on;
/// without a word about offload the name is that one's.
fn add(report: &mut Report, point: &str, samples: &Samples) {
    for (who, rates) in samples {
        report.push(Figure::new(
            format!("rate, {}, {point}", who.name()),
            "Gbit/s",
            rates,
        ));
    }
    let Some(kernel) = samples.get(&Who::Kernel) else {
        return;
    };
    for (who, name) in [
        (Who::On, point.to_owned()),
        (Who::Off, format!("offload off, {point}")),
    ] {
        if let Some(rates) = samples.get(&who) {
            let ratio = stats::ratios(rates, kernel);
            report.push(Figure::new(name, "ratio", &ratio).against(KERNEL));
        }
    }
}

fn chart(pods: u32, mtu: u32) -> Chart {
    let names = Path::ALL.iter().flat_map(|path| {
        STREAMS.map(|streams| {
            let words = path
                .name()
                .replace(", SNAT", "")
                .replace("out, pod to pod", "to pod");
            format!("{words} x{streams}")
        })
    });
    let title = format!("TCP throughput, MTU {mtu}, {pods} pods");
    Chart::bars(&title, "path and streams", names.collect(), "Gbit/s")
}

fn draw(chart: &mut Chart, at: usize, samples: &Samples) {
    for (who, rates) in samples {
        let point = (at as f64, stats::median(rates));
        match chart
            .series
            .iter_mut()
            .find(|series| series.name == who.name())
        {
            Some(series) => series.points.push(point),
            None => chart.add(who.name(), vec![point]),
        }
    }
}
