//! SNAT ports: which one a new flow gets.
//!
//! A port is taken towards one remote endpoint at a time (RFC 4787 REQ-3 with address- and
//! port-dependent mapping, N6): the flow table itself says what is taken, by the key the answers
//! would have, quarantined flows included (N9). So a port can be leaked or leased twice only if a
//! flow can. Each worker owns a slice of the range, so an answer's port names its worker. What the
//! host itself listens on is never chosen (N8).
//!
//! Work is bounded: one call asks for at most [`RANDOM_PROBES`] + [`PROBES`] ports. In a slice of
//! up to [`PROBES`] ports that is all of them, so a flow is refused only when every port is taken
//! (T30). In a larger one a flow is refused when as many ports in a row are taken as one call may
//! ask for, which with nine of ten ports in use towards one endpoint does not happen in the life
//! of a machine; the next flow's search goes on where this one stopped. Endpoints towards which
//! all is taken are remembered until a port is released, so that a pod that goes on trying costs
//! one comparison a time.
//! References: RFC 6056 3.3.2 (what "random" is here) and 3.3.3, RFC 6888 REQ-8 and REQ-15.

use std::net::{IpAddr, Ipv4Addr};

use crate::config::{PortChoice, PortRange};
use crate::key::FlowKey;
use crate::seeded::{Seed, mix, siphash};

/// Ports that one search asks for in a row.
pub const PROBES: u16 = 1_024;

/// Ports that one search for a random port asks for first, each drawn by itself: with half the
/// ports taken all of them fail once in 65,536 times.
pub const RANDOM_PROBES: u16 = 16;

/// Remote endpoints whose search is remembered; a collision costs a search, never a wrong answer.
const MEMOS: usize = 1024;

/// The part of the range a worker owns: `count` ports from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Lowest port.
    pub first: u16,
    /// Number of ports; 0 when there are fewer ports than workers and this is not the last one.
    pub count: u16,
}

impl Slice {
    /// The port `step` after the one at `offset`, around the end.
    fn at(self, offset: u64, step: u16) -> u16 {
        let offset = (offset + u64::from(step)) % u64::from(self.count.max(1));
        // Below `count`, which is 16 bits wide; a range ends at port 65,535.
        self.first.wrapping_add(offset as u16)
    }

    fn holds(self, port: u16) -> bool {
        port.checked_sub(self.first)
            .is_some_and(|offset| offset < self.count)
    }
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

/// A set of L4 ports, such as those that host sockets listen on; 8 KiB whatever is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSet([u64; 1024]);

impl PortSet {
    /// No port.
    pub const EMPTY: Self = Self([0; 1024]);

    /// Adds a port.
    pub fn insert(&mut self, port: u16) {
        if let Some(word) = self.0.get_mut(usize::from(port) / 64) {
            *word |= 1 << (port % 64);
        }
    }

    /// Whether a port is in it.
    #[inline]
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let word = self.0.get(usize::from(port) / 64).copied();
        word.unwrap_or(0) >> (port % 64) & 1 == 1
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::EMPTY;
        ports.into_iter().for_each(|port| set.insert(port));
        set
    }
}

/// What may be chosen from, and how.
#[derive(Debug, Clone, Copy)]
pub struct Space<'a> {
    /// The worker's ports.
    pub slice: Slice,
    /// Those of them that are not for pods.
    pub reserved: &'a PortSet,
    /// How to choose.
    pub choice: PortChoice,
    /// Version of the snapshot all this is from.
    pub epoch: u64,
}

/// What a port is taken towards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Address.
    pub address: Ipv4Addr,
    /// L4 port; 0 for an echo.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Remote {
    /// The remote endpoint of a flow from a pod; `None` for IPv6, which is not translated.
    #[must_use]
    pub const fn of(egress: &FlowKey) -> Option<Self> {
        let IpAddr::V4(address) = egress.destination else {
            return None;
        };
        Some(Self {
            address,
            port: egress.destination_port,
            protocol: egress.protocol,
        })
    }

    fn word(self) -> u64 {
        u64::from(self.address.to_bits()) << 24
            | u64::from(self.port) << 8
            | u64::from(self.protocol)
    }
}

/// A search that found the ports before `next` taken.
#[derive(Debug, Clone, Copy)]
struct Memo {
    remote: Remote,
    /// Offset in the slice at which to go on.
    next: u16,
    /// Ports that were not asked for yet; 0 when all are taken.
    left: u16,
    /// The one port that was released since, if one was.
    freed: Option<u16>,
}

/// Chooses ports for one worker.
#[derive(Debug)]
pub struct PortPicker {
    seed: Seed,
    drawn: u64,
    next: u16,
    /// Slice and epoch the memos are about.
    about: (Slice, u64),
    memos: Box<[Option<Memo>]>,
}

impl PortPicker {
    /// A picker with a secret of its own: what it picks is seen outside.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self {
            seed,
            drawn: 0,
            next: 0,
            about: (Slice { first: 0, count: 0 }, 0),
            memos: vec![None; MEMOS].into(),
        }
    }

    /// A port for a flow of `pod` (address and L4 port or echo identifier) towards `remote` that
    /// is neither reserved nor `taken`; `None` when none was found.
    pub fn choose(
        &mut self,
        space: Space<'_>,
        pod: (Ipv4Addr, u16),
        remote: Remote,
        taken: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let slice = space.slice;
        if self.about != (slice, space.epoch) {
            self.about = (slice, space.epoch);
            self.memos.fill(None);
        }
        if slice.count == 0 {
            return None;
        }
        let free = |port: &u16| !space.reserved.contains(*port) && !taken(*port);
        let memo = self.memo_mut(remote).and_then(|memo| *memo);
        let memo = match memo.filter(|memo| memo.remote == remote) {
            Some(memo) => memo,
            None => {
                if let Some(port) = self.draw(&space, pod, remote).find(free) {
                    return Some(port);
                }
                let start = self.start(space.choice, pod, remote) % u64::from(slice.count);
                Memo {
                    remote,
                    next: start as u16,
                    left: slice.count,
                    freed: None,
                }
            }
        };
        self.search(slice, memo, free)
    }

    /// Notes that `port` towards `remote` is free again.
    pub fn release(&mut self, remote: Remote, port: u16) {
        let Some(place) = self.memo_mut(remote) else {
            return;
        };
        match place {
            // One port is worth remembering: with all others taken no search would find it soon.
            Some(memo) if memo.remote == remote && memo.freed.is_none() => memo.freed = Some(port),
            Some(memo) if memo.remote == remote => *place = None,
            _ => {}
        }
    }

    /// Goes on with a search, and remembers it unless it is a new one that found something.
    fn search(&mut self, slice: Slice, mut memo: Memo, free: impl Fn(&u16) -> bool) -> Option<u16> {
        let is_new = memo.left == slice.count;
        let released = memo.freed.take().filter(|port| slice.holds(*port));
        let mut found = released.filter(&free);
        if found.is_none() {
            let probes = memo.left.min(PROBES);
            let start = u64::from(memo.next);
            let hit = (0..probes).find(|step| free(&slice.at(start, *step)));
            found = hit.map(|step| slice.at(start, step));
            let asked = hit.map_or(probes, |step| step + 1);
            memo.next = slice.at(start, asked).wrapping_sub(slice.first);
            memo.left -= asked;
        }
        if let Some(port) = found {
            self.next = port.wrapping_sub(slice.first).wrapping_add(1);
        }
        let remember = found.is_none() || !is_new;
        if let Some(place) = self.memo_mut(memo.remote) {
            *place = remember.then_some(memo);
        }
        found
    }

    fn memo_mut(&mut self, remote: Remote) -> Option<&mut Option<Memo>> {
        let index = mix(self.seed, remote.word(), 0) as usize & (MEMOS - 1);
        self.memos.get_mut(index)
    }

    /// Random ports, as many as are worth trying before a search; none unless that is the choice.
    fn draw(
        &mut self,
        space: &Space<'_>,
        (address, port): (Ipv4Addr, u16),
        remote: Remote,
    ) -> impl Iterator<Item = u16> + use<> {
        let slice = space.slice;
        let draws = match space.choice {
            PortChoice::Prng => RANDOM_PROBES,
            PortChoice::Hashrandom | PortChoice::None => 0,
        };
        let drawn = self.drawn;
        let seed = self.seed;
        self.drawn = drawn.wrapping_add(u64::from(draws));
        let pod = u64::from(address.to_bits()) << 16 | u64::from(port);
        (0..u64::from(draws)).map(move |n| {
            let draw = siphash(seed, &[drawn.wrapping_add(n), pod, remote.word()]);
            slice.at(draw % u64::from(slice.count.max(1)), 0)
        })
    }

    /// Where a search starts.
    fn start(
        &mut self,
        choice: PortChoice,
        (address, port): (Ipv4Addr, u16),
        remote: Remote,
    ) -> u64 {
        let pod = u64::from(address.to_bits()) << 16 | u64::from(port);
        match choice {
            PortChoice::Prng => {
                self.drawn = self.drawn.wrapping_add(1);
                siphash(self.seed, &[self.drawn, pod, remote.word()])
            }
            PortChoice::Hashrandom => siphash(self.seed, &[pod, remote.word()]),
            PortChoice::None => u64::from(self.next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Zone;
    use crate::runs::runs;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::HashSet;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(runs(256)))]
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

        /// Z7: several workers lease from one range and release again, towards whichever remote
        /// endpoints, while the host's ports change. No two living flows have the same port
        /// towards the same endpoint, none has a host's, and none is refused while one is free.
        #[test]
        fn z7_unique_among_the_living_and_never_too_few(
            steps in proptest::collection::vec(
                (0u16..3, 0u16..3, 0u16..40, 0u8..12),
                1..400,
            ),
            workers in 1u16..4,
            choice in prop_oneof![
                Just(PortChoice::Prng), Just(PortChoice::Hashrandom), Just(PortChoice::None)
            ],
        ) {
            let range = PortRange { first: 65_515, last: 65_535 };
            let mut pickers: Vec<PortPicker> =
                (0..workers).map(|worker| PortPicker::new([3, worker.into()])).collect();
            let mut living: Vec<(u16, u16, u16)> = Vec::new();
            let mut reserved = PortSet::EMPTY;
            let mut epoch = 1;
            for (worker, remote_port, pod_port, action) in steps {
                let worker = worker % workers;
                let slice = slice(range, worker, workers);
                let picker = &mut pickers[usize::from(worker)];
                let remote = remote(remote_port);
                let mine = |flow: &(u16, u16, u16)| flow.0 == worker && flow.1 == remote_port;
                match action {
                    0 => {
                        epoch += 1;
                        reserved = [65_515 + pod_port % 21, 65_515 + pod_port / 2].into_iter().collect();
                    }
                    1..=3 => if let Some(at) = living.iter().position(mine) {
                        let (_, _, port) = living.remove(at);
                        picker.release(remote, port);
                    }
                    _ => {
                        let taken = |port| living.contains(&(worker, remote_port, port));
                        let space = Space { slice, reserved: &reserved, choice, epoch };
                        let chosen = picker.choose(space, (POD, pod_port), remote, taken);
                        let free = (0..slice.count)
                            .map(|n| slice.first + n)
                            .filter(|port| !taken(*port) && !reserved.contains(*port));
                        prop_assert_eq!(chosen.is_some(), free.clone().next().is_some());
                        if let Some(port) = chosen {
                            prop_assert!(free.clone().any(|free| free == port));
                            let twice = living.iter().any(|flow| (flow.1, flow.2) == (remote_port, port));
                            prop_assert!(!twice, "also not at another worker");
                            living.push((worker, remote_port, port));
                        }
                    }
                }
            }
        }

        #[test]
        fn a_port_set_is_a_set(ports in proptest::collection::hash_set(any::<u16>(), 0..50)) {
            let set: PortSet = ports.iter().copied().collect();
            for port in 0..=u16::MAX {
                prop_assert_eq!(set.contains(port), ports.contains(&port));
            }
        }
    }

    const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    fn remote(port: u16) -> Remote {
        Remote {
            address: Ipv4Addr::new(8, 8, 8, 8),
            port,
            protocol: 17,
        }
    }

    fn space(slice: Slice, choice: PortChoice) -> Space<'static> {
        Space {
            slice,
            reserved: &PortSet::EMPTY,
            choice,
            epoch: 1,
        }
    }

    const CHOICES: [PortChoice; 3] = [PortChoice::Prng, PortChoice::Hashrandom, PortChoice::None];

    /// T30: 256 ports, 300 flows to one endpoint. What is refused costs no search, and a port
    /// that comes back is found at once.
    #[test]
    fn t30_256_work_and_44_are_refused() {
        for choice in CHOICES {
            let slice = Slice {
                first: 11_000,
                count: 256,
            };
            let mut picker = PortPicker::new([7, 8]);
            let mut taken = HashSet::new();
            let mut refused = 0;
            let asked = Cell::new(0);
            for flow in 0..300 {
                asked.set(0);
                let chosen =
                    picker.choose(space(slice, choice), (POD, flow), remote(443), |port| {
                        asked.set(asked.get() + 1);
                        taken.contains(&port)
                    });
                match chosen {
                    Some(port) => assert!(taken.insert(port)),
                    None => refused += 1,
                }
                assert!(asked.get() <= RANDOM_PROBES + PROBES);
                // The 257th finds out; those behind it are told.
                assert!(flow <= 256 || asked.get() == 0);
            }
            assert_eq!((taken.len(), refused), (256, 44));
            let port = picker.choose(space(slice, choice), (POD, 1), remote(444), |_| false);
            assert!(port.is_some(), "another endpoint has ports of its own");
            taken.remove(&11_077);
            picker.release(remote(443), 11_077);
            for expected in [Some(11_077), None] {
                let chosen = picker.choose(space(slice, choice), (POD, 1), remote(443), |port| {
                    taken.contains(&port)
                });
                assert_eq!(chosen, expected);
                taken.extend(chosen);
            }
        }
    }

    /// The one free port of the whole range is found in bounded steps, each of them refused.
    #[test]
    fn a_search_of_the_largest_slice_is_bounded_and_goes_on() {
        for choice in CHOICES {
            let slice = Slice {
                first: 1,
                count: 65_535,
            };
            let mut picker = PortPicker::new([7, 8]);
            let asked = Cell::new(0u32);
            let mut calls = 0;
            let found = loop {
                asked.set(0);
                let chosen = picker.choose(space(slice, choice), (POD, 1), remote(443), |port| {
                    asked.set(asked.get() + 1);
                    port != 40_000
                });
                assert!(asked.get() <= u32::from(RANDOM_PROBES + PROBES));
                calls += 1;
                if chosen.is_some() || calls > 64 {
                    break chosen;
                }
            };
            assert_eq!(found, Some(40_000), "after {calls} calls");
        }
    }

    #[test]
    fn n8_never_a_port_the_host_listens_on() {
        let slice = Slice {
            first: 11_000,
            count: 512,
        };
        let reserved: PortSet = (11_000..11_512).filter(|port| port % 3 != 0).collect();
        for choice in CHOICES {
            let mut picker = PortPicker::new([7, 8]);
            let space = Space {
                reserved: &reserved,
                ..space(slice, choice)
            };
            for pod_port in 0..2_000 {
                let port = picker.choose(space, (POD, pod_port), remote(53), |_| false);
                assert!(port.is_some_and(|port| port % 3 == 0));
            }
        }
    }

    /// N8: what is chosen spreads over the slice, whatever the pod's port; and RFC 6056: one
    /// choice tells nothing of the next, parity included.
    #[test]
    fn n8_random_choices_spread() {
        let slice = Slice {
            first: 11_000,
            count: 19_000,
        };
        let mut picker = PortPicker::new([5, 6]);
        let mut tenths = [0u32; 10];
        let mut steps = [0u32; 10];
        let mut odd = 0;
        let mut last = 0;
        for _ in 0..10_000 {
            let space = space(slice, PortChoice::Prng);
            let port = picker.choose(space, (POD, 1_000), remote(53), |_| false);
            let offset = usize::from(port.unwrap() - slice.first);
            tenths[offset / 1_900] += 1;
            steps[(offset + 19_000 - last) % 19_000 / 1_900] += 1;
            odd += offset % 2;
            last = offset;
        }
        for counts in [tenths, steps] {
            assert!(counts.iter().all(|n| (820..1180).contains(n)), "{counts:?}");
        }
        assert!((4_700..5_300).contains(&odd), "{odd}");
        let again: HashSet<Option<u16>> = (0..100)
            .map(|_| {
                let space = space(slice, PortChoice::Hashrandom);
                picker.choose(space, (POD, 1_000), remote(53), |_| false)
            })
            .collect();
        assert_eq!(again.len(), 1, "the same flow starts at the same port");
    }

    #[test]
    fn none_counts_up() {
        let slice = Slice {
            first: 100,
            count: 3,
        };
        let mut picker = PortPicker::new([5, 6]);
        let ports: Vec<Option<u16>> = (0..4)
            .map(|n| {
                picker.choose(space(slice, PortChoice::None), (POD, n), remote(53), |_| {
                    false
                })
            })
            .collect();
        assert_eq!(ports, [Some(100), Some(101), Some(102), Some(100)]);
    }

    #[test]
    fn a_flow_key_names_its_remote_endpoint() {
        let key = FlowKey {
            source: POD.into(),
            destination: Ipv4Addr::new(8, 8, 8, 8).into(),
            source_port: 9,
            destination_port: 53,
            protocol: 17,
            zone: Zone::Pods,
        };
        assert_eq!(Remote::of(&key), Some(remote(53)));
        let key6 = FlowKey {
            destination: std::net::Ipv6Addr::LOCALHOST.into(),
            ..key
        };
        assert_eq!(Remote::of(&key6), None, "IPv6 is not translated");
    }
}
