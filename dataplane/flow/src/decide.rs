//! From a packet's class to both directions of its flow: once per flow, and again when the
//! snapshot has changed. Decides; installs nothing, sends nothing.

use penstock_packet::rewrite::{End, Rewrite, Side, Translation};
use penstock_packet::{DropReason, Ip, L4, TcpFlags};

use crate::classify::{Class, from_pod};
use crate::config::{Endpoint, Uplink};
use crate::entry::{Flow, Way};
use crate::hop::Hop;
use crate::key::{Direction, FlowKey, Zone};
use crate::tcp_state::Tcp;
use crate::{OutIf, Packet, Snapshot, Timestamp, Verdict};

/// Hop into a pod.
pub(crate) const fn to_pod(endpoint: &Endpoint, translation: Option<Translation>) -> Hop {
    Hop {
        rewrite: Rewrite {
            destination_mac: endpoint.pod_mac,
            source_mac: endpoint.host_mac,
            translation,
        },
        out: OutIf::Endpoint,
        mtu: endpoint.mtu,
    }
}

/// Hop out of an ENI to its router.
pub(crate) const fn to_uplink(
    uplink: &Uplink,
    gateway_mac: [u8; 6],
    translation: Option<Translation>,
) -> Hop {
    Hop {
        rewrite: Rewrite {
            destination_mac: gateway_mac,
            source_mac: uplink.mac,
            translation,
        },
        out: OutIf::Uplink(uplink.id),
        mtu: uplink.mtu,
    }
}

/// How the packets of a class go: both hops, and which of them this packet takes. `None` for
/// what the kernel must carry, which includes an uplink whose router has no MAC yet.
pub(crate) fn hops(class: &Class<'_>) -> Option<(Hop, Hop, Direction)> {
    match class {
        Class::Kernel | Class::ToSnatRange => None,
        Class::Between { from, to } => {
            Some((to_pod(to, None), to_pod(from, None), Direction::Egress))
        }
        Class::Leaving { from, uplink, .. } => Some((
            to_uplink(uplink, uplink.gateway_mac?, None),
            to_pod(from, None),
            Direction::Egress,
        )),
        Class::Arriving { to, uplink } => Some((
            to_uplink(uplink, uplink.gateway_mac?, None),
            to_pod(to, None),
            Direction::Ingress,
        )),
    }
}

/// An untranslated flow that starts with `packet`, whose key is `key`.
pub(crate) fn untranslated(
    packet: &Ip,
    key: FlowKey,
    class: &Class<'_>,
    (egress, ingress, originator): (Hop, Hop, Direction),
    (epoch, now): (u64, Timestamp),
) -> Flow {
    let back = match (originator, class) {
        (Direction::Egress, Class::Between { .. }) | (Direction::Ingress, _) => Zone::Pods,
        (Direction::Egress, _) => Zone::Uplinks,
    };
    let (egress_key, ingress_key) = match originator {
        Direction::Egress => (key, key.reverse(back)),
        Direction::Ingress => (key.reverse(back), key),
    };
    Flow {
        egress: Way {
            key: egress_key,
            hop: egress,
            packets: 0,
        },
        ingress: Way {
            key: ingress_key,
            hop: ingress,
            packets: 0,
        },
        epoch,
        last_seen: now,
        tcp: first_state(packet),
        originator,
        quarantined: false,
    }
}

/// Turns an untranslated flow from a pod into one whose pod end the world knows as `outside`.
pub(crate) fn translate(mut flow: Flow, outside: End) -> Flow {
    let key = flow.egress.key;
    let inside = End {
        address: key.source,
        port: key.source_port,
    };
    let out = Translation::new(Side::Source, key.protocol, inside, outside);
    let back = Translation::new(Side::Destination, key.protocol, outside, inside);
    flow.egress.hop.rewrite.translation = Some(out);
    flow.ingress.hop.rewrite.translation = Some(back);
    flow.ingress.key.destination = outside.address;
    flow.ingress.key.destination_port = outside.port;
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
        L4::Neighbor(_) | L4::IcmpOther | L4::Other => Err(DropReason::NatProto),
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

/// The flow's decision under a newer snapshot, or `None` when it must be decided anew.
///
/// A translated flow keeps its address and port, and an untranslated one its freedom from them,
/// whatever the rules have become (conntrack does the same): only MACs, MTU and interface follow.
/// A router whose MAC is momentarily unknown keeps its old one. A pod that is gone, or whose
/// address another pod has now, ends the flow.
pub(crate) fn renew(flow: &Flow, snapshot: &Snapshot) -> Option<Flow> {
    let mut renewed = *flow;
    renewed.epoch = snapshot.epoch;
    let translation = flow.egress.hop.rewrite.translation;
    let pod_mac = flow.ingress.hop.rewrite.destination_mac;
    let class = from_pod(snapshot, flow.pod(), flow.egress.key.destination, pod_mac).ok()?;
    let uplink = match (class, flow.ingress.key.zone) {
        (Class::Between { from, to }, Zone::Pods) => {
            renewed.egress.hop = to_pod(to, None);
            renewed.ingress.hop = to_pod(from, None);
            return Some(renewed);
        }
        (Class::Leaving { from, .. }, Zone::Uplinks) => {
            renewed.ingress.hop = to_pod(from, flow.ingress.hop.rewrite.translation);
            match (translation, flow.originator, flow.egress.hop.out) {
                (Some(_), _, _) => snapshot.primary_uplink()?,
                (None, Direction::Ingress, OutIf::Uplink(id)) => snapshot.uplink(id)?,
                (None, _, _) => snapshot.uplink(from.uplink)?,
            }
        }
        _ => return None,
    };
    let gateway_mac = uplink
        .gateway_mac
        .unwrap_or(flow.egress.hop.rewrite.destination_mac);
    renewed.egress.hop = to_uplink(uplink, gateway_mac, translation);
    Some(renewed)
}

/// TCP state after a flow's first packet.
fn first_state(packet: &Ip) -> Option<Tcp> {
    match packet.l4 {
        L4::Tcp { flags, .. } => Some(Tcp::first(flags)),
        _ => None,
    }
}

/// Forwards untranslated by the rules alone.
pub(crate) fn send_along(
    packet: &mut Packet<'_>,
    ip: &Ip,
    class: &Class<'_>,
) -> Result<OutIf, Verdict> {
    let (egress, ingress, direction) = hops(class).ok_or(Verdict::ToKernel)?;
    let hop = match direction {
        Direction::Egress => egress,
        Direction::Ingress => ingress,
    };
    hop.fits(ip, packet.ingress)?;
    hop.rewrite.apply(packet.head, ip);
    Ok(hop.out)
}
