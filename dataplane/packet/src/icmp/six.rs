//! ICMPv6: what a message is. References: RFC 4443, RFC 4861.

use super::{ErrorKind, NeighborKind};
use crate::DropReason;
use crate::ip::L4;
use crate::wire::{self, u8_at, u16_at};

pub(super) const UNREACHABLE: u8 = 1;
pub(super) const TOO_BIG: u8 = 2;
pub(super) const TIME_EXCEEDED: u8 = 3;
const PARAMETER_PROBLEM: u8 = 4;
pub(super) const ECHO_REQUEST: u8 = 128;
pub(super) const ECHO_REPLY: u8 = 129;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

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
        TOO_BIG => L4::IcmpError(ErrorKind::TooBig),
        TIME_EXCEEDED => L4::IcmpError(ErrorKind::TimeExceeded),
        PARAMETER_PROBLEM => L4::IcmpError(ErrorKind::ParameterProblem),
        ROUTER_SOLICITATION => L4::Neighbor(NeighborKind::RouterSolicitation),
        ROUTER_ADVERTISEMENT => L4::Neighbor(NeighborKind::RouterAdvertisement),
        NEIGHBOR_SOLICITATION => L4::Neighbor(NeighborKind::Solicitation),
        NEIGHBOR_ADVERTISEMENT => L4::Neighbor(NeighborKind::Advertisement),
        REDIRECT => L4::Neighbor(NeighborKind::Redirect),
        _ => L4::IcmpOther,
    })
}
