//! ICMP: what a message is. References: RFC 792.

use super::ErrorKind;
use crate::DropReason;
use crate::ip::L4;
use crate::wire::{self, u8_at, u16_at};

pub(super) const ECHO_REPLY: u8 = 0;
pub(super) const UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
pub(super) const ECHO_REQUEST: u8 = 8;
pub(super) const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

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
