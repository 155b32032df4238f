//! Pod to outside with SNAT, every packet through a worker, beside the kernel path.
//!
//! Two nodes of one lab take turns: node 1 runs Penstock, node 2 is laid out as the Amazon VPC CNI
//! lays a node out. The same generator sends 64-byte UDP of 256 flows from a pod; the fabric counts
//! what leaves the node's primary ENI and drops it there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use penstock_lab::{Lab, LabConfig, NetNs, Node, OUTSIDE_ADDRESSES, Pod, SUBNETS, Sink, Verdict};
use penstock_netlink::Netlink;
use penstock_xsk::ethtool::{self, Feature};

use super::Session;
use crate::drop_at_hook::DropAtHook;
use crate::generator::{Generator, Stream};
use crate::reference_node::ReferenceNode;
use crate::report::{Figure, Report};
use crate::targets;

const UDP: u8 = 17;
/// Worker on the first core, generator on the last: one core each on a 2-core machine.
const WORKER_CORE: &str = "0";
/// Room for 110 pods: 8 ENIs of 30 addresses.
const INSTANCE_TYPE: &str = "m5.4xlarge";
/// Load before each measurement: caches, flow tables and connection tracking are then filled.
const WARM_UP: Duration = Duration::from_millis(300);

pub(super) fn run(session: &Session) -> Result<Report> {
    let mut report = Report::new("egress-snat");
    for &pods in &session.options.pods {
        session.expect(session.options.repeats);
        session.say(format!("building a node with {pods} pods"));
        let rig = Rig::build(pods)?;
        session.say(format!("{pods} pods"));
        for figure in rig.measure(session)?.figures(pods) {
            report.push(figure);
        }
        for problem in rig.problems() {
            report.invalidate(problem);
        }
    }
    Ok(report)
}

struct Rig {
    lab: Lab,
    pods: Vec<Pod>,
    stream: Stream,
    reference: ReferenceNode,
}

#[derive(Default)]
struct Samples {
    penstock: Vec<f64>,
    kernel: Vec<f64>,
    dropped: Vec<f64>,
    ratio: Vec<f64>,
    cost_ratio: Vec<f64>,
}

impl Rig {
    fn build(count: u32) -> Result<Self> {
        let config = LabConfig {
            instance_type: INSTANCE_TYPE.to_owned(),
            ..LabConfig::unique("perf")
        };
        let lab = Lab::up(config)?;
        let (node, other) = (&lab.nodes()[0], &lab.nodes()[1]);
        node.start_dataplane(&["--cores", WORKER_CORE, "--offload", "off"])?;
        node.start_control(&[])?;
        let pods = (0..count)
            .map(|n| node.add_pod("perf", &format!("p{n}")))
            .collect::<Result<Vec<_>, _>>()?;
        let stream = stream_from(&pods[pods.len() / 2], node)?;
        // The upper half of the second subnet: nothing else has these addresses.
        let first_address = std::net::Ipv4Addr::from(u32::from(SUBNETS[1].network()) + 2048);
        let reference = ReferenceNode::build(other, count, first_address)?;
        for node in [node, other] {
            lab.fabric()
                .set_sink(node.primary_eni(), Sink::Protocol(UDP))?;
        }
        Ok(Self {
            lab,
            pods,
            stream,
            reference,
        })
    }

    fn measure(&self, session: &Session) -> Result<Samples> {
        let (node, other) = (&self.lab.nodes()[0], &self.lab.nodes()[1]);
        let duration = session.options.duration();
        let mut samples = Samples::default();
        for _ in 0..session.options.repeats {
            let ours = self.rate(
                node,
                self.pods[self.pods.len() / 2].netns(),
                &self.stream,
                duration,
            )?;
            let theirs = self.rate(
                other,
                self.reference.netns(),
                self.reference.stream(),
                duration,
            )?;
            let dropped = self.drop_rate(duration)?;
            samples.penstock.push(ours);
            samples.kernel.push(theirs);
            samples.dropped.push(dropped);
            samples.ratio.push(ours / theirs);
            samples
                .cost_ratio
                .push((1.0 / ours - 1.0 / dropped) / (1.0 / theirs - 1.0 / dropped));
            session.step();
        }
        Ok(samples)
    }

    /// Packets per second that left the node's primary ENI.
    fn rate(&self, node: &Node, from: &NetNs, stream: &Stream, duration: Duration) -> Result<f64> {
        let sunk = || -> Result<u64> {
            Ok(self
                .lab
                .fabric()
                .counters()?
                .port(node.primary_eni())
                .verdict(Verdict::Sunk))
        };
        from.run(|| -> Result<f64> {
            pin_to_last_core();
            let mut generator = Generator::load(stream)?;
            generator.run(WARM_UP)?;
            let (before, started) = (sunk()?, Instant::now());
            generator.run(duration)?;
            Ok((sunk()? - before) as f64 / started.elapsed().as_secs_f64())
        })?
    }

    /// The same traffic dropped at the first hook of the reference node.
    fn drop_rate(&self, duration: Duration) -> Result<f64> {
        let other = &self.lab.nodes()[1];
        let dropper = other.netns().run(|| -> Result<DropAtHook> {
            let link = Netlink::open()?.link_by_name(self.reference.host_ifname())?;
            DropAtHook::attach(link.index)
        })??;
        self.reference.netns().run(|| -> Result<f64> {
            pin_to_last_core();
            let mut generator = Generator::load(self.reference.stream())?;
            generator.run(WARM_UP)?;
            let (before, started) = (dropper.packets()?, Instant::now());
            generator.run(duration)?;
            Ok((dropper.packets()? - before) as f64 / started.elapsed().as_secs_f64())
        })?
    }

    /// Every validity rule that does not hold.
    fn problems(&self) -> Vec<String> {
        let node = &self.lab.nodes()[0];
        match node.settled_counters() {
            Err(error) => vec![error.to_string()],
            Ok(counters) => counters
                .workers
                .iter()
                .filter(|worker| worker.core.is_none())
                .map(|worker| format!("worker {} is not pinned", worker.worker))
                .collect(),
        }
    }
}

impl Samples {
    fn figures(&self, pods: u32) -> Vec<Figure> {
        let name = |what: &str| format!("{what}, {pods} pods");
        let million = |values: &[f64]| values.iter().map(|value| value / 1e6).collect::<Vec<_>>();
        vec![
            Figure::new(
                name("dropped at the first hook"),
                "Mpps",
                &million(&self.dropped),
            ),
            Figure::new(name("kernel path"), "Mpps", &million(&self.kernel)),
            Figure::new(name("worker"), "Mpps", &million(&self.penstock)),
            Figure::new(
                name("packets per second, offload off, 64 B"),
                "ratio",
                &self.ratio,
            ),
            Figure::new(
                name("node cost, offload off, 64 B"),
                "ratio",
                &self.cost_ratio,
            )
            .against(targets::KERNEL),
        ]
    }
}

fn stream_from(pod: &Pod, node: &Node) -> Result<Stream> {
    let host_ifname = pod.host_ifname().context("ADD named no host interface")?;
    let destination_mac = node.netns().run(|| -> Result<[u8; 6]> {
        // Live frames need NAPI on the receiving side.
        ethtool::set_feature(host_ifname, Feature::Gro, true)?;
        Netlink::open()?
            .link_by_name(host_ifname)?
            .mac
            .context("veth without an address")
    })??;
    let (ifindex, source_mac) = pod.netns().run(|| -> Result<(u32, [u8; 6])> {
        let link = Netlink::open()?.link_by_name(penstock_lab::IFNAME)?;
        Ok((link.index, link.mac.context("veth without an address")?))
    })??;
    Ok(Stream {
        ifindex,
        source_mac,
        destination_mac,
        source: pod.address(),
        ..Stream::default()
    })
}

fn pin_to_last_core() {
    // Not being able to pin shows in the spread, which is printed.
    if let Some(core) = core_affinity::get_core_ids().and_then(|cores| cores.last().copied()) {
        core_affinity::set_for_current(core);
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            ifindex: 0,
            source_mac: [0; 6],
            destination_mac: [0; 6],
            source: std::net::Ipv4Addr::UNSPECIFIED,
            destination: OUTSIDE_ADDRESSES[0],
            first_port: 20_000,
            flows: 256,
            destination_port: 9,
            frame_bytes: 60,
        }
    }
}
