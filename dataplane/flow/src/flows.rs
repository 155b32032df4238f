//! The flows of one address family: table and timers, which live and die together.

use std::io;
use std::time::Duration;

use penstock_packet::TcpFlags;
use penstock_packet::rewrite::End;

use crate::Timestamp;
use crate::decide::{Revision, renew};
use crate::entry::{Carrier, Epoch, Moment, NewFlow, Stage, Way};
use crate::key::{Direction, FlowKey, Key};
use crate::offload::awaits_offer;
use crate::quota::Account;
use crate::seeded::Seed;
use crate::snapshot::Snapshot;
use crate::table::{FlowId, FlowTable, TableFull, WayId};
use crate::tcp_state::Tcp;
use crate::timeout::{Pressure, Timeouts};
use crate::wheel::Wheel;

/// Flows whose directions are `W`.
#[derive(Debug)]
pub(crate) struct Flows<W: Way> {
    pub(crate) table: FlowTable<W>,
    wheel: Wheel,
    timeouts: Timeouts,
    pressure: Pressure,
    /// Whether flows are offered to the hooks.
    offload: bool,
}

/// A flow that is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Removed {
    /// What it was.
    pub(crate) stage: Stage,
    /// Key its pod's packets had.
    pub(crate) egress: FlowKey,
    /// Address and port it held outside.
    pub(crate) snat: Option<End>,
    /// What it was charged to.
    pub(crate) account: Account,
}

/// What became of a flow whose timer fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has packets, or must wait out its quarantine.
    Lives,
    /// It carries no packets any more, but keeps its SNAT port for a while.
    Quarantined,
    /// It is gone.
    Removed(Removed),
    /// It was idle for long as far as is known here: the hooks must give it back first.
    Due(FlowId),
}

impl<W: Way> Flows<W> {
    /// Room for `capacity` flows.
    ///
    /// # Errors
    /// When the system has not that much memory to give.
    pub(crate) fn new(capacity: usize, seed: Seed) -> io::Result<Self> {
        let table = FlowTable::new(capacity, seed)?;
        Ok(Self {
            wheel: Wheel::new(table.capacity(), Timestamp::default()),
            table,
            timeouts: Timeouts::default(),
            pressure: Pressure::None,
            offload: false,
        })
    }

    /// Goes by other idle times from now on; a timer that runs is looked at when it fires.
    pub(crate) fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Says whether flows are offered to the hooks; holds for a flow from its next change on.
    pub(crate) const fn set_offload(&mut self, offload: bool) {
        self.offload = offload;
    }

    /// Puts a flow in and sets its timer.
    ///
    /// # Errors
    /// [`TableFull`]; nothing has changed then.
    pub(crate) fn insert(
        &mut self,
        flow: (&NewFlow, Account),
        epoch: Epoch,
        now: Timestamp,
    ) -> Result<FlowId, TableFull> {
        let id = self.table.insert(flow, epoch, Moment::from(now))?;
        self.press();
        self.settle(id);
        self.rearm(id, now);
        Ok(id)
    }

    /// Takes a flow out; the timer with it.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Removed> {
        self.wheel.disarm(id);
        let [egress, _] = self.table.both(id)?;
        let (egress, snat) = (egress.key().unpack(), egress.replacement());
        let pair = self.table.remove(id)?;
        self.press();
        Some(Removed {
            stage: pair.stage(),
            egress,
            snat,
            account: pair.account(),
        })
    }

    fn press(&mut self) {
        let (flows, capacity) = (self.table.len(), self.table.capacity());
        self.pressure = self.pressure.update(flows, capacity);
    }

    /// IP protocol of a flow, and its TCP state if that is TCP.
    fn kind(&self, id: FlowId) -> (u8, Option<Tcp>) {
        let way = self.table.way(WayId::of(id, Direction::Egress));
        let protocol = way.map_or(0, |way| way.key().protocol());
        let tcp = self.table.pair(id).and_then(|pair| pair.tcp(protocol));
        (protocol, tcp)
    }

    /// Sets a flow's timer by its present state.
    pub(crate) fn rearm(&mut self, id: FlowId, now: Timestamp) {
        let (protocol, tcp) = self.kind(id);
        let look = self.timeouts.look_after(protocol, tcp.map(|tcp| tcp.state));
        self.wheel.arm(id, now.after(look));
    }

    /// Wants a flow to be looked at soon.
    pub(crate) fn look_soon(&mut self, id: FlowId) {
        self.wheel.arm_soon(id);
    }

    /// Whether packets without a loud flag can change nothing about a flow's state.
    pub(crate) fn is_established(&self, id: FlowId) -> bool {
        let (_, tcp) = self.kind(id);
        tcp.is_none_or(|tcp| tcp.quiet(TcpFlags::ACK))
    }

    /// Tells both directions whether their next packet without a loud flag can change anything.
    /// With offload, the first answer can, and then all until the flow is offered.
    pub(crate) fn settle(&mut self, id: FlowId) {
        let established = self.is_established(id);
        let (Some(pair), Some(ways)) = (self.table.pair(id), self.table.both(id)) else {
            return;
        };
        let offered = self.offload && awaits_offer(pair, ways);
        let begun = pair.originator();
        let heard = ways.map(|way| way.track().packets > 0);
        for (direction, heard) in [Direction::Egress, Direction::Ingress]
            .into_iter()
            .zip(heard)
        {
            let news = self.offload && !heard && direction != begun;
            if let Some(way) = self.table.way_mut(WayId::of(id, direction)) {
                way.track_mut().set_quiet(established && !offered && !news);
            }
        }
    }

    /// Brings a flow that was decided under other rules up to these. It is gone when they end it.
    pub(crate) fn renew(&mut self, id: FlowId, snapshot: &Snapshot) -> Revision {
        let (Some(pair), Some(ways)) = (self.table.pair(id).copied(), self.table.both(id)) else {
            return Revision::Ended;
        };
        let revision = renew(&pair, ways, snapshot);
        if let Revision::Goes(hops, uplink) = revision {
            if let Some(pair) = self.table.pair_mut(id) {
                pair.uplink = uplink;
                match pair.carrier() {
                    Carrier::Hooks => pair.set_carrier(Carrier::Outdated),
                    Carrier::Refused => pair.set_carrier(Carrier::Worker),
                    Carrier::Worker | Carrier::Outdated | Carrier::Recalled => {}
                }
            }
            for (direction, hop) in [Direction::Egress, Direction::Ingress]
                .into_iter()
                .zip(hops)
            {
                if let Some(way) = self.table.way_mut(WayId::of(id, direction)) {
                    let track = way.track_mut();
                    track.hop = hop;
                    track.epoch = snapshot.short_epoch();
                }
            }
            self.settle(id);
        }
        revision
    }

    /// Looks at one flow whose time may have come; `None` when there is none.
    pub(crate) fn expire_one(&mut self, now: Timestamp) -> Option<Fate> {
        let id = self.wheel.pop_due(now)?;
        Some(self.judge(id, now))
    }

    /// Ends, quarantines or spares a flow whose timer fired.
    fn judge(&mut self, id: FlowId, now: Timestamp) -> Fate {
        let Some(pair) = self.table.pair(id).copied() else {
            return Fate::Lives;
        };
        let moment = Moment::from(now);
        let quarantined = pair.stage() == Stage::Quarantined;
        let known = pair.carrier().is_known_to_hooks();
        if known && (quarantined || !self.offload || !self.is_established(id)) {
            return Fate::Due(id);
        }
        let (protocol, tcp) = self.kind(id);
        let state = tcp.map(|tcp| tcp.state);
        let (idle, waited, look) = match quarantined {
            true => {
                let idle = self.timeouts.quarantine;
                (idle, moment.since(pair.since), idle)
            }
            false => (
                self.timeouts.idle_under(self.pressure, protocol, state),
                self.idle_for(id, moment),
                self.timeouts.look_after(protocol, state),
            ),
        };
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        if waited < idle_ms {
            let rest = Duration::from_millis(idle_ms - waited);
            self.wheel.arm(id, now.after(rest.min(look)));
            return Fate::Lives;
        }
        if known {
            return Fate::Due(id);
        }
        // RFC 6888 REQ-8 C: where mappings depend on the endpoint, as ours do, a port may be used
        // again at once. Under pressure, what nobody answered makes use of that: in quarantine it
        // would fill the table all the same (F33).
        let over = state.is_some_and(|state| {
            state.is_over() || state.is_half_open() && self.pressure == Pressure::High
        });
        if quarantined || over || !self.is_translated(id) {
            return self.remove(id).map_or(Fate::Lives, Fate::Removed);
        }
        self.quarantine(id, now);
        Fate::Quarantined
    }

    /// Milliseconds since the last packet of either direction.
    fn idle_for(&self, id: FlowId, now: Moment) -> u64 {
        self.table.both(id).map_or(u64::MAX, |ways| {
            let [egress, ingress] = ways.map(|way| now.since(way.track().last_seen));
            egress.min(ingress)
        })
    }

    /// Whether a flow holds a SNAT port.
    pub(crate) fn is_translated(&self, id: FlowId) -> bool {
        let way = self.table.way(WayId::of(id, Direction::Egress));
        way.is_some_and(|way| way.replacement().is_some())
    }

    /// Ends a flow but for its place: whether it carried packets until now.
    pub(crate) fn retire(&mut self, id: FlowId) -> bool {
        let Some(pair) = self.table.pair_mut(id) else {
            return false;
        };
        let was_live = pair.stage() == Stage::Live;
        pair.retire();
        self.disown(id);
        was_live
    }

    /// Ends a flow but for its port.
    fn quarantine(&mut self, id: FlowId, now: Timestamp) {
        if let Some(pair) = self.table.pair_mut(id) {
            pair.quarantine(Moment::from(now));
        }
        self.disown(id);
        self.wheel.arm(id, now.after(self.timeouts.quarantine));
    }

    /// Makes each further packet of a flow ask: no epoch is right for its directions any more.
    fn disown(&mut self, id: FlowId) {
        for direction in [Direction::Egress, Direction::Ingress] {
            if let Some(way) = self.table.way_mut(WayId::of(id, direction)) {
                way.track_mut().epoch = Epoch::default();
            }
        }
    }
}
