//! The packet an ICMP error is about.
//!
//! A quote is somebody else's claim about a packet of ours: it is read with the same distrust as
//! any packet, and only its addresses and ports are believed, to find the flow it is about.
//! References: RFC 792, RFC 1122 3.2.2, RFC 4443, RFC 5508.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{four, six};
use crate::checksum::Sum;
use crate::extension;
use crate::ip::{Fragment, Ip};
use crate::wire::{self, at, u8_at, u16_at, u32_at};
use crate::{DropReason, ip6};

/// The packet an ICMP error is about, as quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Offset of the quoted IP header from the start of the frame.
    pub ip_offset: usize,
    /// Offset of the quoted L4 header from the start of the frame.
    pub l4_offset: usize,
    /// Quoted source address; always the destination of the error.
    pub source: IpAddr,
    /// Quoted destination address.
    pub destination: IpAddr,
    /// Quoted IP protocol number.
    pub protocol: u8,
    /// Quoted ports, or the identifier of an echo.
    pub l4: QuotedL4,
}

/// What names the flow in a quoted L4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotedL4 {
    /// TCP or UDP.
    Ports {
        /// Quoted source port.
        source: u16,
        /// Quoted destination port.
        destination: u16,
    },
    /// ICMP echo request.
    EchoRequest {
        /// Identifier.
        id: u16,
    },
    /// ICMP echo reply.
    EchoReply {
        /// Identifier.
        id: u16,
    },
    /// A protocol without ports.
    Other,
}

/// Reads what an ICMP or ICMPv6 error quotes. `head` and `packet` as for, and from,
/// [`crate::parse()`].
///
/// # Errors
/// [`DropReason::IcmpCsum`] when the message's checksum is wrong or cannot be checked because the
/// message is not in one piece (P56); [`DropReason::IcmpInner`] when fewer than 8 bytes of L4 are
/// quoted or the quote was not sent by whom the error goes to (P59, P60).
pub fn quote(head: &[u8], packet: &Ip) -> Result<Quote, DropReason> {
    let message = head
        .get(packet.l4_offset..packet.frame_length)
        .ok_or(DropReason::IcmpCsum)?;
    let pseudo_header = match packet.source {
        IpAddr::V4(_) => Sum::ZERO,
        IpAddr::V6(_) => {
            ip6::pseudo_header(head, message.len(), packet.protocol).ok_or(DropReason::IcmpCsum)?
        }
    };
    if pseudo_header.bytes(message).fold() != 0xffff {
        return Err(DropReason::IcmpCsum);
    }
    let inner = packet.l4_offset + wire::ICMP;
    let quoted = match packet.source {
        IpAddr::V4(_) => quoted4(message.get(wire::ICMP..).unwrap_or_default(), inner),
        IpAddr::V6(_) => quoted6(head.get(..packet.frame_length).unwrap_or_default(), inner),
    };
    quoted
        .filter(|quote| quote.source == packet.destination)
        .ok_or(DropReason::IcmpInner)
}

/// Reads the quoted IPv4 packet; `offset` is where `inner` starts in the frame.
fn quoted4(inner: &[u8], offset: usize) -> Option<Quote> {
    const FRAGMENT: usize = at::IP_FRAGMENT - wire::ETHERNET;
    const PROTOCOL: usize = at::IP_PROTOCOL - wire::ETHERNET;
    const SOURCE: usize = at::IP_SOURCE - wire::ETHERNET;
    const DESTINATION: usize = at::IP_DESTINATION - wire::ETHERNET;
    let first = u8_at(inner, 0)?;
    let header_length = usize::from(first & 0x0f) * 4;
    let later_fragment = u16_at(inner, FRAGMENT)? & 0x1fff != 0;
    if first >> 4 != 4 || header_length < wire::IP4 || later_fragment {
        return None;
    }
    let protocol = u8_at(inner, PROTOCOL)?;
    Some(Quote {
        ip_offset: offset,
        l4_offset: offset + header_length,
        source: IpAddr::V4(Ipv4Addr::from_bits(u32_at(inner, SOURCE)?)),
        destination: IpAddr::V4(Ipv4Addr::from_bits(u32_at(inner, DESTINATION)?)),
        protocol,
        l4: names(
            protocol,
            wire::array(inner, header_length)?,
            (wire::PROTOCOL_ICMP, four::ECHO_REQUEST, four::ECHO_REPLY),
        )?,
    })
}

/// Reads the IPv6 packet quoted at `offset` of `frame`.
fn quoted6(frame: &[u8], offset: usize) -> Option<Quote> {
    const PAYLOAD_LENGTH: usize = at::IP6_PAYLOAD_LENGTH - wire::ETHERNET;
    const NEXT_HEADER: usize = at::IP6_NEXT_HEADER - wire::ETHERNET;
    const SOURCE: usize = at::IP6_SOURCE - wire::ETHERNET;
    const DESTINATION: usize = at::IP6_DESTINATION - wire::ETHERNET;
    let start = offset + wire::IP6;
    let fixed: [u8; wire::IP6] = wire::array(frame, offset)?;
    let [first, ..] = fixed;
    if first >> 4 != 6 {
        return None;
    }
    let end = start + usize::from(u16_at(&fixed, PAYLOAD_LENGTH)?);
    let next = u8_at(&fixed, NEXT_HEADER)?;
    let chain = extension::walk(frame, start, next, end).ok()?;
    if let Fragment::Later(_) = chain.fragment {
        return None;
    }
    let address =
        |at| wire::array(&fixed, at).map(|octets| IpAddr::V6(Ipv6Addr::from_octets(octets)));
    Some(Quote {
        ip_offset: offset,
        l4_offset: chain.l4_offset,
        source: address(SOURCE)?,
        destination: address(DESTINATION)?,
        protocol: chain.protocol,
        l4: names(
            chain.protocol,
            wire::array(frame, chain.l4_offset)?,
            (wire::PROTOCOL_ICMP6, six::ECHO_REQUEST, six::ECHO_REPLY),
        )?,
    })
}

/// What names the flow in the first 8 bytes of a quoted L4 header. `icmp` is the protocol number
/// of the family's ICMP and the types of its echoes.
fn names(protocol: u8, l4: [u8; 8], icmp: (u8, u8, u8)) -> Option<QuotedL4> {
    let (icmp, request, reply) = icmp;
    let [kind, ..] = l4;
    let id = u16_at(&l4, 4)?;
    Some(match protocol {
        wire::PROTOCOL_TCP | wire::PROTOCOL_UDP => QuotedL4::Ports {
            source: u16_at(&l4, 0)?,
            destination: u16_at(&l4, 2)?,
        },
        _ if protocol == icmp && kind == request => QuotedL4::EchoRequest { id },
        _ if protocol == icmp && kind == reply => QuotedL4::EchoReply { id },
        _ => QuotedL4::Other,
    })
}
