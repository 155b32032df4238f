//! A set of IPv4 and IPv6 prefixes, compiled once and asked often.
//!
//! Prefixes become sorted ranges that neither overlap nor touch, so an answer costs one binary
//! search however many prefixes went in and however they nest. Immutable; compiled off the packet
//! path, which is the only place that allocates. Does not judge what it is given: a prefix
//! longer than its family's addresses counts as the whole address, and bits behind a prefix are
//! ignored ([`crate::Snapshot::compile`] reports both).

use std::net::IpAddr;

/// Prefixes of both families.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prefixes {
    ip4: Ranges<u32>,
    ip6: Ranges<u128>,
}

impl Prefixes {
    /// Compiles prefixes: any address of each, and its number of leading bits that count.
    #[must_use]
    pub fn new(prefixes: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        let mut ip4 = Vec::new();
        let mut ip6 = Vec::new();
        for (address, length) in prefixes {
            let length = u32::from(length);
            match address {
                IpAddr::V4(address) => {
                    let host = u32::MAX.checked_shr(length).unwrap_or(0);
                    ip4.push((address.to_bits() & !host, address.to_bits() | host));
                }
                IpAddr::V6(address) => {
                    let host = u128::MAX.checked_shr(length).unwrap_or(0);
                    ip6.push((address.to_bits() & !host, address.to_bits() | host));
                }
            }
        }
        Self {
            ip4: Ranges::new(ip4),
            ip6: Ranges::new(ip6),
        }
    }

    /// Whether one of the prefixes holds `address`. An IPv4-mapped IPv6 address is an IPv6 one.
    #[inline]
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ip4.contains(address.to_bits()),
            IpAddr::V6(address) => self.ip6.contains(address.to_bits()),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ip4.0.is_empty() && self.ip6.0.is_empty()
    }
}

/// An address as a number.
trait Word: Copy + Ord {
    fn successor(self) -> Option<Self>;
}

impl Word for u32 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Word for u128 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Inclusive ranges in order, with a gap between any two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Ranges<W>(Box<[(W, W)]>);

impl<W: Word> Ranges<W> {
    fn new(mut ranges: Vec<(W, W)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(W, W)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                // Past the greatest address there is nothing: what ends there takes in the rest.
                Some((_, end)) if end.successor().is_none_or(|next| first <= next) => {
                    *end = last.max(*end);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged.into())
    }

    #[inline]
    fn contains(&self, address: W) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= address);
        let candidate = after.checked_sub(1).and_then(|at| self.0.get(at));
        candidate.is_some_and(|(_, last)| address <= *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::{Duration, Instant};

    fn compiled(prefixes: &[&str]) -> Prefixes {
        Prefixes::new(prefixes.iter().map(|text| {
            let (address, length) = text.split_once('/').unwrap();
            (address.parse().unwrap(), length.parse().unwrap())
        }))
    }

    /// The definition, bit by bit, without any arithmetic on ranges.
    fn scan(prefixes: &[(IpAddr, u8)], address: IpAddr) -> bool {
        let bits = |address: IpAddr| -> Vec<bool> {
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            octets
                .iter()
                .flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1))
                .collect()
        };
        let wanted = bits(address);
        prefixes.iter().any(|(network, length)| {
            let network = bits(*network);
            let length = usize::from(*length).min(network.len());
            network.len() == wanted.len() && network[..length] == wanted[..length]
        })
    }

    #[test]
    fn both_families_their_ends_and_nothing_beside() {
        let set = compiled(&[
            "10.0.5.5/16",
            "192.168.0.0/24",
            "2001:db8:7::1/48",
            "::/127",
        ]);
        for (address, inside) in [
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.0.255.255", true),
            ("10.1.0.0", false),
            ("192.168.0.255", true),
            ("192.168.1.0", false),
            ("2001:db8:6:ffff::", false),
            ("2001:db8:7::", true),
            ("2001:db8:7:ffff:ffff:ffff:ffff:ffff", true),
            ("2001:db8:8::", false),
            ("::1", true),
            ("::2", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), inside, "{address}");
        }
    }

    #[test]
    fn all_of_a_family_and_none_of_it() {
        let any4 = compiled(&["1.2.3.4/0", "255.255.255.255/32"]);
        assert!(any4.contains(Ipv4Addr::UNSPECIFIED.into()));
        assert!(any4.contains(Ipv4Addr::BROADCAST.into()));
        assert!(!any4.contains(Ipv6Addr::UNSPECIFIED.into()));
        let any6 = compiled(&["ffff::/16", "::/0"]);
        assert!(any6.contains(Ipv6Addr::from_bits(u128::MAX).into()));
        assert!(!any6.contains(Ipv4Addr::UNSPECIFIED.into()));
        assert!(!any6.is_empty());
        let none = Prefixes::default();
        assert!(none.is_empty());
        assert!(!none.contains(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn nested_and_neighbouring_prefixes_become_one_range() {
        let halves = compiled(&["10.0.0.0/9", "10.128.0.0/9", "10.3.0.0/16", "11.0.0.0/8"]);
        assert_eq!(halves, compiled(&["10.0.0.0/7"]));
        assert_eq!(halves.ip4.0.len(), 1);
    }

    #[test]
    fn a_length_beyond_the_family_means_the_address_itself() {
        let set = compiled(&["10.0.0.1/33", "2001:db8::1/255"]);
        assert_eq!(set, compiled(&["10.0.0.1/32", "2001:db8::1/128"]));
    }

    /// The slow path rebuilds this for every new snapshot: an interval, not a benchmark.
    #[test]
    fn ten_thousand_prefixes_compile_well_within_a_snapshot() {
        let prefixes: Vec<(IpAddr, u8)> = (0..10_000u32)
            .map(|n| match n % 2 {
                0 => (
                    Ipv4Addr::from_bits(n.wrapping_mul(2_654_435_761)).into(),
                    24,
                ),
                _ => (
                    Ipv6Addr::from_bits(u128::from(n) << 80 | 0xfd << 120).into(),
                    64,
                ),
            })
            .collect();
        let start = Instant::now();
        let set = Prefixes::new(prefixes.iter().copied());
        assert!(
            start.elapsed() < Duration::from_millis(50),
            "T38's whole budget"
        );
        assert!(prefixes.iter().all(|(address, _)| set.contains(*address)));
    }

    /// Addresses from a small world, so that prefixes nest, touch and hold what is asked.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..64, any::<bool>()).prop_map(|(low, top)| {
                Ipv4Addr::from_bits(if top { u32::MAX - low } else { low << 26 | low }).into()
            }),
            (0u128..64, any::<bool>()).prop_map(|(low, top)| {
                Ipv6Addr::from_bits(if top {
                    u128::MAX - low
                } else {
                    low << 122 | low
                })
                .into()
            }),
        ]
    }

    proptest! {
        #[test]
        fn equals_a_scan(
            prefixes in proptest::collection::vec((address(), 0u8..140), 0..12),
            asked in proptest::collection::vec(address(), 1..40),
        ) {
            let set = Prefixes::new(prefixes.iter().copied());
            for address in asked.into_iter().chain(prefixes.iter().map(|(address, _)| *address)) {
                prop_assert_eq!(set.contains(address), scan(&prefixes, address), "{}", address);
            }
            for gap in set.ip4.0.windows(2) {
                prop_assert!(gap[0].1.checked_add(1).is_some_and(|next| next < gap[1].0));
            }
        }
    }
}
