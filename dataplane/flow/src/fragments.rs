//! Shallow virtual reassembly: later fragments take the way their first fragment took.
//!
//! Only the first fragment of a datagram has L4 ports. The tracker remembers what the caller
//! decided for it and tells later fragments, in whatever order they come (RFC 4787 REQ-14, P21 to
//! P28, P69 to P72). No byte is kept and no packet held: a fragment ahead of its first is
//! answered [`Later::Wait`] and costs nothing here; the caller holds it for at most [`HOLD`], in
//! [`Waiting`], and asks again, or drops it.
//!
//! Guarantees: memory is fixed at the start. A datagram's answer never goes to another's fragment:
//! datagrams are told apart by everything RFC 791 and RFC 8200 tell them apart by, and by the side
//! they come from. A byte that comes twice poisons its datagram, whole duplicates included and in
//! both families: RFC 8200 4.5 and RFC 5722 want it for IPv6, and for IPv4 nothing would tell a
//! duplicate from an attack that cuts the datagram anew. Ends that contradict each other count as
//! overlap. A datagram that cannot be followed is refused, never guessed.
//!
//! Room: [`CONTEXTS`] datagrams at a time, of which one side may have [`SIDE_CONTEXTS`] and one
//! source [`SOURCE_CONTEXTS`]. A source at its bound loses its own oldest datagram; nobody loses
//! one to somebody else. The caller stores only first fragments it has decided to forward, so what
//! matches no flow takes no room.
//!
//! Time: a context lives for [`LIFETIME`] from its first fragment, or until all bytes were seen.
//! Reassembling hosts wait long (RFC 791: 15 seconds, RFC 8200: 60) because they hold the bytes;
//! a straggler we no longer know is lost only to them. Waiting as long would be wrong here: a
//! sender of 16-bit identifications comes round to the same one within seconds (RFC 4963), and
//! its new datagram must not meet the remains of the old. VPP waits 100 ms for IPv6 and 200 ms
//! for IPv4; two seconds also carry 64 KiB over a path of 300 kbit/s.

mod spans;
mod waiting;

use std::net::IpAddr;
use std::time::Duration;

use penstock_packet::{DropReason, Piece};

use crate::Timestamp;
use crate::key::Zone;
use crate::seeded::{Seed, mix};
use crate::slots::{Chains, Links, Queue};
use spans::{Added, Spans};
pub use waiting::{HELD, SOURCE_HELD, Waiting};

/// Datagrams followed at a time (P27).
pub const CONTEXTS: u16 = 1_024;

/// Datagrams followed at a time from one side: neither pods nor the world can shut the other out.
pub const SIDE_CONTEXTS: u16 = 768;

/// Datagrams followed at a time from one source address.
pub const SOURCE_CONTEXTS: u16 = 128;

/// How long after its first fragment a datagram is followed.
pub const LIFETIME: Duration = Duration::from_secs(2);

/// How long the caller may hold a fragment that came before its first (P22).
pub const HOLD: Duration = Duration::from_millis(100);

/// Contexts of the past that storing a new one clears away; two keep ahead of arrivals.
const SWEEP: usize = 4;

/// What tells a datagram from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Datagram {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    protocol: u8,
    zone: Zone,
}

impl Datagram {
    /// The datagram a fragment belongs to, by its header. The protocol counts in IPv4 only: in
    /// IPv6 that of the first fragment rules and those of others may differ (RFC 8200 4.5).
    #[must_use]
    pub const fn new(
        (source, destination): (IpAddr, IpAddr),
        id: u32,
        protocol: u8,
        zone: Zone,
    ) -> Self {
        let protocol = match source {
            IpAddr::V4(_) => protocol,
            IpAddr::V6(_) => 0,
        };
        Self {
            source,
            destination,
            id,
            protocol,
            zone,
        }
    }

    fn hash(&self, seed: Seed) -> u64 {
        let ends = mix(
            seed,
            address(seed, self.source),
            address(seed, self.destination),
        );
        let rest = u64::from(self.id) << 16 | u64::from(self.protocol) << 8 | zone(self.zone);
        mix(seed, ends, rest)
    }
}

/// What is known for a later fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later<D> {
    /// What the first fragment's caller said.
    Known(D),
    /// The first fragment has not come: hold this one for [`HOLD`] at most, then ask again.
    Wait,
    /// Drop it under the reason; its datagram is spoilt or it cannot be part of one.
    Drop(DropReason),
}

/// How much is followed at a time.
#[derive(Debug, Clone, Copy)]
struct Limits {
    contexts: u16,
    side: u16,
    source: u16,
}

/// A datagram that is followed.
#[derive(Debug, Clone, Copy)]
struct Context<D> {
    datagram: Datagram,
    born: Timestamp,
    /// Slot of its source.
    source: u16,
    seen: Spans,
    /// Bytes of the whole, once the last piece has told.
    total: Option<u16>,
    state: State<D>,
}

#[derive(Debug, Clone, Copy)]
enum State<D> {
    Following(D),
    Poisoned(DropReason),
}

/// A source with datagrams that are followed.
#[derive(Debug, Clone, Copy)]
struct Source {
    address: IpAddr,
    zone: Zone,
    contexts: Queue,
}

/// Datagrams in pieces, as one worker knows them; `D` is what the caller wants back.
#[derive(Debug)]
pub struct Tracker<D> {
    seed: Seed,
    limits: Limits,
    contexts: Box<[Option<Context<D>>]>,
    by_datagram: Chains,
    free: Vec<u16>,
    /// All contexts by age.
    ages: Queue,
    age_links: Box<[Links]>,
    sources: Box<[Option<Source>]>,
    by_source: Chains,
    free_sources: Vec<u16>,
    /// Each source's contexts by age.
    source_links: Box<[Links]>,
    from_pods: u16,
}

impl<D: Copy> Tracker<D> {
    /// A tracker that follows nothing yet.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self::with_limits(
            seed,
            Limits {
                contexts: CONTEXTS,
                side: SIDE_CONTEXTS,
                source: SOURCE_CONTEXTS,
            },
        )
    }

    fn with_limits(seed: Seed, limits: Limits) -> Self {
        let slots = limits.contexts;
        let count = usize::from(slots);
        Self {
            seed,
            limits,
            contexts: vec![None; count].into(),
            by_datagram: Chains::new(slots),
            free: (0..slots).rev().collect(),
            ages: Queue::EMPTY,
            age_links: vec![Links::NONE; count].into(),
            sources: vec![None; count].into(),
            by_source: Chains::new(slots),
            free_sources: (0..slots).rev().collect(),
            source_links: vec![Links::NONE; count].into(),
            from_pods: 0,
        }
    }

    /// Datagrams that are followed, those whose time is up but not yet cleared away included.
    #[must_use]
    pub const fn len(&self) -> u16 {
        self.ages.length()
    }

    /// Whether none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ages.length() == 0
    }

    /// Remembers `known` for the later fragments of `datagram`, whose first one is `piece`.
    ///
    /// # Errors
    /// Drop this fragment: `frag_overlap` when it is not the first first, `frag_limit` when there
    /// is no room, `frag_toolong`.
    pub fn first(
        &mut self,
        datagram: Datagram,
        piece: Piece,
        known: D,
        now: Timestamp,
    ) -> Result<(), DropReason> {
        let end = end(piece)?;
        self.expire(now, SWEEP);
        if let Some(slot) = self.find(datagram, now) {
            return Err(self.poison(slot, DropReason::FragOverlap));
        }
        if !piece.more {
            return Ok(());
        }
        let source = self.make_room(&datagram, now)?;
        let slot = self.free.pop().ok_or(DropReason::FragLimit)?;
        let mut seen = Spans::EMPTY;
        seen.add(piece.offset, end);
        if let Some(context) = self.contexts.get_mut(usize::from(slot)) {
            *context = Some(Context {
                datagram,
                born: now,
                source,
                seen,
                total: None,
                state: State::Following(known),
            });
        }
        self.by_datagram.link(datagram.hash(self.seed), slot);
        self.ages.push(&mut self.age_links, slot);
        if let Some(Some(source)) = self.sources.get_mut(usize::from(source)) {
            source.contexts.push(&mut self.source_links, slot);
        }
        self.from_pods += u16::from(datagram.zone == Zone::Pods);
        Ok(())
    }

    /// What is known for `piece` of `datagram`, which is not its first. Asking counts as seeing
    /// the piece, unless the answer is [`Later::Wait`].
    pub fn later(&mut self, datagram: Datagram, piece: Piece, now: Timestamp) -> Later<D> {
        let end = match end(piece) {
            Ok(end) => end,
            Err(reason) => return Later::Drop(reason),
        };
        let Some(slot) = self.find(datagram, now) else {
            return Later::Wait;
        };
        let Some(Some(context)) = self.contexts.get_mut(usize::from(slot)) else {
            return Later::Wait;
        };
        let known = match context.state {
            State::Following(known) => known,
            State::Poisoned(reason) => return Later::Drop(reason),
        };
        let spoilt = match (context.contradicts(piece, end), piece.offset) {
            (true, _) => Added::Overlap,
            (false, offset) => context.seen.add(offset, end),
        };
        match spoilt {
            Added::Overlap => return Later::Drop(self.poison(slot, DropReason::FragOverlap)),
            Added::TooMany => return Later::Drop(self.poison(slot, DropReason::FragLimit)),
            Added::New => {}
        }
        if !piece.more {
            context.total = Some(end);
        }
        let whole = context
            .total
            .is_some_and(|total| context.seen.are_the_first(total));
        if whole {
            self.remove(slot);
        }
        Later::Known(known)
    }

    /// Clears away up to `budget` contexts whose time is up; returns how many. Storing does it
    /// too, so this is only for the memory's and the gauge's sake.
    pub fn expire(&mut self, now: Timestamp, budget: usize) -> usize {
        for cleared in 0..budget {
            match self.ages.oldest() {
                Some(slot) if self.is_over(slot, now) => self.remove(slot),
                _ => return cleared,
            }
        }
        budget
    }

    /// The living context of a datagram; one whose time is up goes.
    fn find(&mut self, datagram: Datagram, now: Timestamp) -> Option<u16> {
        let is = |slot: u16| {
            let context = self.contexts.get(usize::from(slot));
            context.is_some_and(|slot| slot.is_some_and(|context| context.datagram == datagram))
        };
        let slot = self.by_datagram.find(datagram.hash(self.seed), is)?;
        if self.is_over(slot, now) {
            self.remove(slot);
            return None;
        }
        Some(slot)
    }

    fn is_over(&self, slot: u16, now: Timestamp) -> bool {
        let context = self
            .contexts
            .get(usize::from(slot))
            .and_then(Option::as_ref);
        context.is_some_and(|context| now.since(context.born) >= LIFETIME)
    }

    /// From now on every fragment of the datagram in `slot` is dropped, under the first reason.
    fn poison(&mut self, slot: u16, reason: DropReason) -> DropReason {
        let Some(Some(context)) = self.contexts.get_mut(usize::from(slot)) else {
            return reason;
        };
        if let State::Poisoned(reason) = context.state {
            return reason;
        }
        context.state = State::Poisoned(reason);
        reason
    }

    /// Sees to it that one more datagram fits under every bound; the slot of its source.
    fn make_room(&mut self, datagram: &Datagram, now: Timestamp) -> Result<u16, DropReason> {
        if !self.has_room(datagram.zone) {
            // Once for each context, whoever is at a bound pays: still bounded, by the table.
            self.expire(now, usize::from(self.limits.contexts));
        }
        let existing = self.find_source(datagram);
        let queue = existing
            .and_then(|slot| self.sources.get(usize::from(slot)).copied().flatten())
            .map_or(Queue::EMPTY, |source| source.contexts);
        if queue.length() >= self.limits.source
            && let Some(oldest) = queue.oldest()
        {
            self.remove(oldest);
        }
        if !self.has_room(datagram.zone) {
            return Err(DropReason::FragLimit);
        }
        // The source may have gone with its last context.
        match self.find_source(datagram) {
            Some(slot) => Ok(slot),
            None => self.add_source(datagram).ok_or(DropReason::FragLimit),
        }
    }

    fn has_room(&self, zone: Zone) -> bool {
        let side = match zone {
            Zone::Pods => self.from_pods,
            Zone::Uplinks => self.ages.length() - self.from_pods,
        };
        self.ages.length() < self.limits.contexts && side < self.limits.side
    }

    fn find_source(&self, datagram: &Datagram) -> Option<u16> {
        let is = |slot: u16| {
            let source = self.sources.get(usize::from(slot)).copied().flatten();
            source.is_some_and(|source| {
                source.address == datagram.source && source.zone == datagram.zone
            })
        };
        let hash = source_hash(self.seed, datagram.source, datagram.zone);
        self.by_source.find(hash, is)
    }

    fn add_source(&mut self, datagram: &Datagram) -> Option<u16> {
        let slot = self.free_sources.pop()?;
        *self.sources.get_mut(usize::from(slot))? = Some(Source {
            address: datagram.source,
            zone: datagram.zone,
            contexts: Queue::EMPTY,
        });
        let hash = source_hash(self.seed, datagram.source, datagram.zone);
        self.by_source.link(hash, slot);
        Some(slot)
    }

    /// Forgets the datagram in `slot`, and its source with its last one.
    fn remove(&mut self, slot: u16) {
        let place = self.contexts.get_mut(usize::from(slot));
        let Some(context) = place.and_then(Option::take) else {
            return;
        };
        self.by_datagram
            .unlink(context.datagram.hash(self.seed), slot);
        self.ages.remove(&mut self.age_links, slot);
        self.from_pods -= u16::from(context.datagram.zone == Zone::Pods);
        self.free.push(slot);
        let Some(place) = self.sources.get_mut(usize::from(context.source)) else {
            return;
        };
        if let Some(source) = place {
            source.contexts.remove(&mut self.source_links, slot);
            if source.contexts.length() == 0 {
                let hash = source_hash(self.seed, source.address, source.zone);
                *place = None;
                self.by_source.unlink(hash, context.source);
                self.free_sources.push(context.source);
            }
        }
    }
}

impl<D> Context<D> {
    /// Whether a piece cannot belong to a datagram that ends where another piece says.
    fn contradicts(&self, piece: Piece, end: u16) -> bool {
        match (self.total, piece.more) {
            (None, true) => false,
            (None, false) => self.seen.end() > end,
            (Some(total), true) => end >= total,
            (Some(total), false) => end != total,
        }
    }
}

/// One past the piece's last byte in its datagram.
fn end(piece: Piece) -> Result<u16, DropReason> {
    let end = piece.offset.checked_add(piece.length);
    end.ok_or(DropReason::FragToolong)
}

const fn zone(zone: Zone) -> u64 {
    match zone {
        Zone::Pods => 0,
        Zone::Uplinks => 1,
    }
}

fn address(seed: Seed, address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => mix(
            seed,
            (address.to_bits() >> 64) as u64,
            address.to_bits() as u64,
        ),
    }
}

fn source_hash(seed: Seed, source: IpAddr, side: Zone) -> u64 {
    mix(seed, address(seed, source), zone(side))
}

#[cfg(test)]
mod tests;
