//! Packets that hit no flow: the first of a flow, and those that never have one.
//!
//! The slow path: rules are asked here and nowhere else on the way of a packet. Installs nothing
//! itself; [`crate::forward()`] does that with what it gets.

use penstock_packet::rewrite::End;
use penstock_packet::{DropReason, Ip, L4, icmp};

use crate::classify::{Class, classify};
use crate::decide::{self, hops, may_install, may_translate, send_along};
use crate::entry::Flow;
use crate::key::{Direction, FlowKey};
use crate::{Engine, OutIf, Packet, Rejection, Snapshot, Timestamp, Verdict, icmp_error};

/// A miss: what this packet is, and the flow it starts; `false` when it leaves none behind.
#[cold]
pub(crate) fn decide_flow(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &Packet<'_>,
    (ip, key): (&Ip, FlowKey),
    now: Timestamp,
) -> Result<(Flow, Direction, bool), Verdict> {
    let class = classify(snapshot, ip, packet.source_mac(), packet.ingress)?;
    if let Class::ToSnatRange = class {
        return Err(DropReason::NatNosession.into());
    }
    let translated = matches!(
        class,
        Class::Leaving {
            translated: true,
            ..
        }
    );
    if translated {
        may_translate(ip)?;
    }
    let hops = hops(&class).ok_or(Verdict::ToKernel)?;
    let direction = hops.2;
    let flow = decide::untranslated(ip, key, &class, hops, (snapshot.epoch, now));
    flow.way(direction).hop.fits(ip, packet.ingress)?;
    let Some(snat) = snapshot.snat.as_ref().filter(|_| translated) else {
        return Ok((flow, direction, may_install(ip)));
    };
    let port = engine.lease(snat, key).ok_or(Verdict::Reject(Rejection {
        reason: DropReason::NatNoPort,
        error: icmp::Error::Prohibited,
        ingress: packet.ingress,
    }))?;
    let outside = End {
        address: snat.address,
        port,
    };
    Ok((decide::translate(flow, outside), direction, true))
}

/// What has no flow of its own: ICMP errors, other ICMP messages, malformed L4 headers.
#[cold]
pub(crate) fn without_flow(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    ip: &Ip,
) -> Result<OutIf, Verdict> {
    let class = classify(snapshot, ip, packet.source_mac(), packet.ingress)?;
    if let L4::IcmpError(kind) = ip.l4 {
        return icmp_error::forward(engine, snapshot, packet, ip, (kind, class));
    }
    if let Class::Leaving {
        translated: true, ..
    } = class
    {
        may_translate(ip)?;
    }
    send_along(packet, ip, &class)
}
