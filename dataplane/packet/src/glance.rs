//! The plain case read in one go: a whole IPv4 packet without options that carries TCP or UDP.
//!
//! What [`glance4`] says of a packet, [`crate::parse()`] says too; where it says nothing, the
//! packet may be anything, and parsing tells what. It exists because nearly all packets are plain
//! and their worker asks for no more than this.

use crate::TcpFlags;
use crate::ip4::sums_up;
use crate::wire::{self, at, u8_at, u16_at, u32_at, u64_at};

/// Bytes up to the end of a UDP header behind a plain IPv4 header.
const UDP_END: usize = wire::ETHERNET + wire::IP4 + wire::UDP;
/// Bytes up to the end of a TCP header behind a plain IPv4 header.
const TCP_END: usize = wire::ETHERNET + wire::IP4 + wire::TCP;
/// Offset of L4.
const L4: usize = wire::ETHERNET + wire::IP4;
/// EtherType, version and header length.
const PLAIN: u32 = (wire::ETHERTYPE_IP4 as u32) << 16 | 0x4500;

/// What a plain packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance4 {
    /// Source address in the high half, destination address in the low.
    pub addresses: u64,
    /// Source port in the high half, destination port in the low.
    pub ports: u32,
    /// TCP's acknowledgment number; 0 for UDP.
    pub acknowledgment: u32,
    /// Bytes of the IP packet.
    pub ip_length: u16,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// Time to live as received.
    pub ttl: u8,
    /// The DF bit.
    pub dont_fragment: bool,
    /// TCP flags; ACK alone for UDP, which has nothing to say about a conversation's state.
    pub flags: TcpFlags,
}

/// Reads a plain packet; arguments as for [`crate::parse()`].
#[inline]
#[must_use]
pub fn glance4(head: &[u8], length: usize) -> Option<Glance4> {
    let fixed = head.first_chunk::<UDP_END>()?;
    let source_mac = u64_at(fixed, at::MAC_SOURCE)? >> 16;
    let plain = u32_at(fixed, at::ETHERTYPE)? & 0xffff_ff00 == PLAIN;
    let ip_length = u16_at(fixed, at::IP_TOTAL_LENGTH)?;
    let flags = u16_at(fixed, at::IP_FRAGMENT)?;
    let protocol = u8_at(fixed, at::IP_PROTOCOL)?;
    let l4_length = usize::from(ip_length).wrapping_sub(wire::IP4);
    let whole = flags & 0x3fff == 0 && wire::ETHERNET + usize::from(ip_length) <= length;
    let from_station = source_mac != 0 && source_mac >> 40 & 1 == 0;
    let (_, ip) = fixed.split_first_chunk::<{ wire::ETHERNET }>()?;
    if !(plain && whole && from_station && sums_up(ip.first_chunk()?)) {
        return None;
    }
    let (acknowledgment, tcp_flags) = match protocol {
        wire::PROTOCOL_UDP => udp(fixed, l4_length)?,
        wire::PROTOCOL_TCP => tcp(head, l4_length)?,
        _ => return None,
    };
    Some(Glance4 {
        addresses: u64_at(fixed, at::IP_SOURCE)?,
        ports: u32_at(fixed, L4)?,
        acknowledgment,
        ip_length,
        protocol,
        ttl: u8_at(fixed, at::IP_TTL)?,
        dont_fragment: flags & 0x4000 != 0,
        flags: tcp_flags,
    })
}

/// Judges a UDP header as [`crate::parse()`] does; `length` is what the IP header says L4 has, a
/// huge number when it says less than nothing.
#[inline]
fn udp(fixed: &[u8; UDP_END], length: usize) -> Option<(u32, TcpFlags)> {
    let claimed = usize::from(u16_at(fixed, L4 + 4)?);
    let fits = claimed >= wire::UDP && claimed <= length && length <= 0xffff;
    fits.then_some((0, TcpFlags::ACK))
}

/// Reads a TCP header, likewise.
#[inline]
fn tcp(head: &[u8], length: usize) -> Option<(u32, TcpFlags)> {
    let fixed = head.first_chunk::<TCP_END>()?;
    let offset = usize::from(u8_at(fixed, L4 + 12)? >> 4) * 4;
    let fits = offset >= wire::TCP && offset <= length && length <= 0xffff;
    let flags = TcpFlags(u8_at(fixed, L4 + 13)? & 0x3f);
    fits.then_some((u32_at(fixed, L4 + 8)?, flags))
}
