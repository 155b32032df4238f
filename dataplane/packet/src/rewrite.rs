//! A decided flow's change to each of its packets, computed once and applied in place.
//!
//! Applying touches the MACs, the TTL and, when the flow is translated, one address, one L4 port
//! (or ICMP identifier) and the checksums by difference. Nothing else of the packet moves:
//! options, flags and wrong checksums go through as they came (P47, P53). No whole checksum is
//! ever computed here. References: RFC 1624, RFC 768 (UDP checksum 0), RFC 5508 4.2 (errors).

use std::net::Ipv4Addr;

use crate::Ip;
use crate::checksum::Delta;
use crate::icmp::{Quote, QuotedL4};
use crate::wire::{self, at, put, u16_at};

/// Everything that happens to a packet between two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// MAC of the next hop.
    pub destination_mac: [u8; 6],
    /// MAC of the interface it leaves by.
    pub source_mac: [u8; 6],
    /// Replacement of one end; `None` leaves addresses and ports alone.
    pub translation: Option<Translation>,
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

/// Replacement of one end, with what it does to the checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    side: Side,
    address: u32,
    port: u16,
    ip: Delta,
    l4: Delta,
}

impl Translation {
    /// Replaces the end `old` at `side` by `new` in packets of `protocol`.
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
            side,
            address: to,
            port: new.port,
            ip,
            l4,
        }
    }

    /// Which end is replaced.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// What the end is replaced by.
    #[must_use]
    pub const fn to(&self) -> End {
        End {
            address: Ipv4Addr::from_bits(self.address),
            port: self.port,
        }
    }
}

impl Rewrite {
    /// Changes a packet in place. `packet` is what [`crate::parse()`] said of `head`; its TTL
    /// must be at least 2, which the caller has judged.
    #[inline]
    pub fn apply(&self, head: &mut [u8], packet: &Ip) {
        self.next_hop(head, packet.ttl);
        let Some(translation) = &self.translation else {
            return;
        };
        translation.apply_ip(head, wire::ETHERNET, translation.side);
        translation.apply_l4(head, packet.protocol, packet.l4_offset);
    }

    /// Changes an ICMP error about a packet of this flow: the outer header as any packet of its
    /// direction, the quoted packet, which went the other way, at its other end.
    pub fn apply_to_error(&self, head: &mut [u8], packet: &Ip, quote: &Quote) {
        self.next_hop(head, packet.ttl);
        let Some(translation) = &self.translation else {
            return;
        };
        translation.apply_ip(head, wire::ETHERNET, translation.side);
        let change = translation.apply_to_quote(head, packet.frame_length, quote);
        apply_delta(head, packet.l4_offset + 2, change);
    }

    /// MACs and TTL: what every forwarded packet gets.
    #[inline]
    fn next_hop(&self, head: &mut [u8], ttl: u8) {
        put(head, 0, self.destination_mac);
        put(head, at::MAC_SOURCE, self.source_mac);
        put(head, at::IP_TTL, [ttl.saturating_sub(1)]);
        // The TTL is the high byte of its word; the low byte cancels out.
        let delta = Delta::ZERO.word(u16::from(ttl) << 8, u16::from(ttl.saturating_sub(1)) << 8);
        apply_delta(head, at::IP_CHECKSUM, delta);
    }
}

impl Translation {
    /// Replaces the address at `side` of the IPv4 header at `ip`.
    #[inline]
    fn apply_ip(&self, head: &mut [u8], ip: usize, side: Side) {
        let field = match side {
            Side::Source => at::IP_SOURCE,
            Side::Destination => at::IP_DESTINATION,
        };
        put(
            head,
            ip + field - wire::ETHERNET,
            self.address.to_be_bytes(),
        );
        apply_delta(head, ip + at::IP_CHECKSUM - wire::ETHERNET, self.ip);
    }

    /// Replaces port or identifier of the L4 header at `l4`, and mends its checksum.
    #[inline]
    fn apply_l4(&self, head: &mut [u8], protocol: u8, l4: usize) {
        let port = match (protocol, self.side) {
            (wire::PROTOCOL_ICMP, _) => l4 + 4,
            (_, Side::Source) => l4,
            (_, Side::Destination) => l4 + 2,
        };
        put(head, port, self.port.to_be_bytes());
        match protocol {
            wire::PROTOCOL_TCP => apply_delta(head, l4 + 16, self.l4),
            wire::PROTOCOL_ICMP => apply_delta(head, l4 + 2, self.l4),
            _ => apply_udp_delta(head, l4 + 6, self.l4),
        }
    }

    /// Replaces the other end of the quoted packet. Returns the change to the checksum of the
    /// ICMP message around it, which covers every word that moved, checksums included.
    fn apply_to_quote(&self, head: &mut [u8], end: usize, quote: &Quote) -> Delta {
        let side = match self.side {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        };
        let icmp = !matches!(quote.l4, QuotedL4::Ports { .. });
        let port = match (icmp, side) {
            (true, _) => quote.l4_offset + 4,
            (false, Side::Source) => quote.l4_offset,
            (false, Side::Destination) => quote.l4_offset + 2,
        };
        let checksum = match quote.protocol {
            wire::PROTOCOL_TCP => quote.l4_offset + 16,
            wire::PROTOCOL_ICMP => quote.l4_offset + 2,
            _ => quote.l4_offset + 6,
        };
        let ip_checksum = quote.ip_offset + at::IP_CHECKSUM - wire::ETHERNET;
        let address = quote.ip_offset - wire::ETHERNET
            + match side {
                Side::Source => at::IP_SOURCE,
                Side::Destination => at::IP_DESTINATION,
            };
        let words = [address, address + 2, ip_checksum, port, checksum];
        // A quote may end before TCP's checksum; what lies behind it is trailer, not ours.
        let words = words.map(|at| (at + 2 <= end).then_some(at));
        let before = words.map(|at| at.and_then(|at| u16_at(head, at)));
        self.apply_ip(head, quote.ip_offset, side);
        put(head, port, self.port.to_be_bytes());
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
