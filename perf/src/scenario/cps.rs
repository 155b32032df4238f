//! New SNAT flows a second (RFC 9693): generated first packets, UDP and TCP SYN, each of a flow
//! nobody has seen; and real connections: connect, one request, one answer, close.
//!
//! Before every trial the state of the one before is gone: a dataplane starts again, connection
//! tracking is emptied. Generated flows are so few to a pod that no limit on pods is met.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use penstock_dataplane_api::{Request, Response};
use penstock_lab::{Node, Sink, Verdict};

use super::Session;
use crate::conntrack;
use crate::generator::{Frames, Generator, Protocol, Stream};
use crate::load::connect;
use crate::load::{Core, pin};
use crate::place::Place;
use crate::report::{Chart, Figure, Report};
use crate::stats;
use crate::targets::KERNEL;
use crate::testbed::{Plan, Side, Testbed, Who};
use crate::validity::{Guard, Offered};

/// First packets of each kind from one pod: below half of a pod's share of the table.
const FLOWS: u16 = 2_000;
/// Pods whose flows are generated.
const SENDERS: usize = 24;
/// Pods before them, which make the real connections: a pod's share of the table is theirs alone.
const TALKERS: usize = 2;
/// RFC 2544 C.2.2: addresses for benchmarks, nobody's.
const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// After so long without another packet none comes.
const SILENCE: Duration = Duration::from_millis(20);
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Frames that never left, as a share: beyond, it was not the flows that were measured.
const LOSS: f64 = 0.05;

const KINDS: [(&str, Protocol); 2] = [
    ("new UDP flows", Protocol::Udp),
    ("new TCP flows", Protocol::TcpSyn),
];
const REAL: &str = "connect, request, close";

pub(super) fn run(session: &Session) -> Result<Report> {
    let mut report = Report::new("cps");
    let guard = Guard::begin();
    let mut unaccounted = 0;
    let names = KINDS.map(|(name, _)| name).into_iter().chain([REAL]);
    let names: Vec<String> = names.map(str::to_owned).collect();
    for &pods in &session.options.pods {
        session.expect(session.options.repeats);
        let testbed = Testbed::build(session, &Plan::new(pods))?;
        testbed.describe(&mut report);
        let mut samples = Samples::default();
        for _ in 0..session.options.repeats {
            session.say(format!("{pods} pods"));
            for side in testbed.sides() {
                samples.trial(&testbed, side, session, &mut report)?;
            }
            session.step();
        }
        let title = format!("New flows a second, {pods} pods");
        let mut chart = Chart::bars(&title, "flows", names.clone(), "thousand a second");
        samples.add_to(&mut report, pods, &mut chart);
        report.charts.push(chart);
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

/// Per second, by kind and contestant.
#[derive(Default)]
struct Samples(BTreeMap<(usize, Who), Vec<f64>>);

impl Samples {
    fn trial(
        &mut self,
        testbed: &Testbed,
        side: &Side,
        session: &Session,
        report: &mut Report,
    ) -> Result<()> {
        let node = testbed.node(side);
        let fabric = testbed.lab().fabric();
        forget(testbed, side)?;
        fabric.set_sink(node.primary_eni(), Sink::Everything)?;
        for (index, (name, protocol)) in KINDS.into_iter().enumerate() {
            let first = session
                .turn(&format!("{name}, {}", side.who.name()), || {
                    first_packets(testbed, side, protocol)
                })
                .with_context(|| format!("{name}, {}", side.who.name()))?;
            if first.loss > LOSS {
                report.invalidate(format!(
                    "{name}, {}: {:.0} % of the packets did not leave the node",
                    side.who.name(),
                    first.loss * 100.0
                ));
            }
            self.add(index, side.who, first.per_second);
        }
        fabric.set_sink(node.primary_eni(), Sink::Off)?;
        let real = connect::run(
            &side.pods()[..TALKERS],
            testbed.outside(),
            session.options.duration(),
        )?;
        if let Some(why) = &real.why {
            report.invalidate(format!(
                "{REAL}, {}: {} of {} connections failed: {why}",
                side.who.name(),
                real.failed,
                real.completed + real.failed
            ));
        }
        self.add(KINDS.len(), side.who, real.per_second);
        Ok(())
    }

    fn add(&mut self, kind: usize, who: Who, per_second: f64) {
        self.0.entry((kind, who)).or_default().push(per_second);
    }

    fn add_to(&self, report: &mut Report, pods: u32, chart: &mut Chart) {
        let name = |kind: usize| KINDS.get(kind).map_or(REAL, |(name, _)| *name);
        for who in Who::ALL {
            let bars = (0..=KINDS.len()).filter_map(|kind| {
                let values = self.0.get(&(kind, who))?;
                Some((kind as f64, stats::median(values) / 1e3))
            });
            let bars: Vec<_> = bars.collect();
            if !bars.is_empty() {
                chart.add(who.name(), bars);
            }
        }
        for ((kind, who), values) in &self.0 {
            let point = format!("{}, {}, {pods} pods", name(*kind), who.name());
            report.push(Figure::new(format!("rate, {point}"), "1/s", values));
            if let (true, Some(kernel)) = (*who != Who::Kernel, self.0.get(&(*kind, Who::Kernel))) {
                let ratio = stats::ratios(values, kernel);
                report.push(Figure::new(point, "ratio", &ratio).against(KERNEL));
            }
        }
    }
}

/// Flows created, and the share of first packets that did not come through.
struct First {
    per_second: f64,
    loss: f64,
}

/// First packets of flows from several pods in turn, each pod's timed from its first to the last
/// that leaves the node.
fn first_packets(testbed: &Testbed, side: &Side, protocol: Protocol) -> Result<First> {
    let node = testbed.node(side);
    let sunk = || -> Result<u64> {
        let counters = testbed.lab().fabric().counters()?;
        Ok(counters.port(node.primary_eni()).verdict(Verdict::Sunk))
    };
    let senders: Vec<&Place> = side.pods().iter().skip(TALKERS).take(SENDERS).collect();
    let (mut created, mut took) = (0, Duration::ZERO);
    for sender in &senders {
        let stream = Stream {
            first_port: 1_024,
            flows: FLOWS,
            destinations: vec![SocketAddrV4::new(NOBODY, 443)],
            protocol,
            frames: Frames::of(if protocol == Protocol::Udp { 64 } else { 58 }),
            ..sender.stream(node)?
        };
        let (packets, time) = sender.netns.run(|| -> Result<(u64, Duration)> {
            ensure!(pin(Core::Last), "the generator cannot be pinned");
            let mut generator = Generator::load(&stream)?;
            let (before, started) = (sunk()?, Instant::now());
            generator.send(u32::from(FLOWS))?;
            let (mut seen, mut last) = (sunk()?, started.elapsed());
            while seen - before < u64::from(FLOWS) && started.elapsed() < last + SILENCE {
                let now = sunk()?;
                if now != seen {
                    (seen, last) = (now, started.elapsed());
                }
            }
            Ok((seen - before, last))
        })??;
        created += packets;
        took += time;
    }
    let sent = senders.len() as u64 * u64::from(FLOWS);
    Ok(First {
        per_second: created as f64 / took.as_secs_f64(),
        loss: 1.0 - created as f64 / sent as f64,
    })
}

/// Makes a contestant forget all flows.
fn forget(testbed: &Testbed, side: &Side) -> Result<()> {
    let node = testbed.node(side);
    if side.who == Who::Kernel {
        return node.netns().run(conntrack::flush)?;
    }
    node.stop_dataplane()?;
    side.start_dataplane(node)?;
    node.netns().run(conntrack::flush)??;
    wait_published(node, side.pods().len())
}

/// Waits until the agent has told a new dataplane of the node's pods.
pub(super) fn wait_published(node: &Node, pods: usize) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Response::Status(status) = node.dataplane_call(&Request::Status)?
            && status.endpoints as usize >= pods
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{}: the dataplane was not told of its pods", node.name());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
