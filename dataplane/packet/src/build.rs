//! Builds whole, valid Ethernet frames for tests and load generators; every part can be bent
//! afterwards, and [`Frame::seal`] mends the checksums when the bending is meant to be consistent.
//!
//! Not for the packet path: it allocates.

use std::net::Ipv4Addr;

use crate::TcpFlags;
use crate::checksum::{Sum, pseudo_header};
use crate::wire::{self, at, put, u8_at, u16_at, u32_at};

/// A frame under construction; dereference `bytes` to bend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The frame from its Ethernet header on.
    pub bytes: Vec<u8>,
}

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
        let length = u16::try_from(wire::UDP + payload.len()).unwrap_or(u16::MAX);
        let mut l4 = Vec::new();
        for word in [source, destination, length, 0] {
            l4.extend_from_slice(&word.to_be_bytes());
        }
        l4.extend_from_slice(payload);
        self.ip(wire::PROTOCOL_UDP, &l4)
    }

    /// A TCP segment without options.
    #[must_use]
    pub fn tcp(self, source: u16, destination: u16, flags: TcpFlags, payload: &[u8]) -> Frame {
        let mut l4 = vec![0; wire::TCP];
        put(&mut l4, 0, source.to_be_bytes());
        put(&mut l4, 2, destination.to_be_bytes());
        put(&mut l4, 4, [0, 0, 1, 0, 0, 0, 2, 0, 0x50, flags.0, 0x20, 0]);
        l4.extend_from_slice(payload);
        self.ip(wire::PROTOCOL_TCP, &l4)
    }

    /// An ICMP message: type, code, rest-of-header word and body.
    #[must_use]
    pub fn icmp(self, kind: u8, code: u8, rest: u32, body: &[u8]) -> Frame {
        let mut l4 = vec![kind, code, 0, 0];
        l4.extend_from_slice(&rest.to_be_bytes());
        l4.extend_from_slice(body);
        self.ip(wire::PROTOCOL_ICMP, &l4)
    }

    /// An ICMP echo request (`request`) or reply with sequence number 1.
    #[must_use]
    pub fn echo(self, request: bool, id: u16, payload: &[u8]) -> Frame {
        self.icmp(
            if request { 8 } else { 0 },
            0,
            u32::from(id) << 16 | 1,
            payload,
        )
    }
}

impl Frame {
    /// Offset of the L4 header.
    #[must_use]
    pub fn l4_offset(&self) -> usize {
        let ihl = u8_at(&self.bytes, wire::ETHERNET).unwrap_or(0x45) & 0x0f;
        wire::ETHERNET + usize::from(ihl) * 4
    }

    /// Writes `value` at `offset` without mending anything.
    #[must_use]
    pub fn with<const N: usize>(mut self, offset: usize, value: [u8; N]) -> Self {
        put(&mut self.bytes, offset, value);
        self
    }

    /// Sets the DF bit and seals.
    #[must_use]
    pub fn dont_fragment(self) -> Self {
        self.with(at::IP_FRAGMENT, [0x40, 0]).seal()
    }

    /// Sets the IPv4 total length to the bytes there are.
    #[must_use]
    pub fn fit(self) -> Self {
        let length = self.bytes.len().saturating_sub(wire::ETHERNET);
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.with(at::IP_TOTAL_LENGTH, length.to_be_bytes())
    }

    /// Inserts IPv4 options (padded to whole words with end-of-list) and seals.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        let mut padded = options.to_vec();
        padded.resize(options.len().next_multiple_of(4), 0);
        let words = u8::try_from(padded.len() / 4).unwrap_or(10).min(10);
        let at = wire::ETHERNET + wire::IP4;
        self.bytes.splice(at..at, padded);
        self.with(wire::ETHERNET, [0x45 + words]).fit().seal()
    }

    /// Recomputes the IPv4 header checksum and the TCP, UDP or ICMP checksum from scratch.
    #[must_use]
    pub fn seal(self) -> Self {
        let l4 = self.l4_offset();
        let sealed = self.with(at::IP_CHECKSUM, [0, 0]);
        let header = sealed.bytes.get(wire::ETHERNET..l4).unwrap_or_default();
        let checksum = Sum::ZERO.bytes(header).checksum();
        let sealed = sealed.with(at::IP_CHECKSUM, checksum.to_be_bytes());
        match sealed.l4_checksum_offset() {
            Some(offset) => {
                let blank = sealed.with(offset, [0, 0]);
                let checksum = match (
                    blank.l4_sum().checksum(),
                    u8_at(&blank.bytes, at::IP_PROTOCOL),
                ) {
                    (0, Some(wire::PROTOCOL_UDP)) => 0xffff,
                    (checksum, _) => checksum,
                };
                blank.with(offset, checksum.to_be_bytes())
            }
            None => sealed,
        }
    }

    /// Whether IPv4 header and L4 checksum are right; a UDP checksum of 0 counts as right.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        let header = self
            .bytes
            .get(wire::ETHERNET..self.l4_offset())
            .unwrap_or_default();
        let l4 = match self
            .l4_checksum_offset()
            .and_then(|at| u16_at(&self.bytes, at))
        {
            None => true,
            Some(0) if u8_at(&self.bytes, at::IP_PROTOCOL) == Some(wire::PROTOCOL_UDP) => true,
            Some(_) => self.l4_sum().fold() == 0xffff,
        };
        Sum::ZERO.bytes(header).fold() == 0xffff && l4
    }

    fn l4_checksum_offset(&self) -> Option<usize> {
        let within = match u8_at(&self.bytes, at::IP_PROTOCOL)? {
            wire::PROTOCOL_TCP => 16,
            wire::PROTOCOL_UDP => 6,
            wire::PROTOCOL_ICMP => 2,
            _ => return None,
        };
        let offset = self.l4_offset() + within;
        u16_at(&self.bytes, offset).map(|_| offset)
    }

    /// Sum over the L4 bytes the total length claims, with the pseudo-header where there is one.
    fn l4_sum(&self) -> Sum {
        let total = u16_at(&self.bytes, at::IP_TOTAL_LENGTH).unwrap_or(0);
        let end = (wire::ETHERNET + usize::from(total)).min(self.bytes.len());
        let l4 = self.bytes.get(self.l4_offset()..end).unwrap_or_default();
        let protocol = u8_at(&self.bytes, at::IP_PROTOCOL).unwrap_or(0);
        let pseudo = match protocol {
            wire::PROTOCOL_ICMP => Sum::ZERO,
            _ => pseudo_header(
                u32_at(&self.bytes, at::IP_SOURCE).unwrap_or(0),
                u32_at(&self.bytes, at::IP_DESTINATION).unwrap_or(0),
                protocol,
                u16::try_from(l4.len()).unwrap_or(u16::MAX),
            ),
        };
        l4.chunks(2).fold(pseudo, |sum, pair| match pair {
            [high, low] => sum.word(u16::from_be_bytes([*high, *low])),
            [high] => sum.word(u16::from_be_bytes([*high, 0])),
            _ => sum,
        })
    }
}
