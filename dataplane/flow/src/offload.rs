//! Flows that the hooks carry: when a worker wishes for it, and what it makes of the news.
//!
//! ```text
//!   Worker ──offer──► Hooks ──renew──► Outdated ──offer──► Hooks
//!     ▲                 │ └─────recall────┤
//!     │   Refused ◄─────┤                 ▼
//!     └────────────── Removed ◄────── Recalled
//! ```
//!
//! Guarantees: an engine never waits for the hooks. A flow that the hooks may know keeps its place
//! and its SNAT port until they say that they have forgotten it, whatever becomes of it meanwhile:
//! so a place names one flow, and no port is used twice. Wishes leave in the order they were made.
//! There are few of them at a time; one that finds no room is made again, by the flow's next
//! packet or its timer.
//!
//! An offer costs two system calls and so does taking it back, so it is for flows with
//! [`OFFER_AFTER`] packets behind them that both ends took part in.

use std::collections::VecDeque;
use std::net::IpAddr;

use penstock_packet::rewrite::{End, Macs, Side};
use penstock_packet::wire::{PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP};

use crate::engine::{Kept, Renewal};
use crate::entry::{Carrier, Moment, Pair, Stage, Way, Way4, Way6};
use crate::key::{Direction, FlowKey, Key};
use crate::table::{FlowId, WayId};
use crate::{Engine, OutIf, Snapshot, Timestamp, UplinkId, decide};

/// Packets of both directions after which a flow is worth offering: a connection with one question
/// and one answer has one less before its first FIN.
pub const OFFER_AFTER: u64 = 8;

/// Wishes an engine keeps until somebody takes them.
const OUTBOX: usize = 64;

/// Where a worker keeps a flow; names it as long as the hooks may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place(u32);

impl Place {
    fn of<W: Kept>(id: FlowId) -> Self {
        Self(id.0 << 1 | u32::from(W::IS_IP6))
    }

    const fn flow(self) -> FlowId {
        FlowId(self.0 >> 1)
    }

    const fn is_ip6(self) -> bool {
        self.0 & 1 == 1
    }

    /// As an integer: a table with room for `n` flows has places below `2 * n`.
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// From what [`Self::to_bits`] gave.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// What the hooks are to do with one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    /// Its packets as they arrive.
    pub key: FlowKey,
    /// Which end is replaced, and by what.
    pub replacement: Option<(Side, End)>,
    /// MACs its packets leave with.
    pub macs: Macs,
    /// Where they leave.
    pub out: OutIf,
    /// Bytes of IP packet that fit there.
    pub mtu: u16,
}

/// What a worker wishes the hooks to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Carry both directions of a flow, egress first, under the rules of an epoch. Whatever is in
    /// for the same place is replaced.
    Install {
        /// The flow.
        place: Place,
        /// Epoch of the snapshot it was decided under.
        epoch: u64,
        /// Its directions.
        passages: [Passage; 2],
    },
    /// Forget a flow; to be answered by [`News::Removed`], whether or not it was in.
    Remove {
        /// The flow.
        place: Place,
        /// Keys of its directions, egress first.
        keys: [FlowKey; 2],
    },
}

/// What the hooks have carried of one direction since the last news of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP; merged segments have the headers of one.
    pub bytes: u64,
    /// When the last of them came.
    pub last_seen: Timestamp,
}

/// What the hooks say of a flow that they may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// They have carried packets, egress first.
    Seen(Place, [Carried; 2]),
    /// They know it no more; what they carried since the last news.
    Removed(Place, [Carried; 2]),
    /// They would not take it as decided under this epoch, and know nothing of it.
    Refused(Place, u64),
    /// They know it by rules that are no longer in force.
    Stale(Place),
}

/// A conversation that the hooks went on carrying when the worker that had it was no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Keys of its directions, egress first.
    pub keys: [FlowKey; 2],
    /// Address and port that replace the pod's.
    pub snat: Option<End>,
    /// Uplink the pod's packets leave by; `None` between pods.
    pub uplink: Option<UplinkId>,
    /// What was carried, egress first.
    pub carried: [Carried; 2],
}

/// Wishes on their way out.
#[derive(Debug)]
pub(crate) struct Outbox(VecDeque<Wish>);

impl Outbox {
    pub(crate) fn new() -> Self {
        Self(VecDeque::with_capacity(OUTBOX))
    }

    /// Whether there was room.
    fn push(&mut self, wish: Wish) -> bool {
        let room = self.0.len() < OUTBOX;
        if room {
            self.0.push_back(wish);
        }
        room
    }
}

/// Whether the hooks can carry a protocol at all.
const fn is_carriable(protocol: u8) -> bool {
    matches!(
        protocol,
        PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_ICMP | PROTOCOL_ICMP6
    )
}

/// Whether an offer is what the next packets of a flow should lead to.
pub(crate) fn awaits_offer<W: Way>(pair: &Pair, [egress, ingress]: [&W; 2]) -> bool {
    pair.stage() == Stage::Live
        && matches!(pair.carrier(), Carrier::Worker | Carrier::Outdated)
        && is_carriable(egress.key().protocol())
        && egress.track().packets > 0
        && ingress.track().packets > 0
}

impl Engine {
    /// The next wish, in the order they were made.
    pub fn wish(&mut self) -> Option<Wish> {
        self.outbox.0.pop_front()
    }

    /// Whether a wish waits.
    #[must_use]
    pub fn has_wishes(&self) -> bool {
        !self.outbox.0.is_empty()
    }

    /// Takes up a conversation, if it is this worker's and the rules would have it so. Call it
    /// before the first packet of the snapshot.
    pub fn resume(&mut self, session: &Session, snapshot: &Snapshot, now: Timestamp) -> bool {
        let [egress, ingress] = &session.keys;
        let ours = |key| self.owner(snapshot, key) == self.worker;
        if !ours(egress) || !ours(ingress) {
            return false;
        }
        match egress.source {
            IpAddr::V4(_) => self.resume_kept::<Way4>(session, snapshot, now),
            IpAddr::V6(_) => self.resume_kept::<Way6>(session, snapshot, now),
        }
    }

    fn resume_kept<W: Kept>(
        &mut self,
        session: &Session,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> bool {
        let flow = decide::resume(session, snapshot);
        let Some(id) = flow.and_then(|flow| self.admit::<W>(&flow, snapshot, now).ok()) else {
            return false;
        };
        // Both ends were heard, or it would not have been offered.
        let heard = session.carried.map(|carried| Carried {
            packets: carried.packets.max(OFFER_AFTER),
            ..carried
        });
        self.credit::<W>(id, &heard, now);
        W::flows_mut(self).settle(id);
        true
    }

    /// Learns what the hooks say.
    pub fn hear(&mut self, news: &News, snapshot: &Snapshot, now: Timestamp) {
        let place = match news {
            News::Seen(place, _) | News::Removed(place, _) => *place,
            News::Refused(place, _) | News::Stale(place) => *place,
        };
        match place.is_ip6() {
            false => self.hear_kept::<Way4>(place.flow(), news, snapshot, now),
            true => self.hear_kept::<Way6>(place.flow(), news, snapshot, now),
        }
    }

    fn hear_kept<W: Kept>(&mut self, id: FlowId, news: &News, snapshot: &Snapshot, now: Timestamp) {
        let Some(pair) = W::flows(self).table.pair(id).copied() else {
            return;
        };
        match (news, pair.carrier()) {
            (News::Seen(_, carried), carrier) if carrier.is_known_to_hooks() => {
                self.credit::<W>(id, carried, now);
            }
            (News::Removed(_, carried), Carrier::Recalled) => {
                self.credit::<W>(id, carried, now);
                self.take_back::<W>(id, pair.stage());
            }
            // One of an earlier epoch was answered by a newer wish already.
            (News::Refused(_, epoch), Carrier::Hooks) if *epoch == snapshot.epoch => {
                self.stats.offloaded -= 1;
                self.set_carrier::<W>(id, Carrier::Refused);
            }
            (News::Stale(_), Carrier::Hooks | Carrier::Outdated) => {
                self.revise::<W>(id, snapshot);
            }
            _ => {}
        }
    }

    /// Counts what the hooks carried as if it had been carried here.
    fn credit<W: Kept>(&mut self, id: FlowId, carried: &[Carried; 2], now: Timestamp) {
        let now = Moment::from(now);
        for (direction, carried) in [Direction::Egress, Direction::Ingress]
            .into_iter()
            .zip(carried)
        {
            let way = W::flows_mut(self).table.way_mut(WayId::of(id, direction));
            let Some(way) = way.filter(|_| carried.packets > 0) else {
                continue;
            };
            let track = way.track_mut();
            track.packets += carried.packets;
            track.bytes += carried.bytes;
            let seen = Moment::from(carried.last_seen);
            if now.since(seen) < now.since(track.last_seen) {
                track.last_seen = seen;
            }
        }
    }

    /// The hooks know nothing of a flow any more.
    fn take_back<W: Kept>(&mut self, id: FlowId, stage: Stage) {
        self.stats.offloaded -= 1;
        self.set_carrier::<W>(id, Carrier::Worker);
        if stage == Stage::Live {
            // Its timer may have rung before what was carried was known.
            W::flows_mut(self).look_soon(id);
        } else {
            self.end::<W>(id);
        }
    }

    /// Looks at a flow whose rules have changed before its next packet does.
    fn revise<W: Kept>(&mut self, id: FlowId, snapshot: &Snapshot) {
        match self.renewed::<W>(snapshot, WayId::of(id, Direction::Egress)) {
            Renewal::Goes if snapshot.offload => {}
            Renewal::Goes | Renewal::Waits => self.recall::<W>(id),
            Renewal::Ended => {}
        }
    }

    /// After a packet that was not quite like those before it: offers its flow when it is time.
    #[cold]
    pub(crate) fn consider<W: Kept>(&mut self, snapshot: &Snapshot, id: FlowId) {
        let table = &W::flows(self).table;
        let (Some(pair), Some(ways)) = (table.pair(id), table.both(id)) else {
            return;
        };
        let packets: u64 = ways.iter().map(|way| way.track().packets).sum();
        if snapshot.offload && awaits_offer(pair, ways) && packets >= OFFER_AFTER {
            self.offer::<W>(snapshot, id);
        }
        W::flows_mut(self).settle(id);
    }

    /// Wishes that the hooks carry a flow, if its state allows it.
    fn offer<W: Kept>(&mut self, snapshot: &Snapshot, id: FlowId) {
        let flows = W::flows(self);
        let (true, Some([egress, ingress])) = (flows.is_established(id), flows.table.both(id))
        else {
            return;
        };
        let epoch = snapshot.short_epoch();
        let passage = |way: &W| {
            let track = way.track();
            let hop = snapshot.hop(track.hop).filter(|_| track.epoch == epoch)?;
            Some(Passage {
                key: way.key().unpack(),
                replacement: way.translation().side().zip(way.replacement()),
                macs: hop.macs,
                out: hop.out,
                mtu: hop.mtu,
            })
        };
        let (Some(egress), Some(ingress)) = (passage(egress), passage(ingress)) else {
            return;
        };
        let wish = Wish::Install {
            place: Place::of::<W>(id),
            epoch: snapshot.epoch,
            passages: [egress, ingress],
        };
        if !self.outbox.push(wish) {
            self.stats.offload_deferred += 1;
            return;
        }
        let before = W::flows(self).table.pair(id).map(Pair::carrier);
        self.stats.offloaded += u64::from(before == Some(Carrier::Worker));
        self.set_carrier::<W>(id, Carrier::Hooks);
    }

    /// Wishes that the hooks forget a flow, if they may know it.
    #[cold]
    pub(crate) fn recall<W: Kept>(&mut self, id: FlowId) {
        let table = &W::flows(self).table;
        let (Some(pair), Some(ways)) = (table.pair(id), table.both(id)) else {
            return;
        };
        match pair.carrier() {
            Carrier::Hooks | Carrier::Outdated => {}
            Carrier::Worker | Carrier::Recalled | Carrier::Refused => return,
        }
        let wish = Wish::Remove {
            place: Place::of::<W>(id),
            keys: ways.map(|way| way.key().unpack()),
        };
        if self.outbox.push(wish) {
            self.set_carrier::<W>(id, Carrier::Recalled);
        } else {
            self.stats.offload_deferred += 1;
            W::flows_mut(self).look_soon(id);
        }
    }

    /// Ends a flow that the hooks may know: for packets at once, for its place and its port when
    /// the hooks have forgotten it.
    pub(crate) fn retire<W: Kept>(&mut self, id: FlowId) {
        let flows = W::flows_mut(self);
        if flows.retire(id) {
            self.stats.flows -= 1;
        }
        self.recall::<W>(id);
    }

    fn set_carrier<W: Kept>(&mut self, id: FlowId, carrier: Carrier) {
        let flows = W::flows_mut(self);
        if let Some(pair) = flows.table.pair_mut(id) {
            pair.set_carrier(carrier);
        }
        // What either end has acknowledged lately, nobody here knows.
        for direction in [Direction::Egress, Direction::Ingress] {
            if let Some(way) = flows.table.way_mut(WayId::of(id, direction)) {
                way.track_mut().acknowledged = 0;
            }
        }
        flows.settle(id);
    }
}
