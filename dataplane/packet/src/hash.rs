//! The flow hash that decides which worker owns a flow.
//!
//! Bit-identical to the hooks' C version, and symmetric: both directions of an untranslated flow
//! agree. It spreads load; it is neither seeded nor meant to withstand an adversary, so tables
//! must not be indexed by it.

/// Hash of a flow; all values as host-order integers.
///
/// TCP and UDP give their L4 ports. ICMP echo (request and reply alike) gives the identifier as
/// `source_port` and 0 as `destination_port`. Everything else gives 0 for both.
#[inline]
#[must_use]
pub const fn flow_hash(
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
) -> u32 {
    let mut hash = source ^ destination;
    hash ^= (((source_port ^ destination_port) as u32) << 16) | protocol as u32;
    hash = hash.wrapping_mul(0x9E37_79B1);
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x85EB_CA77);
    hash ^ (hash >> 13)
}

/// Hash of an IPv6 flow; values as for [`flow_hash`]. Addresses are folded to 32 bits, word by word.
#[inline]
#[must_use]
pub const fn flow_hash6(
    source: u128,
    destination: u128,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
) -> u32 {
    flow_hash(
        fold(source),
        fold(destination),
        source_port,
        destination_port,
        protocol,
    )
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "each cast takes one of the four words"
)]
const fn fold(address: u128) -> u32 {
    (address >> 96) as u32 ^ (address >> 64) as u32 ^ (address >> 32) as u32 ^ address as u32
}

/// Queue, and worker, out of `queues` that a flow with this hash belongs to.
#[inline]
#[must_use]
pub const fn queue(hash: u32, queues: u16) -> u16 {
    ((hash as u64 * queues as u64) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn value_is_pinned() {
        // From an independent computation of the definition; the hooks' C version must agree.
        assert_eq!(flow_hash(0, 0, 0, 0, 0), 0);
        assert_eq!(
            flow_hash(0x0a00_0001, 0x0a00_0002, 1000, 53, 17),
            0x1e69_678f
        );
        assert_eq!(
            flow_hash(0x0a00_0a05, 0x0808_0808, 40000, 443, 6),
            0x25a7_6cb4
        );
    }

    #[test]
    fn ip6_is_the_hash_of_folded_addresses() {
        let source = 0x2001_0db8_0000_0001_0000_0000_0000_0005_u128;
        let folded = 0x2001_0db8 ^ 0x0000_0001 ^ 0x0000_0005;
        assert_eq!(
            flow_hash6(source, 7, 40_000, 443, 6),
            flow_hash(folded, 7, 40_000, 443, 6)
        );
    }

    proptest! {
        #[test]
        fn both_directions_agree6(a: u128, b: u128, p: u16, q: u16, protocol: u8) {
            prop_assert_eq!(flow_hash6(a, b, p, q, protocol), flow_hash6(b, a, q, p, protocol));
        }

        #[test]
        fn both_directions_agree(a: u32, b: u32, p: u16, q: u16, protocol: u8) {
            prop_assert_eq!(flow_hash(a, b, p, q, protocol), flow_hash(b, a, q, p, protocol));
        }

        #[test]
        fn queue_is_in_range(hash: u32, queues in 1u16..) {
            prop_assert!(queue(hash, queues) < queues);
        }
    }

    #[test]
    fn queues_share_evenly() {
        let mut counts = [0u32; 4];
        for port in 1024..17408 {
            counts[usize::from(queue(flow_hash(0x0a00_0a05, 0x0808_0808, port, 443, 6), 4))] += 1;
        }
        for count in counts {
            assert!((3500..4700).contains(&count), "{counts:?}");
        }
    }
}
