//! What names one direction of a flow, as its packets arrive.

use std::net::Ipv4Addr;

use penstock_packet::{Ip, L4};

use crate::Ingress;

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

/// One direction of a flow: addresses, L4 ports, protocol, and the zone it arrives from.
///
/// An echo request's identifier stands for its source port, an echo reply's for its destination
/// port, so that a reply's key is the reverse of its request's. No ports are zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Source port or request identifier.
    pub source_port: u16,
    /// Destination port or reply identifier.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Where it arrives.
    pub zone: Zone,
}

const _: () = assert!(size_of::<FlowKey>() <= 16);

impl FlowKey {
    /// Key of a packet; `None` for what belongs to no flow by its own header: ICMP errors, other
    /// ICMP messages, malformed L4 headers, and IPv6.
    #[inline]
    #[must_use]
    pub fn of(packet: &Ip, zone: Zone) -> Option<Self> {
        let (from, to) = packet.addresses4()?;
        let (source_port, destination_port) = match packet.l4 {
            L4::Tcp {
                source,
                destination,
                ..
            }
            | L4::Udp {
                source,
                destination,
            } => (source, destination),
            L4::EchoRequest { id } => (id, 0),
            L4::EchoReply { id } => (0, id),
            L4::Other => (0, 0),
            L4::IcmpError(_) | L4::Neighbor(_) | L4::IcmpOther | L4::Malformed(_) => return None,
        };
        Some(Self {
            source: from,
            destination: to,
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

    /// The key as two words, for hashing: equal keys give equal words and no others do.
    #[inline]
    pub(crate) const fn words(self) -> (u64, u64) {
        let addresses = (self.source.to_bits() as u64) << 32 | self.destination.to_bits() as u64;
        let ports = (self.source_port as u64) << 16 | self.destination_port as u64;
        let zone = matches!(self.zone, Zone::Uplinks) as u64;
        (addresses, ports << 16 | (self.protocol as u64) << 8 | zone)
    }

    /// The identifiers the flow hash takes for ports: an echo's is always the first.
    #[inline]
    pub(crate) const fn hash(self) -> u32 {
        penstock_packet::hash::flow_hash(
            self.source.to_bits(),
            self.destination.to_bits(),
            self.source_port,
            self.destination_port,
            self.protocol,
        )
    }
}
