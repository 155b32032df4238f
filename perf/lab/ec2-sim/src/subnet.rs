//! Which addresses of a subnet are taken.
//!
//! Guarantees: an address is handed out once until it is given back; the first four and the last address of the
//! subnet never are (they are the network, the router, the resolver, one reserve and the broadcast address of a VPC
//! subnet). Search goes on from the last address handed out, so a freed address is not the next one given.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Addresses EC2 keeps at the start of every subnet ("Subnet sizing" in the VPC user guide).
const RESERVED_AT_START: u32 = 4;
/// Addresses EC2 keeps at the end of every subnet.
const RESERVED_AT_END: u32 = 1;

/// Why a particular address cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Outside,
    Reserved,
    Taken,
}

#[derive(Debug)]
pub(crate) struct AddressPool {
    cidr: Ipv4Net,
    first: u32,
    last: u32,
    cursor: u32,
    taken: BTreeSet<u32>,
    /// Kept for prefixes: single addresses of EC2's choice do not come from here.
    kept: Vec<Ipv4Net>,
}

/// Length of the prefixes EC2 delegates.
pub(crate) const PREFIX_LENGTH: u8 = 28;
/// Addresses in one.
const PREFIX_SIZE: u32 = 16;

impl AddressPool {
    /// A pool over `cidr`, which is /28 or larger (checked by the configuration).
    pub(crate) fn new(cidr: Ipv4Net) -> Self {
        let cidr = cidr.trunc();
        let first = u32::from(cidr.network()).saturating_add(RESERVED_AT_START);
        let last = u32::from(cidr.broadcast()).saturating_sub(RESERVED_AT_END);
        Self {
            cidr,
            first,
            last,
            cursor: first,
            taken: BTreeSet::new(),
            kept: Vec::new(),
        }
    }

    /// A CIDR reservation of type `prefix`.
    pub(crate) fn keep_for_prefixes(&mut self, range: Ipv4Net) {
        self.kept.push(range.trunc());
    }

    /// A whole free /28, from a reservation first; `None` when there is none, however many addresses are free.
    pub(crate) fn take_prefix(&mut self) -> Option<Ipv4Net> {
        let kept = |base: &u32| {
            self.kept
                .iter()
                .any(|range| range.contains(&Ipv4Addr::from(*base)))
        };
        let free = self.free_prefixes();
        let base = free.iter().find(|base| kept(base)).or(free.first())?;
        let prefix = Ipv4Net::new(Ipv4Addr::from(*base), PREFIX_LENGTH).ok()?;
        self.taken.extend(*base..=*base + (PREFIX_SIZE - 1));
        Some(prefix)
    }

    fn free_prefixes(&self) -> Vec<u32> {
        let aligned = self.first.next_multiple_of(PREFIX_SIZE);
        let bases = (aligned..=self.last).step_by(PREFIX_SIZE as usize);
        let whole = |base: &u32| {
            let end = base.saturating_add(PREFIX_SIZE - 1);
            end <= self.last && self.taken.range(*base..=end).next().is_none()
        };
        bases.filter(whole).collect()
    }

    pub(crate) fn give_back_prefix(&mut self, prefix: Ipv4Net) {
        let base = u32::from(prefix.network());
        for bits in base..=base.saturating_add(PREFIX_SIZE - 1) {
            self.taken.remove(&bits);
        }
    }

    fn is_kept(&self, bits: u32) -> bool {
        let address = Ipv4Addr::from(bits);
        self.kept.iter().any(|range| range.contains(&address))
    }

    pub(crate) fn free(&self) -> usize {
        ((self.last - self.first + 1) as usize).saturating_sub(self.taken.len())
    }

    /// The next free address; `None` when there is none outside reservations.
    pub(crate) fn take_any(&mut self) -> Option<Ipv4Addr> {
        for _ in self.first..=self.last {
            let bits = self.cursor;
            self.advance();
            if !self.is_kept(bits) && self.taken.insert(bits) {
                return Some(Ipv4Addr::from(bits));
            }
        }
        None
    }

    fn advance(&mut self) {
        self.cursor = if self.cursor >= self.last {
            self.first
        } else {
            self.cursor + 1
        };
    }

    /// Whether `address` could be taken now.
    pub(crate) fn check(&self, address: Ipv4Addr) -> Result<(), Refusal> {
        let bits = u32::from(address);
        if !self.cidr.contains(&address) {
            return Err(Refusal::Outside);
        }
        if !(self.first..=self.last).contains(&bits) {
            return Err(Refusal::Reserved);
        }
        if self.taken.contains(&bits) {
            return Err(Refusal::Taken);
        }
        Ok(())
    }

    /// Marks `address` as taken; the caller has [`Self::check`]ed it.
    pub(crate) fn take(&mut self, address: Ipv4Addr) {
        self.taken.insert(u32::from(address));
    }

    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&u32::from(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> AddressPool {
        AddressPool::new(cidr.parse().unwrap())
    }

    #[test]
    fn a_28_has_eleven_addresses_from_the_fifth_to_the_last_but_one() {
        let mut pool = pool("10.0.0.16/28");
        assert_eq!(pool.free(), 11);
        let all: Vec<_> = std::iter::from_fn(|| pool.take_any()).collect();
        let expected: Vec<_> = (20..=30)
            .map(|host| Ipv4Addr::new(10, 0, 0, host))
            .collect();
        assert_eq!(all, expected);
        assert_eq!(pool.free(), 0);
    }

    #[test]
    fn reserved_outside_and_taken_addresses_are_told_apart() {
        let mut pool = pool("10.0.0.0/28");
        let host = |last| Ipv4Addr::new(10, 0, 0, last);
        for reserved in [0, 1, 2, 3, 15] {
            assert_eq!(
                pool.check(host(reserved)),
                Err(Refusal::Reserved),
                "{reserved}"
            );
        }
        assert_eq!(pool.check(host(16)), Err(Refusal::Outside));
        assert_eq!(pool.check(host(4)), Ok(()));
        pool.take(host(4));
        assert_eq!(pool.check(host(4)), Err(Refusal::Taken));
    }

    #[test]
    fn a_freed_address_is_the_last_to_come_back() {
        let mut pool = pool("10.0.0.0/28");
        let first = pool.take_any().unwrap();
        pool.give_back(first);
        let rest: Vec<_> = std::iter::from_fn(|| pool.take_any()).collect();
        assert_eq!(rest.last(), Some(&first));
        assert_eq!(rest.len(), 11);
    }

    #[test]
    fn a_prefix_is_a_whole_aligned_block_clear_of_what_ec2_keeps() {
        let mut pool = pool("10.0.0.0/26");
        let prefixes: Vec<String> = std::iter::from_fn(|| pool.take_prefix())
            .map(|prefix| prefix.to_string())
            .collect();
        assert_eq!(prefixes, ["10.0.0.16/28", "10.0.0.32/28"]);
        assert_eq!(pool.free(), 59 - 32);
        pool.give_back_prefix("10.0.0.16/28".parse().unwrap());
        pool.take(Ipv4Addr::new(10, 0, 0, 20));
        assert_eq!(pool.take_prefix(), None, "fragmented");
        assert!(pool.free() > 16);
    }

    #[test]
    fn reservations_are_for_prefixes_alone() {
        let mut pool = pool("10.0.0.0/26");
        pool.keep_for_prefixes("10.0.0.32/28".parse().unwrap());
        let singles = std::iter::from_fn(|| pool.take_any());
        assert_eq!(singles.count(), 59 - 16);
        assert_eq!(pool.take_prefix().unwrap().to_string(), "10.0.0.32/28");
    }

    #[test]
    fn the_top_of_the_address_space_does_not_wrap() {
        let mut pool = pool("255.255.255.240/28");
        assert_eq!(std::iter::from_fn(|| pool.take_any()).count(), 11);
    }
}
