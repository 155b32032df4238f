//! IPv4 options: walked once, bounded by the header, only to refuse what must not travel.
//!
//! Nothing is interpreted. References: RFC 791 3.1, RFC 7126.

use crate::DropReason;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Checks the option bytes of an IPv4 header.
///
/// # Errors
/// [`DropReason::Ip4Srcroute`] for either source route, [`DropReason::Ip4Opt`] for a length that
/// is impossible.
pub(crate) fn check(mut options: &[u8]) -> Result<(), DropReason> {
    loop {
        match options {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, rest @ ..] => options = rest,
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Err(DropReason::Ip4Srcroute),
            [_, length @ 2..=255, ..] => {
                options = options
                    .get(usize::from(*length)..)
                    .ok_or(DropReason::Ip4Opt)?;
            }
            [..] => return Err(DropReason::Ip4Opt),
        }
    }
}
