//! IPv6: from the header to [`Ip`], or the reason to drop.
//!
//! The plain case, TCP, UDP or ICMPv6 right behind the header, does not walk anything.
//! References: RFC 8200, RFC 2675, RFC 6946, RFC 7112.

use std::net::{IpAddr, Ipv6Addr};

use crate::checksum::Sum;
use crate::extension::{self, Chain};
use crate::ip::{Fragment, Ip, L4};
use crate::wire::{self, at, u8_at, u16_at};
use crate::{DropReason, icmp, tcp, udp};

/// Bytes of a frame to the end of its fixed IPv6 header.
const FIXED: usize = wire::ETHERNET + wire::IP6;

/// Reads the IPv6 packet of a frame that starts with `head` and is `length` bytes long.
pub(crate) fn read(head: &[u8], length: usize) -> Result<Ip, DropReason> {
    if u8_at(head, wire::ETHERNET).is_some_and(|first| first >> 4 != 6) {
        return Err(DropReason::IpVersion);
    }
    let fixed: &[u8; FIXED] = head.first_chunk().ok_or(DropReason::Ip6Short)?;
    let byte = |at| u8_at(fixed, at).ok_or(DropReason::Ip6Short);
    let payload = usize::from(u16_at(fixed, at::IP6_PAYLOAD_LENGTH).ok_or(DropReason::Ip6Short)?);
    let frame_length = FIXED + payload;
    if frame_length > length {
        return Err(DropReason::Ip6Len);
    }
    let packet = head
        .get(..frame_length.min(head.len()))
        .ok_or(DropReason::Ip6Short)?;
    let next = byte(at::IP6_NEXT_HEADER)?;
    let chain = match extension::is_extension(next) {
        false => Chain {
            protocol: next,
            l4_offset: FIXED,
            has_options: false,
            fragment: Fragment::None,
        },
        true if payload == 0 => return Err(without_payload(head, next)),
        true => extension::walk(packet, FIXED, next, frame_length)?,
    };
    let l4 = packet.get(chain.l4_offset..).ok_or(chain.cut())?;
    Ok(Ip {
        frame_length,
        l4_offset: chain.l4_offset,
        source: address(fixed, at::IP6_SOURCE)?,
        destination: address(fixed, at::IP6_DESTINATION)?,
        protocol: chain.protocol,
        ttl: byte(at::IP6_HOP_LIMIT)?,
        dont_fragment: true,
        has_options: chain.has_options,
        fragment: chain.fragment,
        l4: l4_header(&chain, l4, frame_length - chain.l4_offset)?,
    })
}

#[inline]
fn address(fixed: &[u8; FIXED], at: usize) -> Result<IpAddr, DropReason> {
    let octets: [u8; 16] = wire::array(fixed, at).ok_or(DropReason::Ip6Short)?;
    Ok(IpAddr::V6(Ipv6Addr::from_octets(octets)))
}

/// Extension headers behind a payload length of 0: a jumbo payload (P64), or nothing at all.
#[cold]
fn without_payload(head: &[u8], next: u8) -> DropReason {
    let header = head.get(FIXED..).unwrap_or_default();
    let words = u8_at(header, 1).unwrap_or(0);
    let header = header
        .get(..(usize::from(words) + 1) * 8)
        .unwrap_or_default();
    match next {
        extension::HOP_BY_HOP => extension::hop_by_hop(header)
            .err()
            .unwrap_or(DropReason::Ip6Ext),
        _ => DropReason::Ip6Ext,
    }
}

/// Reads the L4 header. `l4` are its bytes at hand, `length` those the packet has. A first
/// fragment must hold all of it (P69).
#[inline]
fn l4_header(chain: &Chain, l4: &[u8], length: usize) -> Result<L4, DropReason> {
    let least = match (chain.fragment, chain.protocol) {
        (Fragment::None, _) => 0,
        (Fragment::Later(_), _) => return Ok(L4::Other),
        (Fragment::First(_), wire::PROTOCOL_TCP) => wire::TCP,
        (Fragment::First(_), wire::PROTOCOL_UDP | wire::PROTOCOL_ICMP6) => wire::UDP,
        (Fragment::First(_), _) => 0,
    };
    if l4.len() < least {
        return Err(DropReason::FragNochain);
    }
    let datagram = match chain.fragment {
        Fragment::None => length,
        _ => usize::from(u16::MAX),
    };
    Ok(match chain.protocol {
        wire::PROTOCOL_TCP => tcp::read(l4, length),
        wire::PROTOCOL_UDP => udp::read(l4, datagram),
        wire::PROTOCOL_ICMP6 => icmp::read6(l4),
        _ => L4::Other,
    })
}

/// Sum of the pseudo-header in front of `length` bytes of L4 of `protocol`, for the addresses of the
/// IPv6 header in `head` (RFC 8200 8.1). `None` when the header is not there.
pub(crate) fn pseudo_header(head: &[u8], length: usize, protocol: u8) -> Option<Sum> {
    let addresses = head.get(at::IP6_SOURCE..FIXED)?;
    let length = u16::try_from(length).ok()?;
    Some(
        Sum::ZERO
            .bytes(addresses)
            .word(length)
            .word(u16::from(protocol)),
    )
}

/// Whether no packet to be forwarded may come from `source` (P73): the unspecified address, which
/// only duplicate address detection uses, loopback, multicast, and IPv4-mapped addresses.
#[must_use]
pub const fn is_martian_source6(source: Ipv6Addr) -> bool {
    source.is_unspecified()
        || source.is_loopback()
        || source.is_multicast()
        || source.to_ipv4_mapped().is_some()
}
