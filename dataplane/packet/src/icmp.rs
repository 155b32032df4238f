//! ICMP: what a message is, what an error quotes, and how to write an error.
//!
//! A quote is somebody else's claim about a packet of ours: it is read with the same distrust as
//! any packet, and only its addresses and ports are believed, to find the flow it is about.
//! References: RFC 792, RFC 1122 3.2.2, RFC 1191, RFC 1812 4.3, RFC 5508.

use std::net::{IpAddr, Ipv4Addr};

use crate::checksum::Sum;
use crate::wire::{self, at, put, u8_at, u16_at, u32_at};
use crate::{DropReason, Ip, L4};

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// Bytes of the offending packet an error of ours quotes, beyond its IP header: the least the
/// RFCs ask (8) plus what a TCP sender needs to recognise its segment (RFC 1812 4.3.2.3 asks for
/// as much as fits; a fixed short quote keeps an error smaller than what caused it).
const QUOTED_L4: usize = 20;

/// Largest ICMP error [`build_error`] writes: Ethernet, IPv4, ICMP, and the longest quote.
pub const MAX_ERROR: usize = wire::ETHERNET + wire::IP4 + wire::ICMP + 60 + QUOTED_L4;

/// ICMP and ICMPv6 messages that quote a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// ICMP type 3, ICMPv6 type 1.
    Unreachable,
    /// ICMP type 4, obsolete (RFC 6633) but still about a quoted packet.
    SourceQuench,
    /// ICMP type 5. ICMPv6 counts redirects among neighbor discovery:
    /// [`crate::NeighborKind::Redirect`].
    Redirect,
    /// ICMPv6 type 2; ICMP says this with a code of [`Self::Unreachable`].
    TooBig,
    /// ICMP type 11, ICMPv6 type 3.
    TimeExceeded,
    /// ICMP type 12, ICMPv6 type 4.
    ParameterProblem,
}

/// Errors the dataplane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// 11/0: time to live exceeded in transit.
    TimeExceeded,
    /// 3/1: host unreachable.
    HostUnreachable,
    /// 3/4: fragmentation needed, with the MTU of the next hop in bytes of IP packet.
    TooBig {
        /// What fits.
        mtu: u16,
    },
    /// 3/13: communication administratively prohibited (RFC 5508 REQ-8: no translation left).
    Prohibited,
}

impl Error {
    /// Type, code and the second half of the rest-of-header word.
    const fn header(self) -> (u8, u8, u16) {
        match self {
            Self::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            Self::HostUnreachable => (UNREACHABLE, 1, 0),
            Self::TooBig { mtu } => (UNREACHABLE, 4, mtu),
            Self::Prohibited => (UNREACHABLE, 13, 0),
        }
    }
}

/// The packet an ICMP error is about, as quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Offset of the quoted IPv4 header from the start of the frame.
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

/// Reads the message at the start of `l4`.
#[inline]
pub(crate) fn read(l4: &[u8]) -> L4 {
    header(l4).unwrap_or(L4::Malformed(DropReason::IcmpBad))
}

/// Kind of the message; `None` when its 8 bytes are not there.
#[inline]
fn header(l4: &[u8]) -> Option<L4> {
    let header: &[u8; wire::ICMP] = l4.first_chunk()?;
    let id = u16_at(header, 4)?;
    Some(match u8_at(header, 0)? {
        ECHO_REQUEST => L4::EchoRequest { id },
        ECHO_REPLY => L4::EchoReply { id },
        UNREACHABLE => L4::IcmpError(ErrorKind::Unreachable),
        SOURCE_QUENCH => L4::IcmpError(ErrorKind::SourceQuench),
        REDIRECT => L4::IcmpError(ErrorKind::Redirect),
        TIME_EXCEEDED => L4::IcmpError(ErrorKind::TimeExceeded),
        PARAMETER_PROBLEM => L4::IcmpError(ErrorKind::ParameterProblem),
        _ => L4::IcmpOther,
    })
}

/// Reads what an ICMP error quotes. `head` and `packet` as for, and from, [`crate::parse()`].
///
/// # Errors
/// [`DropReason::IcmpCsum`] when the message's checksum is wrong or cannot be checked because the
/// message is not in one piece (P56); [`DropReason::IcmpInner`] when fewer than 8 bytes of L4 are
/// quoted or the quote was not sent by whom the error goes to (P59, P60).
pub fn quote(head: &[u8], packet: &Ip) -> Result<Quote, DropReason> {
    let message = head
        .get(packet.l4_offset..packet.frame_length)
        .ok_or(DropReason::IcmpCsum)?;
    if Sum::ZERO.bytes(message).fold() != 0xffff {
        return Err(DropReason::IcmpCsum);
    }
    let inner = message.get(wire::ICMP..).ok_or(DropReason::IcmpInner)?;
    let quoted = quoted_packet(inner, packet.l4_offset + wire::ICMP);
    quoted
        .filter(|quote| quote.source == packet.destination)
        .ok_or(DropReason::IcmpInner)
}

/// Reads the quoted headers; `offset` is where `inner` starts in the frame.
fn quoted_packet(inner: &[u8], offset: usize) -> Option<Quote> {
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
    let l4: [u8; 8] = wire::array(inner, header_length)?;
    let protocol = u8_at(inner, PROTOCOL)?;
    let l4_names = match (protocol, u8_at(&l4, 0)?) {
        (wire::PROTOCOL_TCP | wire::PROTOCOL_UDP, _) => QuotedL4::Ports {
            source: u16_at(&l4, 0)?,
            destination: u16_at(&l4, 2)?,
        },
        (wire::PROTOCOL_ICMP, ECHO_REQUEST) => QuotedL4::EchoRequest {
            id: u16_at(&l4, 4)?,
        },
        (wire::PROTOCOL_ICMP, ECHO_REPLY) => QuotedL4::EchoReply {
            id: u16_at(&l4, 4)?,
        },
        _ => QuotedL4::Other,
    };
    Some(Quote {
        ip_offset: offset,
        l4_offset: offset + header_length,
        source: IpAddr::V4(Ipv4Addr::from_bits(u32_at(inner, SOURCE)?)),
        destination: IpAddr::V4(Ipv4Addr::from_bits(u32_at(inner, DESTINATION)?)),
        protocol,
        l4: l4_names,
    })
}

/// Addresses of an error the dataplane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// MAC it leaves with.
    pub source_mac: [u8; 6],
    /// MAC of the next hop.
    pub destination_mac: [u8; 6],
    /// Our address, of the offender's family.
    pub source: IpAddr,
}

/// Writes into `out` the frame of an ICMP error about the packet in `head`, to its sender.
///
/// Returns the frame's length; `None` when `out` is shorter than [`MAX_ERROR`] or an address is not
/// IPv4. Whether an error may be sent at all is the caller's to know.
#[must_use]
pub fn build_error(
    out: &mut [u8],
    error: Error,
    envelope: &Envelope,
    head: &[u8],
    offender: &Ip,
) -> Option<usize> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (envelope.source, offender.source) else {
        return None;
    };
    let out = out.get_mut(..MAX_ERROR)?;
    let end = offender
        .frame_length
        .min(offender.l4_offset + QUOTED_L4)
        .min(head.len());
    let quoted = head.get(wire::ETHERNET..end)?;
    let start = wire::ETHERNET + wire::IP4;
    let length = start + wire::ICMP + quoted.len();
    out.get_mut(start + wire::ICMP..length)?
        .copy_from_slice(quoted);

    let (kind, code, rest) = error.header();
    put(out, start, [kind, code, 0, 0, 0, 0]);
    put(out, start + 6, rest.to_be_bytes());
    let checksum = Sum::ZERO.bytes(out.get(start..length)?).checksum();
    put(out, start + 2, checksum.to_be_bytes());

    put(out, 0, envelope.destination_mac);
    put(out, at::MAC_SOURCE, envelope.source_mac);
    put(out, at::ETHERTYPE, wire::ETHERTYPE_IP4.to_be_bytes());
    // Precedence "internetwork control" (RFC 1812 4.3.2.5), not fragmented, TTL 64.
    put(out, wire::ETHERNET, [0x45, 0xc0]);
    put(
        out,
        at::IP_TOTAL_LENGTH,
        u16::try_from(length - wire::ETHERNET).ok()?.to_be_bytes(),
    );
    put(out, at::IP_TOTAL_LENGTH + 2, [0; 4]);
    put(out, at::IP_TTL, [64, wire::PROTOCOL_ICMP, 0, 0]);
    put(out, at::IP_SOURCE, source.octets());
    put(out, at::IP_DESTINATION, destination.octets());
    let checksum = Sum::ZERO.bytes(out.get(wire::ETHERNET..start)?).checksum();
    put(out, at::IP_CHECKSUM, checksum.to_be_bytes());
    Some(length)
}
