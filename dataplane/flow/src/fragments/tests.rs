use super::*;
use crate::runs::runs;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

const SEED: Seed = [21, 22];
const START: Timestamp = Timestamp::from_nanos(1_000_000_000);

fn host(n: u32) -> IpAddr {
    match n % 2 {
        0 => Ipv4Addr::from_bits(0x0a00_0000 + n).into(),
        _ => Ipv6Addr::from_bits(0xfd << 120 | u128::from(n)).into(),
    }
}

fn peer(n: u32) -> IpAddr {
    match n % 2 {
        0 => Ipv4Addr::new(198, 51, 100, 9).into(),
        _ => Ipv6Addr::from_bits(0x2001_0db8 << 96 | 9).into(),
    }
}

fn datagram(source: u32, id: u32, zone: Zone) -> Datagram {
    Datagram::new((host(source), peer(source)), id, 17, zone)
}

fn piece(offset: u16, length: u16, more: bool) -> Piece {
    Piece {
        id: 0,
        offset,
        length,
        more,
    }
}

const FIRST: Piece = Piece {
    id: 0,
    offset: 0,
    length: 1_480,
    more: true,
};

fn tracker() -> Tracker<u32> {
    Tracker::new(SEED)
}

#[test]
fn p21_p22_a_4000_byte_answer_in_any_order() {
    let rest = [piece(1_480, 1_480, true), piece(2_960, 1_048, false)];
    for order in [[0, 1], [1, 0]] {
        for family in [0, 1] {
            let mut tracker = tracker();
            let answer = datagram(family, 7, Zone::Uplinks);
            for index in order {
                assert_eq!(tracker.later(answer, rest[index], START), Later::Wait);
            }
            assert!(tracker.is_empty(), "waiting costs no room");
            tracker.first(answer, FIRST, 53, START).unwrap();
            for index in order {
                let after = START.after(HOLD);
                assert_eq!(tracker.later(answer, rest[index], after), Later::Known(53));
            }
            assert!(tracker.is_empty(), "complete");
        }
    }
}

#[test]
fn p25_p70_a_byte_that_comes_twice_spoils_the_datagram() {
    let overlaps = [
        piece(1_480, 1_480, true),  // the same again
        piece(1_472, 16, true),     // over a boundary
        piece(2_000, 8, true),      // within
        piece(0, 1_480, true),      // the first again, without being one
        piece(1_000, 5_000, false), // around
    ];
    for overlap in overlaps {
        for family in [0, 1] {
            let mut tracker = tracker();
            let datagram = datagram(family, 1, Zone::Pods);
            tracker.first(datagram, FIRST, 1, START).unwrap();
            let middle = piece(1_480, 1_480, true);
            assert_eq!(tracker.later(datagram, middle, START), Later::Known(1));
            let dropped = Later::Drop(DropReason::FragOverlap);
            assert_eq!(tracker.later(datagram, overlap, START), dropped);
            // From now on all of it, whatever would have fitted.
            let last = piece(2_960, 100, false);
            assert_eq!(tracker.later(datagram, last, START), dropped);
            let first = tracker.first(datagram, FIRST, 2, START);
            assert_eq!(first, Err(DropReason::FragOverlap));
            // Until the identification is free for another datagram.
            let after = START.after(LIFETIME);
            assert_eq!(tracker.first(datagram, FIRST, 3, after), Ok(()));
            assert_eq!(tracker.later(datagram, middle, after), Later::Known(3));
        }
    }
}

#[test]
fn p25_a_second_first_spoils_it_too() {
    let mut tracker = tracker();
    let datagram = datagram(0, 1, Zone::Pods);
    tracker.first(datagram, FIRST, 1, START).unwrap();
    assert_eq!(
        tracker.first(datagram, FIRST, 2, START),
        Err(DropReason::FragOverlap)
    );
    let last = piece(1_480, 8, false);
    assert_eq!(
        tracker.later(datagram, last, START),
        Later::Drop(DropReason::FragOverlap)
    );
}

#[test]
fn ends_that_contradict_each_other_spoil_it() {
    let last = piece(2_960, 100, false);
    for bad in [
        piece(3_064, 8, false), // a second end
        piece(3_064, 8, true),  // more behind the end
        piece(2_952, 8, false), // an end before bytes seen
    ] {
        let mut tracker = tracker();
        let datagram = datagram(0, 1, Zone::Pods);
        tracker.first(datagram, FIRST, 1, START).unwrap();
        assert_eq!(tracker.later(datagram, last, START), Later::Known(1));
        assert_eq!(
            tracker.later(datagram, bad, START),
            Later::Drop(DropReason::FragOverlap)
        );
    }
}

#[test]
fn p26_a_piece_past_the_greatest_datagram() {
    let mut tracker = tracker();
    let datagram = datagram(0, 1, Zone::Pods);
    let long = piece(65_528, 8, true);
    let dropped = DropReason::FragToolong;
    assert_eq!(
        tracker.later(datagram, long, START),
        Later::Drop(dropped),
        "also when nothing is known of it"
    );
    tracker.first(datagram, FIRST, 1, START).unwrap();
    assert_eq!(tracker.later(datagram, long, START), Later::Drop(dropped));
    let longest = piece(1_480, 65_535 - 1_480, false);
    assert_eq!(tracker.later(datagram, longest, START), Later::Known(1));
    assert!(tracker.is_empty());
}

#[test]
fn more_gaps_than_are_kept_spoil_the_datagram() {
    let mut tracker = tracker();
    let datagram = datagram(0, 1, Zone::Pods);
    tracker
        .first(datagram, piece(0, 8, true), 1, START)
        .unwrap();
    for n in 1..spans::MOST as u16 {
        let apart = piece(n * 16, 8, true);
        assert_eq!(tracker.later(datagram, apart, START), Later::Known(1));
    }
    let limit = Later::Drop(DropReason::FragLimit);
    assert_eq!(tracker.later(datagram, piece(8_000, 8, true), START), limit);
    assert_eq!(tracker.later(datagram, piece(8, 8, true), START), limit);
}

/// RFC 8200 4.5: only the first fragment's Next Header counts; in IPv4 the protocol tells
/// datagrams apart.
#[test]
fn the_protocol_is_part_of_the_name_in_ip4_only() {
    let of = |n: u32, protocol| Datagram::new((host(n), peer(n)), 5, protocol, Zone::Pods);
    let rest = piece(1_480, 8, false);
    let mut tracker = tracker();
    tracker.first(of(0, 17), FIRST, 1, START).unwrap();
    assert_eq!(tracker.later(of(0, 1), rest, START), Later::Wait);
    tracker.first(of(1, 17), FIRST, 2, START).unwrap();
    assert_eq!(tracker.later(of(1, 60), rest, START), Later::Known(2));
}

#[test]
fn datagrams_differ_by_any_part_of_their_name() {
    let mut tracker = tracker();
    let own = datagram(0, 1, Zone::Pods);
    tracker.first(own, FIRST, 1, START).unwrap();
    let (source, destination) = (host(0), peer(0));
    for other in [
        datagram(2, 1, Zone::Pods),
        datagram(0, 2, Zone::Pods),
        datagram(0, 1 << 16 | 1, Zone::Pods),
        datagram(0, 1, Zone::Uplinks),
        Datagram::new((destination, source), 1, 17, Zone::Pods),
        Datagram::new((source, host(2)), 1, 17, Zone::Pods),
    ] {
        assert_eq!(
            tracker.later(other, piece(1_480, 8, false), START),
            Later::Wait
        );
    }
    assert_eq!(
        tracker.later(own, piece(1_480, 8, false), START),
        Later::Known(1)
    );
}

/// P27: one source that never completes anything loses only its own datagrams.
#[test]
fn p27_a_flood_of_one_source_harms_nobody_else() {
    let mut tracker = tracker();
    let others: Vec<Datagram> = (1..=64).map(|n| datagram(n, 9, Zone::Pods)).collect();
    for other in &others {
        tracker.first(*other, FIRST, 9, START).unwrap();
    }
    for id in 0..100_000 {
        let flood = datagram(0, id, Zone::Pods);
        assert_eq!(tracker.first(flood, FIRST, 0, START), Ok(()));
    }
    assert_eq!(tracker.len(), 64 + SOURCE_CONTEXTS);
    let last = piece(1_480, 8, false);
    for other in &others {
        assert_eq!(tracker.later(*other, last, START), Later::Known(9));
    }
    // Its youngest are there, its older ones are not.
    let at = |id| datagram(0, id, Zone::Pods);
    assert_eq!(tracker.later(at(99_999), last, START), Later::Known(0));
    assert_eq!(tracker.later(at(0), last, START), Later::Wait);
}

/// P27: sources without end fill their own side and are refused by name; what was there before
/// them, and the other side, go on.
#[test]
fn p27_a_flood_of_many_sources_fills_its_own_side_only() {
    let mut tracker = tracker();
    let before = datagram(1, 1, Zone::Uplinks);
    tracker.first(before, FIRST, 1, START).unwrap();
    let mut refused = 0;
    for n in 0..100_000 {
        match tracker.first(datagram(10 + n, 5, Zone::Uplinks), FIRST, 0, START) {
            Ok(()) => {}
            Err(DropReason::FragLimit) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 100_000 - (u32::from(SIDE_CONTEXTS) - 1));
    let last = piece(1_480, 8, false);
    assert_eq!(tracker.later(before, last, START), Later::Known(1));
    for n in 0..u32::from(CONTEXTS - SIDE_CONTEXTS) {
        let pod = datagram(n, 5, Zone::Pods);
        assert_eq!(tracker.first(pod, FIRST, n, START), Ok(()));
    }
    // Nothing lasts longer than a context does.
    let after = START.after(LIFETIME);
    assert_eq!(
        tracker.first(datagram(7, 8, Zone::Uplinks), FIRST, 0, after),
        Ok(())
    );
    while tracker.expire(after, 64) == 64 {}
    assert_eq!(tracker.len(), 1);
}

const SMALL: Limits = Limits {
    contexts: 6,
    side: 4,
    source: 3,
};

/// A datagram as the model follows it: every byte by itself.
#[derive(Debug)]
struct Followed {
    datagram: Datagram,
    known: u32,
    born: Timestamp,
    seen: Vec<bool>,
    total: Option<u16>,
    poisoned: bool,
}

/// The definition, with lists and no arithmetic.
#[derive(Debug, Default)]
struct Model(VecDeque<Followed>);

impl Model {
    fn pass(&mut self, now: Timestamp) {
        self.0.retain(|one| now.since(one.born) < LIFETIME);
    }

    fn count(&self, of: impl Fn(&Datagram) -> bool) -> usize {
        self.0.iter().filter(|one| of(&one.datagram)).count()
    }

    fn first(
        &mut self,
        new: Datagram,
        piece: Piece,
        known: u32,
        now: Timestamp,
    ) -> Result<(), DropReason> {
        if let Some(one) = self.0.iter_mut().find(|one| one.datagram == new) {
            one.poisoned = true;
            return Err(DropReason::FragOverlap);
        }
        let mates = |one: &Datagram| one.source == new.source && one.zone == new.zone;
        if self.count(mates) == usize::from(SMALL.source) {
            let oldest = self.0.iter().position(|one| mates(&one.datagram)).unwrap();
            self.0.remove(oldest);
        }
        let full = self.0.len() == usize::from(SMALL.contexts);
        if full || self.count(|one| one.zone == new.zone) == usize::from(SMALL.side) {
            return Err(DropReason::FragLimit);
        }
        let mut seen = vec![false; 256];
        seen[..usize::from(piece.length)].fill(true);
        self.0.push_back(Followed {
            datagram: new,
            known,
            born: now,
            seen,
            total: None,
            poisoned: false,
        });
        Ok(())
    }

    fn later(&mut self, of: Datagram, piece: Piece) -> Later<u32> {
        let Some(at) = self.0.iter().position(|one| one.datagram == of) else {
            return Later::Wait;
        };
        let one = &mut self.0[at];
        let (start, end) = (piece.offset, piece.offset + piece.length);
        let bytes = usize::from(start)..usize::from(end);
        let beyond = one.seen[usize::from(end)..].iter().any(|seen| *seen);
        let contradiction = match one.total {
            Some(total) => (end != total) != piece.more || end > total,
            None => !piece.more && beyond,
        };
        if one.poisoned || contradiction || one.seen[bytes.clone()].iter().any(|seen| *seen) {
            one.poisoned = true;
            return Later::Drop(DropReason::FragOverlap);
        }
        one.seen[bytes].fill(true);
        if !piece.more {
            one.total = Some(end);
        }
        let known = one.known;
        let whole = one
            .total
            .is_some_and(|total| one.seen[..usize::from(total)].iter().all(|seen| *seen));
        if whole {
            self.0.remove(at);
        }
        Later::Known(known)
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    First(u32, u32, bool, u16),
    Later(u32, u32, bool, Piece),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || (0u32..5, 0u32..4, any::<bool>());
    // Few boundaries, so that pieces fit each other more often than not; some do not care.
    let pieces = prop_oneof![
        4 => (1u16..6, 1u16..3, any::<bool>()).prop_map(|(at, n, more)| piece(at * 16, n * 16, more)),
        1 => (1u16..80, 0u16..40, any::<bool>()).prop_map(|(at, n, more)| piece(at, n, more)),
    ];
    prop_oneof![
        3 => (name(), 1u16..20).prop_map(|((source, id, pods), length)| {
            Step::First(source, id, pods, if length < 16 { 16 } else { length })
        }),
        6 => (name(), pieces).prop_map(|((source, id, pods), piece)| {
            Step::Later(source, id, pods, piece)
        }),
        1 => (0u64..1_200_000_000).prop_map(Step::Wait),
    ]
}

fn zone_of(pods: bool) -> Zone {
    if pods { Zone::Pods } else { Zone::Uplinks }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(runs(1_000)))]
    /// Z5: every answer is the model's, whatever comes in whatever order; what is known goes to
    /// its own datagram only; and no more is kept than may be.
    #[test]
    fn z5_equals_the_model(steps in proptest::collection::vec(step(), 1..300)) {
        let mut tracker: Tracker<u32> = Tracker::with_limits(SEED, SMALL);
        let mut model = Model::default();
        let mut now = START;
        for (n, step) in steps.into_iter().enumerate() {
            model.pass(now);
            match step {
                Step::First(source, id, pods, length) => {
                    let datagram = datagram(source, id, zone_of(pods));
                    let first = piece(0, length, true);
                    let known = n as u32;
                    prop_assert_eq!(
                        tracker.first(datagram, first, known, now),
                        model.first(datagram, first, known, now)
                    );
                }
                Step::Later(source, id, pods, piece) => {
                    let datagram = datagram(source, id, zone_of(pods));
                    let answer = tracker.later(datagram, piece, now);
                    prop_assert_eq!(answer, model.later(datagram, piece));
                }
                Step::Wait(nanos) => now = now.after(Duration::from_nanos(nanos)),
            }
            prop_assert!(tracker.len() <= SMALL.contexts);
            prop_assert!(usize::from(tracker.len()) >= model.0.len());
            prop_assert_eq!(tracker.free.len() + usize::from(tracker.len()), 6);
            let mut sources: HashMap<(IpAddr, Zone), u16> = HashMap::new();
            for context in tracker.contexts.iter().flatten() {
                *sources.entry((context.datagram.source, context.datagram.zone)).or_default() += 1;
            }
            prop_assert!(sources.values().all(|n| *n <= SMALL.source));
            prop_assert_eq!(tracker.free_sources.len() + sources.len(), 6);
        }
        while tracker.expire(now.after(LIFETIME), 1) == 1 {}
        prop_assert!(tracker.is_empty());
        prop_assert_eq!(tracker.free_sources.len(), 6);
    }
}
