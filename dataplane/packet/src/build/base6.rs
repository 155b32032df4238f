//! IPv6 frames.

use std::net::Ipv6Addr;

use super::{Frame, l4};
use crate::TcpFlags;
use crate::wire::{self, at, put};

/// What every IPv6 frame needs.
#[derive(Debug, Clone, Copy)]
pub struct Base6 {
    /// Source MAC.
    pub source_mac: [u8; 6],
    /// Destination MAC.
    pub destination_mac: [u8; 6],
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
}

impl Base6 {
    /// Two hosts with made-up MACs and hop limit 64.
    #[must_use]
    pub const fn new(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            source,
            destination,
            hop_limit: 64,
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

    /// The same with another hop limit.
    #[must_use]
    pub const fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// An IPv6 packet of `protocol` with `l4` right behind its header.
    #[must_use]
    pub fn ip(self, protocol: u8, l4: &[u8]) -> Frame {
        let mut bytes = vec![0; wire::ETHERNET + wire::IP6];
        bytes.extend_from_slice(l4);
        put(&mut bytes, 0, self.destination_mac);
        put(&mut bytes, at::MAC_SOURCE, self.source_mac);
        put(&mut bytes, at::ETHERTYPE, wire::ETHERTYPE_IP6.to_be_bytes());
        put(&mut bytes, wire::ETHERNET, [0x60]);
        put(&mut bytes, at::IP6_NEXT_HEADER, [protocol, self.hop_limit]);
        put(&mut bytes, at::IP6_SOURCE, self.source.octets());
        put(&mut bytes, at::IP6_DESTINATION, self.destination.octets());
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

    /// An ICMPv6 message: type, code, the word behind the checksum, and body.
    #[must_use]
    pub fn icmp(self, kind: u8, code: u8, rest: u32, body: &[u8]) -> Frame {
        self.ip(wire::PROTOCOL_ICMP6, &l4::icmp(kind, code, rest, body))
    }

    /// An ICMPv6 echo request (`request`) or reply with sequence number 1.
    #[must_use]
    pub fn echo(self, request: bool, id: u16, payload: &[u8]) -> Frame {
        let kind = if request { 128 } else { 129 };
        self.icmp(kind, 0, l4::echo(id), payload)
    }
}
