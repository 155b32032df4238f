//! Where things are on the wire, and reads and writes that cannot go out of bounds.
//!
//! Offsets are from the start of the header named. All multi-byte values on the wire are
//! big-endian; everything outside this module is in host order.

/// Bytes of an Ethernet II header.
pub const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IP4: usize = 20;
/// Bytes of the fixed IPv6 header.
pub const IP6: usize = 40;
/// Bytes of a TCP header without options.
pub const TCP: usize = 20;
/// Bytes of a UDP header, and of the fixed part of an ICMP header.
pub const UDP: usize = 8;
/// Bytes of an ICMP header with its rest-of-header word.
pub const ICMP: usize = 8;

/// EtherType of IPv4.
pub const ETHERTYPE_IP4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IP6: u16 = 0x86dd;
/// EtherType of an IEEE 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an IEEE 802.1ad service tag.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const PROTOCOL_ICMP6: u8 = 58;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// Offsets in a frame that starts with Ethernet II and, where named so, IPv4 or IPv6.
pub(crate) mod at {
    pub(crate) const MAC_SOURCE: usize = 6;
    pub(crate) const ETHERTYPE: usize = 12;
    pub(crate) const IP_TOTAL_LENGTH: usize = 16;
    pub(crate) const IP_ID: usize = 18;
    pub(crate) const IP_FRAGMENT: usize = 20;
    pub(crate) const IP_TTL: usize = 22;
    pub(crate) const IP_PROTOCOL: usize = 23;
    pub(crate) const IP_CHECKSUM: usize = 24;
    pub(crate) const IP_SOURCE: usize = 26;
    pub(crate) const IP_DESTINATION: usize = 30;
    pub(crate) const IP6_PAYLOAD_LENGTH: usize = 18;
    pub(crate) const IP6_NEXT_HEADER: usize = 20;
    pub(crate) const IP6_HOP_LIMIT: usize = 21;
    pub(crate) const IP6_SOURCE: usize = 22;
    pub(crate) const IP6_DESTINATION: usize = 38;
}

/// Reads `N` bytes at `at`.
#[inline]
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// Reads one byte at `at`.
#[inline]
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// Reads a big-endian word at `at`.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// Reads a big-endian double word at `at`.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

/// Reads a big-endian quadruple word at `at`.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}

/// Writes `value` at `at`; does nothing where the bytes are not there.
#[inline]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<N>) {
        *field = value;
    }
}
