//! The life of one packet, in order: look, find its flow, check TTL and size, rewrite; on a miss,
//! screen, own and decide first. Pure over bytes, state and snapshot; the caller does the I/O and
//! the counting.

use penstock_packet::rewrite::{Translation, set_destination_mac};
use penstock_packet::{DropReason, Fragment, Ip, Parsed, icmp, mss, parse};

use crate::classify::{self, classify};
use crate::engine::{Kept, Renewal};
use crate::entry::{Moment, NewFlow, Way4, Way6};
use crate::hop::NextHop;
use crate::key::{Direction, FlowKey, Zone};
use crate::look::{Look, Plain, Seen};
use crate::miss::{self, decide_flow, without_flow};
use crate::table::WayId;
use crate::{
    Engine, EngineStats, Ingress, OutIf, Packet, Rejection, Snapshot, Timestamp, Verdict, pieces,
};

/// Decides and rewrites one packet.
pub fn forward(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: Packet<'_>,
    now: Timestamp,
) -> Verdict {
    let mut look = engine.look(packet.head, packet.length, packet.ingress);
    engine.locate(std::slice::from_mut(&mut look));
    forward_seen(engine, snapshot, packet, &look, now)
}

/// Decides and rewrites one packet that [`Engine::look`] has seen, as it was then, with whatever
/// [`Engine::locate`] found. Packets of a batch may meanwhile have changed the flow: that is
/// noticed here.
#[inline]
pub fn forward_seen(
    engine: &mut Engine,
    snapshot: &Snapshot,
    mut packet: Packet<'_>,
    look: &Look,
    now: Timestamp,
) -> Verdict {
    let outcome = match &look.0 {
        Seen::Plain4(plain) => pass::<Way4>(engine, snapshot, &mut packet, plain, now),
        Seen::Plain6(plain) => pass::<Way6>(engine, snapshot, &mut packet, plain, now),
        Seen::Odd => Pass::Miss,
    };
    match outcome {
        Pass::Out(out) => Verdict::Forward(out),
        Pass::Miss => slow(engine, snapshot, &mut packet, now),
        Pass::Stop(verdict) => finish(verdict, &mut packet, snapshot),
    }
}

/// How far a packet came on the known way.
enum Pass {
    /// All of it.
    Out(OutIf),
    /// Its flow is known and keeps it from being forwarded.
    Stop(Verdict),
    /// There is no flow for it.
    Miss,
}

/// A packet of a known flow: state, counts, rewrite.
#[inline]
fn pass<W: Kept>(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    plain: &Plain<W::Key>,
    now: Timestamp,
) -> Pass {
    let (flows, stats) = W::flows_and_stats(engine);
    let way = flows.table.way_mut(plain.at);
    let Some(way) = way.filter(|way| is_settled(*way, snapshot, plain)) else {
        return unsettled::<W>(engine, snapshot, packet, plain, now);
    };
    go(way, stats, snapshot, packet, (plain, now))
}

/// Whether a packet is of this way, and neither rules nor state ask for another look.
#[inline]
fn is_settled<W: Kept>(way: &W, snapshot: &Snapshot, plain: &Plain<W::Key>) -> bool {
    let track = way.track();
    *way.key() == plain.key
        && track.epoch == snapshot.short_epoch()
        && track.is_quiet()
        && !plain.loud
}

/// Takes a packet the way of its direction.
#[inline]
fn go<W: Kept>(
    way: &mut W,
    stats: &mut EngineStats,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    (plain, now): (&Plain<W::Key>, Timestamp),
) -> Pass {
    let hop = match admits(way, snapshot, packet, plain) {
        Ok(hop) => hop,
        Err(verdict) => return Pass::Stop(verdict),
    };
    let track = way.track_mut();
    track.packets += 1;
    track.bytes += u64::from(plain.ip_length);
    track.last_seen = Moment::from(now);
    track.acknowledged = plain.acknowledgment;
    way.change(packet.head, &hop.macs);
    stats.translated += u64::from(way.translation().side().is_some());
    Pass::Out(hop.out)
}

/// A packet whose flow was not where it was thought to be, was decided under other rules, or whose
/// state it may change.
#[cold]
fn unsettled<W: Kept>(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    plain: &Plain<W::Key>,
    now: Timestamp,
) -> Pass {
    let Some(at) = W::flows(engine).table.find_at(plain.spot, &plain.key) else {
        return Pass::Miss;
    };
    match engine.renewed::<W>(snapshot, at) {
        Renewal::Goes => {}
        Renewal::Waits => return Pass::Stop(Verdict::ToKernel),
        Renewal::Ended => return Pass::Miss,
    }
    let Some(way) = W::flows(engine).table.way(at) else {
        return Pass::Miss;
    };
    let stirs = plain.loud || !way.track().is_quiet();
    if stirs {
        // A packet that may not go on must not change the state of its flow.
        let admitted = admits(way, snapshot, packet, plain).map(|_hop| ());
        if let Err(verdict) = admitted.and_then(|()| speak::<W>(engine, snapshot, packet, at, now))
        {
            return Pass::Stop(verdict);
        }
    }
    let (flows, stats) = W::flows_and_stats(engine);
    let passed = match flows.table.way_mut(at) {
        Some(way) => go(way, stats, snapshot, packet, (plain, now)),
        None => return Pass::Miss,
    };
    if stirs {
        engine.consider::<W>(snapshot, at.flow());
    }
    passed
}

/// The hop of a way, if a packet may take it.
#[inline]
fn admits<'a, W: Kept>(
    way: &W,
    snapshot: &'a Snapshot,
    packet: &Packet<'_>,
    plain: &Plain<W::Key>,
) -> Result<&'a NextHop, Verdict> {
    let hop = snapshot.hop(way.track().hop).ok_or(DropReason::NoUplink)?;
    let size = (plain.ip_length as usize, plain.dont_fragment);
    misdirected(snapshot, packet)?;
    hop.fits(plain.ttl, size, packet.ingress)?;
    Ok(hop)
}

/// P05: a frame on an uplink that is for another MAC.
#[inline]
fn misdirected(snapshot: &Snapshot, packet: &Packet<'_>) -> Result<(), Verdict> {
    let Ingress::Uplink(id) = packet.ingress else {
        return Ok(());
    };
    let uplink = snapshot.uplink(id).ok_or(DropReason::NoUplink)?;
    match packet.head.first_chunk::<6>() {
        Some(mac) if *mac == uplink.mac => Ok(()),
        Some([first, ..]) if first & 1 == 1 => Err(Verdict::ToKernel),
        _ => Err(DropReason::L2NotOurs.into()),
    }
}

/// A segment that may change what state its conversation is in.
fn speak<W: Kept>(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    at: WayId,
    now: Timestamp,
) -> Result<(), Verdict> {
    let Ok(Parsed::Ip(ip)) = parse(packet.head, packet.length) else {
        return Ok(());
    };
    engine.speak::<W>(at, &ip, now).map_err(Verdict::Drop)?;
    clamp(snapshot, packet, &ip);
    Ok(())
}

/// Lowers the segment size that a SYN offers, where that is asked for. `ip` may be what the packet
/// was before it was changed for its hop: nothing of that is looked at.
fn clamp(snapshot: &Snapshot, packet: &mut Packet<'_>, ip: &Ip) {
    if let Some(mss) = snapshot.mss_clamp {
        mss::clamp(packet.head, ip, mss);
    }
}

/// Everything that is not a packet of a known flow.
#[cold]
fn slow(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    now: Timestamp,
) -> Verdict {
    match judge(engine, snapshot, packet, now) {
        Ok(out) => Verdict::Forward(out),
        Err(verdict) => finish(verdict, packet, snapshot),
    }
}

/// What is for the kernel is addressed to it.
#[cold]
fn finish(verdict: Verdict, packet: &mut Packet<'_>, snapshot: &Snapshot) -> Verdict {
    let unicast = packet.head.first().is_some_and(|first| first & 1 == 0);
    if verdict == Verdict::ToKernel && unicast {
        set_destination_mac(packet.head, snapshot.trunk_mac);
    }
    verdict
}

/// The slow path's steps; every way out but the last is an `Err`.
fn judge(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    now: Timestamp,
) -> Result<OutIf, Verdict> {
    let ip = match parse(packet.head, packet.length) {
        Ok(Parsed::Ip(ip)) => ip,
        Ok(Parsed::Arp) => return Err(Verdict::ToKernel),
        Err(reason) => return Err(unreadable(reason, packet.ingress)),
    };
    classify::addresses(&ip)?;
    misdirected(snapshot, packet)?;
    if ip.has_options {
        classify(snapshot, &ip, packet.source_mac(), packet.ingress)?;
        return Err(Verdict::ToKernel);
    }
    if ip.fragment != Fragment::None {
        return pieces::forward(engine, snapshot, packet, &ip, now);
    }
    let Some(key) = FlowKey::of(&ip, Zone::from(packet.ingress)) else {
        return without_flow(engine, snapshot, packet, &ip);
    };
    let owner = engine.owner(snapshot, &key);
    if owner != engine.worker {
        return Err(Verdict::HandOff(owner));
    }
    begin(engine, snapshot, packet, (&ip, key), now)
}

/// Decides a packet that is of no flow yet.
fn begin(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    (ip, key): (&Ip, FlowKey),
    now: Timestamp,
) -> Result<OutIf, Verdict> {
    match decide_flow(engine, snapshot, packet, (ip, key))? {
        miss::Decision::Flow(flow) => first(engine, snapshot, packet, (ip, &flow), now),
        miss::Decision::Once(hop) => {
            hop.send(packet.head, ip, &Translation::NONE);
            Ok(hop.out)
        }
    }
}

/// Forwards the first fragment of an IPv4 datagram as any packet with its ports.
pub(crate) fn carry(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    (ip, key): (&Ip, FlowKey),
    now: Timestamp,
) -> Result<OutIf, Verdict> {
    let Some(plain) = engine.plain_of(ip, &key) else {
        return begin(engine, snapshot, packet, (ip, key), now);
    };
    match pass::<Way4>(engine, snapshot, packet, &plain, now) {
        Pass::Out(out) => Ok(out),
        Pass::Stop(verdict) => Err(verdict),
        Pass::Miss => begin(engine, snapshot, packet, (ip, key), now),
    }
}

/// Installs a flow and forwards its first packet.
fn first(
    engine: &mut Engine,
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    (ip, flow): (&Ip, &NewFlow),
    now: Timestamp,
) -> Result<OutIf, Verdict> {
    let (hop, translation) = match (flow.originator, flow.translations) {
        (Direction::Egress, [out, _]) => (flow.egress_hop, out),
        (Direction::Ingress, [_, back]) => (flow.ingress_hop, back),
    };
    let hop = snapshot.hop(hop).ok_or(DropReason::NoUplink)?;
    engine
        .install(flow, ip, snapshot, now)
        .map_err(|reason| refused(reason, packet.ingress))?;
    hop.send(packet.head, ip, &translation);
    clamp(snapshot, packet, ip);
    Ok(hop.out)
}

/// A flow that may not begin. The pod that has too many hears of it (RFC 5508 REQ-8); that the
/// table is full is nobody's to know.
fn refused(reason: DropReason, ingress: Ingress) -> Verdict {
    match reason {
        DropReason::PodQuota => Verdict::Reject(Rejection {
            reason,
            error: icmp::Error::Prohibited,
            ingress,
        }),
        _ => Verdict::Drop(reason),
    }
}

/// Frames that could not be read: on an uplink, what is merely foreign is the kernel's.
fn unreadable(reason: DropReason, ingress: Ingress) -> Verdict {
    use DropReason::{Ip6Disabled, L2Ethertype, L2Vlan};
    match (reason, ingress) {
        (Ip6Disabled | L2Ethertype | L2Vlan, Ingress::Uplink(_)) => Verdict::ToKernel,
        _ => Verdict::Drop(reason),
    }
}
