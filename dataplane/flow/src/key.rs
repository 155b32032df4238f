//! What names one direction of a flow, as its packets arrive.
//!
//! [`FlowKey`] is the readable form that rules, ports and people see. [`Key4`] and [`Key6`] are
//! the same packed into whole words, for tables: equal keys have equal words and no others do.

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use penstock_packet::{Ip, L4};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Ingress;
use crate::seeded::{Seed, mix};

/// Which way a packet goes, always as the pod sees it. Between two pods of one node the pod whose
/// packet created the flow is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Leaves the pod.
    Egress,
    /// Reaches the pod.
    Ingress,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Egress => Self::Ingress,
            Self::Ingress => Self::Egress,
        }
    }
}

/// Kind of interface a packet arrived on. Part of the key, so that a packet from outside never
/// matches what a pod's packet created (reliability: cross-pod session poisoning).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Zone {
    /// The trunk.
    Pods,
    /// Any uplink.
    Uplinks,
}

impl From<Ingress> for Zone {
    fn from(ingress: Ingress) -> Self {
        match ingress {
            Ingress::Trunk => Self::Pods,
            Ingress::Uplink(_) => Self::Uplinks,
        }
    }
}

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ip4,
            IpAddr::V6(_) => Self::Ip6,
        }
    }
}

/// One direction of a flow: addresses, L4 ports, protocol, and the zone it arrives from.
///
/// An echo request's identifier stands for its source port, an echo reply's for its destination
/// port, so that a reply's key is the reverse of its request's. No ports are zeroes. Both
/// addresses are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port or request identifier.
    pub source_port: u16,
    /// Destination port or reply identifier.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Where it arrives.
    pub zone: Zone,
}

impl FlowKey {
    /// Key of a packet; `None` for what belongs to no flow by its own header: ICMP errors, other
    /// ICMP messages, malformed L4 headers.
    #[inline]
    #[must_use]
    pub fn of(packet: &Ip, zone: Zone) -> Option<Self> {
        let (source_port, destination_port) = ports(&packet.l4)?;
        Some(Self {
            source: packet.source,
            destination: packet.destination,
            source_port,
            destination_port,
            protocol: packet.protocol,
            zone,
        })
    }

    /// Key of the answers when nothing is translated and they arrive from `zone`.
    #[must_use]
    pub const fn reverse(self, zone: Zone) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            zone,
        }
    }

    /// Both ports, the source's in the high half.
    const fn ports(&self) -> u32 {
        (self.source_port as u32) << 16 | self.destination_port as u32
    }

    /// The flow hash, which workers and hooks agree on. It takes identifiers for ports: an echo's
    /// is always the first.
    pub(crate) const fn hash(self) -> u32 {
        use penstock_packet::hash::{flow_hash, flow_hash6};
        let (from, to) = (self.source_port, self.destination_port);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => flow_hash(
                source.to_bits(),
                destination.to_bits(),
                from,
                to,
                self.protocol,
            ),
            (IpAddr::V6(source), IpAddr::V6(destination)) => flow_hash6(
                source.to_bits(),
                destination.to_bits(),
                from,
                to,
                self.protocol,
            ),
            _ => 0,
        }
    }
}

/// What stands for ports in a key.
#[inline]
const fn ports(l4: &L4) -> Option<(u16, u16)> {
    match *l4 {
        L4::Tcp {
            source,
            destination,
            ..
        }
        | L4::Udp {
            source,
            destination,
            ..
        } => Some((source, destination)),
        L4::EchoRequest { id } => Some((id, 0)),
        L4::EchoReply { id } => Some((0, id)),
        L4::Other => Some((0, 0)),
        _ => None,
    }
}

/// Ports, protocol and zone in one word; what is left of it is zero.
#[inline]
const fn rest(ports: u32, protocol: u8, zone: Zone) -> u64 {
    (ports as u64) << 16 | (protocol as u64) << 8 | matches!(zone, Zone::Uplinks) as u64
}

/// What [`rest`] put together.
const fn unrest(word: u64) -> (u16, u16, u8, Zone) {
    let zone = match word & 1 {
        0 => Zone::Pods,
        _ => Zone::Uplinks,
    };
    (
        (word >> 32) as u16,
        (word >> 16) as u16,
        (word >> 8) as u8,
        zone,
    )
}

/// A [`FlowKey`] as a table holds it. The zero key is nobody's: no packet may come from the
/// unspecified address.
pub(crate) trait Key:
    Copy + Eq + Hash + std::fmt::Debug + Default + FromBytes + IntoBytes + Immutable + KnownLayout
{
    /// Packs a key of this family; `None` for one of the other.
    fn pack(key: &FlowKey) -> Option<Self>;

    /// The readable form.
    fn unpack(&self) -> FlowKey;

    /// IP protocol number.
    fn protocol(&self) -> u8;

    /// Spreads the key over 64 bits.
    fn spread(&self, seed: Seed) -> u64;
}

/// An IPv4 key.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub(crate) struct Key4([u64; 2]);

/// An IPv6 key.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub(crate) struct Key6([u64; 5]);

const _: () = assert!(size_of::<Key4>() == 16 && size_of::<Key6>() == 40);

impl Key4 {
    /// Key of an IPv4 packet: source and destination address, and source and destination port,
    /// each with the source in the high half.
    #[inline]
    pub(crate) const fn of(addresses: u64, ports: u32, protocol: u8, zone: Zone) -> Self {
        Self([addresses, rest(ports, protocol, zone)])
    }
}

impl Key for Key4 {
    #[inline]
    fn pack(key: &FlowKey) -> Option<Self> {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (key.source, key.destination) else {
            return None;
        };
        let addresses = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
        Some(Self::of(addresses, key.ports(), key.protocol, key.zone))
    }

    fn unpack(&self) -> FlowKey {
        let [addresses, word] = self.0;
        let (source_port, destination_port, protocol, zone) = unrest(word);
        FlowKey {
            source: Ipv4Addr::from_bits((addresses >> 32) as u32).into(),
            destination: Ipv4Addr::from_bits(addresses as u32).into(),
            source_port,
            destination_port,
            protocol,
            zone,
        }
    }

    fn protocol(&self) -> u8 {
        let [_, word] = self.0;
        unrest(word).2
    }

    #[inline]
    fn spread(&self, seed: Seed) -> u64 {
        let [first, second] = self.0;
        mix(seed, first, second)
    }
}

impl Key6 {
    /// Key of an IPv6 packet; the source port is in the high half of `ports`.
    #[inline]
    pub(crate) const fn new(
        (source, destination): (Ipv6Addr, Ipv6Addr),
        ports: u32,
        protocol: u8,
        zone: Zone,
    ) -> Self {
        let (source, destination) = (source.to_bits(), destination.to_bits());
        Self([
            (source >> 64) as u64,
            source as u64,
            (destination >> 64) as u64,
            destination as u64,
            rest(ports, protocol, zone),
        ])
    }
}

impl Key for Key6 {
    #[inline]
    fn pack(key: &FlowKey) -> Option<Self> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (key.source, key.destination) else {
            return None;
        };
        let addresses = (source, destination);
        Some(Self::new(addresses, key.ports(), key.protocol, key.zone))
    }

    fn unpack(&self) -> FlowKey {
        let [source_high, source_low, high, low, word] = self.0;
        let address = |high: u64, low: u64| {
            Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
        };
        let (source_port, destination_port, protocol, zone) = unrest(word);
        FlowKey {
            source: address(source_high, source_low),
            destination: address(high, low),
            source_port,
            destination_port,
            protocol,
            zone,
        }
    }

    fn protocol(&self) -> u8 {
        let [.., word] = self.0;
        unrest(word).2
    }

    #[inline]
    fn spread(&self, seed: Seed) -> u64 {
        let [a, b, c, d, e] = self.0;
        let [k0, k1] = seed;
        // The second round is keyed by the first, so no word can be chosen to cancel another.
        mix([mix(seed, a, c), k1], mix([k1, k0], b, d), e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(v6: bool) -> BoxedStrategy<IpAddr> {
        match v6 {
            true => any::<Ipv6Addr>().prop_map(IpAddr::V6).boxed(),
            false => any::<Ipv4Addr>().prop_map(IpAddr::V4).boxed(),
        }
    }

    fn key() -> impl Strategy<Value = FlowKey> {
        let addresses = any::<bool>().prop_flat_map(|v6| (address(v6), address(v6)));
        (addresses, any::<(u16, u16, u8, bool)>()).prop_map(
            |((source, destination), (source_port, destination_port, protocol, pods))| FlowKey {
                source,
                destination,
                source_port,
                destination_port,
                protocol,
                zone: if pods { Zone::Pods } else { Zone::Uplinks },
            },
        )
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(key in key()) {
            let (four, six) = (Key4::pack(&key), Key6::pack(&key));
            prop_assert_eq!(four.is_some(), key.source.is_ipv4());
            prop_assert_eq!(six.is_some(), key.source.is_ipv6());
            let unpacked = four.map(|key| key.unpack()).or(six.map(|key| key.unpack()));
            prop_assert_eq!(unpacked, Some(key));
            let protocol = four.map(|key| key.protocol()).or(six.map(|key| key.protocol()));
            prop_assert_eq!(protocol, Some(key.protocol));
            prop_assert_eq!(key.reverse(Zone::Pods).hash(), key.hash());
        }
    }

    /// Pods choose addresses, ports and identifiers: neighbours must not meet in a bucket.
    #[test]
    fn neighbouring_keys_spread() {
        let seed = [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321];
        let mut buckets = [0u32; 256];
        let source = Ipv6Addr::new(0x2600, 0x1f14, 1, 2, 3, 4, 5, 6);
        for port in 0..=u16::MAX {
            let to = Ipv6Addr::new(0x2600, 0x1f14, 1, 2, 3, 4, 5, port & 0xff);
            let key = Key6::new((source, to), u32::from(port) << 16 | 443, 6, Zone::Pods);
            buckets[(key.spread(seed) & 255) as usize] += 1;
        }
        // 256 expected in each; six standard deviations are 96.
        assert!(
            buckets.iter().all(|n| (160..352).contains(n)),
            "{buckets:?}"
        );
    }
}
