//! From a packet's class to both directions of its flow: once per flow, and again when the
//! snapshot has changed. Decides; installs nothing, sends nothing.

use std::net::IpAddr;

use penstock_packet::rewrite::{End, Side, Translation};
use penstock_packet::{DropReason, Ip, L4, TcpFlags};

use crate::classify::{Class, from_pod};
use crate::config::Endpoint;
use crate::entry::{NewFlow, Pair, Pods, Way};
use crate::key::{Direction, Family, FlowKey, Key, Zone};
use crate::offload::Session;
use crate::snapshot::HopId;
use crate::tcp_state::Tcp;
use crate::{OutIf, Packet, Snapshot, UplinkId, Verdict};

/// How the packets of a class go, and which direction this packet is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    /// Where the pod's packets go.
    egress: HopId,
    /// Where packets to the pod go.
    ingress: HopId,
    /// Direction of the packet that was classified.
    pub(crate) direction: Direction,
    /// Where answers to it arrive.
    back: Zone,
    pods: Pods,
    uplink: u8,
}

impl Course {
    /// Where the packet that was classified goes.
    pub(crate) const fn hop(&self) -> HopId {
        match self.direction {
            Direction::Egress => self.egress,
            Direction::Ingress => self.ingress,
        }
    }
}

/// What later snapshots know a pod by: the low half of its MAC.
const fn mark(endpoint: &Endpoint) -> u32 {
    let [_, _, a, b, c, d] = endpoint.pod_mac;
    u32::from_be_bytes([a, b, c, d])
}

/// The course of a class; `None` for what the kernel must carry, which includes an uplink whose
/// router has no MAC yet.
pub(crate) fn course(snapshot: &Snapshot, class: &Class<'_>, family: Family) -> Option<Course> {
    match class {
        Class::Kernel | Class::ToSnatRange => None,
        Class::Between { from, to } => Some(Course {
            egress: snapshot.hop_to_pod(to)?,
            ingress: snapshot.hop_to_pod(from)?,
            direction: Direction::Egress,
            back: Zone::Pods,
            pods: [mark(from), mark(to)],
            uplink: 0,
        }),
        Class::Leaving { from, uplink, .. } => Some(Course {
            egress: snapshot.hop_to_router(uplink, family)?,
            ingress: snapshot.hop_to_pod(from)?,
            direction: Direction::Egress,
            back: Zone::Uplinks,
            pods: [mark(from), 0],
            uplink: uplink.id.0,
        }),
        Class::Arriving { to, uplink } => Some(Course {
            egress: snapshot.hop_to_router(uplink, family)?,
            ingress: snapshot.hop_to_pod(to)?,
            direction: Direction::Ingress,
            back: Zone::Pods,
            pods: [mark(to), 0],
            uplink: uplink.id.0,
        }),
    }
}

/// An untranslated flow that starts with `packet`, whose key is `key`.
pub(crate) fn untranslated(packet: &Ip, key: FlowKey, course: &Course) -> NewFlow {
    let (egress, ingress) = match course.direction {
        Direction::Egress => (key, key.reverse(course.back)),
        Direction::Ingress => (key.reverse(course.back), key),
    };
    NewFlow {
        egress,
        ingress,
        egress_hop: course.egress,
        ingress_hop: course.ingress,
        originator: course.direction,
        translations: [Translation::NONE; 2],
        tcp: match packet.l4 {
            L4::Tcp { flags, .. } => Some(Tcp::first(flags)),
            _ => None,
        },
        pods: course.pods,
        uplink: course.uplink,
    }
}

/// Turns an untranslated flow from a pod into one whose pod end, `inside`, the world knows as
/// `outside`.
pub(crate) fn translate(mut flow: NewFlow, inside: End, outside: End) -> NewFlow {
    let protocol = flow.egress.protocol;
    flow.translations = [
        Translation::new(Side::Source, protocol, inside, outside),
        Translation::new(Side::Destination, protocol, outside, inside),
    ];
    flow.ingress.destination = outside.address.into();
    flow.ingress.destination_port = outside.port;
    flow
}

/// Whether a packet may start a translated flow.
pub(crate) fn may_translate(packet: &Ip) -> Result<(), DropReason> {
    match packet.l4 {
        L4::Tcp { source: 0, .. } | L4::Tcp { destination: 0, .. } => Err(DropReason::NatPort0),
        L4::Udp { source: 0, .. } | L4::Udp { destination: 0, .. } => Err(DropReason::NatPort0),
        L4::Tcp { flags, .. } if flags.is_nonsense() => Err(DropReason::TcpFlags),
        L4::Tcp { flags, .. } if !flags.has(TcpFlags::SYN) || flags.has(TcpFlags::ACK) => {
            Err(DropReason::NatNonsyn)
        }
        L4::Tcp { .. } | L4::Udp { .. } | L4::EchoRequest { .. } => Ok(()),
        L4::EchoReply { .. } | L4::IcmpError(_) => Err(DropReason::NatNosession),
        L4::IcmpOther | L4::Neighbor(_) | L4::Other => Err(DropReason::NatProto),
        L4::Malformed(reason) => Err(reason),
    }
}

/// Whether an untranslated packet may leave a flow behind: a reset ends one, it starts none.
pub(crate) const fn may_install(packet: &Ip) -> bool {
    match packet.l4 {
        L4::Tcp { flags, .. } => !flags.is_nonsense() && !flags.has(TcpFlags::RST),
        _ => true,
    }
}

/// What became of a flow under a newer snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revision {
    /// It goes on, by these hops (egress, ingress) and this uplink.
    Goes([HopId; 2], u8),
    /// It lives, but just now only the kernel can carry its packets.
    Waits,
    /// It ended: decide anew.
    Ended,
}

/// Decides a flow again.
///
/// A translated flow keeps its address and port, and an untranslated one its freedom from them,
/// whatever the rules have become (conntrack does the same): only MACs, MTU and interface follow.
/// A pod that is gone, or whose address another pod has now, ends the flow.
pub(crate) fn renew<W: Way>(
    pair: &Pair,
    [egress, ingress]: [&W; 2],
    snapshot: &Snapshot,
) -> Revision {
    let (out, back) = (egress.key().unpack(), ingress.key().unpack());
    let [pod, peer] = pair.pods;
    let Some(from) = snapshot
        .endpoint(out.source)
        .filter(|from| mark(from) == pod)
    else {
        return Revision::Ended;
    };
    let hops = match (
        from_pod(snapshot, out.source, out.destination, from.pod_mac),
        back.zone,
    ) {
        (Ok(Class::Between { from, to }), Zone::Pods) if mark(to) == peer => {
            let hops = [snapshot.hop_to_pod(to), snapshot.hop_to_pod(from)];
            (hops, 0)
        }
        (Ok(Class::Leaving { from, .. }), Zone::Uplinks) => {
            let id = UplinkId(pair.uplink);
            let uplink = match (egress.translation().side(), pair.originator()) {
                (Some(_), _) => snapshot.primary_uplink(),
                (None, Direction::Ingress) => snapshot.uplink(id),
                (None, Direction::Egress) => snapshot.uplink(from.uplink),
            };
            let Some(uplink) = uplink else {
                return Revision::Ended;
            };
            let router = snapshot.hop_to_router(uplink, Family::from(out.source));
            ([router, snapshot.hop_to_pod(from)], uplink.id.0)
        }
        _ => return Revision::Ended,
    };
    match hops {
        ([Some(egress), Some(ingress)], uplink) => Revision::Goes([egress, ingress], uplink),
        _ => Revision::Waits,
    }
}

/// The flow of a conversation that outlived the worker that had it; `None` when the rules of today
/// would not have it so.
pub(crate) fn resume(session: &Session, snapshot: &Snapshot) -> Option<NewFlow> {
    let [egress, ingress] = session.keys;
    let pod = snapshot.endpoint(egress.source)?;
    let class = from_pod(snapshot, egress.source, egress.destination, pod.pod_mac).ok()?;
    let class = match (class, session.uplink) {
        // It began outside, and came by another ENI than the pod's.
        (
            Class::Leaving {
                from,
                uplink,
                translated: false,
            },
            Some(id),
        ) if uplink.id != id => Class::Arriving {
            to: from,
            uplink: snapshot.uplink(id)?,
        },
        (class, _) => class,
    };
    let course = course(snapshot, &class, Family::from(egress.source))?;
    let tcp = egress.protocol == penstock_packet::wire::PROTOCOL_TCP;
    let flow = NewFlow {
        egress,
        ingress: egress.reverse(ingress.zone),
        egress_hop: course.egress,
        ingress_hop: course.ingress,
        originator: course.direction,
        translations: [Translation::NONE; 2],
        tcp: tcp.then(|| Tcp::first(TcpFlags::ACK)),
        pods: course.pods,
        uplink: course.uplink,
    };
    let flow = match (session.snat, egress.source) {
        (Some(outside), IpAddr::V4(pod)) if class.is_translated() => {
            let inside = End {
                address: pod,
                port: egress.source_port,
            };
            translate(flow, inside, outside)
        }
        (None, _) if !class.is_translated() => flow,
        _ => return None,
    };
    (flow.ingress == ingress).then_some(flow)
}

/// Forwards untranslated by the rules alone.
pub(crate) fn send_along(
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    ip: &Ip,
    class: &Class<'_>,
) -> Result<OutIf, Verdict> {
    let course = course(snapshot, class, Family::from(ip.source)).ok_or(Verdict::ToKernel)?;
    let hop = snapshot.hop(course.hop()).ok_or(Verdict::ToKernel)?;
    hop.takes(ip, packet.ingress)?;
    hop.send(packet.head, ip, &Translation::NONE);
    Ok(hop.out)
}
