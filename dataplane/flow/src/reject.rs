//! Telling a sender why: ICMP errors, sparingly.
//!
//! At most 100 a second to one address and 1,000 a second in all, shared out among the workers so
//! that the node keeps to it whatever the spread of flows. Never about an ICMP error, a later
//! fragment, a broadcast or multicast frame, or to an address that cannot be answered
//! (RFC 1122 3.2.2, RFC 1812 4.3.2.7, RFC 4443 2.4).

use std::net::{IpAddr, Ipv4Addr};

use penstock_packet::icmp::{self, Envelope};
use penstock_packet::{Fragment, L4, Parsed, parse};

use crate::seeded::{Seed, mix};
use crate::{Engine, Ingress, OutIf, Rejection, Snapshot, Timestamp};

/// Errors a second to one address, node-wide; with [`BURST`], at most 100 in any second.
const PER_ADDRESS: u32 = 90;
/// Errors a second to all, node-wide; with [`BURST`], at most 1,000 in any second.
const IN_ALL: u32 = 900;
/// Most credit saved, in nanoseconds: a ninth of a second's worth makes up the hundred.
const BURST: u64 = SECOND / 9;
/// Buckets of addresses; addresses that share one share its allowance.
const BUCKETS: usize = 1024;

/// A token bucket.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Nanoseconds of credit; a token costs a second divided by the rate.
    credit: u64,
    filled: Timestamp,
}

const SECOND: u64 = 1_000_000_000;

impl Bucket {
    const EMPTY: Self = Self {
        credit: 0,
        filled: Timestamp::from_nanos(0),
    };

    /// Saves up for the time since the last call; at least one token's cost can be saved.
    fn fill(&mut self, now: Timestamp, cost: u64) {
        let passed = now.as_nanos().saturating_sub(self.filled.as_nanos());
        self.credit = self.credit.saturating_add(passed).min(BURST.max(cost));
        self.filled = now;
    }
}

/// The allowance of one worker.
#[derive(Debug)]
pub(crate) struct Limiter {
    seed: Seed,
    cost_per_address: u64,
    cost_in_all: u64,
    all: Bucket,
    addresses: Box<[Bucket]>,
}

impl Limiter {
    pub(crate) fn new(workers: u16, seed: Seed) -> Self {
        let cost = |rate: u32| SECOND / u64::from(rate) * u64::from(workers.max(1));
        Self {
            seed,
            cost_per_address: cost(PER_ADDRESS),
            cost_in_all: cost(IN_ALL),
            all: Bucket::EMPTY,
            addresses: vec![Bucket::EMPTY; BUCKETS].into(),
        }
    }

    /// Whether one more error may go to `address`.
    fn admit(&mut self, address: IpAddr, now: Timestamp) -> bool {
        let bits = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let hash = mix(self.seed, (bits >> 64) as u64, bits as u64) as usize;
        let Some(bucket) = self.addresses.get_mut(hash & (BUCKETS - 1)) else {
            return false;
        };
        bucket.fill(now, self.cost_per_address);
        self.all.fill(now, self.cost_in_all);
        if bucket.credit < self.cost_per_address || self.all.credit < self.cost_in_all {
            return false;
        }
        bucket.credit -= self.cost_per_address;
        self.all.credit -= self.cost_in_all;
        true
    }
}

impl Engine {
    /// Writes into `out` the answer to a rejected packet, still as it arrived in `head`.
    ///
    /// Returns the frame's length and where it goes; `None` when no answer is due, allowed or
    /// possible. `out` must hold [`icmp::MAX_ERROR`] bytes.
    #[expect(
        clippy::too_many_arguments,
        reason = "the same five the packet was judged with; a struct for one caller hides them"
    )]
    pub fn reject(
        &mut self,
        head: &[u8],
        rejection: &Rejection,
        snapshot: &Snapshot,
        now: Timestamp,
        out: &mut [u8],
    ) -> Option<(usize, OutIf)> {
        // The frame's length was judged before; here only the headers matter.
        let Ok(Parsed::Ip(packet)) = parse(head, usize::from(u16::MAX) + 14) else {
            return None;
        };
        let group = head.first().is_none_or(|first| first & 1 == 1);
        let about_error = matches!(packet.l4, L4::IcmpError(_));
        let unfit = group || about_error || matches!(packet.fragment, Fragment::Later(_));
        let many = packet.destination.is_multicast()
            || packet.destination == IpAddr::V4(Ipv4Addr::BROADCAST);
        if unfit || many {
            return None;
        }
        let (envelope, way) = envelope(snapshot, packet.source, rejection.ingress)?;
        if !self.limiter.admit(packet.source, now) {
            return None;
        }
        let length = icmp::build_error(out, rejection.error, &envelope, head, &packet)?;
        Some((length, way))
    }
}

/// Whose addresses an error to `offender` has, and where it goes; `None` when we have no address
/// of that family, or do not know the router yet.
fn envelope(snapshot: &Snapshot, offender: IpAddr, ingress: Ingress) -> Option<(Envelope, OutIf)> {
    match ingress {
        Ingress::Trunk => {
            let endpoint = snapshot.endpoint(offender)?;
            let source = match offender {
                IpAddr::V4(_) => snapshot.primary_address.into(),
                IpAddr::V6(_) => snapshot.primary_address6?.into(),
            };
            let envelope = Envelope {
                source_mac: endpoint.host_mac,
                destination_mac: endpoint.pod_mac,
                source,
            };
            Some((envelope, OutIf::Endpoint))
        }
        Ingress::Uplink(id) => {
            let uplink = snapshot.uplink(id)?;
            let (router, source) = match offender {
                IpAddr::V4(_) => (uplink.gateway_mac?, uplink.address.into()),
                IpAddr::V6(_) => (uplink.gateway_mac6?, uplink.address6?.into()),
            };
            let envelope = Envelope {
                source_mac: uplink.mac,
                destination_mac: router,
                source,
            };
            Some((envelope, OutIf::Uplink(id)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::net::Ipv6Addr;
    use std::time::Duration;

    fn address(n: u16) -> IpAddr {
        match n % 2 {
            0 => Ipv4Addr::from_bits(0x0a00_0000 | u32::from(n)).into(),
            _ => Ipv6Addr::from_bits(0xfd << 120 | u128::from(n)).into(),
        }
    }

    /// Most errors admitted in any window of one second, to anyone in `of`, when `workers` with
    /// this many addresses are asked 50 times a millisecond for three seconds.
    fn flood(workers: u16, addresses: u16) -> (usize, HashMap<IpAddr, usize>) {
        let mut limiters: Vec<Limiter> = (0..workers)
            .map(|n| Limiter::new(workers, [9, n.into()]))
            .collect();
        let mut admitted: Vec<(u64, IpAddr)> = Vec::new();
        for millisecond in 0..3_000u64 {
            let now = Timestamp::from_nanos((10_000 + millisecond) * 1_000_000);
            for n in 0..50u64 {
                let turn = millisecond * 50 + n;
                let to = address((turn % u64::from(addresses)) as u16);
                let worker = (turn / u64::from(addresses) % u64::from(workers)) as usize;
                if limiters[worker].admit(to, now) {
                    admitted.push((millisecond, to));
                }
            }
        }
        let most = |of: &dyn Fn(IpAddr) -> bool| {
            let times: Vec<u64> = admitted
                .iter()
                .filter(|(_, to)| of(*to))
                .map(|(at, _)| *at)
                .collect();
            let within = |start: &u64| {
                times
                    .iter()
                    .filter(|at| (0..1_000).contains(&at.wrapping_sub(*start)))
                    .count()
            };
            times.iter().map(within).max().unwrap_or(0)
        };
        let each = (0..addresses)
            .map(address)
            .map(|one| (one, most(&|to| to == one)));
        (most(&|_| true), each.collect())
    }

    /// T54: 50,000 packets a second that want an error each, at one worker and at two.
    #[test]
    fn t54_100_a_second_to_one_and_1000_to_all() {
        for workers in [1, 2] {
            for family in 0..2 {
                let (_, each) = flood(workers, 1 + family);
                assert!(each.values().all(|n| (90..=100).contains(n)), "{each:?}");
            }
            let (all, each) = flood(workers, 40);
            assert!((900..=1_000).contains(&all), "{all}");
            assert!(each.values().all(|n| *n <= 100), "{each:?}");
        }
    }

    #[test]
    fn silence_saves_up_no_more_than_a_burst() {
        let mut limiter = Limiter::new(1, [9, 9]);
        let later = Timestamp::from_nanos(0).after(Duration::from_secs(86_400));
        let burst = (0..100)
            .filter(|_| limiter.admit(address(0), later))
            .count();
        assert_eq!(burst, 10, "a ninth of a second's worth of 90");
    }
}
