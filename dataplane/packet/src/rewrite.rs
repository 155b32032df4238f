//! A decided flow's change to each of its packets, computed once and applied in place.
//!
//! Applying touches the MACs, the TTL and, when the flow is translated, one address, one L4 port
//! (or ICMP identifier) and the checksums by difference. Nothing else of the packet moves:
//! options, flags and wrong checksums go through as they came (P47, P53). No whole checksum is
//! ever computed here. [`Macs`] and [`Translation`] are plain bytes in a fixed layout, so that
//! flow tables can hold them in mapped memory; a translation made of any bytes changes at most
//! what lies in the head it is given, and never panics.
//! References: RFC 1624, RFC 768 (UDP checksum 0), RFC 5508 4.2 (errors).

use std::net::Ipv4Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Ip;
use crate::checksum::Delta;
use crate::icmp::{Quote, QuotedL4};
use crate::wire::{self, at, put, u16_at};

/// What lowering the TTL by one does to the IPv4 header's checksum. The TTL is the high byte of
/// its word, so the word falls by 0x0100 whatever it was: `!m + (m - 0x0100)`.
const AGED: Delta = Delta::ZERO.word(0x0100, 0);

/// Both MACs of a frame, destination first, as they stand on the wire.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Macs([u8; 12]);

impl Macs {
    /// MAC of the next hop, and of the interface the frame leaves by.
    #[must_use]
    pub const fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (destination, source);
        Self([a, b, c, d, e, f, g, h, i, j, k, l])
    }

    /// MAC of the next hop, and of the interface the frame leaves by.
    #[must_use]
    pub const fn parts(&self) -> ([u8; 6], [u8; 6]) {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.0;
        ([a, b, c, d, e, f], [g, h, i, j, k, l])
    }
}

/// Which end of a packet is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// One end of a packet: an address and an L4 port or ICMP identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// IPv4 address.
    pub address: Ipv4Addr,
    /// L4 port or ICMP identifier.
    pub port: u16,
}

/// Replacement of one end of an IPv4 packet, with what it does to the checksums; the TTL's share
/// of the header checksum is in it, so that one addition does for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Translation {
    /// New address, as on the wire.
    address: [u8; 4],
    /// New port or identifier, as on the wire.
    port: [u8; 2],
    ip: Delta,
    l4: Delta,
    /// Offset of the address from the start of the frame; 0 when nothing is replaced.
    address_at: u8,
    /// Offset of the port from the L4 header.
    port_at: u8,
    /// Offset of the checksum from the L4 header.
    checksum_at: u8,
    /// IP protocol number.
    protocol: u8,
    spare: [u8; 2],
}

const _: () = assert!(size_of::<Translation>() == 16);

impl Translation {
    /// Replaces nothing: packets only age.
    pub const NONE: Self = Self {
        address: [0; 4],
        port: [0; 2],
        ip: AGED,
        l4: Delta::ZERO,
        address_at: 0,
        port_at: 0,
        checksum_at: 0,
        protocol: 0,
        spare: [0; 2],
    };

    /// Replaces the end `old` at `side` by `new` in packets of `protocol`: TCP, UDP or ICMP.
    #[must_use]
    pub const fn new(side: Side, protocol: u8, old: End, new: End) -> Self {
        let (from, to) = (old.address.to_bits(), new.address.to_bits());
        let ip = Delta::ZERO.address(from, to);
        let port = Delta::ZERO.word(old.port, new.port);
        // ICMP's checksum has no pseudo-header: it does not see the addresses.
        let l4 = if protocol == wire::PROTOCOL_ICMP {
            port
        } else {
            ip.and(port)
        };
        Self {
            address: to.to_be_bytes(),
            port: new.port.to_be_bytes(),
            ip: ip.and(AGED),
            l4,
            address_at: match side {
                Side::Source => at::IP_SOURCE as u8,
                Side::Destination => at::IP_DESTINATION as u8,
            },
            port_at: match (protocol, side) {
                (wire::PROTOCOL_ICMP, _) => 4,
                (_, Side::Source) => 0,
                (_, Side::Destination) => 2,
            },
            checksum_at: checksum_at(protocol) as u8,
            protocol,
            spare: [0; 2],
        }
    }

    /// Which end is replaced; `None` when neither is.
    #[inline]
    #[must_use]
    pub const fn side(&self) -> Option<Side> {
        match self.address_at as usize {
            at::IP_SOURCE => Some(Side::Source),
            at::IP_DESTINATION => Some(Side::Destination),
            _ => None,
        }
    }

    /// What the end is replaced by.
    #[must_use]
    pub const fn to(&self) -> End {
        End {
            address: Ipv4Addr::from_bits(u32::from_be_bytes(self.address)),
            port: u16::from_be_bytes(self.port),
        }
    }
}

/// Everything that happens to a packet between two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// MACs it leaves with.
    pub macs: Macs,
    /// Replacement of one end.
    pub translation: Translation,
}

impl Rewrite {
    /// Changes a packet in place. `packet` is what [`crate::parse()`] said of `head`; its TTL
    /// must be at least 2, which the caller has judged.
    pub fn apply(&self, head: &mut [u8], packet: &Ip) {
        apply4(head, &self.macs, &self.translation, packet.l4_offset);
    }

    /// Changes an ICMP error about a packet of this flow: the outer header as any packet of its
    /// direction, the quoted packet, which went the other way, at its other end.
    pub fn apply_to_error(&self, head: &mut [u8], packet: &Ip, quote: &Quote) {
        age4(head, &self.macs, &self.translation);
        let Some(side) = self.translation.side() else {
            return;
        };
        let address_at = usize::from(self.translation.address_at);
        put(head, address_at, self.translation.address);
        let change = self
            .translation
            .apply_to_quote(head, side, packet.frame_length, quote);
        apply_delta(head, packet.l4_offset + 2, change);
    }
}

/// Changes an IPv4 packet in place: MACs, TTL, and one end with its checksums. The TTL must be at
/// least 2, and `l4_offset` is the L4 header's from the start of the frame.
#[inline]
pub fn apply4(head: &mut [u8], macs: &Macs, translation: &Translation, l4_offset: usize) {
    age4(head, macs, translation);
    if translation.address_at == 0 {
        return;
    }
    put(
        head,
        usize::from(translation.address_at),
        translation.address,
    );
    let l4 = head.get_mut(l4_offset..).unwrap_or_default();
    put(l4, usize::from(translation.port_at), translation.port);
    let checksum = usize::from(translation.checksum_at);
    match translation.protocol {
        wire::PROTOCOL_UDP => apply_udp_delta(l4, checksum, translation.l4),
        _ => apply_delta(l4, checksum, translation.l4),
    }
}

/// Changes an IPv4 fragment that is not its datagram's first: there is no L4 header in it.
pub fn apply4_later(head: &mut [u8], macs: &Macs, translation: &Translation) {
    age4(head, macs, translation);
    if translation.side().is_some() {
        put(
            head,
            usize::from(translation.address_at),
            translation.address,
        );
    }
}

/// MACs, TTL and the header checksum: what every forwarded IPv4 packet gets.
#[inline]
fn age4(head: &mut [u8], macs: &Macs, translation: &Translation) {
    let Some(headers) = head.first_chunk_mut::<{ wire::ETHERNET + wire::IP4 }>() else {
        return;
    };
    put(headers, 0, macs.0);
    if let Some(ttl) = headers.get_mut(at::IP_TTL) {
        *ttl = ttl.saturating_sub(1);
    }
    apply_delta(headers, at::IP_CHECKSUM, translation.ip);
}

/// Changes an IPv6 packet in place: MACs and hop limit, which must be at least 2. There is no
/// checksum that sees either.
#[inline]
pub fn apply6(head: &mut [u8], macs: &Macs) {
    let Some(headers) = head.first_chunk_mut::<{ wire::ETHERNET + wire::IP6 }>() else {
        return;
    };
    put(headers, 0, macs.0);
    if let Some(limit) = headers.get_mut(at::IP6_HOP_LIMIT) {
        *limit = limit.saturating_sub(1);
    }
}

/// Offset of the checksum in the L4 header of a protocol that has one.
const fn checksum_at(protocol: u8) -> usize {
    match protocol {
        wire::PROTOCOL_TCP => 16,
        wire::PROTOCOL_ICMP => 2,
        _ => 6,
    }
}

impl Translation {
    /// Replaces the other end of the quoted packet; `side` is this translation's. Returns the
    /// change to the checksum of the ICMP message around it, which covers every word that moved,
    /// checksums included.
    fn apply_to_quote(&self, head: &mut [u8], side: Side, end: usize, quote: &Quote) -> Delta {
        let (other_address, other_port) = match side {
            Side::Source => (at::IP_DESTINATION, 2),
            Side::Destination => (at::IP_SOURCE, 0),
        };
        let port = match quote.l4 {
            QuotedL4::Ports { .. } => quote.l4_offset + other_port,
            _ => quote.l4_offset + 4,
        };
        let checksum = quote.l4_offset + checksum_at(quote.protocol);
        let ip_checksum = quote.ip_offset + at::IP_CHECKSUM - wire::ETHERNET;
        let address = quote.ip_offset + other_address - wire::ETHERNET;
        let words = [address, address + 2, ip_checksum, port, checksum];
        // A quote may end before TCP's checksum; what lies behind it is trailer, not ours.
        let words = words.map(|at| (at + 2 <= end).then_some(at));
        let before = words.map(|at| at.and_then(|at| u16_at(head, at)));
        let old = wire::u32_at(head, address).unwrap_or_default();
        let moved = Delta::ZERO.address(old, u32::from_be_bytes(self.address));
        put(head, address, self.address);
        apply_delta(head, ip_checksum, moved);
        put(head, port, self.port);
        match (quote.protocol, checksum + 2 <= end) {
            (wire::PROTOCOL_UDP, true) => apply_udp_delta(head, checksum, self.l4),
            (_, true) => apply_delta(head, checksum, self.l4),
            (_, false) => {}
        }
        let mut change = Delta::ZERO;
        for (at, old) in words.into_iter().zip(before) {
            if let (Some(old), Some(new)) = (old, at.and_then(|at| u16_at(head, at))) {
                change = change.word(old, new);
            }
        }
        change
    }
}

/// Applies `delta` to the checksum at `at`.
#[inline]
fn apply_delta(head: &mut [u8], at: usize, delta: Delta) {
    if let Some(old) = u16_at(head, at) {
        put(head, at, delta.apply(old).to_be_bytes());
    }
}

/// Applies `delta` to the UDP checksum at `at`: 0 means "none" and stays; a computed 0 is sent
/// as its other representation (RFC 768).
#[inline]
fn apply_udp_delta(head: &mut [u8], at: usize, delta: Delta) {
    match u16_at(head, at) {
        None | Some(0) => {}
        Some(old) => {
            let new = match delta.apply(old) {
                0 => 0xffff,
                new => new,
            };
            put(head, at, new.to_be_bytes());
        }
    }
}

/// Sets the destination MAC: how a packet is addressed to the kernel on the other end of a trunk.
pub fn set_destination_mac(head: &mut [u8], mac: [u8; 6]) {
    put(head, 0, mac);
}
