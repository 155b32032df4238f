//! One bounded pass over a frame: bytes to [`Parsed`], or the reason to drop it.
//!
//! Guarantees: never panics, never reads outside the bytes given, never believes a length before
//! checking it. What is odd but legal is reported, not judged: whether a malformed L4 header
//! matters depends on whether the packet is to be translated, which is the flow engine's to know.
//! This file knows Ethernet and ARP; each protocol above them has its own.

use crate::wire::{self, at, u16_at, u64_at};
use crate::{DropReason, Parsed, ip4, ip6};

/// Parses a frame.
///
/// `head` starts at the Ethernet header and holds the first chunk's bytes; `length` is the
/// frame's length over all its chunks. When the two are equal the frame is in one piece.
///
/// # Errors
/// The reason under which the packet is dropped. [`DropReason::L2Ethertype`] and
/// [`DropReason::L2Vlan`] only say that the frame is not ours to read: from an uplink it belongs
/// to the kernel.
#[inline]
pub fn parse(head: &[u8], length: usize) -> Result<Parsed, DropReason> {
    // The source MAC and, in the two low bytes, the EtherType.
    let word = u64_at(head, at::MAC_SOURCE).ok_or(DropReason::L2Short)?;
    let source_mac = word >> 16;
    if source_mac == 0 || source_mac >> 40 & 1 == 1 {
        return Err(DropReason::L2SrcBad);
    }
    match word as u16 {
        wire::ETHERTYPE_IP4 => ip4::read(head, length).map(Parsed::Ip),
        wire::ETHERTYPE_IP6 => ip6::read(head, length).map(Parsed::Ip),
        wire::ETHERTYPE_ARP => arp(head),
        other => Err(not_ours(head, other)),
    }
}

/// The reason for frames that are neither IP nor ARP.
#[cold]
fn not_ours(head: &[u8], ethertype: u16) -> DropReason {
    match ethertype {
        wire::ETHERTYPE_VLAN | wire::ETHERTYPE_QINQ => match head.get(..wire::ETHERNET + 4) {
            Some(_) => DropReason::L2Vlan,
            None => DropReason::L2Short,
        },
        _ => DropReason::L2Ethertype,
    }
}

/// Ethernet and IPv4 in the hardware and protocol fields, and room for both address pairs.
#[cold]
fn arp(head: &[u8]) -> Result<Parsed, DropReason> {
    const ARP_LENGTH: usize = 28;
    let fixed: [u8; 6] = wire::array(head, wire::ETHERNET).ok_or(DropReason::ArpBad)?;
    if head.len() < wire::ETHERNET + ARP_LENGTH || fixed != [0, 1, 8, 0, 6, 4] {
        return Err(DropReason::ArpBad);
    }
    Ok(Parsed::Arp)
}

/// Length of the frame whose IP header [`parse`] accepted: what to send when the frame came with
/// a trailer. 0 when there is no IP header to ask.
#[inline]
#[must_use]
pub fn frame_length(head: &[u8]) -> usize {
    let bytes = |at| u16_at(head, at).map_or(0, usize::from);
    match u16_at(head, at::ETHERTYPE) {
        Some(wire::ETHERTYPE_IP4) => wire::ETHERNET + bytes(at::IP_TOTAL_LENGTH),
        Some(wire::ETHERTYPE_IP6) => wire::ETHERNET + wire::IP6 + bytes(at::IP6_PAYLOAD_LENGTH),
        _ => 0,
    }
}
