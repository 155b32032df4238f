//! Request and response between a pod and the outside, through SNAT: 64 bytes there and back by
//! UDP and by one TCP connection.
//!
//! *Idle* is a slow constant rate. *Half load* is half of the rate the kernel path answers with a
//! window of requests on the way, the same rate for all. Open loop: see `load::exchange`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use super::Session;
use crate::load::exchange::{self, Exchange, Pace, Transport};
use crate::report::{Axis, Chart, Figure, Report};
use crate::stats;
use crate::targets::KERNEL;
use crate::testbed::{Plan, Side, Testbed, Who};
use crate::validity::{Guard, Offered};

/// Requests a second of an idle conversation.
const IDLE: f64 = 2_000.0;
const QUANTILES: [f64; 10] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995];
/// Share of requests that may go unanswered.
const LOSS: f64 = 0.001;

pub(super) fn run(session: &Session) -> Result<Report> {
    let mut report = Report::new("rr");
    let guard = Guard::begin();
    let mut unaccounted = 0;
    for &pods in &session.options.pods {
        session.expect(session.options.repeats * 4);
        let testbed = Testbed::build(session, &Plan::new(pods))?;
        testbed.describe(&mut report);
        report.note("the client spins on the last core, the server sleeps on the first");
        for transport in [Transport::Udp, Transport::Tcp] {
            let half = half_load(&testbed, session, transport)?;
            for (load, rate) in [("idle", IDLE), ("half load", half)] {
                let point = format!("{load}, {{}}, {pods} pods");
                session.say(format!("{pods} pods, {} {load}", transport.name()));
                let turns = measure(&testbed, session, transport, rate)?;
                turns.add_to(&mut report, transport, &point);
                let title = format!(
                    "{} request and response, {load} ({rate:.0} a second), {pods} pods",
                    transport.name()
                );
                report.charts.push(turns.chart(&title));
            }
        }
        unaccounted += Guard::judge_testbed(&testbed, Offered::Within, &mut report);
    }
    report.push(Figure::new(
        "packets unaccounted for",
        "packets",
        &[unaccounted as f64],
    ));
    guard.judge(&mut report);
    Ok(report)
}

fn exchange(
    testbed: &Testbed,
    side: &Side,
    transport: Transport,
    pace: Pace,
    session: &Session,
) -> Result<Exchange> {
    let ends = (side.pod(), testbed.outside());
    exchange::run(ends, transport, pace, session.options.duration())
        .with_context(|| format!("{}, {}", side.who.name(), transport.name()))
}

/// Half of what the kernel path answers when it is never left without requests.
fn half_load(testbed: &Testbed, session: &Session, transport: Transport) -> Result<f64> {
    let kernel = testbed
        .sides()
        .iter()
        .find(|side| side.who == Who::Kernel)
        .context("the kernel takes no part")?;
    let most = exchange(testbed, kernel, transport, Pace::Window, session)?;
    Ok(most.answered as f64 / most.took.as_secs_f64() / 2.0)
}

/// What each contestant's repeats said.
#[derive(Default)]
struct Turns {
    p50: BTreeMap<Who, Vec<f64>>,
    p99: BTreeMap<Who, Vec<f64>>,
    all: BTreeMap<Who, Histogram<u64>>,
    loss: BTreeMap<Who, Vec<f64>>,
    pinned: bool,
}

fn measure(testbed: &Testbed, session: &Session, transport: Transport, rate: f64) -> Result<Turns> {
    let mut turns = Turns {
        pinned: true,
        ..Turns::default()
    };
    for _ in 0..session.options.repeats {
        for side in testbed.sides() {
            let pace = Pace::PerSecond(rate);
            let said = session.turn(side.who.name(), || {
                exchange(testbed, side, transport, pace, session)
            })?;
            let who = side.who;
            turns.p50.entry(who).or_default().push(said.micros(0.5));
            turns.p99.entry(who).or_default().push(said.micros(0.99));
            turns.loss.entry(who).or_default().push(said.loss());
            turns.pinned &= said.pinned;
            match turns.all.get_mut(&who) {
                Some(all) => all.add(&said.latency)?,
                None => drop(turns.all.insert(who, said.latency)),
            }
        }
        session.step();
    }
    Ok(turns)
}

impl Turns {
    fn add_to(&self, report: &mut Report, transport: Transport, point: &str) {
        let transport = transport.name();
        let at = |who: Who| point.replace("{}", who.name());
        if !self.pinned {
            report.invalidate("client or server is not pinned");
        }
        for (name, samples) in [("p50", &self.p50), ("p99", &self.p99)] {
            for (&who, values) in samples {
                let figure = format!("{transport} {name}, {}, time", at(who));
                report.push(Figure::new(figure, "us", values));
            }
            let Some(kernel) = samples.get(&Who::Kernel) else {
                continue;
            };
            for (&who, values) in samples.iter().filter(|(who, _)| **who != Who::Kernel) {
                let ratio = stats::ratios(values, kernel);
                let figure = format!("{transport} {name}, {}", at(who));
                report.push(Figure::new(figure, "ratio", &ratio).against(KERNEL));
            }
        }
        for (&who, loss) in &self.loss {
            let worst = loss.iter().copied().fold(0.0, f64::max);
            if worst > LOSS {
                report.invalidate(format!(
                    "{transport}, {}: {:.1} % of requests were not answered",
                    at(who),
                    worst * 100.0
                ));
            }
        }
    }

    fn chart(&self, title: &str) -> Chart {
        let axis = Axis::Quantile {
            label: "percentile".to_owned(),
        };
        let mut chart = Chart::lines(title, axis, "microseconds");
        for (who, all) in &self.all {
            let points = QUANTILES.map(|q| (q, all.value_at_quantile(q) as f64 / 1e3));
            chart.add(who.name(), points.into());
        }
        chart
    }
}
