//! UDP: ports, and whether the length is true. References: RFC 768.

use crate::wire::{self, u16_at};
use crate::{DropReason, L4};

/// Reads the header at the start of `l4`; `length` is what the packet says L4 has, or the most a
/// length may claim when this is a first fragment, whose UDP length is the whole datagram's.
#[inline]
pub(crate) fn read(l4: &[u8], length: usize) -> L4 {
    header(l4, length).unwrap_or(L4::Malformed(DropReason::UdpLen))
}

#[inline]
fn header(l4: &[u8], length: usize) -> Option<L4> {
    let header: &[u8; wire::UDP] = l4.first_chunk()?;
    let claimed = usize::from(u16_at(header, 4)?);
    if claimed < wire::UDP || claimed > length {
        return None;
    }
    Some(L4::Udp {
        source: u16_at(header, 0)?,
        destination: u16_at(header, 2)?,
    })
}
