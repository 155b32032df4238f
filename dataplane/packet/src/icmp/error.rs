//! Writing ICMP and ICMPv6 errors.
//!
//! Whether an error may be sent, and how often, is the flow engine's to know.
//! References: RFC 1191, RFC 1812 4.3, RFC 4443 2.4 and 3, RFC 8200 8.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{four, six};
use crate::checksum::Sum;
use crate::ip::Ip;
use crate::ip6;
use crate::wire::{self, at, put};

/// Bytes of the offending IPv4 packet an error quotes, beyond its IP header: the least the RFCs
/// ask (8) plus what a TCP sender needs to recognise its segment (RFC 1812 4.3.2.3 asks for as
/// much as fits; a fixed short quote keeps an error smaller than what caused it).
const QUOTED_L4: usize = 20;

/// Bytes of the longest ICMPv6 error: the least MTU of IPv6. A quote must fill it (RFC 4443 2.4).
const LEAST_MTU6: usize = 1280;

/// Largest frame [`build_error`] writes.
pub const MAX_ERROR: usize = wire::ETHERNET + LEAST_MTU6;

/// Precedence "internetwork control" (RFC 1812 4.3.2.5), as IPv4's type of service and IPv6's
/// traffic class.
const PRECEDENCE: u8 = 0xc0;

/// TTL or hop limit of what we send.
const TTL: u8 = 64;

/// Errors the dataplane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Time to live or hop limit exceeded in transit: 11/0, ICMPv6 3/0.
    TimeExceeded,
    /// Host or address unreachable: 3/1, ICMPv6 1/3.
    HostUnreachable,
    /// Larger than the MTU of the next hop, in bytes of IP packet: 3/4, ICMPv6 2/0.
    TooBig {
        /// What fits.
        mtu: u16,
    },
    /// Communication administratively prohibited (RFC 5508 REQ-8: no translation left): 3/13,
    /// ICMPv6 1/1.
    Prohibited,
}

impl Error {
    /// ICMP type and code, and the word behind the checksum.
    const fn header4(self) -> (u8, u8, u32) {
        match self {
            Self::TimeExceeded => (four::TIME_EXCEEDED, 0, 0),
            Self::HostUnreachable => (four::UNREACHABLE, 1, 0),
            Self::TooBig { mtu } => (four::UNREACHABLE, 4, mtu as u32),
            Self::Prohibited => (four::UNREACHABLE, 13, 0),
        }
    }

    /// ICMPv6 type and code, and the word behind the checksum.
    const fn header6(self) -> (u8, u8, u32) {
        match self {
            Self::TimeExceeded => (six::TIME_EXCEEDED, 0, 0),
            Self::HostUnreachable => (six::UNREACHABLE, 3, 0),
            Self::TooBig { mtu } => (six::TOO_BIG, 0, mtu as u32),
            Self::Prohibited => (six::UNREACHABLE, 1, 0),
        }
    }
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

/// Writes into `out` the frame of an error about the packet in `head`, to its sender. `offender`
/// is what [`crate::parse()`] said of `head`.
///
/// Returns the frame's length; `None` when `out` is shorter than [`MAX_ERROR`] or our address is
/// not of the offender's family.
#[must_use]
pub fn build_error(
    out: &mut [u8],
    error: Error,
    envelope: &Envelope,
    head: &[u8],
    offender: &Ip,
) -> Option<usize> {
    let out = out.get_mut(..MAX_ERROR)?;
    put(out, 0, envelope.destination_mac);
    put(out, at::MAC_SOURCE, envelope.source_mac);
    let at_hand = head.len().min(offender.frame_length);
    let quoted = |length: usize| head.get(wire::ETHERNET..at_hand.min(length));
    match (envelope.source, offender.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let quoted = quoted(offender.l4_offset + QUOTED_L4)?;
            build4(out, error.header4(), (from, to), quoted)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let quoted = quoted(MAX_ERROR - wire::IP6 - wire::ICMP)?;
            build6(out, error.header6(), (from, to), quoted)
        }
        _ => None,
    }
}

/// Everything behind the MACs of an ICMP error.
fn build4(
    out: &mut [u8],
    header: (u8, u8, u32),
    (from, to): (Ipv4Addr, Ipv4Addr),
    quoted: &[u8],
) -> Option<usize> {
    let start = wire::ETHERNET + wire::IP4;
    let length = write_message(out, start, header, quoted)?;
    put(out, at::ETHERTYPE, wire::ETHERTYPE_IP4.to_be_bytes());
    put(out, wire::ETHERNET, [0x45, PRECEDENCE]);
    let total = u16::try_from(length - wire::ETHERNET).ok()?;
    put(out, at::IP_TOTAL_LENGTH, total.to_be_bytes());
    put(out, at::IP_ID, [0; 4]);
    put(out, at::IP_TTL, [TTL, wire::PROTOCOL_ICMP, 0, 0]);
    put(out, at::IP_SOURCE, from.octets());
    put(out, at::IP_DESTINATION, to.octets());
    seal(out, wire::ETHERNET..start, at::IP_CHECKSUM, Sum::ZERO)?;
    seal(out, start..length, start + 2, Sum::ZERO)?;
    Some(length)
}

/// Everything behind the MACs of an ICMPv6 error.
fn build6(
    out: &mut [u8],
    header: (u8, u8, u32),
    (from, to): (Ipv6Addr, Ipv6Addr),
    quoted: &[u8],
) -> Option<usize> {
    let start = wire::ETHERNET + wire::IP6;
    let length = write_message(out, start, header, quoted)?;
    put(out, at::ETHERTYPE, wire::ETHERTYPE_IP6.to_be_bytes());
    // Version, traffic class, flow label 0.
    let first = [0x60 | PRECEDENCE >> 4, PRECEDENCE << 4, 0, 0];
    put(out, wire::ETHERNET, first);
    let payload = u16::try_from(length - start).ok()?;
    put(out, at::IP6_PAYLOAD_LENGTH, payload.to_be_bytes());
    put(out, at::IP6_NEXT_HEADER, [wire::PROTOCOL_ICMP6, TTL]);
    put(out, at::IP6_SOURCE, from.octets());
    put(out, at::IP6_DESTINATION, to.octets());
    let pseudo_header = ip6::pseudo_header(out, length - start, wire::PROTOCOL_ICMP6)?;
    seal(out, start..length, start + 2, pseudo_header)?;
    Some(length)
}

/// Writes the message at `start`, its checksum blank, and returns where it ends.
fn write_message(
    out: &mut [u8],
    start: usize,
    (kind, code, rest): (u8, u8, u32),
    quoted: &[u8],
) -> Option<usize> {
    let body = start + wire::ICMP;
    let end = body + quoted.len();
    out.get_mut(body..end)?.copy_from_slice(quoted);
    put(out, start, [kind, code, 0, 0]);
    put(out, start + 4, rest.to_be_bytes());
    Some(end)
}

/// Writes the checksum over `span`, whose field is blank, into the field at `at`.
fn seal(out: &mut [u8], span: std::ops::Range<usize>, at: usize, pseudo_header: Sum) -> Option<()> {
    let checksum = pseudo_header.bytes(out.get(span)?).checksum();
    put(out, at, checksum.to_be_bytes());
    Some(())
}
