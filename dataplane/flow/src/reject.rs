//! Telling a sender why: ICMP errors, sparingly.
//!
//! At most 100 a second to one address and 1,000 a second in all, shared out among the workers so
//! that the node keeps to it whatever the spread of flows. Never about an ICMP error, a later
//! fragment, a broadcast or multicast frame, or to an address that cannot be answered
//! (RFC 1122 3.2.2, RFC 1812 4.3.2.7).

use std::net::Ipv4Addr;

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
    fn admit(&mut self, address: Ipv4Addr, now: Timestamp) -> bool {
        let hash = mix(self.seed, u64::from(address.to_bits()), 0) as usize;
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
        let (source, destination) = packet.addresses4()?;
        let group = head.first().is_none_or(|first| first & 1 == 1);
        let about_error = matches!(packet.l4, L4::IcmpError(_));
        let unfit = group || about_error || matches!(packet.fragment, Fragment::Later(_));
        if unfit || destination.is_multicast() || destination.is_broadcast() {
            return None;
        }
        let (envelope, way) = match rejection.ingress {
            Ingress::Trunk => {
                let endpoint = snapshot.endpoint(source)?;
                let envelope = Envelope {
                    source_mac: endpoint.host_mac,
                    destination_mac: endpoint.pod_mac,
                    source: snapshot.primary_address.into(),
                };
                (envelope, OutIf::Endpoint)
            }
            Ingress::Uplink(id) => {
                let uplink = snapshot.uplink(id)?;
                let envelope = Envelope {
                    source_mac: uplink.mac,
                    destination_mac: uplink.gateway_mac?,
                    source: uplink.address.into(),
                };
                (envelope, OutIf::Uplink(id))
            }
        };
        if !self.limiter.admit(source, now) {
            return None;
        }
        let length = icmp::build_error(out, rejection.error, &envelope, head, &packet)?;
        Some((length, way))
    }
}
