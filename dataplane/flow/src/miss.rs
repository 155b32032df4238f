//! Packets that hit no flow: the first of a flow, and those that never have one.
//!
//! The slow path: rules are asked here and nowhere else on the way of a packet. Installs nothing
//! itself; [`crate::forward()`] does that with what it gets.

use std::net::IpAddr;

use penstock_packet::rewrite::End;
use penstock_packet::{DropReason, Ip, L4, icmp};

use crate::classify::{Class, classify};
use crate::decide::{self, course, may_install, may_translate, send_along};
use crate::entry::NewFlow;
use crate::hop::NextHop;
use crate::key::{Family, FlowKey};
use crate::{Engine, OutIf, Packet, Rejection, Snapshot, Verdict, icmp_error};

/// What was decided for a packet without a flow.
pub(crate) enum Decision<'a> {
    /// It starts this one.
    Flow(NewFlow),
    /// It goes this way and leaves nothing behind.
    Once(&'a NextHop),
}

/// A miss: what this packet is, and the flow it starts.
pub(crate) fn decide_flow<'a>(
    engine: &mut Engine,
    snapshot: &'a Snapshot,
    packet: &Packet<'_>,
    (ip, key): (&Ip, FlowKey),
) -> Result<Decision<'a>, Verdict> {
    let class = classify(snapshot, ip, packet.source_mac(), packet.ingress)?;
    if let Class::ToSnatRange = class {
        return Err(DropReason::NatNosession.into());
    }
    let translated = class.is_translated();
    if translated {
        may_translate(ip)?;
    }
    let course = course(snapshot, &class, Family::from(ip.source)).ok_or(Verdict::ToKernel)?;
    let hop = snapshot.hop(course.hop()).ok_or(Verdict::ToKernel)?;
    hop.takes(ip, packet.ingress)?;
    let flow = decide::untranslated(ip, key, &course);
    let snat = snapshot.snat.as_ref().filter(|_| translated);
    let (Some(snat), IpAddr::V4(pod)) = (snat, ip.source) else {
        return Ok(match may_install(ip) {
            true => Decision::Flow(flow),
            false => Decision::Once(hop),
        });
    };
    let port = engine
        .lease(snapshot, key)
        .ok_or(Verdict::Reject(Rejection {
            reason: DropReason::NatNoPort,
            error: icmp::Error::Prohibited,
            ingress: packet.ingress,
        }))?;
    let end = |address, port| End { address, port };
    let (inside, outside) = (end(pod, key.source_port), end(snat.address, port));
    Ok(Decision::Flow(decide::translate(flow, inside, outside)))
}

/// What has no flow of its own: ICMP errors, other ICMP messages, malformed L4 headers.
pub(crate) fn without_flow(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    ip: &Ip,
) -> Result<OutIf, Verdict> {
    let class = classify(snapshot, ip, packet.source_mac(), packet.ingress)?;
    match ip.l4 {
        L4::IcmpError(kind) if ip.source.is_ipv4() => {
            return icmp_error::forward(engine, snapshot, packet, ip, (kind, class));
        }
        L4::Neighbor(_) => return Err(Verdict::ToKernel),
        _ => {}
    }
    if class.is_translated() {
        may_translate(ip)?;
    }
    send_along(snapshot, packet, ip, &class)
}
