//! Many flows and pods against few, itself against itself: what the tables' size costs a packet.
//!
//! Two labs stand side by side, one with 64 flows to 4 pods and one with as many flows as asked,
//! 4,000 to a pod. A host of the VPC sends to all of them in an order without pattern; every pod
//! has answered each flow once, so that all are established. Programs in the pods count and drop.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use penstock_lab::fabric::ROUTER_MAC;
use penstock_lab::{Node, Sink};
use penstock_netlink::Netlink;

use super::Session;
use crate::drop_at_hook::DropAtHook;
use crate::generator::{Generator, Stream};
use crate::load::flood;
use crate::place::Place;
use crate::report::{Figure, Report};
use crate::stats;
use crate::testbed::{Plan, Side, Testbed, Who};
use crate::validity::{Guard, Offered, judge_ceiling};

const FEW: Size = Size { flows: 64, pods: 4 };
/// Below a pod's share of the table, 4,096.
const FLOWS_PER_POD: u32 = 4_000;
const FIRST_PORT: u16 = 1_024;
const POD_PORT: u16 = 9;
const UDP: u8 = 17;
/// Rounds of first packets: what a full ring drops comes again.
const ROUNDS: u32 = 20;
/// Share of the flows that must be there.
const THERE: f64 = 0.995;
/// Room in the tables.
const ROOM: &str = "--flows=1200000";

#[derive(Debug, Clone, Copy)]
struct Size {
    flows: u32,
    pods: u32,
}

pub(super) fn run(session: &Session) -> Result<Report> {
    let mut report = Report::new("scale");
    let guard = Guard::begin();
    let many = Size {
        flows: session.options.flows,
        pods: session.options.flows.div_ceil(FLOWS_PER_POD).max(FEW.pods),
    };
    session.expect(session.options.repeats);
    let few = Lanes::build(session, FEW)?;
    let many_lanes = Lanes::build(session, many)?;
    few.testbed.describe(&mut report);
    let mut rates: BTreeMap<(Who, bool), Vec<f64>> = BTreeMap::new();
    let mut ceiling = Vec::new();
    for _ in 0..session.options.repeats {
        session.say(format!("{} and {} flows in turns", FEW.flows, many.flows));
        for (lanes, is_many) in [(&few, false), (&many_lanes, true)] {
            for lane in &lanes.lanes {
                let size = if is_many { "many flows" } else { "few flows" };
                let label = format!("{}, {size}", lane.who.name());
                let rate = session.turn(&label, || lane.rate(session.options.duration()))?;
                rates.entry((lane.who, is_many)).or_default().push(rate);
            }
        }
        ceiling.push(few.ceiling(session.options.duration())?);
        session.step();
    }
    add(&mut report, &rates, &ceiling, many);
    let unaccounted = Guard::judge_testbed(&few.testbed, Offered::Beyond, &mut report)
        + Guard::judge_testbed(&many_lanes.testbed, Offered::Beyond, &mut report);
    report.push(Figure::new(
        "packets unaccounted for",
        "packets",
        &[unaccounted as f64],
    ));
    guard.judge(&mut report);
    Ok(report)
}

fn add(report: &mut Report, rates: &BTreeMap<(Who, bool), Vec<f64>>, ceiling: &[f64], many: Size) {
    let million = |rates: &[f64]| rates.iter().map(|rate| rate / 1e6).collect::<Vec<_>>();
    report.push(Figure::new(
        "generator's ceiling",
        "Mpps",
        &million(ceiling),
    ));
    let name = |size: Size| format!("{} flows and {} pods", size.flows, size.pods);
    for (&(who, is_many), values) in rates {
        let point = format!("{}, {}", who.name(), name(if is_many { many } else { FEW }));
        report.push(Figure::new(
            format!("rate, {point}"),
            "Mpps",
            &million(values),
        ));
        judge_ceiling(
            report,
            &point,
            stats::median(values),
            stats::median(ceiling),
        );
    }
    for who in [Who::On, Who::Off] {
        let (Some(few), Some(large)) = (rates.get(&(who, false)), rates.get(&(who, true))) else {
            continue;
        };
        let costs = stats::ratios(&stats::beyond(large, ceiling), &stats::beyond(few, ceiling));
        let prefix = if who == Who::On { "" } else { "offload off: " };
        let figure = Figure::new(
            format!("{prefix}node cost, {}", name(many)),
            "ratio",
            &costs,
        );
        report.push(figure.against(&name(FEW)));
    }
}

/// One lab, its flows established.
struct Lanes {
    lanes: Vec<Lane>,
    testbed: Testbed,
}

/// One contestant of it.
struct Lane {
    who: Who,
    from: Place,
    stream: Stream,
    counters: Vec<DropAtHook>,
}

impl Lanes {
    fn build(session: &Session, size: Size) -> Result<Self> {
        let plan = Plan {
            who: vec![Who::On, Who::Off],
            bare: 2,
            arguments: vec![ROOM],
            ..Plan::new(size.pods)
        };
        let testbed = Testbed::build(session, &plan)?;
        session.say(format!("establishing {} flows", size.flows));
        let lanes = testbed
            .sides()
            .iter()
            .map(|side| Lane::build(&testbed, side, size))
            .collect::<Result<_>>()?;
        Ok(Self { lanes, testbed })
    }

    /// The same frames dropped by XDP on the ENI of a host where nothing runs.
    fn ceiling(&self, duration: Duration) -> Result<f64> {
        let lane = self.lanes.first().context("nobody takes part")?;
        let target = self.testbed.bare(1)?;
        let dropper = target.netns().run(|| -> Result<DropAtHook> {
            DropAtHook::attach_xdp(Netlink::open()?.link_by_name("eth0")?.index)
        })??;
        let stream = Stream {
            destinations: vec![SocketAddrV4::new(target.primary_address(), POD_PORT)],
            ..lane.stream.clone()
        };
        flood::rate(&lane.from.netns, &stream, duration, &|| dropper.packets())
    }
}

impl Lane {
    fn build(testbed: &Testbed, side: &Side, size: Size) -> Result<Self> {
        let node = testbed.node(side);
        let from = testbed.host(testbed.bare(0)?)?;
        // What pods answer is counted nowhere and must reach nobody.
        for eni in testbed.lab().cloud().instance_enis(node.instance_id()) {
            testbed
                .lab()
                .fabric()
                .set_sink(&eni.eni_id, Sink::Protocol(UDP))?;
        }
        let counters = side
            .pods()
            .iter()
            .map(|pod| {
                pod.netns.run(|| -> Result<DropAtHook> {
                    DropAtHook::attach(Netlink::open()?.link_by_name(&pod.ifname)?.index)
                })?
            })
            .collect::<Result<_>>()?;
        let per_pod = u16::try_from(size.flows / size.pods)?;
        let pods = side.pods().iter();
        let stream = Stream {
            first_port: FIRST_PORT,
            flows: per_pod,
            destinations: pods
                .map(|pod| SocketAddrV4::new(pod.address, POD_PORT))
                .collect(),
            ..from.stream_to(ROUTER_MAC.0)?
        };
        let lane = Self {
            who: side.who,
            from,
            stream,
            counters,
        };
        lane.establish(node, side, size)?;
        Ok(lane)
    }

    /// The first packet of every flow, and an answer to each.
    fn establish(&self, node: &Node, side: &Side, size: Size) -> Result<()> {
        let flows = || -> Result<u64> {
            let counters = node.settled_counters()?;
            Ok(counters.workers.iter().map(|worker| worker.flows).sum())
        };
        let wanted = (f64::from(size.flows) * THERE) as u64;
        let mut round = 0;
        while flows()? < wanted {
            round += 1;
            if round > ROUNDS {
                bail!("{}: {} flows of {}", side.who.name(), flows()?, size.flows);
            }
            self.from
                .netns
                .run(|| Generator::load(&self.stream)?.send(size.flows))??;
        }
        let peers = (FIRST_PORT..FIRST_PORT + self.stream.flows)
            .map(|port| SocketAddrV4::new(self.from.address, port));
        let peers: Vec<_> = peers.collect();
        for pod in side.pods() {
            let answers = Stream {
                first_port: POD_PORT,
                flows: 1,
                destinations: peers.clone(),
                ..pod.stream(node)?
            };
            let frames = u32::from(self.stream.flows);
            pod.netns
                .run(|| Generator::load(&answers)?.send(frames))??;
        }
        // Inwards again: then both ends have spoken twice.
        self.from
            .netns
            .run(|| Generator::load(&self.stream)?.send(size.flows))??;
        Ok(())
    }

    fn rate(&self, duration: Duration) -> Result<f64> {
        flood::rate(&self.from.netns, &self.stream, duration, &|| {
            self.counters.iter().map(DropAtHook::packets).sum()
        })
    }
}
