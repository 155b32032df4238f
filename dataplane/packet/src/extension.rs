//! IPv6 extension headers: walked once, bounded, only to find L4 and refuse what must not travel.
//!
//! At most [`MAX_HEADERS`] headers and [`MAX_BYTES`] bytes of them are looked at (P66). Options are
//! not interpreted, but for the jumbo payload. References: RFC 8200 4, RFC 5095, RFC 7112.

use crate::DropReason;
use crate::ip::{Fragment, Piece};
use crate::wire::{self, u16_at, u32_at};

/// Most extension headers a packet may have.
const MAX_HEADERS: usize = 8;
/// Most bytes of extension headers a packet may have.
const MAX_BYTES: usize = 256;

pub(crate) const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Routing header type that lets a sender bounce a packet between two nodes (RFC 5095).
const SOURCE_ROUTE: u8 = 0;

const PAD_1: u8 = 0;
const JUMBO_PAYLOAD: u8 = 0xc2;

const FRAGMENT_OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 1;

/// Where the extension headers lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    /// What follows the last of them.
    pub(crate) protocol: u8,
    /// Where it starts, counted as the bytes walked are.
    pub(crate) l4_offset: usize,
    /// Whether any was not a fragment header.
    pub(crate) has_options: bool,
    /// What the fragment header said.
    pub(crate) fragment: Fragment,
}

/// Whether `protocol` names an extension header.
#[inline]
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}

/// Walks the extension headers from `start` on, the first of which is a `protocol`. `packet` ends
/// where the IPv6 packet does, or where the bytes at hand do; `end` is where the packet does.
///
/// # Errors
/// [`DropReason::Ip6Ext`] for headers cut, too many, too long or out of order,
/// [`DropReason::Ip6Rh0`], [`DropReason::Ip6Jumbo`], and for fragments
/// [`DropReason::FragNochain`], [`DropReason::FragLen`] and [`DropReason::FragToolong`].
pub(crate) fn walk(
    packet: &[u8],
    start: usize,
    protocol: u8,
    end: usize,
) -> Result<Chain, DropReason> {
    let mut chain = Chain {
        protocol,
        l4_offset: start,
        has_options: false,
        fragment: Fragment::None,
    };
    let mut fragmented = false;
    for index in 0..=MAX_HEADERS {
        let later = matches!(chain.fragment, Fragment::Later(_));
        if later || !is_extension(chain.protocol) {
            return Ok(chain);
        }
        let kind = chain.protocol;
        if index == MAX_HEADERS
            || kind == HOP_BY_HOP && index > 0
            || kind == FRAGMENT && std::mem::replace(&mut fragmented, true)
        {
            return Err(DropReason::Ip6Ext);
        }
        chain.step(packet, end)?;
        if chain.l4_offset > start + MAX_BYTES {
            return Err(DropReason::Ip6Ext);
        }
    }
    Err(DropReason::Ip6Ext)
}

impl Chain {
    /// Goes past one header.
    fn step(&mut self, packet: &[u8], end: usize) -> Result<(), DropReason> {
        let fixed: [u8; 8] = wire::array(packet, self.l4_offset).ok_or(self.cut())?;
        let [next, words, third, ..] = fixed;
        let bytes = match self.protocol {
            FRAGMENT => fixed.len(),
            AUTHENTICATION => (usize::from(words) + 2) * 4,
            _ => (usize::from(words) + 1) * 8,
        };
        let past = self.l4_offset + bytes;
        let header = packet.get(self.l4_offset..past).ok_or(self.cut())?;
        match self.protocol {
            HOP_BY_HOP => hop_by_hop(header)?,
            ROUTING if third == SOURCE_ROUTE => return Err(DropReason::Ip6Rh0),
            FRAGMENT => self.fragment = fragment(header, end.saturating_sub(past))?,
            _ => {}
        }
        self.has_options |= self.protocol != FRAGMENT;
        self.protocol = next;
        self.l4_offset = past;
        Ok(())
    }

    /// Why a packet whose chain is cut here is dropped (P66, P69).
    pub(crate) const fn cut(&self) -> DropReason {
        match self.fragment {
            Fragment::None => DropReason::Ip6Ext,
            _ => DropReason::FragNochain,
        }
    }
}

/// Reads a fragment header; `length` is what the packet has behind it.
fn fragment(header: &[u8], length: usize) -> Result<Fragment, DropReason> {
    let word = u16_at(header, 2).ok_or(DropReason::Ip6Ext)?;
    let piece = Piece {
        id: u32_at(header, 4).ok_or(DropReason::Ip6Ext)?,
        offset: word & FRAGMENT_OFFSET,
        length: u16::try_from(length).map_err(|_| DropReason::FragToolong)?,
        more: word & MORE_FRAGMENTS != 0,
    };
    if piece.offset.checked_add(piece.length).is_none() {
        return Err(DropReason::FragToolong);
    }
    if piece.more && !piece.length.is_multiple_of(8) {
        return Err(DropReason::FragLen);
    }
    Ok(match (piece.offset, piece.more) {
        (0, false) => Fragment::None,
        (0, true) => Fragment::First(piece),
        _ => Fragment::Later(piece),
    })
}

/// Looks through the options of a hop-by-hop header for a jumbo payload.
pub(crate) fn hop_by_hop(header: &[u8]) -> Result<(), DropReason> {
    let mut options = header.get(2..).unwrap_or_default();
    loop {
        match options {
            [] => return Ok(()),
            [PAD_1, rest @ ..] => options = rest,
            [JUMBO_PAYLOAD, ..] => return Err(DropReason::Ip6Jumbo),
            [_, length, rest @ ..] => {
                options = rest.get(usize::from(*length)..).ok_or(DropReason::Ip6Ext)?;
            }
            [_] => return Err(DropReason::Ip6Ext),
        }
    }
}
