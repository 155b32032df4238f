//! Packets a second through a node by frame size: `egress-snat` (pod to outside) and `ingress`
//! (what the outside answers, to the pod).
//!
//! Flows are established on both ways by real sockets first. Then the generator sends as fast as
//! the kernel takes it, contestants and baseline in turns. Outwards, the fabric counts and drops
//! what leaves the node's primary ENI; inwards, a program in the pod does. Node cost is a packet's
//! time on the path beyond the time of the same packet dropped at the node's first hook: TCX on
//! the pod's veth outwards, XDP on the ENI inwards. That baseline is also the generator's ceiling.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use penstock_lab::{NetNs, Sink, Verdict};
use penstock_netlink::Netlink;

use super::Session;
use crate::drop_at_hook::DropAtHook;
use crate::generator::{Frames, Stream};
use crate::load::{flood, prime};
use crate::report::{Chart, Figure, Report};
use crate::stats;
use crate::targets::KERNEL;
use crate::testbed::{Plan, Side, Testbed, Who};
use crate::validity::{Guard, Offered, judge_ceiling};

const UDP: u8 = 17;
const FLOWS: u16 = 256;
const FIRST_PORT: u16 = 20_000;

pub(super) fn egress(session: &Session) -> Result<Report> {
    run(session, "egress-snat", Way::Out)
}

pub(super) fn ingress(session: &Session) -> Result<Report> {
    run(session, "ingress", Way::In)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
}

/// Frame sizes with their names.
fn sizes() -> [(&'static str, Frames); 4] {
    [
        ("64 B", Frames::of(64)),
        ("IMIX", Frames::imix()),
        ("512 B", Frames::of(512)),
        ("1500 B", Frames::of(1518)),
    ]
}

fn run(session: &Session, name: &str, way: Way) -> Result<Report> {
    let mut report = Report::new(name);
    let guard = Guard::begin();
    let mut unaccounted = 0;
    for &pods in &session.options.pods {
        session.expect(session.options.repeats * sizes().len() as u32);
        let testbed = Testbed::build(session, &Plan::new(pods))?;
        testbed.describe(&mut report);
        let track = Track::build(&testbed, way)?;
        let mut chart = chart(pods);
        for (at, (size, frames)) in sizes().into_iter().enumerate() {
            session.say(format!("{pods} pods, {size}"));
            let samples = track.measure(session, &frames)?;
            samples.add_to(&mut report, &format!("{size}, {pods} pods"));
            samples.draw(&mut chart, at);
        }
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

fn chart(pods: u32) -> Chart {
    let names = sizes().map(|(name, _)| name.to_owned()).into();
    let title = format!("Packets a second by frame size, {pods} pods");
    Chart::bars(&title, "frame on the wire", names, "Mpps")
}

/// Everything in place for one way.
struct Track<'a> {
    testbed: &'a Testbed,
    way: Way,
    lanes: Vec<Lane<'a>>,
    baseline: Stream,
}

/// One contestant's generator and counter.
struct Lane<'a> {
    side: &'a Side,
    stream: Stream,
    /// In the pod; outwards the fabric counts.
    counter: Option<DropAtHook>,
}

impl<'a> Track<'a> {
    fn build(testbed: &'a Testbed, way: Way) -> Result<Self> {
        let lanes = testbed
            .sides()
            .iter()
            .map(|side| Lane::build(testbed, side, way))
            .collect::<Result<Vec<_>>>()?;
        let last = lanes.last().context("nobody takes part")?;
        ensure!(
            last.side.who == Who::Kernel,
            "the kernel's turn is the last"
        );
        let baseline = last.stream.clone();
        Ok(Self {
            testbed,
            way,
            lanes,
            baseline,
        })
    }

    fn measure(&self, session: &Session, frames: &Frames) -> Result<Samples> {
        let mut samples = Samples::default();
        for _ in 0..session.options.repeats {
            for lane in &self.lanes {
                let rate = session.turn(lane.side.who.name(), || {
                    self.rate(lane, frames, session.options.duration())
                })?;
                samples.rates.entry(lane.side.who).or_default().push(rate);
            }
            let ceiling = self.ceiling(frames, session.options.duration())?;
            samples.ceiling.push(ceiling);
            session.step();
        }
        Ok(samples)
    }

    fn rate(&self, lane: &Lane<'_>, frames: &Frames, duration: Duration) -> Result<f64> {
        let node = self.testbed.node(lane.side);
        let arrived = || match &lane.counter {
            Some(counter) => counter.packets(),
            None => {
                let counters = self.testbed.lab().fabric().counters()?;
                Ok(counters.port(node.primary_eni()).verdict(Verdict::Sunk))
            }
        };
        let stream = with(&lane.stream, frames);
        flood::rate(self.from(lane.side), &stream, duration, &arrived)
    }

    /// The same traffic dropped at the first hook of the kernel's node.
    fn ceiling(&self, frames: &Frames, duration: Duration) -> Result<f64> {
        let side = self.lanes.last().context("nobody takes part")?.side;
        let ifname = match self.way {
            Way::Out => side.pod().host_ifname.as_deref().context("not a pod")?,
            Way::In => "eth0",
        };
        let dropper = self
            .testbed
            .node(side)
            .netns()
            .run(|| -> Result<DropAtHook> {
                let ifindex = Netlink::open()?.link_by_name(ifname)?.index;
                match self.way {
                    Way::Out => DropAtHook::attach(ifindex),
                    Way::In => DropAtHook::attach_xdp(ifindex),
                }
            })??;
        let stream = with(&self.baseline, frames);
        flood::rate(self.from(side), &stream, duration, &|| dropper.packets())
    }

    fn from(&self, side: &'a Side) -> &'a NetNs {
        match self.way {
            Way::Out => &side.pod().netns,
            Way::In => &self.testbed.outside().netns,
        }
    }
}

impl<'a> Lane<'a> {
    fn build(testbed: &Testbed, side: &'a Side, way: Way) -> Result<Self> {
        let discard = side.discard();
        let (pod, outside) = (side.pod(), testbed.outside());
        let ports = (FIRST_PORT, FLOWS);
        let seen = prime::udp(pod, outside, discard.port(), ports)
            .with_context(|| format!("{}: establish flows", side.who.name()))?;
        let node = testbed.node(side);
        match way {
            Way::Out => {
                let fabric = testbed.lab().fabric();
                fabric.set_sink(node.primary_eni(), Sink::Protocol(UDP))?;
                let stream = Stream {
                    first_port: FIRST_PORT,
                    flows: FLOWS,
                    destinations: vec![discard],
                    ..pod.stream(node)?
                };
                Ok(Self {
                    side,
                    stream,
                    counter: None,
                })
            }
            Way::In => {
                let counter = pod.netns.run(|| -> Result<DropAtHook> {
                    DropAtHook::attach(Netlink::open()?.link_by_name(&pod.ifname)?.index)
                })??;
                Ok(Self {
                    side,
                    stream: answers(testbed, discard, seen)?,
                    counter: Some(counter),
                })
            }
        }
    }
}

/// From the outside to where it saw each flow come from.
fn answers(testbed: &Testbed, from: SocketAddrV4, to: Vec<SocketAddrV4>) -> Result<Stream> {
    Ok(Stream {
        first_port: from.port(),
        flows: 1,
        destinations: to,
        ..testbed.stream_from_outside()?
    })
}

fn with(stream: &Stream, frames: &Frames) -> Stream {
    Stream {
        frames: frames.clone(),
        ..stream.clone()
    }
}

/// Packets a second, one per repeat.
#[derive(Default)]
struct Samples {
    rates: BTreeMap<Who, Vec<f64>>,
    ceiling: Vec<f64>,
}

impl Samples {
    fn add_to(&self, report: &mut Report, point: &str) {
        let million = |rates: &[f64]| rates.iter().map(|rate| rate / 1e6).collect::<Vec<_>>();
        let ceiling = stats::median(&self.ceiling);
        let name = format!("generator's ceiling, {point}");
        report.push(Figure::new(name, "Mpps", &million(&self.ceiling)));
        for (who, rates) in &self.rates {
            let who = who.name();
            report.push(Figure::new(
                format!("rate, {who}, {point}"),
                "Mpps",
                &million(rates),
            ));
            let cost = stats::beyond(rates, &self.ceiling);
            report.push(Figure::new(
                format!("node cost, {who}, {point}, time"),
                "ns",
                &cost,
            ));
            judge_ceiling(
                report,
                &format!("{who}, {point}"),
                stats::median(rates),
                ceiling,
            );
        }
        let Some(kernel) = self.rates.get(&Who::Kernel) else {
            return;
        };
        for (who, rates) in self.rates.iter().filter(|(who, _)| **who != Who::Kernel) {
            let who = who.name();
            let pps = stats::ratios(rates, kernel);
            let name = format!("packets per second, {who}, {point}");
            report.push(Figure::new(name, "ratio", &pps).against(KERNEL));
            let (ours, theirs) = (
                stats::beyond(rates, &self.ceiling),
                stats::beyond(kernel, &self.ceiling),
            );
            let name = format!("node cost, {who}, {point}");
            report.push(Figure::new(name, "ratio", &stats::ratios(&ours, &theirs)).against(KERNEL));
        }
    }

    fn draw(&self, chart: &mut Chart, at: usize) {
        let mut bar = |name: &str, rates: &[f64]| {
            let point = (at as f64, stats::median(rates) / 1e6);
            match chart.series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => chart.add(name, vec![point]),
            }
        };
        for (who, rates) in &self.rates {
            bar(who.name(), rates);
        }
        bar("dropped at the first hook", &self.ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_turns_taken_together() {
        let samples = Samples {
            rates: BTreeMap::from([
                (Who::On, vec![1.0e6, 0.5e6]),
                (Who::Kernel, vec![0.5e6, 0.25e6]),
            ]),
            ceiling: vec![2.0e6, 1.0e6],
        };
        let mut report = Report::new("egress-snat");
        samples.add_to(&mut report, "64 B, 4 pods");
        let value = |name: &str| report.figure(name).map(|figure| figure.value);
        assert_eq!(
            value("packets per second, offload on, 64 B, 4 pods"),
            Some(2.0)
        );
        // 1000 - 500 = 500 ns and 2000 - 500 = 1500 ns; then twice as long, all of them.
        let cost = value("node cost, offload on, 64 B, 4 pods").expect("measured");
        assert!((cost - 1.0 / 3.0).abs() < 1e-9);
        assert!(
            report
                .figure("node cost, offload on, 64 B, 4 pods")
                .is_some_and(|f| f.target.is_some())
        );
    }
}
