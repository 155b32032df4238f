//! IPv4 frames.

use std::net::Ipv4Addr;

use super::{Frame, l4};
use crate::TcpFlags;
use crate::wire::{self, at, put};

/// What every IPv4 frame needs.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// Source MAC.
    pub source_mac: [u8; 6],
    /// Destination MAC.
    pub destination_mac: [u8; 6],
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
}

impl Base {
    /// Two hosts with made-up MACs and TTL 64.
    #[must_use]
    pub const fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source,
            destination,
            ttl: 64,
        }
    }

    /// The same with other MACs.
    #[must_use]
    pub const fn macs(self, source_mac: [u8; 6], destination_mac: [u8; 6]) -> Self {
        Self {
            source_mac,
            destination_mac,
            ..self
        }
    }

    /// The same with another TTL.
    #[must_use]
    pub const fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// An IPv4 packet of `protocol` with `l4` behind its header, DF clear.
    #[must_use]
    pub fn ip(self, protocol: u8, l4: &[u8]) -> Frame {
        let mut bytes = vec![0; wire::ETHERNET + wire::IP4];
        bytes.extend_from_slice(l4);
        put(&mut bytes, 0, self.destination_mac);
        put(&mut bytes, at::MAC_SOURCE, self.source_mac);
        put(&mut bytes, at::ETHERTYPE, wire::ETHERTYPE_IP4.to_be_bytes());
        put(&mut bytes, wire::ETHERNET, [0x45, 0]);
        put(&mut bytes, at::IP_TTL, [self.ttl, protocol]);
        put(&mut bytes, at::IP_SOURCE, self.source.octets());
        put(&mut bytes, at::IP_DESTINATION, self.destination.octets());
        Frame { bytes }.fit().seal()
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(self, source: u16, destination: u16, payload: &[u8]) -> Frame {
        self.ip(wire::PROTOCOL_UDP, &l4::udp(source, destination, payload))
    }

    /// A TCP segment without options.
    #[must_use]
    pub fn tcp(self, source: u16, destination: u16, flags: TcpFlags, payload: &[u8]) -> Frame {
        let l4 = l4::tcp(source, destination, flags, payload);
        self.ip(wire::PROTOCOL_TCP, &l4)
    }

    /// An ICMP message: type, code, rest-of-header word and body.
    #[must_use]
    pub fn icmp(self, kind: u8, code: u8, rest: u32, body: &[u8]) -> Frame {
        self.ip(wire::PROTOCOL_ICMP, &l4::icmp(kind, code, rest, body))
    }

    /// An ICMP echo request (`request`) or reply with sequence number 1.
    #[must_use]
    pub fn echo(self, request: bool, id: u16, payload: &[u8]) -> Frame {
        let kind = if request { 8 } else { 0 };
        self.icmp(kind, 0, l4::echo(id), payload)
    }
}
