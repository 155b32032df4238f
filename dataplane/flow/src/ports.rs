//! SNAT ports: which one a new flow gets.
//!
//! A port is taken towards one remote endpoint at a time (RFC 4787 REQ-3 with address- and
//! port-dependent mapping): the flow table itself says what is taken, by the key the answers
//! would have, quarantined flows included. So a port can be leaked or leased twice only if a
//! flow can. Each worker owns a slice of the range, so an answer's port names its worker.
//! References: RFC 6056, RFC 6888 REQ-8.

use std::net::Ipv4Addr;

use crate::config::{PortChoice, PortRange};
use crate::key::FlowKey;
use crate::seeded::{Seed, siphash};

/// Remote endpoints remembered as exhausted; a collision costs a scan, never a wrong answer.
const MEMO: usize = 1024;

/// The part of the range a worker owns: `count` ports from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Lowest port.
    pub first: u16,
    /// Number of ports; 0 when there are fewer ports than workers and this is not the last one.
    pub count: u16,
}

/// The `worker`-th of `workers` equal consecutive slices; the last takes the remainder.
#[must_use]
pub fn slice(range: PortRange, worker: u16, workers: u16) -> Slice {
    let all = u32::from(range.last) - u32::from(range.first) + 1;
    let each = all / u32::from(workers.max(1));
    let first = u32::from(range.first) + each * u32::from(worker);
    let last_worker = worker + 1 >= workers;
    let end = if last_worker {
        u32::from(range.last) + 1
    } else {
        first + each
    };
    // Both fit: a range holds port numbers and, without port 0, at most 65,535 of them.
    Slice {
        first: first as u16,
        count: (end - first) as u16,
    }
}

/// The worker that owns `port`; `None` outside the range.
#[inline]
#[must_use]
pub fn owner(range: PortRange, port: u16, workers: u16) -> Option<u16> {
    if port < range.first || port > range.last {
        return None;
    }
    let workers = workers.max(1);
    if workers == 1 {
        return Some(0);
    }
    let all = u32::from(range.last - range.first) + 1;
    let each = all / u32::from(workers);
    let index = u32::from(port - range.first).checked_div(each);
    Some(index.map_or(workers - 1, |index| (index as u16).min(workers - 1)))
}

/// What a port is taken towards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remote {
    address: Ipv4Addr,
    port: u16,
    protocol: u8,
}

impl Remote {
    const fn of(egress: FlowKey) -> Self {
        Self {
            address: egress.destination,
            port: egress.destination_port,
            protocol: egress.protocol,
        }
    }

    fn index(self) -> usize {
        let hash = u64::from(self.address.to_bits()) << 24
            ^ u64::from(self.port) << 8
            ^ u64::from(self.protocol);
        (hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize
    }
}

const _: () = assert!(MEMO == 1 << 10, "index() takes the top ten bits");

/// Chooses ports for one worker.
#[derive(Debug)]
pub(crate) struct PortPicker {
    seed: Seed,
    drawn: u64,
    next: u16,
    /// Slice the memo is about.
    slice: Slice,
    /// Remote endpoints towards which every port was taken and none was released since. Keeps
    /// a pod that goes on trying from costing a scan of the slice each time.
    exhausted: Box<[Option<Remote>]>,
}

impl PortPicker {
    pub(crate) fn new(seed: Seed) -> Self {
        Self {
            seed,
            drawn: 0,
            next: 0,
            slice: Slice { first: 0, count: 0 },
            exhausted: vec![None; MEMO].into(),
        }
    }

    /// A port of `slice` for the flow with this egress key that is not `taken`; `None` when all
    /// are.
    pub(crate) fn pick(
        &mut self,
        slice: Slice,
        choice: PortChoice,
        egress: FlowKey,
        taken: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let remote = Remote::of(egress);
        if self.slice != slice {
            self.slice = slice;
            self.exhausted.fill(None);
        }
        let memo = self.exhausted.get(remote.index());
        if slice.count == 0 || memo == Some(&Some(remote)) {
            return None;
        }
        let start = self.start(choice, egress) % u64::from(slice.count);
        let candidate = |step: u64| {
            // Below `count`, which is 16 bits wide.
            slice.first + ((start + step) % u64::from(slice.count)) as u16
        };
        let found = (0..u64::from(slice.count))
            .map(candidate)
            .find(|port| !taken(*port));
        match found {
            Some(port) => self.next = (port - slice.first).wrapping_add(1),
            None => {
                if let Some(memo) = self.exhausted.get_mut(remote.index()) {
                    *memo = Some(remote);
                }
            }
        }
        found
    }

    /// Notes that a port towards the remote endpoint of this egress key is free again.
    pub(crate) fn released(&mut self, egress: FlowKey) {
        let remote = Remote::of(egress);
        if let Some(memo) = self.exhausted.get_mut(remote.index())
            && *memo == Some(remote)
        {
            *memo = None;
        }
    }

    /// Where the search starts.
    fn start(&mut self, choice: PortChoice, egress: FlowKey) -> u64 {
        let (first, second) = egress.words();
        match choice {
            PortChoice::Prng => {
                self.drawn = self.drawn.wrapping_add(1);
                siphash(self.seed, &[self.drawn, first, second])
            }
            PortChoice::Hashrandom => siphash(self.seed, &[first, second]),
            PortChoice::None => u64::from(self.next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Zone;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Slices are consecutive, cover the range, and name their owner.
        #[test]
        fn slices_partition_the_range(a in 1u16.., b in 1u16.., workers in 1u16..40) {
            let range = PortRange { first: a.min(b), last: a.max(b) };
            let mut next = u32::from(range.first);
            for worker in 0..workers {
                let slice = slice(range, worker, workers);
                prop_assert_eq!(u32::from(slice.first), next);
                next += u32::from(slice.count);
                for port in [slice.first, slice.first.wrapping_add(slice.count).wrapping_sub(1)] {
                    if slice.count > 0 {
                        prop_assert_eq!(owner(range, port, workers), Some(worker));
                    }
                }
            }
            prop_assert_eq!(next, u32::from(range.last) + 1);
            prop_assert_eq!(owner(range, range.first.wrapping_sub(1), workers), None);
        }

        /// Whatever is leased and released, and for whichever remote endpoint: never a port that
        /// is taken, never none while one is free.
        #[test]
        fn never_twice_and_never_too_few(
            steps in proptest::collection::vec((0u16..3, 0u16..12, any::<bool>()), 1..300),
            choice in prop_oneof![
                Just(PortChoice::Prng), Just(PortChoice::Hashrandom), Just(PortChoice::None)
            ],
        ) {
            let slice = Slice { first: 65_525, count: 11 };
            let mut picker = PortPicker::new([3, 4]);
            let mut taken: HashSet<(u16, u16)> = HashSet::new();
            for (remote, pod_port, lease) in steps {
                let egress = key(remote, pod_port);
                if lease {
                    let free = (0..11).filter(|n| !taken.contains(&(remote, 65_525 + n))).count();
                    let port = picker.pick(slice, choice, egress, |port| taken.contains(&(remote, port)));
                    prop_assert_eq!(port.is_some(), free > 0);
                    if let Some(port) = port {
                        prop_assert!((65_525..=65_535).contains(&port));
                        prop_assert!(taken.insert((remote, port)));
                    }
                } else if let Some(port) = (65_525..=65_535).find(|port| taken.contains(&(remote, *port))) {
                    taken.remove(&(remote, port));
                    picker.released(egress);
                }
            }
        }
    }

    fn key(remote_port: u16, source_port: u16) -> FlowKey {
        FlowKey {
            source: Ipv4Addr::new(10, 0, 0, 5),
            destination: Ipv4Addr::new(8, 8, 8, 8),
            source_port,
            destination_port: remote_port,
            protocol: 17,
            zone: Zone::Pods,
        }
    }

    /// N8: what is chosen spreads over the slice, whatever the pod's port.
    #[test]
    fn random_choices_spread() {
        let slice = Slice {
            first: 11_000,
            count: 19_000,
        };
        let mut picker = PortPicker::new([5, 6]);
        let mut tenths = [0u32; 10];
        for _ in 0..10_000 {
            let port = picker
                .pick(slice, PortChoice::Prng, key(53, 1000), |_| false)
                .unwrap();
            tenths[usize::from(port - 11_000) / 1_900] += 1;
        }
        assert!(tenths.iter().all(|n| (820..1180).contains(n)), "{tenths:?}");
        let again: HashSet<u16> = (0..100)
            .filter_map(|_| picker.pick(slice, PortChoice::Hashrandom, key(53, 1000), |_| false))
            .collect();
        assert_eq!(again.len(), 1, "the same flow starts at the same port");
    }
}
