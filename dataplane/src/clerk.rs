//! The clerk: the one thread that puts flows into the hooks' maps, takes them out and reads what
//! became of them, for all workers.
//!
//! ```text
//! worker w ── wishes ──► clerk ──► flow maps ◄── hooks
//!          ◄── news ────   │
//! node ──── orders ────────┘  where pods and uplinks are; look at all flows now
//! ```
//!
//! Guarantees: wishes of a worker are done in their order, and every removal is answered once it
//! has happened. Nothing is installed under rules that are not the newest it was told of. Packets
//! that hooks carried are told to the flow's owner once, as differences. A look at all flows takes
//! at most one part in [`WALK_SHARE`] of the time and never delays a wish by more than one batch.
//!
//! It must not decide, and must not touch a worker's tables.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, Sender};
use penstock_flow::key::{FlowKey, Zone};
use penstock_flow::offload::{Carried, News, Passage, Place, Wish};
use penstock_flow::{OutIf, Timestamp, UplinkId};
use penstock_hooks::flows::{
    Ends, Exit, FlowEntry, FlowUsage, FlowWalk, Found, Translation, Via, Zone as HookZone,
};
use penstock_hooks::{FlowMap, HookError};
use penstock_packet::rewrite::Side;
use penstock_packet::wire::ETHERNET;
use penstock_xsk::wait;

use crate::compile::hook_epoch;
use crate::line::Queues;
use crate::wake::Wake;

/// Least time between two looks at all flows: the shortest idle time is a minute.
const WALK_EVERY: Duration = Duration::from_secs(5);

/// A look at all flows is followed by a pause of this many times what it took.
const WALK_SHARE: u32 = 50;

/// Entries read with one system call.
const WALK_BATCH: u32 = 512;

/// Wishes done between two looks at anything else.
const WISH_BATCH: usize = 64;

/// News of one worker from which on nothing more is read for it.
const BACKLOG: usize = 8_192;

/// How soon the clerk tries again what did not work.
const RETRY: Duration = Duration::from_millis(1);

/// How long somebody who asks for a look at all flows waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where things are that workers know by address or number only.
#[derive(Debug, Clone, Default)]
pub struct Terrain {
    /// Epoch of the snapshot it belongs to.
    pub epoch: u64,
    /// Pods by each of their addresses.
    pub pods: HashMap<IpAddr, PodDevice>,
    /// Interfaces of uplinks that are bound.
    pub uplinks: HashMap<UplinkId, u32>,
}

/// The host side of a pod's veth.
#[derive(Debug, Clone, Copy)]
pub struct PodDevice {
    /// Its index.
    pub ifindex: u32,
    /// Whether it takes XDP frames: the hooks were told by `set_pod_device`.
    pub takes_xdp: bool,
}

/// What the clerk is told by the node.
enum Order {
    /// Things are here now.
    Terrain(Box<Terrain>),
    /// The terrain's rules are in force: tell owners which of their flows are in under others.
    Revise,
    /// Look at all flows now, and answer when their owners have heard.
    Look(Sender<()>),
    /// Leave.
    Stop,
}

/// Counts of the clerk, since start but for `flows`.
#[derive(Debug, Default)]
pub struct ClerkCells {
    /// Flows in the maps now.
    pub flows: AtomicU64,
    /// Flows put in, also again.
    pub installed: AtomicU64,
    /// Flows taken out.
    pub removed: AtomicU64,
    /// Flows the maps had no room for, or whose way out was not known.
    pub refused: AtomicU64,
}

fn add(cell: &AtomicU64, count: u64) {
    // One writer: no read-modify-write is needed.
    cell.store(cell.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// The node's end.
#[derive(Debug)]
pub struct Clerk {
    orders: Sender<Order>,
    wake: Arc<Wake>,
    thread: JoinHandle<()>,
    /// What it counts.
    pub cells: Arc<ClerkCells>,
}

/// One worker as the clerk sees it.
#[derive(Debug)]
pub struct Client {
    /// What lies between.
    pub queues: Arc<Queues>,
    /// The worker's alarm clock.
    pub wake: Arc<Wake>,
    /// Places of flows its tables have.
    pub places: usize,
}

impl Clerk {
    /// Starts the thread, which wakes up by `wake`. `incarnation` tells its entries from those of
    /// predecessors.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        flows: FlowMap,
        clients: Vec<Client>,
        wake: Arc<Wake>,
        incarnation: u64,
    ) -> std::io::Result<Self> {
        let (orders, receiver) = channel::unbounded();
        let cells = Arc::new(ClerkCells::default());
        let desk = Desk {
            flows,
            trays: clients.into_iter().map(Tray::new).collect(),
            orders: receiver,
            wake: Arc::clone(&wake),
            incarnation: incarnation & INCARNATIONS,
            held: false,
            terrain: Terrain::default(),
            look: None,
            next_look: Instant::now() + WALK_EVERY,
            askers: Vec::new(),
            cells: Arc::clone(&cells),
        };
        let thread = std::thread::Builder::new()
            .name("clerk".to_owned())
            .spawn(move || desk.work())?;
        Ok(Self {
            orders,
            wake,
            thread,
            cells,
        })
    }

    /// Says where things are; nothing is put in or taken out until [`Self::revise`]. Tell it before
    /// workers go by the snapshot it belongs to.
    pub fn tell(&self, terrain: Terrain) {
        self.order(Order::Terrain(Box::new(terrain)));
    }

    /// Says that hooks and workers go by the terrain's rules now. Owners are told which of their
    /// flows are known by others; what has no owner is taken out.
    pub fn revise(&self) {
        self.order(Order::Revise);
    }

    /// Brings workers up to date with what hooks carried, as far as that goes within a second.
    pub fn look_now(&self) {
        let (asker, answer) = channel::bounded(1);
        self.order(Order::Look(asker));
        // Late news are told all the same.
        let _ = answer.recv_timeout(PATIENCE);
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the thread; what is in the maps stays there.
    pub fn stop(self) {
        self.order(Order::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the clerk had panicked");
        }
    }

    fn order(&self, order: Order) {
        // A clerk that is gone is noticed by `Node::tend`.
        let _ = self.orders.send(order);
        self.wake.notify();
    }
}

/// What was read of a flow's entries when they were last read: packets and bytes of each
/// direction; and 1 while it is in.
type Record = [u64; 5];

/// What lies on the desk for one worker.
struct Tray {
    client: Client,
    records: Vec<Record>,
    /// News the worker's queue has no room for.
    pending: VecDeque<News>,
    /// Wishes from the first on that could not be granted.
    again: VecDeque<Wish>,
    told: bool,
}

impl Tray {
    fn new(client: Client) -> Self {
        Self {
            // Zeroed memory that is never touched is never there.
            records: vec![[0; 5]; client.places],
            client,
            pending: VecDeque::new(),
            again: VecDeque::new(),
            told: false,
        }
    }

    fn record(&mut self, place: Place) -> Option<&mut Record> {
        self.records.get_mut(place.to_bits() as usize)
    }

    /// What is new in `usage` of one direction, 0 or 1.
    fn news_of(&mut self, place: Place, direction: usize, usage: &FlowUsage) -> Carried {
        let Some(record) = self.record(place) else {
            return Carried::default();
        };
        let packets = usage.packets.saturating_sub(record[direction * 2]);
        let bytes = usage.bytes.saturating_sub(record[direction * 2 + 1]);
        record[direction * 2] += packets;
        record[direction * 2 + 1] += bytes;
        Carried {
            packets,
            bytes: bytes.saturating_sub(packets * ETHERNET as u64),
            last_seen: Timestamp::from_nanos(usage.last_seen_ns),
        }
    }

    /// Gives the worker what its queue has room for.
    fn deliver(&mut self) {
        while let Some(news) = self.pending.pop_front() {
            if let Err(news) = self.client.queues.news.push(news) {
                self.pending.push_front(news);
                break;
            }
            self.told = true;
        }
        if std::mem::take(&mut self.told) {
            self.client.wake.notify();
        }
    }

    fn is_heard(&self) -> bool {
        self.pending.is_empty() && self.client.queues.news.is_empty()
    }
}

/// A look at all flows that is under way.
struct Look {
    walk: FlowWalk,
    began: Instant,
    /// Whether owners are told of flows known by other rules.
    revises: bool,
    askers: Vec<Sender<()>>,
}

/// The thread's world.
struct Desk {
    flows: FlowMap,
    trays: Vec<Tray>,
    orders: Receiver<Order>,
    wake: Arc<Wake>,
    incarnation: u64,
    /// Whether wishes wait until the terrain's rules are in force everywhere.
    held: bool,
    terrain: Terrain,
    look: Option<Look>,
    next_look: Instant,
    /// Whom to answer when all news are heard.
    askers: Vec<Sender<()>>,
    cells: Arc<ClerkCells>,
}

impl Desk {
    fn work(mut self) {
        let mut found = Vec::new();
        let mut wishes = Vec::new();
        loop {
            // Wishes first: what a worker wished under a snapshot, its terrain was told before.
            let busy = self.collect(&mut wishes);
            if !self.obey() {
                return;
            }
            for (worker, wish) in wishes.drain(..) {
                self.grant(worker, wish);
            }
            let walked = self.walk_on(&mut found);
            self.trays.iter_mut().for_each(Tray::deliver);
            self.answer();
            if !busy && !walked {
                self.rest();
            }
        }
    }

    /// Takes some wishes of every worker who listens.
    fn collect(&mut self, wishes: &mut Vec<(usize, Wish)>) -> bool {
        if self.held {
            return false;
        }
        for (worker, tray) in self.trays.iter_mut().enumerate() {
            wishes.extend(tray.again.drain(..).map(|wish| (worker, wish)));
            let room = BACKLOG.saturating_sub(tray.pending.len()).min(WISH_BATCH);
            let new = std::iter::from_fn(|| tray.client.queues.wishes.pop()).take(room);
            wishes.extend(new.map(|wish| (worker, wish)));
        }
        !wishes.is_empty()
    }

    /// Does as told; `false` when told to leave.
    fn obey(&mut self) -> bool {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Terrain(terrain) => {
                    self.terrain = *terrain;
                    self.held = true;
                }
                Order::Revise => {
                    self.held = false;
                    self.begin_look(true, None);
                }
                Order::Look(asker) => self.begin_look(false, Some(asker)),
                Order::Stop => return false,
            }
        }
        true
    }

    /// Begins a look at all flows, in place of one that is under way.
    fn begin_look(&mut self, revises: bool, asker: Option<Sender<()>>) {
        let before = self.look.take();
        let revises = revises || before.as_ref().is_some_and(|look| look.revises);
        let mut askers = before.map_or_else(Vec::new, |look| look.askers);
        askers.extend(asker);
        match self.flows.walk(WALK_BATCH) {
            Ok(walk) => {
                self.look = Some(Look {
                    walk,
                    began: Instant::now(),
                    revises,
                    askers,
                });
            }
            Err(error) => self.give_up(&error, askers),
        }
    }

    #[cold]
    fn give_up(&mut self, error: &HookError, askers: Vec<Sender<()>>) {
        tracing::warn!(%error, "offloaded flows cannot be read; trying again");
        self.askers.extend(askers);
        self.next_look = Instant::now() + WALK_EVERY;
    }

    /// Goes on with a look at all flows; whether there was one to go on with.
    fn walk_on(&mut self, found: &mut Vec<Found>) -> bool {
        if self.look.is_none() && Instant::now() >= self.next_look {
            self.begin_look(false, None);
        }
        if self.trays.iter().any(|tray| tray.pending.len() > BACKLOG) {
            return false;
        }
        let Some(look) = &mut self.look else {
            return false;
        };
        let (more, revises) = (look.walk.next_batch(found), look.revises);
        for entry in found.drain(..) {
            self.note(&entry, revises);
        }
        match (more, self.look.take()) {
            (Ok(true), look) => self.look = look,
            (Ok(false), Some(look)) => {
                let pause = WALK_EVERY.max(look.began.elapsed() * WALK_SHARE);
                self.next_look = Instant::now() + pause;
                self.askers.extend(look.askers);
            }
            (Err(error), Some(look)) => self.give_up(&error, look.askers),
            (_, None) => {}
        }
        true
    }

    /// Tells an entry's owner what is new.
    fn note(&mut self, found: &Found, revises: bool) {
        let (incarnation, worker, place, direction) = unsign(found.entry.owner);
        let tray = self.trays.get_mut(worker);
        let Some(tray) = tray.filter(|_| incarnation == self.incarnation) else {
            return self.evict(found, revises);
        };
        let carried = tray.news_of(place, direction, &found.usage);
        if carried.packets > 0 {
            let mut both = [Carried::default(); 2];
            both[direction] = carried;
            tray.pending.push_back(News::Seen(place, both));
        }
        // Once for both directions.
        if revises && direction == 0 && found.entry.epoch != hook_epoch(self.terrain.epoch) {
            tray.pending.push_back(News::Stale(place));
        }
    }

    /// Takes out an entry of a predecessor's, once our hooks are in force: whoever has taken up its
    /// flow has put in another, or will.
    fn evict(&self, found: &Found, revises: bool) {
        if !revises {
            return;
        }
        if let Err(error) = self.flows.take(&found.key) {
            tracing::warn!(%error, "a predecessor's flow is not removed");
        }
    }

    fn grant(&mut self, worker: usize, wish: Wish) {
        if !self.trays[worker].again.is_empty() {
            // In their order, or a flow could be put in after it was taken out.
            self.trays[worker].again.push_back(wish);
            return;
        }
        let granted = match &wish {
            Wish::Install {
                place,
                epoch,
                passages,
            } => self.install(worker, *place, *epoch, passages),
            Wish::Remove { place, keys } => self
                .remove(worker, *place, keys)
                .map(|carried| Some(News::Removed(*place, carried))),
        };
        match granted {
            Ok(news) => self.trays[worker].pending.extend(news),
            Err(error) => {
                tracing::warn!(%error, "an offloaded flow stays as it is for now");
                self.trays[worker].again.push_back(wish);
            }
        }
    }

    /// Puts a flow in, in place of what was in for the same place; the refusal, if it is not in.
    ///
    /// # Errors
    /// When what was in could not be taken out.
    fn install(
        &mut self,
        worker: usize,
        place: Place,
        epoch: u64,
        passages: &[Passage; 2],
    ) -> Result<Option<News>, HookError> {
        let is_in = |record: &mut Record| record[4] == 1;
        if self.trays[worker].record(place).is_some_and(is_in) {
            let keys = passages.each_ref().map(|passage| passage.key);
            let carried = self.remove(worker, place, &keys)?;
            let news = News::Seen(place, carried);
            self.trays[worker].pending.push_back(news);
        }
        let entry = |direction: usize| {
            let passage = &passages[direction];
            let entry = self.entry(passage, sign((self.incarnation, worker), place, direction))?;
            Some((hook_key(&passage.key)?, entry))
        };
        let pair = entry(0).zip(entry(1));
        let pair = pair.filter(|_| epoch == self.terrain.epoch);
        let put = pair.map(|(egress, ingress)| self.flows.install(&[egress, ingress]));
        if !matches!(put, Some(Ok(()))) {
            tracing::debug!(?put, "a flow stays with its worker");
            add(&self.cells.refused, 1);
            return Ok(Some(News::Refused(place, epoch)));
        }
        if let Some(record) = self.trays[worker].record(place) {
            *record = [0, 0, 0, 0, 1];
        }
        add(&self.cells.installed, 1);
        add(&self.cells.flows, 1);
        Ok(None)
    }

    fn entry(&self, passage: &Passage, owner: u64) -> Option<FlowEntry> {
        let mut destination = passage.key.destination;
        let translation = match passage.replacement {
            None => Translation::None,
            Some((Side::Source, end)) => {
                Translation::Source(SocketAddrV4::new(end.address, end.port))
            }
            Some((Side::Destination, end)) => {
                destination = end.address.into();
                Translation::Destination(SocketAddrV4::new(end.address, end.port))
            }
        };
        let (exit, takes_xdp) = match passage.out {
            OutIf::Uplink(id) => (Exit::Uplink(*self.terrain.uplinks.get(&id)?), false),
            OutIf::Endpoint => {
                let pod = self.terrain.pods.get(&destination)?;
                (Exit::Pod(pod.ifindex), pod.takes_xdp)
            }
        };
        let (destination_mac, source_mac) = passage.macs.parts();
        Some(FlowEntry {
            translation,
            destination_mac,
            source_mac,
            exit,
            mtu: passage.mtu,
            epoch: hook_epoch(self.terrain.epoch),
            via: if takes_xdp { Via::Xdp } else { Via::Tcx },
            owner,
        })
    }

    fn remove(
        &mut self,
        worker: usize,
        place: Place,
        keys: &[FlowKey; 2],
    ) -> Result<[Carried; 2], HookError> {
        let [Some(egress), Some(ingress)] = keys.each_ref().map(hook_key) else {
            return Ok(Default::default());
        };
        let usage = self.flows.remove(&[egress, ingress])?;
        let tray = &mut self.trays[worker];
        let mut carried = [Carried::default(); 2];
        for (direction, usage) in usage.iter().enumerate() {
            if let Some(usage) = usage {
                carried[direction] = tray.news_of(place, direction, usage);
            }
        }
        if let Some(record) = tray.record(place)
            && std::mem::take(record)[4] == 1
        {
            add(&self.cells.removed, 1);
            let flows = self.cells.flows.load(Ordering::Relaxed);
            self.cells.flows.store(flows - 1, Ordering::Relaxed);
        }
        Ok(carried)
    }

    /// Answers those who asked, once all is heard.
    fn answer(&mut self) {
        if !self.askers.is_empty() && self.trays.iter().all(Tray::is_heard) {
            for asker in self.askers.drain(..) {
                // It may have given up.
                let _ = asker.try_send(());
            }
        }
    }

    fn rest(&self) {
        let waits = !self.askers.is_empty()
            || self
                .trays
                .iter()
                .any(|tray| !tray.pending.is_empty() || !tray.again.is_empty());
        let until = self.next_look.saturating_duration_since(Instant::now());
        let nap = if waits { RETRY } else { until };
        self.wake.sleep(
            || {
                !self.orders.is_empty()
                    || !self.held
                        && self
                            .trays
                            .iter()
                            .any(|tray| !tray.client.queues.wishes.is_empty())
            },
            || {
                // An error leaves the clerk spinning, which is safe.
                let _ = wait(&[self.wake.as_fd()], nap);
            },
        );
    }
}

/// Incarnations that are told apart.
const INCARNATIONS: u64 = 0xff_ffff;

/// What an entry of a worker's flow is signed with: the direction is the lowest bit, and above it
/// is what both directions share.
const fn sign((incarnation, worker): (u64, usize), place: Place, direction: usize) -> u64 {
    incarnation << 40 | (worker as u64) << 33 | (place.to_bits() as u64) << 1 | direction as u64
}

/// What [`sign`] put together.
const fn unsign(owner: u64) -> (u64, usize, Place, usize) {
    let place = Place::from_bits((owner >> 1) as u32);
    let worker = (owner >> 33) as usize & 0x7f;
    (owner >> 40, worker, place, (owner & 1) as usize)
}

fn hook_key(key: &FlowKey) -> Option<penstock_hooks::flows::FlowKey> {
    let ends = match (key.source, key.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Ends::V4 {
            source,
            destination,
        },
        (IpAddr::V6(source), IpAddr::V6(destination)) => Ends::V6 {
            source,
            destination,
        },
        _ => return None,
    };
    Some(penstock_hooks::flows::FlowKey {
        ends,
        source_port: key.source_port,
        destination_port: key.destination_port,
        protocol: key.protocol,
        zone: match key.zone {
            Zone::Pods => HookZone::Pods,
            Zone::Uplinks => HookZone::Uplinks,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_read_back() {
        for (worker, place, direction) in [(0, 0, 0), (63, u32::MAX, 1), (7, 1 << 30, 0)] {
            let place = Place::from_bits(place);
            for incarnation in [0, INCARNATIONS] {
                let owner = sign((incarnation, worker), place, direction);
                assert_eq!(unsign(owner), (incarnation, worker, place, direction));
            }
        }
    }
}
