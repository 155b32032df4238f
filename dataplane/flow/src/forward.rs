//! The life of one packet, in order: parse, screen, own, look up, decide on a miss, check TTL and
//! size, rewrite. Pure over bytes, state and snapshot; the caller does the I/O and the counting.

use penstock_packet::rewrite::set_destination_mac;
use penstock_packet::{DropReason, Fragment, Ip, L4, Parsed, parse};

use crate::classify::{self, classify};
use crate::key::{Direction, FlowKey, Zone};
use crate::miss::{decide_flow, without_flow};
use crate::table::FlowId;
use crate::{Engine, Ingress, OutIf, Packet, Snapshot, Timestamp, Verdict};

/// Decides and rewrites one packet.
pub fn forward(
    engine: &mut Engine,
    snapshot: &Snapshot,
    mut packet: Packet<'_>,
    now: Timestamp,
) -> Verdict {
    let verdict = match run(engine, snapshot, &mut packet, now) {
        Ok(out) => Verdict::Forward(out),
        Err(other) => other,
    };
    if verdict == Verdict::ToKernel && packet.head.first().is_some_and(|first| first & 1 == 0) {
        set_destination_mac(packet.head, snapshot.trunk_mac);
    }
    verdict
}

/// The steps; every way out but the last is an `Err`.
fn run(
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
    screen(snapshot, packet, &ip)?;
    let Some(key) = FlowKey::of(&ip, Zone::from(packet.ingress)) else {
        return without_flow(engine, snapshot, packet, &ip);
    };
    let owner = engine.owner(snapshot, key);
    if owner != engine.worker {
        return Err(Verdict::HandOff(owner));
    }
    let (id, direction) = match engine.lookup(key, snapshot) {
        Some(hit) => hit,
        None => match decide_flow(engine, snapshot, packet, (&ip, key), now)? {
            (flow, direction, true) => (engine.install(flow, now)?, direction),
            (flow, direction, false) => {
                let hop = &flow.way(direction).hop;
                hop.rewrite.apply(packet.head, &ip);
                return Ok(hop.out);
            }
        },
    };
    pass(engine, packet, &ip, (id, direction), now)
}

/// Frames that could not be read: on an uplink, what is merely foreign is the kernel's.
#[cold]
fn unreadable(reason: DropReason, ingress: Ingress) -> Verdict {
    use DropReason::{Ip6Disabled, L2Ethertype, L2Vlan};
    match (reason, ingress) {
        (Ip6Disabled | L2Ethertype | L2Vlan, Ingress::Uplink(_)) => Verdict::ToKernel,
        _ => Verdict::Drop(reason),
    }
}

/// What needs no flow to judge: MACs, impossible addresses, fragments and options.
#[inline]
fn screen(snapshot: &Snapshot, packet: &Packet<'_>, ip: &Ip) -> Result<(), Verdict> {
    if ip.addresses4().is_none() {
        return Err(unreadable(DropReason::Ip6Disabled, packet.ingress));
    }
    classify::addresses(ip)?;
    if let Ingress::Uplink(id) = packet.ingress {
        let ours = snapshot.uplink(id).ok_or(DropReason::NoUplink)?.mac;
        match packet.head.first_chunk::<6>() {
            Some(mac) if *mac == ours => {}
            Some([first, ..]) if first & 1 == 1 => return Err(Verdict::ToKernel),
            _ => return Err(DropReason::L2NotOurs.into()),
        }
    }
    if ip.fragment != Fragment::None || ip.has_options {
        classify(snapshot, ip, packet.source_mac(), packet.ingress)?;
        return Err(Verdict::ToKernel);
    }
    Ok(())
}

/// A packet of a known flow: state, counts, rewrite.
#[inline]
fn pass(
    engine: &mut Engine,
    packet: &mut Packet<'_>,
    ip: &Ip,
    (id, direction): (FlowId, Direction),
    now: Timestamp,
) -> Result<OutIf, Verdict> {
    let flow = engine.flow_mut(id).ok_or(DropReason::NatNosession)?;
    flow.way(direction).hop.fits(ip, packet.ingress)?;
    let translated = flow.egress.hop.rewrite.translation.is_some();
    let mut changed = false;
    if let (L4::Tcp { flags, .. }, Some(tcp)) = (ip.l4, flow.tcp) {
        if translated && flags.is_nonsense() {
            return Err(DropReason::TcpFlags.into());
        }
        let next = tcp.next(flow.sender(direction), flags);
        changed = next != tcp;
        flow.tcp = Some(next);
    }
    flow.last_seen = now;
    let way = flow.way_mut(direction);
    way.packets += 1;
    way.hop.rewrite.apply(packet.head, ip);
    let out = way.hop.out;
    engine.stats.translated += u64::from(translated);
    if changed {
        engine.rearm(id, now);
    }
    Ok(out)
}
