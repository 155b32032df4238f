//! ICMP errors: forwarded to whom they concern, translated with the packet they quote.
//!
//! An error belongs to the flow of its quoted packet. It neither refreshes nor ends that flow
//! (RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10). Nothing here believes a path MTU.

use penstock_packet::icmp::{ErrorKind, Quote, QuotedL4, quote};
use penstock_packet::rewrite::Rewrite;
use penstock_packet::{DropReason, Ip};

use crate::classify::Class;
use crate::decide::send_along;
use crate::engine::Renewal;
use crate::entry::{Way, Way4};
use crate::key::{FlowKey, Key, Key4, Zone};
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
    let to_snat = snapshot.snat_ports(ip.destination).is_some();
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
        return unsessioned(snapshot, packet, ip, (&class, to_snat));
    };
    if to_snat && !from_pod && !in_range(snapshot, key) {
        return Err(Verdict::ToKernel);
    }
    let owner = engine.owner(snapshot, &key);
    if owner != engine.worker {
        return Err(Verdict::HandOff(owner));
    }
    let Some(at) = Key4::pack(&key).and_then(|key| engine.four.table.find(&key)) else {
        return unsessioned(snapshot, packet, ip, (&class, to_snat));
    };
    match engine.renewed::<Way4>(snapshot, at) {
        Renewal::Goes => {}
        Renewal::Waits => return Err(Verdict::ToKernel),
        Renewal::Ended => return unsessioned(snapshot, packet, ip, (&class, to_snat)),
    }
    let way = engine.four.table.way(at).ok_or(DropReason::NatNosession)?;
    let translation = *way.translation();
    let hop = snapshot.hop(way.track().hop).ok_or(DropReason::NoUplink)?;
    hop.takes(ip, packet.ingress)?;
    let rewrite = Rewrite {
        macs: hop.macs,
        translation,
    };
    rewrite.apply_to_error(packet.head, ip, &quoted);
    engine.stats.translated += u64::from(translation.side().is_some());
    Ok(hop.out)
}

/// Without a session: what need not be translated goes along by the rules (P58 otherwise).
fn unsessioned(
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    ip: &Ip,
    (class, to_snat): (&Class<'_>, bool),
) -> Result<OutIf, Verdict> {
    if class.is_translated() || to_snat {
        return Err(DropReason::NatNosession.into());
    }
    send_along(snapshot, packet, ip, class)
}

/// Key of the packets that would answer the quoted one: those travel the way the error does.
fn answers_key(quote: &Quote, zone: Zone) -> Option<FlowKey> {
    let (source_port, destination_port) = match quote.l4 {
        QuotedL4::Ports {
            source,
            destination,
        } => (destination, source),
        QuotedL4::EchoRequest { id } => (0, id),
        QuotedL4::EchoReply { id } => (id, 0),
        QuotedL4::Other => return None,
    };
    Some(FlowKey {
        source: quote.destination,
        destination: quote.source,
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
