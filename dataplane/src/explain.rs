//! Answers what would become of a packet, without sending one.
//!
//! The packet is judged by the snapshot in force and by the engine the workers run, on an engine
//! of its own: no flow, port or counter of a worker changes, and what is said is what a worker
//! would do with the first packet of a new conversation.

use std::net::IpAddr;

use penstock_dataplane_api::{Explanation, Fate, FlowRow, Question, Snapshot};
use penstock_flow::{
    Engine, EngineConfig, Ingress, OutIf, Packet, Timestamp, UplinkId, Verdict, forward,
};
use penstock_packet::build::{Base, Base6, Frame};
use penstock_packet::{DropReason, TcpFlags};

use crate::clock;
use crate::node::Node;

/// Flows the engine of one question has room for.
const ROOM: usize = 1_024;
/// Longest packet that can be asked about: the largest an ENI carries.
const LONGEST: u16 = 9_001;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

impl Node {
    /// What would become of the packet.
    ///
    /// # Errors
    /// When there is no snapshot yet, or the question makes no sense.
    pub fn explain(&self, question: &Question) -> Result<Explanation, String> {
        let current = self
            .current
            .as_ref()
            .ok_or("nothing is published yet: the kernel carries everything")?;
        let live = self.live.load();
        let (ingress, macs) = self.way_in(question, current, &live.snapshot)?;
        let mut frame = frame(question, macs)?.bytes;
        let length = frame.len();
        let mut engine = Engine::new(EngineConfig {
            worker: 0,
            workers: 1,
            capacity: ROOM,
            capacity6: ROOM,
            seed: rand::random(),
        })
        .map_err(|error| format!("no memory to think in: {error}"))?;
        let now = Timestamp::from_nanos(clock::monotonic_ns());
        let packet = Packet {
            head: &mut frame,
            length,
            ingress,
            handed: false,
        };
        let verdict = forward(&mut engine, &live.snapshot, packet, now);
        let made = engine.flows(now).next();
        let flows = self.flows(u32::MAX);
        let of_pod = flows.iter().filter(|flow| flow.pod == question.from);
        let (count, quota) = (of_pod.count(), current.flow.flows_per_pod);
        let flow = flows.into_iter().find(|flow| belongs(question, flow));
        let full = flow.is_none() && quota.is_some_and(|quota| count >= quota as usize);
        let fate = match verdict {
            Verdict::Forward(_) if full => dropped(DropReason::PodQuota),
            verdict => self.fate(verdict, question.to, current),
        };
        let name = |address| pod_name(current, address);
        Ok(Explanation {
            generation: current.generation,
            fate,
            from_pod: name(question.from),
            to_pod: name(question.to),
            snat: made
                .and_then(|flow| flow.snat)
                .map(|end| IpAddr::from(end.address)),
            flow,
        })
    }

    /// Where the packet would come from, and its MACs as they would be there.
    fn way_in(
        &self,
        question: &Question,
        current: &Snapshot,
        live: &penstock_flow::Snapshot,
    ) -> Result<(Ingress, [[u8; 6]; 2]), String> {
        if let Some(endpoint) = live.endpoint(question.from) {
            return Ok((Ingress::Trunk, [endpoint.pod_mac, endpoint.host_mac]));
        }
        let to_pod = live.endpoint(question.to).map(|endpoint| endpoint.uplink);
        // An answer to a translated flow comes to the primary ENI.
        let to_node = (question.to == IpAddr::from(current.snat.address))
            .then(|| live.primary_uplink().map(|uplink| uplink.id))
            .flatten();
        let id = to_pod.or(to_node).ok_or_else(|| {
            format!(
                "neither {} nor {} is a pod of this node",
                question.from, question.to
            )
        })?;
        let uplink = live
            .uplink(id)
            .ok_or_else(|| format!("the ENI of {} is gone", question.to))?;
        let gateway = uplink.gateway_mac.unwrap_or([2, 0, 0, 0, 0, 1]);
        Ok((Ingress::Uplink(id), [gateway, uplink.mac]))
    }

    fn fate(&self, verdict: Verdict, to: IpAddr, current: &Snapshot) -> Fate {
        match verdict {
            Verdict::Forward(OutIf::Endpoint) => Fate::Forwarded {
                eni_id: String::new(),
                ifname: self.pod_ifname(to),
            },
            Verdict::Forward(OutIf::Uplink(id)) => self.leaves_by(id, current),
            // One engine has nobody to hand to, and a whole datagram is never held.
            Verdict::ToKernel | Verdict::HandOff(_) | Verdict::Hold(_) => Fate::Kernel {
                cidr: current
                    .kernel_cidrs
                    .iter()
                    .find(|cidr| cidr.contains(&to))
                    .map(ToString::to_string),
            },
            Verdict::Reject(rejection) => dropped(rejection.reason),
            Verdict::Drop(reason) => dropped(reason),
        }
    }

    fn leaves_by(&self, id: UplinkId, current: &Snapshot) -> Fate {
        let eni_id = self.slots.eni_id(id).unwrap_or("?").to_owned();
        let uplink = current
            .uplinks
            .iter()
            .find(|uplink| uplink.eni_id == eni_id);
        Fate::Forwarded {
            ifname: uplink.map_or_else(|| "?".to_owned(), |uplink| uplink.ifname.clone()),
            eni_id,
        }
    }
}

/// Whether the packet would belong to the flow.
fn belongs(question: &Question, flow: &FlowRow) -> bool {
    let echo = matches!(question.protocol, ICMP | ICMP6);
    flow.protocol == question.protocol
        && (flow.pod, flow.pod_port) == (question.from, question.from_port)
        && flow.remote == question.to
        && (echo || flow.remote_port == question.to_port)
}

fn dropped(reason: DropReason) -> Fate {
    Fate::Dropped {
        reason: reason.label().to_owned(),
        meaning: reason.when().to_owned(),
    }
}

fn pod_name(current: &Snapshot, address: IpAddr) -> Option<String> {
    let endpoint = current
        .endpoints
        .iter()
        .find(|endpoint| endpoint.addresses.contains(&address))?;
    Some(format!("{}/{}", endpoint.namespace, endpoint.pod))
}

/// The packet asked about, padded to its length; DF set, as TCP and path MTU discovery have it.
fn frame(question: &Question, [source, destination]: [[u8; 6]; 2]) -> Result<Frame, String> {
    if question.bytes > LONGEST {
        return Err(format!(
            "{} bytes: an ENI carries {LONGEST}",
            question.bytes
        ));
    }
    let ports = (question.from_port, question.to_port);
    let frame = match (question.from, question.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let base = Base::new(from, to).macs(source, destination);
            let payload =
                |header: usize| vec![0; usize::from(question.bytes).saturating_sub(20 + header)];
            match question.protocol {
                TCP => base.tcp(ports.0, ports.1, TcpFlags::SYN, &payload(20)),
                UDP => base.udp(ports.0, ports.1, &payload(8)),
                ICMP => base.echo(true, ports.0, &payload(8)),
                other => base.ip(other, &payload(0)),
            }
            .dont_fragment()
            .seal()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let base = Base6::new(from, to).macs(source, destination);
            let payload =
                |header: usize| vec![0; usize::from(question.bytes).saturating_sub(40 + header)];
            match question.protocol {
                TCP => base.tcp(ports.0, ports.1, TcpFlags::SYN, &payload(20)),
                UDP => base.udp(ports.0, ports.1, &payload(8)),
                ICMP6 => base.echo(true, ports.0, &payload(8)),
                other => base.ip(other, &payload(0)),
            }
        }
        (from, to) => return Err(format!("{from} and {to} are of different families")),
    };
    Ok(frame)
}
