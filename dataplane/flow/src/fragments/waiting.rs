//! Fragments that came before their first (P22): held for [`HOLD`] at most, then dropped.
//!
//! Bounded in number, and by source so that one sender cannot fill the room of all: a
//! fragment that finds no place goes back to the caller, who drops it as `frag_limit`. Nothing is
//! copied and nothing allocated after `new`; the caller's packets only rest here.
//!
//! The caller's order of work: on [`Later::Wait`](super::Later::Wait) [`Waiting::push`]; after
//! [`Tracker::first`](super::Tracker::first) took a first fragment, [`Waiting::take`] until there
//! is none, asking the tracker again for each; once a batch [`Waiting::overdue`] until there is
//! none, dropping each as `stale`.

use super::{Datagram, HOLD};
use crate::Timestamp;

/// Fragments held at a time. A 64 KiB datagram over an MTU of 1,500 has 44 behind its first.
pub const HELD: usize = 128;

/// Fragments of one source held at a time.
pub const SOURCE_HELD: usize = 48;

#[derive(Debug)]
struct Held<P> {
    datagram: Datagram,
    since: Timestamp,
    packet: P,
}

/// Packets that wait, `P` being what the caller holds them by.
#[derive(Debug)]
pub struct Waiting<P>(Vec<Held<P>>);

impl<P> Waiting<P> {
    /// Nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(HELD))
    }

    /// Packets that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Holds a packet, a fragment of `datagram`.
    ///
    /// # Errors
    /// The packet, for which there is no room.
    pub fn push(&mut self, datagram: Datagram, packet: P, now: Timestamp) -> Result<(), P> {
        let of_source = |held: &&Held<P>| {
            held.datagram.source == datagram.source && held.datagram.zone == datagram.zone
        };
        let full = self.0.len() >= HELD || self.0.iter().filter(of_source).count() >= SOURCE_HELD;
        if full {
            return Err(packet);
        }
        self.0.push(Held {
            datagram,
            since: now,
            packet,
        });
        Ok(())
    }

    /// The packet of `datagram` that has waited longest.
    pub fn take(&mut self, datagram: Datagram) -> Option<P> {
        let at = self.0.iter().position(|held| held.datagram == datagram)?;
        Some(self.0.remove(at).packet)
    }

    /// A packet that has waited for too long.
    pub fn overdue(&mut self, now: Timestamp) -> Option<P> {
        let oldest = self.0.first()?;
        if now.since(oldest.since) < HOLD {
            return None;
        }
        Some(self.0.remove(0).packet)
    }
}

impl<P> Default for Waiting<P> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Zone;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    const START: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn datagram(source: u8, id: u32) -> Datagram {
        let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        Datagram::new((address(source), address(99)), id, 17, Zone::Pods)
    }

    #[test]
    fn p22_those_of_one_datagram_leave_in_their_order_and_nobody_elses_do() {
        let mut waiting = Waiting::new();
        for (n, id) in [7, 8, 7, 8, 7].into_iter().enumerate() {
            waiting.push(datagram(1, id), n, START).unwrap();
        }
        assert_eq!(waiting.take(datagram(2, 7)), None);
        let taken: Vec<usize> = std::iter::from_fn(|| waiting.take(datagram(1, 7))).collect();
        assert_eq!(taken, [0, 2, 4]);
        assert_eq!(waiting.len(), 2);
    }

    #[test]
    fn p22_none_is_held_for_longer_than_100_ms() {
        let mut waiting = Waiting::new();
        let at = |ms| START.after(Duration::from_millis(ms));
        for (n, ms) in [0, 40, 41].into_iter().enumerate() {
            waiting.push(datagram(1, 7), n, at(ms)).unwrap();
        }
        assert_eq!(waiting.overdue(at(99)), None);
        assert_eq!(waiting.overdue(at(100)), Some(0));
        assert_eq!(waiting.overdue(at(140)), Some(1));
        assert_eq!(waiting.overdue(at(140)), None);
        assert_eq!(waiting.overdue(at(1_000)), Some(2));
        assert!(waiting.is_empty());
    }

    #[test]
    fn p27_room_is_bounded_for_each_and_for_all() {
        let mut waiting = Waiting::new();
        let room = waiting.0.capacity();
        let mut held = 0;
        for n in 0..1_000 {
            held += usize::from(waiting.push(datagram(1, n), n, START).is_ok());
        }
        assert_eq!(held, SOURCE_HELD);
        for source in 2..200 {
            for n in 0..10 {
                match waiting.push(datagram(source, n), n, START) {
                    Ok(()) => held += 1,
                    Err(packet) => assert_eq!(packet, n, "given back"),
                }
            }
        }
        assert_eq!((held, waiting.len()), (HELD, HELD));
        assert_eq!(waiting.0.capacity(), room, "no allocation");
        assert!(waiting.take(datagram(1, 3)).is_some());
        assert!(waiting.push(datagram(1, 3), 3, START).is_ok());
    }
}
