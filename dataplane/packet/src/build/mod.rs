//! Builds whole, valid Ethernet frames for tests and load generators; every part can be bent
//! afterwards, and [`Frame::seal`] mends the checksums when the bending is meant to be consistent.
//!
//! Not for the packet path: it allocates. It shares no code with the parser, so that one can be
//! tested with the other.

mod base;
mod base6;
mod l4;

pub use base::Base;
pub use base6::Base6;

use crate::checksum::Sum;
use crate::wire::{self, at, put, u8_at, u16_at};

/// Next header values [`Frame`] steps over: hop-by-hop, routing and destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT: u8 = 44;

/// A frame under construction; dereference `bytes` to bend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The frame from its Ethernet header on.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// Offset of the L4 header. 0 in an IPv6 frame whose extension headers do not lead to one.
    #[must_use]
    pub fn l4_offset(&self) -> usize {
        if self.is_ip6() {
            return self.l4_in_ip6().map_or(0, |(_, offset)| offset);
        }
        let ihl = u8_at(&self.bytes, wire::ETHERNET).unwrap_or(0x45) & 0x0f;
        wire::ETHERNET + usize::from(ihl) * 4
    }

    /// Writes `value` at `offset` without mending anything.
    #[must_use]
    pub fn with<const N: usize>(mut self, offset: usize, value: [u8; N]) -> Self {
        put(&mut self.bytes, offset, value);
        self
    }

    /// Sets IPv4's DF bit and seals.
    #[must_use]
    pub fn dont_fragment(self) -> Self {
        self.with(at::IP_FRAGMENT, [0x40, 0]).seal()
    }

    /// Sets the IPv4 total length, or the IPv6 payload length, to the bytes there are.
    #[must_use]
    pub fn fit(self) -> Self {
        let (field, before) = match self.is_ip6() {
            true => (at::IP6_PAYLOAD_LENGTH, wire::ETHERNET + wire::IP6),
            false => (at::IP_TOTAL_LENGTH, wire::ETHERNET),
        };
        let length = self.bytes.len().saturating_sub(before);
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.with(field, length.to_be_bytes())
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

    /// Inserts an IPv6 extension header before all others, and seals. `body` follows its next
    /// header and length bytes and is padded with zeros, which are padding options.
    #[must_use]
    pub fn extension(mut self, kind: u8, body: &[u8]) -> Self {
        let next = u8_at(&self.bytes, at::IP6_NEXT_HEADER).unwrap_or(0);
        let length = (2 + body.len()).next_multiple_of(8);
        let words = u8::try_from(length / 8 - 1).unwrap_or(u8::MAX);
        let mut header = vec![next, if kind == FRAGMENT { 0 } else { words }];
        header.extend_from_slice(body);
        header.resize(length, 0);
        let at = wire::ETHERNET + wire::IP6;
        self.bytes.splice(at..at, header);
        self.with(at::IP6_NEXT_HEADER, [kind]).fit().seal()
    }

    /// Inserts an IPv6 fragment header before all others, and seals what has a checksum.
    /// `offset` is in bytes.
    #[must_use]
    pub fn fragment(self, id: u32, offset: u16, more: bool) -> Self {
        let [high, low] = (offset & 0xfff8 | u16::from(more)).to_be_bytes();
        let [a, b, c, d] = id.to_be_bytes();
        self.extension(FRAGMENT, &[high, low, a, b, c, d])
    }

    /// Recomputes the IPv4 header checksum and the TCP, UDP or ICMP checksum from scratch.
    #[must_use]
    pub fn seal(self) -> Self {
        let sealed = self.seal_header();
        let Some(offset) = sealed.l4_checksum_offset() else {
            return sealed;
        };
        let blank = sealed.with(offset, [0, 0]);
        let checksum = match (blank.l4_sum().checksum(), blank.protocol()) {
            (0, wire::PROTOCOL_UDP) => 0xffff,
            (checksum, _) => checksum,
        };
        blank.with(offset, checksum.to_be_bytes())
    }

    /// Whether the IPv4 header and L4 checksums are right; over IPv4 a UDP checksum of 0 counts
    /// as right, and that of a piece of a datagram is not asked for.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        let written = self
            .l4_checksum_offset()
            .and_then(|at| u16_at(&self.bytes, at));
        let l4 = match written {
            None => true,
            Some(0) if self.protocol() == wire::PROTOCOL_UDP => !self.is_ip6(),
            Some(_) => self.l4_sum().fold() == 0xffff,
        };
        l4 && (self.is_ip6() || self.header_sum().fold() == 0xffff)
    }

    fn is_ip6(&self) -> bool {
        u16_at(&self.bytes, at::ETHERTYPE) == Some(wire::ETHERTYPE_IP6)
    }

    /// Recomputes the IPv4 header checksum only: what is wrong in L4 stays so.
    #[must_use]
    pub fn seal_header(self) -> Self {
        if self.is_ip6() {
            return self;
        }
        let blank = self.with(at::IP_CHECKSUM, [0, 0]);
        let checksum = blank.header_sum().checksum();
        blank.with(at::IP_CHECKSUM, checksum.to_be_bytes())
    }

    fn header_sum(&self) -> Sum {
        let header = self.bytes.get(wire::ETHERNET..self.l4_offset());
        Sum::ZERO.bytes(header.unwrap_or_default())
    }

    /// L4 protocol; 255, which is reserved, when there is none to be found.
    fn protocol(&self) -> u8 {
        let protocol = match self.is_ip6() {
            true => self.l4_in_ip6().map(|(protocol, _)| protocol),
            false => u8_at(&self.bytes, at::IP_PROTOCOL),
        };
        protocol.unwrap_or(255)
    }

    /// L4 protocol and offset behind IPv6 extension headers; `None` in a later fragment.
    fn l4_in_ip6(&self) -> Option<(u8, usize)> {
        let mut next = u8_at(&self.bytes, at::IP6_NEXT_HEADER)?;
        let mut offset = wire::ETHERNET + wire::IP6;
        while EXTENSIONS.contains(&next) || next == FRAGMENT {
            let length = match next {
                FRAGMENT if u16_at(&self.bytes, offset + 2)? & 0xfff8 != 0 => return None,
                FRAGMENT => 8,
                _ => (usize::from(u8_at(&self.bytes, offset + 1)?) + 1) * 8,
            };
            next = u8_at(&self.bytes, offset)?;
            offset += length;
        }
        Some((next, offset))
    }

    /// `None` also in a piece of an IPv4 datagram: its checksum is over bytes that are not here.
    fn l4_checksum_offset(&self) -> Option<usize> {
        if !self.is_ip6() && u16_at(&self.bytes, at::IP_FRAGMENT)? & 0x3fff != 0 {
            return None;
        }
        let within = match (self.protocol(), self.is_ip6()) {
            (wire::PROTOCOL_TCP, _) => 16,
            (wire::PROTOCOL_UDP, _) => 6,
            (wire::PROTOCOL_ICMP, false) | (wire::PROTOCOL_ICMP6, true) => 2,
            _ => return None,
        };
        let offset = self.l4_offset() + within;
        u16_at(&self.bytes, offset).map(|_| offset)
    }

    /// Sum over the L4 bytes the IP header claims, with the pseudo-header where there is one.
    fn l4_sum(&self) -> Sum {
        let bytes = |at| u16_at(&self.bytes, at).map_or(0, usize::from);
        let (end, addresses) = match self.is_ip6() {
            true => (
                wire::IP6 + bytes(at::IP6_PAYLOAD_LENGTH),
                at::IP6_SOURCE..at::IP6_SOURCE + 32,
            ),
            false => (bytes(at::IP_TOTAL_LENGTH), at::IP_SOURCE..at::IP_SOURCE + 8),
        };
        let end = (wire::ETHERNET + end).min(self.bytes.len());
        let l4 = self.bytes.get(self.l4_offset()..end).unwrap_or_default();
        let protocol = self.protocol();
        let pseudo = match protocol {
            wire::PROTOCOL_ICMP => Sum::ZERO,
            _ => Sum::ZERO
                .bytes(self.bytes.get(addresses).unwrap_or_default())
                .word(u16::from(protocol))
                .word(u16::try_from(l4.len()).unwrap_or(u16::MAX)),
        };
        // Pair by pair, so that the sum under test is not tested with itself.
        l4.chunks(2).fold(pseudo, |sum, pair| match pair {
            [high, low] => sum.word(u16::from_be_bytes([*high, *low])),
            [high] => sum.word(u16::from_be_bytes([*high, 0])),
            _ => sum,
        })
    }
}
