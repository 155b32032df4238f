//! Fragments on their way: the first decides, the others follow it.
//!
//! All pieces of a datagram meet at one worker, the one that the flow hash without ports names; the
//! hooks send them there too. It follows the datagram and passes each piece to the owner of its
//! flow, who follows it as well. What is not translated goes by its addresses alone and is
//! followed only to refuse pieces that overlap. A piece that comes before its first is held by
//! the caller ([`Verdict::Hold`]). References: RFC 4787 REQ-14, `crate::fragments`.

use penstock_packet::rewrite::{Translation, apply4_later};
use penstock_packet::{DropReason, Fragment, Ip, Piece};

use crate::classify::{Class, classify};
use crate::decide::send_along;
use crate::engine::{Kept, Renewal};
use crate::entry::{Moment, Way, Way4};
use crate::forward::carry;
use crate::fragments::{Datagram, Later};
use crate::key::{FlowKey, Key, Key4, Zone};
use crate::{Engine, Ingress, OutIf, Packet, Snapshot, Timestamp, Verdict, miss};

/// What became of the first fragment of a datagram that may be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is not translated.
    Along,
    /// It was the kernel's.
    Kernel,
    /// It was of the flow with this key.
    Flow(FlowKey),
}

/// Forwards one fragment.
pub(crate) fn forward(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    ip: &Ip,
    now: Timestamp,
) -> Result<OutIf, Verdict> {
    let zone = Zone::from(packet.ingress);
    let class = classify(snapshot, ip, packet.source_mac(), packet.ingress)?;
    let to_snat = packet.ingress != Ingress::Trunk && snapshot.snat_ports(ip.destination).is_some();
    if matches!(class, Class::Kernel) && !to_snat {
        return Err(Verdict::ToKernel);
    }
    let keeper = engine.keeper(ip, zone);
    if keeper != engine.worker && !packet.handed {
        return Err(Verdict::HandOff(keeper));
    }
    let datagram =
        |piece: &Piece| Datagram::new((ip.source, ip.destination), piece.id, ip.protocol, zone);
    let translated = to_snat || class.is_translated();
    match ip.fragment {
        Fragment::First(piece) if translated => {
            let begins = (piece, datagram(&piece));
            first(engine, snapshot, packet, (ip, &class, begins), now)
        }
        Fragment::Later(piece) if translated => {
            match engine.pieces.later(datagram(&piece), piece, now) {
                Later::Known(told) => later(engine, snapshot, packet, (ip, told), now),
                Later::Wait => Err(Verdict::Hold(datagram(&piece))),
                Later::Drop(reason) => Err(reason.into()),
            }
        }
        Fragment::First(piece) => {
            refuse_overlap(
                engine
                    .pieces
                    .first(datagram(&piece), piece, Told::Along, now),
            )?;
            send_along(snapshot, packet, ip, &class)
        }
        Fragment::Later(piece) => {
            if let Later::Drop(reason) = engine.pieces.later(datagram(&piece), piece, now) {
                refuse_overlap(Err(reason))?;
            }
            send_along(snapshot, packet, ip, &class)
        }
        Fragment::None => send_along(snapshot, packet, ip, &class),
    }
}

/// Room to follow it is no reason to keep an untranslated datagram back: its pieces need nobody
/// to know the way.
fn refuse_overlap(followed: Result<(), DropReason>) -> Result<(), Verdict> {
    match followed {
        Ok(()) | Err(DropReason::FragLimit) => Ok(()),
        Err(reason) => Err(reason.into()),
    }
}

/// The first fragment of a translated datagram, or one to the SNAT address.
fn first(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    (ip, class, (piece, datagram)): (&Ip, &Class<'_>, (Piece, Datagram)),
    now: Timestamp,
) -> Result<OutIf, Verdict> {
    let Some(key) = FlowKey::of(ip, Zone::from(packet.ingress)) else {
        return miss::without_flow(engine, snapshot, packet, ip);
    };
    let owner = engine.owner(snapshot, &key);
    let known = Key4::pack(&key).is_some_and(|key| engine.four.table.find(&key).is_some());
    let told = match class {
        Class::Kernel if owner == engine.worker && !known => Told::Kernel,
        // Nothing is remembered of what no flow is waiting for.
        Class::ToSnatRange if owner == engine.worker && !known => {
            return Err(DropReason::NatNosession.into());
        }
        _ => Told::Flow(key),
    };
    engine.pieces.first(datagram, piece, told, now)?;
    engine.begun = Some(datagram);
    if told == Told::Kernel {
        return Err(Verdict::ToKernel);
    }
    if owner != engine.worker {
        return Err(Verdict::HandOff(owner));
    }
    carry(engine, snapshot, packet, (ip, key), now)
}

/// A fragment whose first one has been decided.
fn later(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    (ip, told): (&Ip, Told),
    now: Timestamp,
) -> Result<OutIf, Verdict> {
    let key = match told {
        Told::Flow(key) => key,
        Told::Along | Told::Kernel => return Err(Verdict::ToKernel),
    };
    let owner = engine.owner(snapshot, &key);
    if owner != engine.worker {
        return Err(Verdict::HandOff(owner));
    }
    let at = Key4::pack(&key).and_then(|key| engine.four.table.find(&key));
    let at = at.ok_or(DropReason::NatNosession)?;
    match engine.renewed::<Way4>(snapshot, at) {
        Renewal::Goes => {}
        Renewal::Waits => return Err(Verdict::ToKernel),
        Renewal::Ended => return Err(DropReason::NatNosession.into()),
    }
    let (flows, stats) = Way4::flows_and_stats(engine);
    let way = flows.table.way_mut(at).ok_or(DropReason::NatNosession)?;
    let hop = snapshot.hop(way.track().hop).ok_or(DropReason::NoUplink)?;
    hop.takes(ip, packet.ingress)?;
    let track = way.track_mut();
    track.packets += 1;
    track.bytes += ip.ip_length() as u64;
    track.last_seen = Moment::from(now);
    let translation: &Translation = way.translation();
    apply4_later(packet.head, &hop.macs, translation);
    stats.translated += u64::from(translation.side().is_some());
    Ok(hop.out)
}
