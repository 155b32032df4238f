//! IPv4: from the header to [`Ip`], or the reason to drop.
//!
//! The plain case, no options and no fragment, is straight-line code; everything else is out of
//! line. References: RFC 791, RFC 1858, RFC 3128.

use std::net::{IpAddr, Ipv4Addr};

use crate::checksum::Sum;
use crate::ip::{Fragment, Ip, L4, Piece};
use crate::wire::{self, at, u8_at, u16_at, u32_at};
use crate::{DropReason, icmp, options, tcp, udp};

/// Bytes of a frame to the end of an IPv4 header without options.
const PLAIN: usize = wire::ETHERNET + wire::IP4;
/// Version and length in the first byte of such a header.
const PLAIN_FIRST: u8 = 0x45;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Reads the IPv4 packet of a frame that starts with `head` and is `length` bytes long.
#[inline]
pub(crate) fn read(head: &[u8], length: usize) -> Result<Ip, DropReason> {
    let Some(fixed) = head.first_chunk::<PLAIN>() else {
        return Err(cut(head));
    };
    // The fields are there; their absence is named only because the reads are checked.
    let byte = |at| u8_at(fixed, at).ok_or(DropReason::Ip4Short);
    let word = |at| u16_at(fixed, at).ok_or(DropReason::Ip4Short);
    let address = |at| match u32_at(fixed, at) {
        Some(bits) => Ok(IpAddr::V4(Ipv4Addr::from_bits(bits))),
        None => Err(DropReason::Ip4Short),
    };
    let l4_offset = match byte(wire::ETHERNET)? {
        PLAIN_FIRST => PLAIN,
        first => longer(head, first)?,
    };
    let frame_length = wire::ETHERNET + usize::from(word(at::IP_TOTAL_LENGTH)?);
    if frame_length < l4_offset || frame_length > length {
        return Err(DropReason::Ip4Len);
    }
    if l4_offset != PLAIN {
        with_options(head, l4_offset)?;
    } else if !fixed.last_chunk().is_some_and(sums_up) {
        return Err(DropReason::Ip4Csum);
    }
    let flags = word(at::IP_FRAGMENT)?;
    let mut ip = Ip {
        frame_length,
        l4_offset,
        source: address(at::IP_SOURCE)?,
        destination: address(at::IP_DESTINATION)?,
        protocol: byte(at::IP_PROTOCOL)?,
        ttl: byte(at::IP_TTL)?,
        dont_fragment: flags & DONT_FRAGMENT != 0,
        has_options: l4_offset != PLAIN,
        fragment: Fragment::None,
        l4: L4::Other,
    };
    // The bytes of L4 that are both inside the packet and at hand.
    let l4 = head
        .get(l4_offset..frame_length.min(head.len()))
        .unwrap_or_default();
    if flags & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0 {
        let length = frame_length - l4_offset;
        ip.l4 = l4_header(ip.protocol, l4, length, length);
        return Ok(ip);
    }
    fragment(ip, flags, word(at::IP_ID)?, l4)
}

/// Names what is wrong with a frame that ends inside its fixed IPv4 header.
#[cold]
fn cut(head: &[u8]) -> DropReason {
    match u8_at(head, wire::ETHERNET) {
        Some(first) if first >> 4 != 4 => DropReason::IpVersion,
        _ => DropReason::Ip4Short,
    }
}

/// Where L4 starts behind a header that is not the plain one.
#[cold]
fn longer(head: &[u8], first: u8) -> Result<usize, DropReason> {
    let header_length = usize::from(first & 0x0f) * 4;
    let l4_offset = wire::ETHERNET + header_length;
    if first >> 4 != 4 {
        Err(DropReason::IpVersion)
    } else if header_length < wire::IP4 || head.len() < l4_offset {
        Err(DropReason::Ip4Ihl)
    } else {
        Ok(l4_offset)
    }
}

/// Judges checksum and options of a header that ends at `l4_offset`.
#[cold]
fn with_options(head: &[u8], l4_offset: usize) -> Result<(), DropReason> {
    let header = head
        .get(wire::ETHERNET..l4_offset)
        .ok_or(DropReason::Ip4Ihl)?;
    if Sum::ZERO.bytes(header).fold() != 0xffff {
        return Err(DropReason::Ip4Csum);
    }
    options::check(header.get(wire::IP4..).unwrap_or_default())
}

/// Whether the checksum of a plain header is right.
///
/// The ones' complement sum is all ones when the plain sum is a multiple of 65,535, because
/// 2^16 = 1 modulo that; and byte order does not matter (RFC 1071, 2 (B)). The sum is not 0: the
/// first byte is not.
#[inline]
pub(crate) fn sums_up(header: &[u8; wire::IP4]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    sum.is_multiple_of(0xffff)
}

/// Judges a fragment, whose header has one of MF and offset set, and reads the L4 header of a
/// first one.
#[cold]
fn fragment(mut ip: Ip, flags: u16, id: u16, l4: &[u8]) -> Result<Ip, DropReason> {
    let offset = (flags & FRAGMENT_OFFSET) * 8;
    let length = ip.frame_length - ip.l4_offset;
    if usize::from(offset) + length > 65_535 - wire::IP4 {
        return Err(DropReason::FragToolong);
    }
    let piece = Piece {
        id: u32::from(id),
        offset,
        length: u16::try_from(length).map_err(|_| DropReason::FragToolong)?,
        more: flags & MORE_FRAGMENTS != 0,
    };
    let least = match ip.protocol {
        wire::PROTOCOL_TCP => wire::TCP,
        wire::PROTOCOL_UDP | wire::PROTOCOL_ICMP => wire::UDP,
        _ => 0,
    };
    ip.fragment = match offset {
        0 if l4.len() < least => return Err(DropReason::FragTiny),
        0 => Fragment::First(piece),
        8 if ip.protocol == wire::PROTOCOL_TCP => return Err(DropReason::FragOffset1),
        _ => Fragment::Later(piece),
    };
    if let Fragment::First(_) = ip.fragment {
        ip.l4 = l4_header(ip.protocol, l4, length, usize::from(u16::MAX));
    }
    Ok(ip)
}

/// Reads the L4 header. `l4` are its bytes at hand, `length` those the packet has, `datagram` the
/// most that the whole datagram can have.
#[inline]
fn l4_header(protocol: u8, l4: &[u8], length: usize, datagram: usize) -> L4 {
    match protocol {
        wire::PROTOCOL_TCP => tcp::read(l4, length),
        wire::PROTOCOL_UDP => udp::read(l4, datagram),
        wire::PROTOCOL_ICMP => icmp::read4(l4),
        _ => L4::Other,
    }
}
