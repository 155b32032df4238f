//! TCP's maximum segment size, lowered in passing so that full segments fit the path.
//!
//! Touches the option of SYN segments and the checksum by difference, nothing else; a smaller
//! offer is never raised and a missing one never added. References: RFC 9293 3.7.1, RFC 1624.

use crate::checksum::Delta;
use crate::ip::{Ip, L4};
use crate::tcp::{CHECKSUM, TcpFlags, header_length};
use crate::wire::{self, put, u16_at};

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Lowers the maximum segment size a SYN or SYN+ACK offers to `mss` bytes of TCP payload. `packet`
/// is what [`crate::parse()`] said of `head`.
///
/// Returns whether it changed the packet. Options that are malformed before the offer leave it
/// untouched (P53).
pub fn clamp(head: &mut [u8], packet: &Ip, mss: u16) -> bool {
    match packet.l4 {
        L4::Tcp { flags, .. } if flags.has(TcpFlags::SYN) => lower(head, packet, mss).is_some(),
        _ => false,
    }
}

/// Finds the offer and lowers it; `None` when there is nothing to change.
fn lower(head: &mut [u8], packet: &Ip, mss: u16) -> Option<()> {
    let l4 = packet.l4_offset;
    let packet_end = packet.frame_length.min(head.len());
    let end = (l4 + header_length(head.get(l4..)?)?).min(packet_end);
    let at = offer(head.get(l4 + wire::TCP..end)?)? + l4 + wire::TCP;
    let old = u16_at(head, at)?;
    if old <= mss {
        return None;
    }
    put(head, at, mss.to_be_bytes());
    // An offer at an odd offset is spread over two words of the sum, halves swapped.
    let delta = match (at - l4).is_multiple_of(2) {
        true => Delta::ZERO.word(old, mss),
        false => Delta::ZERO.word(old.swap_bytes(), mss.swap_bytes()),
    };
    let checksum = u16_at(head, l4 + CHECKSUM)?;
    put(head, l4 + CHECKSUM, delta.apply(checksum).to_be_bytes());
    Some(())
}

/// Offset of the offered size within `options`. Every step goes forward.
fn offer(options: &[u8]) -> Option<usize> {
    let mut rest = options;
    loop {
        rest = match rest {
            [] | [END, ..] => return None,
            [NO_OPERATION, rest @ ..] => rest,
            [MAXIMUM_SEGMENT_SIZE, 4, _, _, ..] => return Some(options.len() - rest.len() + 2),
            [_, length @ 2..=255, ..] => rest.get(usize::from(*length)..)?,
            [..] => return None,
        };
    }
}
