//! Flows by key: fixed memory, both directions in or neither.
//!
//! Buckets of one cache line hold tags and references; every key has two candidate buckets
//! (power of two choices) and never moves, so a removal needs no search beyond them. At the load
//! the sizes below allow, eight slots a bucket do not overflow but by design of an adversary, who
//! would need the seed; an insertion that finds both buckets full is refused, not dealt with.
//! Nothing is allocated after [`FlowTable::new`].

use crate::entry::Flow;
use crate::key::{Direction, FlowKey};
use crate::seeded::{Seed, mix};

/// Slots in a bucket; tags and references fill 48 of a cache line's 64 bytes.
const SLOTS: usize = 8;

/// Slots per key at full capacity, before rounding up to a power of two: load at most one half.
const SLOTS_PER_KEY: usize = 2;

/// Place of a flow; stable while the flow lives, used again afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowId(pub(crate) u32);

/// There was no room for another flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableFull;

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Bucket {
    /// 0 marks a free slot.
    tags: [u16; SLOTS],
    /// Flow number, shifted left by one, and the direction.
    refs: [u32; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// Flow or link to the next free place.
#[derive(Debug, Clone, Copy)]
enum Place {
    Taken(Flow),
    Free { next: Option<u32> },
}

/// Flows by the keys of both their directions.
#[derive(Debug)]
pub(crate) struct FlowTable {
    buckets: Box<[Bucket]>,
    places: Box<[Place]>,
    free: Option<u32>,
    /// Places from here on were never taken: nothing to see for those who look at all flows.
    untouched: usize,
    seed: Seed,
}

/// Where a key may be.
struct Spot {
    buckets: [usize; 2],
    tag: u16,
}

impl FlowTable {
    /// A table for `capacity` flows, which is all the memory it will ever use.
    ///
    /// `capacity` is brought into 1 ..= 2^30.
    #[must_use]
    pub(crate) fn new(capacity: usize, seed: Seed) -> Self {
        let capacity = capacity.clamp(1, 1 << 30);
        let buckets = (capacity * 2 * SLOTS_PER_KEY)
            .div_ceil(SLOTS)
            .next_power_of_two();
        let last = capacity - 1;
        let places = (0..capacity)
            .map(|n| Place::Free {
                next: (n < last).then_some(n as u32 + 1),
            })
            .collect();
        Self {
            buckets: vec![
                Bucket {
                    tags: [0; SLOTS],
                    refs: [0; SLOTS]
                };
                buckets
            ]
            .into(),
            places,
            free: Some(0),
            untouched: 0,
            seed,
        }
    }

    /// Most flows it can hold.
    #[must_use]
    pub(crate) const fn capacity(&self) -> usize {
        self.places.len()
    }

    #[inline]
    fn spot(&self, key: FlowKey) -> Spot {
        let (first, second) = key.words();
        let hash = mix(self.seed, first, second);
        let mask = self.buckets.len() - 1;
        Spot {
            buckets: [hash as usize & mask, (hash >> 32) as usize & mask],
            // The top bits choose no bucket in tables of less than 2^16 buckets, few of them in
            // larger ones.
            tag: (hash >> 48) as u16 | 1,
        }
    }

    /// The flow one of whose directions has this key.
    #[inline]
    #[must_use]
    pub(crate) fn find(&self, key: FlowKey) -> Option<(FlowId, Direction)> {
        let spot = self.spot(key);
        for bucket in spot.buckets {
            let bucket = self.buckets.get(bucket)?;
            for (tag, reference) in bucket.tags.iter().zip(&bucket.refs) {
                if *tag != spot.tag {
                    continue;
                }
                let (id, direction) = unpack(*reference);
                if self
                    .get(id)
                    .is_some_and(|flow| flow.way(direction).key == key)
                {
                    return Some((id, direction));
                }
            }
        }
        None
    }

    /// The flow in this place.
    #[inline]
    #[must_use]
    pub(crate) fn get(&self, id: FlowId) -> Option<&Flow> {
        match self.places.get(id.0 as usize) {
            Some(Place::Taken(flow)) => Some(flow),
            Some(Place::Free { .. }) | None => None,
        }
    }

    /// The flow in this place, to change; its keys must stay what they are.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        match self.places.get_mut(id.0 as usize) {
            Some(Place::Taken(flow)) => Some(flow),
            Some(Place::Free { .. }) | None => None,
        }
    }

    /// Puts a flow in, under both its keys.
    ///
    /// # Errors
    /// [`TableFull`] when there is no place or no slot for either key; nothing has changed then.
    /// A key that is in already is the caller's mistake to avoid: it would be found first or last.
    pub(crate) fn insert(&mut self, flow: Flow) -> Result<FlowId, TableFull> {
        let number = self.free.ok_or(TableFull)?;
        let id = FlowId(number);
        self.link(flow.egress.key, pack(id, Direction::Egress))?;
        if let Err(full) = self.link(flow.ingress.key, pack(id, Direction::Ingress)) {
            self.unlink(flow.egress.key, pack(id, Direction::Egress));
            return Err(full);
        }
        if let Some(place) = self.places.get_mut(number as usize) {
            if let Place::Free { next } = *place {
                self.free = next;
            }
            *place = Place::Taken(flow);
            self.untouched = self.untouched.max(number as usize + 1);
        }
        Ok(id)
    }

    /// Takes a flow out, with both its keys.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let flow = *self.get(id)?;
        self.unlink(flow.egress.key, pack(id, Direction::Egress));
        self.unlink(flow.ingress.key, pack(id, Direction::Ingress));
        if let Some(place) = self.places.get_mut(id.0 as usize) {
            *place = Place::Free { next: self.free };
            self.free = Some(id.0);
        }
        Some(flow)
    }

    /// Every flow, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.places
            .iter()
            .take(self.untouched)
            .filter_map(|place| match place {
                Place::Taken(flow) => Some(flow),
                Place::Free { .. } => None,
            })
    }

    /// Puts a reference into the emptier of the key's buckets.
    fn link(&mut self, key: FlowKey, reference: u32) -> Result<(), TableFull> {
        let Spot {
            buckets: [first, second],
            tag,
        } = self.spot(key);
        let used = |at: usize| {
            let tags = self.buckets.get(at).map(|bucket| bucket.tags);
            tags.unwrap_or([1; SLOTS])
                .iter()
                .filter(|tag| **tag != 0)
                .count()
        };
        let at = if used(second) < used(first) {
            second
        } else {
            first
        };
        let bucket = self.buckets.get_mut(at).ok_or(TableFull)?;
        let mut slots = bucket.tags.iter_mut().zip(&mut bucket.refs);
        let (slot, place) = slots.find(|(slot, _)| **slot == 0).ok_or(TableFull)?;
        *slot = tag;
        *place = reference;
        Ok(())
    }

    fn unlink(&mut self, key: FlowKey, reference: u32) {
        let spot = self.spot(key);
        for at in spot.buckets {
            let Some(bucket) = self.buckets.get_mut(at) else {
                continue;
            };
            for (tag, other) in bucket.tags.iter_mut().zip(&bucket.refs) {
                if *tag == spot.tag && *other == reference {
                    *tag = 0;
                    return;
                }
            }
        }
    }
}

#[inline]
const fn pack(id: FlowId, direction: Direction) -> u32 {
    id.0 << 1 | matches!(direction, Direction::Ingress) as u32
}

#[inline]
const fn unpack(reference: u32) -> (FlowId, Direction) {
    let direction = if reference & 1 == 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    (FlowId(reference >> 1), direction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Way;
    use crate::hop::Hop;
    use crate::key::Zone;
    use crate::{OutIf, Timestamp};
    use penstock_packet::rewrite::Rewrite;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    const SEED: Seed = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    fn key(n: u32) -> FlowKey {
        FlowKey {
            source: Ipv4Addr::from_bits(0x0a00_0000 + (n & 0xff)),
            destination: Ipv4Addr::new(8, 8, 8, 8),
            source_port: (n >> 8) as u16,
            destination_port: 53,
            protocol: 17,
            zone: Zone::Pods,
        }
    }

    fn flow(n: u32) -> Flow {
        let rewrite = Rewrite {
            destination_mac: [2; 6],
            source_mac: [4; 6],
            translation: None,
        };
        let hop = Hop {
            rewrite,
            out: OutIf::Endpoint,
            mtu: 1500,
        };
        Flow {
            egress: Way {
                key: key(n),
                hop,
                packets: 0,
            },
            ingress: Way {
                key: key(n).reverse(Zone::Uplinks),
                hop,
                packets: 0,
            },
            epoch: u64::from(n),
            last_seen: Timestamp::default(),
            tcp: None,
            originator: Direction::Egress,
            quarantined: false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// Against a map: both keys find the flow, or neither; a full table refuses and changes
        /// nothing; places are used again.
        #[test]
        fn equals_a_map(steps in proptest::collection::vec((0u32..48, any::<bool>()), 1..400)) {
            let mut table = FlowTable::new(24, SEED);
            let mut model: HashMap<u32, FlowId> = HashMap::new();
            for (n, insert) in steps {
                match (insert, model.get(&n).copied()) {
                    (true, None) => match table.insert(flow(n)) {
                        Ok(id) => {
                            prop_assert!(model.values().all(|other| *other != id));
                            model.insert(n, id);
                        }
                        Err(TableFull) => prop_assert_eq!(model.len(), 24),
                    },
                    (false, Some(id)) => {
                        prop_assert_eq!(table.remove(id), Some(flow(n)));
                        prop_assert_eq!(table.remove(id), None);
                        model.remove(&n);
                    }
                    _ => {}
                }
                for n in 0..48 {
                    let id = model.get(&n).copied();
                    let (egress, ingress) = (key(n), key(n).reverse(Zone::Uplinks));
                    prop_assert_eq!(table.find(egress), id.map(|id| (id, Direction::Egress)));
                    prop_assert_eq!(table.find(ingress), id.map(|id| (id, Direction::Ingress)));
                    // The same packet from the other side is another key.
                    prop_assert_eq!(table.find(key(n).reverse(Zone::Pods)), None);
                }
                prop_assert_eq!(table.iter().count(), model.len());
            }
        }
    }

    /// The load the sizes allow does not overflow buckets, and churn at capacity does not either.
    #[test]
    fn fills_to_capacity_and_churns_there() {
        const CAPACITY: u32 = 100_000;
        let mut table = FlowTable::new(CAPACITY as usize, SEED);
        let mut ids: Vec<FlowId> = (0..CAPACITY)
            .map(|n| table.insert(flow(n)).unwrap())
            .collect();
        assert_eq!(table.insert(flow(CAPACITY)), Err(TableFull));
        for n in CAPACITY..4 * CAPACITY {
            let at = (n as usize * 7919) % ids.len();
            table.remove(ids[at]).unwrap();
            ids[at] = table.insert(flow(n)).unwrap();
        }
        assert_eq!(table.iter().count(), CAPACITY as usize);
    }

    #[test]
    fn memory_per_flow_is_bounded() {
        // Buckets round up to a power of two: at worst twice what is asked.
        let buckets = 2 * 2 * SLOTS_PER_KEY * size_of::<Bucket>() / SLOTS;
        // A timer link is three words of 32 bits.
        assert!(
            size_of::<Place>() + buckets + 12 <= 256,
            "{}",
            size_of::<Place>() + buckets + 12
        );
    }
}
