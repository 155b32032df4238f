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
}

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
        }
    }

    pub(crate) fn free(&self) -> usize {
        ((self.last - self.first + 1) as usize).saturating_sub(self.taken.len())
    }

    /// The next free address; `None` when the subnet is full.
    pub(crate) fn take_any(&mut self) -> Option<Ipv4Addr> {
        if self.free() == 0 {
            return None;
        }
        while !self.taken.insert(self.cursor) {
            self.advance();
        }
        let address = Ipv4Addr::from(self.cursor);
        self.advance();
        Some(address)
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
    fn the_top_of_the_address_space_does_not_wrap() {
        let mut pool = pool("255.255.255.240/28");
        assert_eq!(std::iter::from_fn(|| pool.take_any()).count(), 11);
    }
}
