//! One worker's flows and everything around them: tables, timers, SNAT ports, counts.
//!
//! [`crate::forward()`] is the only way packets get in. Workers share nothing: each flow has one
//! owner, found by [`Engine::owner`] from the packet alone.

use std::io;
use std::net::IpAddr;

use penstock_packet::hash::queue;
use penstock_packet::rewrite::Macs;
use penstock_packet::{DropReason, Ip, L4, rewrite};

use crate::decide::Revision;
use crate::entry::{Carrier, Moment, NewFlow, Pair, Stage, Way, Way4, Way6};
use crate::flows::{Fate, Flows, Removed};
use crate::fragments::{Datagram, Tracker};
use crate::key::{Direction, FlowKey, Key, Key4, Zone};
use crate::offload::Outbox;
use crate::pieces::Told;
use crate::ports::{self, PortPicker, Remote, Space};
use crate::quota::{self, Quota, Refused};
use crate::reject::Limiter;
use crate::seeded::Seed;
use crate::table::{FlowId, WayId};
use crate::tcp_state::TcpState;
use crate::{OutIf, Snapshot, Timestamp, UplinkId};

/// What an engine is made with.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Which worker this is, from 0.
    pub worker: u16,
    /// How many there are; at least 1.
    pub workers: u16,
    /// Most IPv4 flows this worker holds; all memory for them is taken at the start.
    pub capacity: usize,
    /// Most IPv6 flows, likewise.
    pub capacity6: usize,
    /// Secret from the operating system's random source; different for every start.
    pub seed: Seed,
}

/// Counts of an engine; those without "now" only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Flows now, without those that only keep their port in quarantine.
    pub flows: u64,
    /// Flows created.
    pub flows_created: u64,
    /// Flows ended by time.
    pub flows_expired: u64,
    /// SNAT ports in use or in quarantine now; one per translated flow.
    pub snat_ports: u64,
    /// Packets translated, either direction.
    pub translated: u64,
    /// Flows now that the hooks carry or may know.
    pub offloaded: u64,
    /// Wishes about offload that found no room and are made again later.
    pub offload_deferred: u64,
}

/// A flow as people want to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowView {
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's address; of two pods, the one that began.
    pub pod: IpAddr,
    /// The pod's L4 port; the identifier when the pod sends the echo requests.
    pub pod_port: u16,
    /// The other side's address.
    pub remote: IpAddr,
    /// The other side's L4 port; the identifier when it sends the echo requests.
    pub remote_port: u16,
    /// Address and port that replace the pod's.
    pub snat: Option<rewrite::End>,
    /// Where the pod's packets leave.
    pub out: OutIf,
    /// TCP state.
    pub state: Option<TcpState>,
    /// Packets from the pod.
    pub packets_out: u64,
    /// Bytes of IP from the pod.
    pub bytes_out: u64,
    /// Packets to the pod.
    pub packets_in: u64,
    /// Bytes of IP to the pod.
    pub bytes_in: u64,
    /// Milliseconds since the last packet of either direction.
    pub idle_ms: u64,
}

/// Flow state of one worker.
#[derive(Debug)]
pub struct Engine {
    pub(crate) worker: u16,
    pub(crate) workers: u16,
    pub(crate) limiter: Limiter,
    pub(crate) four: Flows<Way4>,
    pub(crate) six: Flows<Way6>,
    pub(crate) pieces: Tracker<Told>,
    pub(crate) begun: Option<Datagram>,
    quota: Quota,
    picker: PortPicker,
    pub(crate) stats: EngineStats,
    pub(crate) outbox: Outbox,
}

/// What became of a flow under the present snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// It goes on.
    Goes,
    /// It lives, but just now only the kernel can carry its packets.
    Waits,
    /// It is no more, or only keeps its port.
    Ended,
}

/// Where an engine keeps the flows of a family, and what it does to their packets.
pub(crate) trait Kept: Way {
    /// Which family.
    const IS_IP6: bool;

    /// The flows.
    fn flows(engine: &Engine) -> &Flows<Self>;

    /// The flows, to change.
    fn flows_mut(engine: &mut Engine) -> &mut Flows<Self> {
        Self::flows_and_stats(engine).0
    }

    /// The flows and the counts, to change.
    fn flows_and_stats(engine: &mut Engine) -> (&mut Flows<Self>, &mut EngineStats);

    /// Changes a packet without options or extension headers.
    fn change(&self, head: &mut [u8], macs: &Macs);
}

impl Kept for Way4 {
    const IS_IP6: bool = false;

    #[inline]
    fn flows(engine: &Engine) -> &Flows<Self> {
        &engine.four
    }

    #[inline]
    fn flows_and_stats(engine: &mut Engine) -> (&mut Flows<Self>, &mut EngineStats) {
        (&mut engine.four, &mut engine.stats)
    }

    #[inline]
    fn change(&self, head: &mut [u8], macs: &Macs) {
        use penstock_packet::wire::{ETHERNET, IP4};
        rewrite::apply4(head, macs, self.translation(), ETHERNET + IP4);
    }
}

impl Kept for Way6 {
    const IS_IP6: bool = true;

    #[inline]
    fn flows(engine: &Engine) -> &Flows<Self> {
        &engine.six
    }

    #[inline]
    fn flows_and_stats(engine: &mut Engine) -> (&mut Flows<Self>, &mut EngineStats) {
        (&mut engine.six, &mut engine.stats)
    }

    #[inline]
    fn change(&self, head: &mut [u8], macs: &Macs) {
        rewrite::apply6(head, macs);
    }
}

impl Engine {
    /// An engine without flows, with default timers and no limit for a pod until
    /// [`Engine::adopt`] says otherwise.
    ///
    /// # Errors
    /// When the system has not that much memory to give.
    pub fn new(config: EngineConfig) -> io::Result<Self> {
        let [k0, k1] = config.seed;
        Ok(Self {
            worker: config.worker,
            workers: config.workers.max(1),
            limiter: Limiter::new(config.workers, config.seed),
            four: Flows::new(config.capacity, config.seed)?,
            six: Flows::new(config.capacity6, [k1, k0])?,
            pieces: Tracker::new([!k1, k0]),
            begun: None,
            quota: Quota::new(config.workers, quota::MAX_ACCOUNTS, [!k0, !k1]),
            // Ports are seen outside: their secret must tell nothing of the tables'.
            picker: PortPicker::new([k1.rotate_left(32), !k0]),
            stats: EngineStats::default(),
            outbox: Outbox::new(),
        })
    }

    /// Tunes the engine as a snapshot says; call it once for each, before its first packet.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        self.four.set_timeouts(snapshot.timeouts);
        self.six.set_timeouts(snapshot.timeouts);
        self.four.set_offload(snapshot.offload);
        self.six.set_offload(snapshot.offload);
        self.quota.set_limit(snapshot.flows_per_pod);
    }

    /// The datagram whose first fragment came last since this was asked: packets held for it can
    /// go on.
    pub const fn begun(&mut self) -> Option<Datagram> {
        self.begun.take()
    }

    /// Counts now.
    #[must_use]
    pub const fn stats(&self) -> EngineStats {
        self.stats
    }

    /// Places that flows can have, as [`crate::offload::Place::to_bits`] numbers them.
    #[must_use]
    pub fn places(&self) -> usize {
        self.four.table.capacity().max(self.six.table.capacity()) * 2
    }

    /// Bytes of memory an IPv4 and an IPv6 flow take, both directions in all tables and timers.
    #[must_use]
    pub fn bytes_per_flow(&self) -> [usize; 2] {
        let timer = crate::wheel::BYTES_PER_FLOW;
        [
            self.four.table.bytes_per_flow() + timer,
            self.six.table.bytes_per_flow() + timer,
        ]
    }

    /// Flows that carry packets, in no order.
    pub fn flows(&self, now: Timestamp) -> impl Iterator<Item = FlowView> {
        let live = |pair: &Pair| pair.stage() == Stage::Live;
        let four = self.four.table.iter().filter(move |(pair, _)| live(pair));
        let six = self.six.table.iter().filter(move |(pair, _)| live(pair));
        four.map(move |(pair, ways)| view(pair, ways, now))
            .chain(six.map(move |(pair, ways)| view(pair, ways, now)))
    }

    /// Looks at up to `budget` flows whose time may have come and ends those that were idle too
    /// long. Returns how many were looked at; less than `budget` means none are left for now.
    pub fn expire(&mut self, now: Timestamp, budget: usize) -> usize {
        let looked = self.expire_kept::<Way4>(now, budget);
        looked + self.expire_kept::<Way6>(now, budget - looked)
    }

    fn expire_kept<W: Kept>(&mut self, now: Timestamp, budget: usize) -> usize {
        for looked in 0..budget {
            let Some(fate) = W::flows_mut(self).expire_one(now) else {
                return looked;
            };
            match fate {
                Fate::Lives => {}
                Fate::Quarantined => {
                    self.stats.flows -= 1;
                    self.stats.flows_expired += 1;
                }
                Fate::Due(id) => {
                    self.recall::<W>(id);
                    W::flows_mut(self).look_soon(id);
                }
                Fate::Removed(removed) => {
                    self.stats.flows_expired += u64::from(removed.stage == Stage::Live);
                    self.account(&removed);
                }
            }
        }
        budget
    }

    /// Ends a flow at once; `None` also when its place stays taken, because the hooks may know it.
    pub(crate) fn end<W: Kept>(&mut self, id: FlowId) -> Option<Removed> {
        let carrier = W::flows(self).table.pair(id).map(Pair::carrier);
        if carrier.is_some_and(Carrier::is_known_to_hooks) {
            self.retire::<W>(id);
            return None;
        }
        let removed = W::flows_mut(self).remove(id)?;
        self.account(&removed);
        Some(removed)
    }

    /// Gives back what a flow held.
    fn account(&mut self, removed: &Removed) {
        self.stats.flows -= u64::from(removed.stage == Stage::Live);
        self.quota.give(removed.account);
        let Some(end) = removed.snat else {
            return;
        };
        self.stats.snat_ports -= 1;
        if let Some(remote) = Remote::of(&removed.egress) {
            self.picker.release(remote, end.port);
        }
    }

    /// Worker that owns the packets with this key. Answers to translated flows belong to the
    /// worker whose slice their port is in, everything else to its flow hash's.
    pub(crate) fn owner(&self, snapshot: &Snapshot, key: &FlowKey) -> u16 {
        if self.workers == 1 {
            return self.worker;
        }
        let by_port = match key.zone {
            Zone::Uplinks => snapshot.snat_ports(key.destination),
            Zone::Pods => None,
        };
        by_port
            .and_then(|range| ports::owner(range, key.destination_port, self.workers))
            .unwrap_or_else(|| queue(key.hash(), self.workers))
    }

    /// Worker that follows the datagrams between two addresses: the one the hooks send them to.
    pub(crate) fn keeper(&self, ip: &Ip, zone: Zone) -> u16 {
        let key = FlowKey {
            source: ip.source,
            destination: ip.destination,
            source_port: 0,
            destination_port: 0,
            protocol: ip.protocol,
            zone,
        };
        queue(key.hash(), self.workers)
    }

    /// Brings the flow of a way up to this snapshot, if it was decided under another.
    #[inline]
    pub(crate) fn renewed<W: Kept>(&mut self, snapshot: &Snapshot, at: WayId) -> Renewal {
        let way = W::flows(self).table.way(at);
        match way.is_some_and(|way| way.track().epoch == snapshot.short_epoch()) {
            true => Renewal::Goes,
            false => self.renew::<W>(snapshot, at.flow()),
        }
    }

    #[cold]
    fn renew<W: Kept>(&mut self, snapshot: &Snapshot, id: FlowId) -> Renewal {
        let flows = W::flows_mut(self);
        match flows.table.pair(id).map(Pair::stage) {
            Some(Stage::Live) => {}
            _ => return Renewal::Ended,
        }
        match flows.renew(id, snapshot) {
            Revision::Goes(..) => Renewal::Goes,
            Revision::Waits => Renewal::Waits,
            Revision::Ended => {
                self.end::<W>(id);
                Renewal::Ended
            }
        }
    }

    /// Judges a segment of the flow at `at` and moves its state on.
    pub(crate) fn speak<W: Kept>(
        &mut self,
        at: WayId,
        ip: &Ip,
        now: Timestamp,
    ) -> Result<(), DropReason> {
        let L4::Tcp {
            flags, sequence, ..
        } = ip.l4
        else {
            return Ok(());
        };
        let flows = W::flows_mut(self);
        let receiver = WayId::of(at.flow(), at.direction().reverse());
        let last_ack = flows.table.way(receiver);
        let last_ack = last_ack.map(|way| way.track().acknowledged);
        let last_ack = last_ack.filter(|last_ack| *last_ack != 0);
        let known = flows.table.pair(at.flow()).map(Pair::carrier);
        // What the hooks carry is not seen here: nobody knows where the conversation stands.
        let last_ack = last_ack.filter(|_| !known.is_some_and(Carrier::is_known_to_hooks));
        if flags.is_nonsense() && flows.is_translated(at.flow()) {
            return Err(DropReason::TcpFlags);
        }
        let Some(pair) = flows.table.pair_mut(at.flow()) else {
            return Ok(());
        };
        let Some(tcp) = pair.tcp(ip.protocol) else {
            return Ok(());
        };
        let sender = pair.sender(at.direction());
        let next = tcp.judge(sender, flags, sequence, last_ack);
        if next != tcp {
            pair.set_tcp(next);
            flows.settle(at.flow());
            flows.rearm(at.flow(), now);
            if !flows.is_established(at.flow()) {
                self.recall::<W>(at.flow());
            }
        }
        Ok(())
    }

    /// Puts a new flow in, with its first packet counted. Whatever still sits under its keys,
    /// such as a quarantined flow whose destination is no longer translated, goes.
    pub(crate) fn install(
        &mut self,
        flow: &NewFlow,
        ip: &Ip,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<(), DropReason> {
        match ip.source {
            IpAddr::V4(_) => self.install_kept::<Way4>(flow, ip, snapshot, now),
            IpAddr::V6(_) => self.install_kept::<Way6>(flow, ip, snapshot, now),
        }
    }

    fn install_kept<W: Kept>(
        &mut self,
        flow: &NewFlow,
        ip: &Ip,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<(), DropReason> {
        let id = self.admit::<W>(flow, snapshot, now)?;
        if let Some(way) = W::flows_mut(self)
            .table
            .way_mut(WayId::of(id, flow.originator))
        {
            let track = way.track_mut();
            track.packets = 1;
            track.bytes = ip.ip_length() as u64;
            if let L4::Tcp { acknowledgment, .. } = ip.l4 {
                track.acknowledged = acknowledgment;
            }
        }
        let [out, _] = flow.translations;
        self.stats.translated += u64::from(out.side().is_some());
        Ok(())
    }

    /// Puts a flow in without any packet.
    pub(crate) fn admit<W: Kept>(
        &mut self,
        flow: &NewFlow,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<FlowId, DropReason> {
        for key in [&flow.egress, &flow.ingress] {
            let key = W::Key::pack(key).ok_or(DropReason::FlowTableFull)?;
            if let Some(at) = W::flows(self).table.find(&key)
                && self.end::<W>(at.flow()).is_none()
            {
                return Err(DropReason::FlowTableFull);
            }
        }
        let [pod, _] = flow.pods;
        let account = self
            .quota
            .take(u64::from(pod))
            .map_err(|refused| match refused {
                Refused::Limit => DropReason::PodQuota,
                Refused::Accounts => DropReason::FlowTableFull,
            })?;
        let flows = W::flows_mut(self);
        let Ok(id) = flows.insert((flow, account), snapshot.short_epoch(), now) else {
            self.quota.give(account);
            return Err(DropReason::FlowTableFull);
        };
        let [out, _] = flow.translations;
        self.stats.flows += 1;
        self.stats.flows_created += 1;
        self.stats.snat_ports += u64::from(out.side().is_some());
        Ok(id)
    }

    /// A port for a new translated flow with this egress key, from this worker's slice. The port
    /// a quarantined flow of the same key holds is given back to it.
    pub(crate) fn lease(&mut self, snapshot: &Snapshot, egress: FlowKey) -> Option<u16> {
        let snat = snapshot.snat.as_ref()?;
        let (remote, IpAddr::V4(pod)) = (Remote::of(&egress)?, egress.source) else {
            return None;
        };
        let held = Key4::pack(&egress).and_then(|key| self.four.table.find(&key));
        if let Some(at) = held
            && at.direction() == Direction::Egress
        {
            let end = self.end::<Way4>(at.flow()).and_then(|flow| flow.snat);
            let ours = end.filter(|end| {
                end.address == snat.address
                    && (snat.ports.first..=snat.ports.last).contains(&end.port)
            });
            if let Some(end) = ours {
                return Some(end.port);
            }
        }
        let space = Space {
            slice: ports::slice(snat.ports, self.worker, self.workers),
            reserved: &snapshot.reserved_ports,
            choice: snat.choice,
            epoch: snapshot.epoch,
        };
        let mut answers = egress.reverse(Zone::Uplinks);
        answers.destination = snat.address.into();
        let table = &self.four.table;
        self.picker
            .choose(space, (pod, egress.source_port), remote, |port| {
                let taken = FlowKey {
                    destination_port: port,
                    ..answers
                };
                Key4::pack(&taken).is_none_or(|key| table.find(&key).is_some())
            })
    }
}

/// A flow for people.
fn view<W: Way>(pair: &Pair, [egress, ingress]: [&W; 2], now: Timestamp) -> FlowView {
    let key = egress.key().unpack();
    let now = Moment::from(now);
    let [out, back] = [egress, ingress].map(Way::track);
    let uplink = match (ingress.key().unpack().zone, pair.originator()) {
        (Zone::Pods, Direction::Egress) => OutIf::Endpoint,
        _ => OutIf::Uplink(UplinkId(pair.uplink)),
    };
    FlowView {
        protocol: key.protocol,
        pod: key.source,
        pod_port: key.source_port,
        remote: key.destination,
        remote_port: key.destination_port,
        snat: egress.replacement(),
        out: uplink,
        state: pair.tcp(key.protocol).map(|tcp| tcp.state),
        packets_out: out.packets,
        bytes_out: out.bytes,
        packets_in: back.packets,
        bytes_in: back.bytes,
        idle_ms: now.since(out.last_seen).min(now.since(back.last_seen)),
    }
}
