//! ICMP errors: forwarded to whom they concern, translated with the packet they quote.
//!
//! An error belongs to the flow of its quoted packet. It neither refreshes nor ends that flow
//! (RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10). Nothing here believes a path MTU.

use std::net::IpAddr;

use penstock_packet::icmp::{ErrorKind, Quote, QuotedL4, quote};
use penstock_packet::{DropReason, Ip};

use crate::classify::Class;
use crate::decide::send_along;
use crate::key::{FlowKey, Zone};
use crate::{Engine, Ingress, OutIf, Packet, Snapshot, Verdict};

/// Forwards one ICMP error of class `class`.
pub(crate) fn forward(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    ip: &Ip,
    (kind, class): (ErrorKind, Class<'_>),
) -> Result<OutIf, Verdict> {
    if kind == ErrorKind::Redirect {
        return Err(DropReason::IcmpRedirect.into());
    }
    // To one of the node's addresses it may be about a session of ours on the SNAT address.
    let (_, destination) = ip.addresses4().ok_or(DropReason::Ip6Disabled)?;
    let to_snat = snapshot.snat_ports(destination).is_some();
    if matches!(class, Class::Kernel) && !(to_snat && packet.ingress != Ingress::Trunk) {
        return Err(Verdict::ToKernel);
    }
    let quoted = quote(packet.head, ip)?;
    let from_pod = packet.ingress == Ingress::Trunk;
    if from_pod && quoted.destination != ip.source {
        return Err(DropReason::IcmpInner.into());
    }
    let key = answers_key(&quoted, Zone::from(packet.ingress)).filter(|_| from_pod || to_snat);
    let Some(key) = key else {
        return unsessioned(packet, ip, &class, to_snat);
    };
    if to_snat && !from_pod && !in_range(snapshot, key) {
        return Err(Verdict::ToKernel);
    }
    let owner = engine.owner(snapshot, key);
    if owner != engine.worker {
        return Err(Verdict::HandOff(owner));
    }
    let flow = engine
        .lookup(key, snapshot)
        .and_then(|(id, way)| Some((engine.flow(id)?, way)));
    let Some((flow, direction)) = flow else {
        return unsessioned(packet, ip, &class, to_snat);
    };
    let hop = flow.way(direction).hop;
    hop.fits(ip, packet.ingress)?;
    hop.rewrite.apply_to_error(packet.head, ip, &quoted);
    engine.stats.translated += u64::from(hop.rewrite.translation.is_some());
    Ok(hop.out)
}

/// Without a session: what need not be translated goes along by the rules (P58 otherwise).
fn unsessioned(
    packet: &mut Packet<'_>,
    ip: &Ip,
    class: &Class<'_>,
    to_snat: bool,
) -> Result<OutIf, Verdict> {
    match class {
        Class::Leaving {
            translated: true, ..
        } => Err(DropReason::NatNosession.into()),
        _ if to_snat => Err(DropReason::NatNosession.into()),
        _ => send_along(packet, ip, class),
    }
}

/// Key of the packets that would answer the quoted one: those travel the way the error does.
fn answers_key(quote: &Quote, zone: Zone) -> Option<FlowKey> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (quote.source, quote.destination) else {
        return None;
    };
    let (source_port, destination_port) = match quote.l4 {
        QuotedL4::Ports {
            source: from,
            destination: to,
        } => (to, from),
        QuotedL4::EchoRequest { id } => (0, id),
        QuotedL4::EchoReply { id } => (id, 0),
        QuotedL4::Other => return None,
    };
    Some(FlowKey {
        source: destination,
        destination: source,
        source_port,
        destination_port,
        protocol: quote.protocol,
        zone,
    })
}

/// Whether the answered packet could have left with a port of the engine's.
fn in_range(snapshot: &Snapshot, key: FlowKey) -> bool {
    snapshot
        .snat_ports(key.destination)
        .is_some_and(|range| (range.first..=range.last).contains(&key.destination_port))
}
