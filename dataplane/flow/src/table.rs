//! Flows by key: fixed memory, both directions in or neither.
//!
//! ```text
//!   buckets   one cache line: 8 tags, 8 way numbers      two candidates for every key
//!   ways      one direction of a flow; number = flow * 2 + direction
//!   pairs     what both directions share
//! ```
//!
//! A key goes into its first bucket while that has room to spare, else into the emptier of its
//! two, and never moves: a look-up nearly always ends in the first bucket, and a removal needs no
//! search beyond the second. At the load the sizes allow, buckets do not overflow but by design of
//! an adversary, who would need the seed; an insertion that finds both full is refused.
//!
//! [`FlowTable::candidate`] and [`FlowTable::is_at`] are the two steps of a look-up, each with one
//! load that may miss the cache. A caller with many keys takes each step for all of them before
//! the next, and touches what a step will load before it, so that the misses overlap.

use std::io;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::entry::{Epoch, Moment, NewFlow, Pair, Stage, Track, Way};
use crate::key::{Direction, Key};
use crate::memory::Slab;
use crate::quota::Account;
use crate::seeded::Seed;

/// Slots in a bucket; tags and way numbers fill 48 of a cache line's 64 bytes.
const SLOTS: usize = 8;

/// Slots per key at full capacity, before rounding up to a power of two: load at most one half.
const SLOTS_PER_KEY: usize = 2;

/// A first bucket with this many slots taken is passed over for the emptier of the two.
const CROWDED: usize = 6;

/// No flow.
const NONE: u32 = u32::MAX;

/// Place of a flow; stable while the flow lives, used again afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowId(pub(crate) u32);

/// Place of one direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WayId(u32);

impl WayId {
    /// Where nothing is.
    pub(crate) const NOWHERE: Self = Self(NONE);

    /// One direction of a flow.
    #[inline]
    pub(crate) const fn of(flow: FlowId, direction: Direction) -> Self {
        Self(flow.0 << 1 | matches!(direction, Direction::Ingress) as u32)
    }

    /// Its flow.
    #[inline]
    pub(crate) const fn flow(self) -> FlowId {
        FlowId(self.0 >> 1)
    }

    /// Which direction it is.
    #[inline]
    pub(crate) const fn direction(self) -> Direction {
        match self.0 & 1 {
            0 => Direction::Egress,
            _ => Direction::Ingress,
        }
    }
}

/// There was no room for another flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableFull;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub(crate) struct Bucket {
    /// 0 marks a free slot.
    tags: [u16; SLOTS],
    ways: [u32; SLOTS],
    spare: [u8; 16],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The way with this tag, or, when there are several or none, any number at all.
    #[inline]
    fn candidate(&self, tag: u16) -> WayId {
        let mut at = 0;
        for (other, way) in self.tags.iter().zip(&self.ways) {
            at |= if *other == tag { *way } else { 0 };
        }
        WayId(at)
    }

    fn taken(&self) -> usize {
        self.tags.iter().filter(|tag| **tag != 0).count()
    }
}

/// Where a key may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot(u64);

impl Spot {
    /// The top bits choose no bucket in tables of less than 2^16 buckets, few of them in larger.
    #[inline]
    const fn tag(self) -> u16 {
        (self.0 >> 48) as u16 | 1
    }
}

/// Flows by the keys of both their directions.
#[derive(Debug)]
pub(crate) struct FlowTable<W: Way> {
    buckets: Slab<Bucket>,
    ways: Slab<W>,
    pairs: Slab<Pair>,
    mask: usize,
    free: u32,
    /// Flows in it.
    length: usize,
    /// Places from here on were never taken: nothing to see for those who look at all flows.
    untouched: u32,
    seed: Seed,
}

impl<W: Way> FlowTable<W> {
    /// A table for `capacity` flows, which is all the memory it will ever use.
    ///
    /// `capacity` is brought into 1 ..= 2^30.
    ///
    /// # Errors
    /// When the system has not that much memory to give.
    pub(crate) fn new(capacity: usize, seed: Seed) -> io::Result<Self> {
        let capacity = capacity.clamp(1, 1 << 30);
        let buckets = (capacity * 2 * SLOTS_PER_KEY)
            .div_ceil(SLOTS)
            .next_power_of_two();
        Ok(Self {
            buckets: Slab::new(buckets)?,
            ways: Slab::new(capacity * 2)?,
            pairs: Slab::new(capacity)?,
            mask: buckets - 1,
            free: NONE,
            length: 0,
            untouched: 0,
            seed,
        })
    }

    /// Flows in it.
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Most flows it can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.pairs.len()
    }

    /// Bytes a flow takes in a table of `capacity` flows, both directions and all arrays.
    pub(crate) fn bytes_per_flow(&self) -> usize {
        let all = size_of_val(&*self.buckets) + size_of_val(&*self.ways);
        (all + size_of_val(&*self.pairs)).div_ceil(self.capacity())
    }

    /// Where `key` may be.
    #[inline]
    pub(crate) fn spot(&self, key: &W::Key) -> Spot {
        Spot(key.spread(self.seed))
    }

    #[inline]
    fn places(&self, spot: Spot) -> [usize; 2] {
        let mask = self.mask;
        [spot.0 as usize & mask, (spot.0 >> 32) as usize & mask]
    }

    /// The way that most likely has the key of `spot`; [`Self::is_at`] tells whether it does.
    #[inline]
    pub(crate) fn candidate(&self, spot: Spot) -> WayId {
        let [first, _] = self.places(spot);
        match self.buckets.get(first) {
            Some(bucket) => bucket.candidate(spot.tag()),
            None => WayId::NOWHERE,
        }
    }

    /// Loads what [`Self::candidate`] will read; what it returns has no meaning.
    #[inline]
    pub(crate) fn touch_bucket(&self, spot: Spot) -> u64 {
        let [first, _] = self.places(spot);
        let bucket = self.buckets.get(first);
        bucket.map_or(0, |bucket| u64::from(bucket.tags[0]))
    }

    /// Loads a way; what it returns has no meaning.
    #[inline]
    pub(crate) fn touch_way(&self, at: WayId) -> u64 {
        let way = self.ways.get(at.0 as usize);
        way.map_or(0, |way| way.track().packets)
    }

    /// Whether the way at `at` has this key.
    #[inline]
    pub(crate) fn is_at(&self, at: WayId, key: &W::Key) -> bool {
        self.ways
            .get(at.0 as usize)
            .is_some_and(|way| way.key() == key)
    }

    /// The direction of a flow that has this key.
    pub(crate) fn find(&self, key: &W::Key) -> Option<WayId> {
        self.find_at(self.spot(key), key)
    }

    /// The same, when it is known where the key may be.
    pub(crate) fn find_at(&self, spot: Spot, key: &W::Key) -> Option<WayId> {
        for place in self.places(spot) {
            let bucket = self.buckets.get(place)?;
            for (tag, way) in bucket.tags.iter().zip(&bucket.ways) {
                if *tag == spot.tag() && self.is_at(WayId(*way), key) {
                    return Some(WayId(*way));
                }
            }
        }
        None
    }

    /// One direction.
    #[inline]
    pub(crate) fn way(&self, at: WayId) -> Option<&W> {
        self.ways.get(at.0 as usize)
    }

    /// One direction, to change; its key must stay what it is.
    #[inline]
    pub(crate) fn way_mut(&mut self, at: WayId) -> Option<&mut W> {
        self.ways.get_mut(at.0 as usize)
    }

    /// Both directions of a flow, egress first.
    pub(crate) fn both(&self, id: FlowId) -> Option<[&W; 2]> {
        let at = WayId::of(id, Direction::Egress).0 as usize;
        match self.ways.get(at..at + 2)? {
            [egress, ingress] => Some([egress, ingress]),
            _ => None,
        }
    }

    /// What both directions of a flow share; `None` where there is no flow.
    pub(crate) fn pair(&self, id: FlowId) -> Option<&Pair> {
        let pair = self.pairs.get(id.0 as usize)?;
        (pair.stage() != Stage::Free).then_some(pair)
    }

    /// The same, to change.
    pub(crate) fn pair_mut(&mut self, id: FlowId) -> Option<&mut Pair> {
        let pair = self.pairs.get_mut(id.0 as usize)?;
        (pair.stage() != Stage::Free).then_some(pair)
    }

    /// Puts a flow in, under both its keys.
    ///
    /// # Errors
    /// [`TableFull`] when there is no place or no slot for either key, or a key is of another
    /// family; nothing has changed then. A key that is in already is the caller's mistake to
    /// avoid: it would be found first or last.
    pub(crate) fn insert(
        &mut self,
        (flow, account): (&NewFlow, Account),
        epoch: Epoch,
        now: Moment,
    ) -> Result<FlowId, TableFull> {
        let keys = [&flow.egress, &flow.ingress].map(W::Key::pack);
        let [Some(egress), Some(ingress)] = keys else {
            return Err(TableFull);
        };
        let id = self.take().ok_or(TableFull)?;
        let [to, from] = [Direction::Egress, Direction::Ingress].map(|way| WayId::of(id, way));
        if self.link(&egress, to).is_err() {
            self.give_back(id);
            return Err(TableFull);
        }
        if self.link(&ingress, from).is_err() {
            self.unlink(&egress, to);
            self.give_back(id);
            return Err(TableFull);
        }
        let [out, back] = flow.translations;
        let track = |hop| Track::new(hop, epoch, now);
        self.write(to, W::new(egress, track(flow.egress_hop), out));
        self.write(from, W::new(ingress, track(flow.ingress_hop), back));
        if let Some(pair) = self.pairs.get_mut(id.0 as usize) {
            *pair = Pair::new(flow, account, now);
        }
        self.length += 1;
        Ok(id)
    }

    /// Takes a flow out, with both its keys.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Pair> {
        let pair = *self.pair(id)?;
        for direction in [Direction::Egress, Direction::Ingress] {
            let at = WayId::of(id, direction);
            let key = *self.way(at)?.key();
            self.unlink(&key, at);
            // A key that no packet has: who still knows the place finds nobody there.
            let hop = self.way(at)?.track().hop;
            let nobody = Track::new(hop, Epoch::default(), pair.since);
            let empty = W::new(
                W::Key::default(),
                nobody,
                penstock_packet::rewrite::Translation::NONE,
            );
            self.write(at, empty);
        }
        self.give_back(id);
        self.length -= 1;
        Some(pair)
    }

    /// Every flow, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Pair, [&W; 2])> {
        (0..self.untouched).map(FlowId).filter_map(|id| {
            let pair = self.pair(id)?;
            Some((pair, self.both(id)?))
        })
    }

    fn write(&mut self, at: WayId, way: W) {
        if let Some(place) = self.ways.get_mut(at.0 as usize) {
            *place = way;
        }
    }

    /// A free place: one given back, else the next that was never taken.
    fn take(&mut self) -> Option<FlowId> {
        if let Some(pair) = self.pairs.get(self.free as usize) {
            let [next, _] = pair.pods;
            return Some(FlowId(std::mem::replace(&mut self.free, next)));
        }
        let fresh = self.untouched;
        ((fresh as usize) < self.pairs.len()).then(|| {
            self.untouched += 1;
            FlowId(fresh)
        })
    }

    fn give_back(&mut self, id: FlowId) {
        if let Some(pair) = self.pairs.get_mut(id.0 as usize) {
            *pair = Pair::free(self.free);
            self.free = id.0;
        }
    }

    /// Puts a way number into one of the key's buckets.
    fn link(&mut self, key: &W::Key, at: WayId) -> Result<(), TableFull> {
        let spot = self.spot(key);
        let places = self.places(spot);
        let [taken, other] = places.map(|at| self.buckets.get(at).map_or(SLOTS, Bucket::taken));
        let [first, second] = places;
        let place = if taken < CROWDED || taken <= other {
            first
        } else {
            second
        };
        let bucket = self.buckets.get_mut(place).ok_or(TableFull)?;
        let mut slots = bucket.tags.iter_mut().zip(&mut bucket.ways);
        let (tag, way) = slots.find(|(tag, _)| **tag == 0).ok_or(TableFull)?;
        *tag = spot.tag();
        *way = at.0;
        Ok(())
    }

    fn unlink(&mut self, key: &W::Key, at: WayId) {
        let spot = self.spot(key);
        for place in self.places(spot) {
            let Some(bucket) = self.buckets.get_mut(place) else {
                continue;
            };
            for (tag, way) in bucket.tags.iter_mut().zip(&bucket.ways) {
                if *tag == spot.tag() && *way == at.0 {
                    *tag = 0;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
