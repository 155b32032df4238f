//! One bounded pass over a frame: bytes to [`Parsed`], or the reason to drop it.
//!
//! Guarantees: never panics, never reads outside the bytes given, never believes a length before
//! checking it. What is odd but legal is reported, not judged: whether a malformed L4 header
//! matters depends on whether the packet is to be translated, which is the flow engine's to know.
//! References: RFC 791, RFC 1858, RFC 3128.

use std::net::Ipv4Addr;

use crate::checksum::Sum;
use crate::options;
use crate::wire::{self, at, u8_at, u16_at, u32_at};
use crate::{DropReason, icmp};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A well-formed IPv4 header and whatever follows it.
    Ip4(Ip4),
    /// ARP for IPv4 over Ethernet.
    Arp,
}

/// An IPv4 packet in an untagged Ethernet frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip4 {
    /// Bytes from the Ethernet header to the end of the IP packet; what lies behind is trailer
    /// and must not be sent on (P15).
    pub frame_length: usize,
    /// Offset of the L4 header from the start of the frame; right also when there are options.
    pub l4_offset: usize,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// IP protocol number.
    pub protocol: u8,
    /// Time to live as received.
    pub ttl: u8,
    /// The DF bit.
    pub dont_fragment: bool,
    /// Whether this is a whole datagram.
    pub fragment: Fragment,
    /// What the L4 header says. For later fragments always [`L4::Other`].
    pub l4: L4,
}

impl Ip4 {
    /// Bytes of the IP packet, header included; what an MTU is compared with.
    #[must_use]
    pub const fn ip_length(&self) -> usize {
        self.frame_length - wire::ETHERNET
    }

    /// Whether the IPv4 header carries options.
    #[must_use]
    pub const fn has_options(&self) -> bool {
        self.l4_offset > wire::ETHERNET + wire::IP4
    }
}

/// A datagram's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// The datagram is whole.
    None,
    /// First of several; the L4 header is here.
    First,
    /// Not the first; there are no L4 ports to read.
    Later,
}

/// The L4 header, as far as forwarding and translation need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4 {
    /// A TCP header whose offset field is true.
    Tcp {
        /// Source port; 0 is legal here.
        source: u16,
        /// Destination port; 0 is legal here.
        destination: u16,
        /// Flags.
        flags: TcpFlags,
    },
    /// A UDP header whose length field is true.
    Udp {
        /// Source port; 0 is legal here.
        source: u16,
        /// Destination port; 0 is legal here.
        destination: u16,
    },
    /// ICMP echo request.
    EchoRequest {
        /// Identifier.
        id: u16,
    },
    /// ICMP echo reply.
    EchoReply {
        /// Identifier.
        id: u16,
    },
    /// An ICMP error that quotes a packet.
    IcmpError(icmp::ErrorKind),
    /// Any other ICMP message.
    IcmpOther,
    /// A protocol this module does not look into, or a later fragment.
    Other,
    /// TCP, UDP or ICMP whose header is cut or lies; the reason to drop it *if* it must be
    /// translated.
    Malformed(DropReason),
}

/// TCP control bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push function.
    pub const PSH: Self = Self(0x08);
    /// Acknowledgment field significant.
    pub const ACK: Self = Self(0x10);
    /// Urgent pointer field significant.
    pub const URG: Self = Self(0x20);

    /// Whether all bits of `other` are set.
    #[inline]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether no honest stack sends this combination (P44): nothing at all, SYN with FIN or RST,
    /// FIN with RST, or FIN without ACK, which includes the "christmas tree".
    #[must_use]
    pub const fn is_nonsense(self) -> bool {
        let (fin, syn) = (self.has(Self::FIN), self.has(Self::SYN));
        let (rst, ack) = (self.has(Self::RST), self.has(Self::ACK));
        !(fin || syn || rst || ack) || syn && (fin || rst) || fin && (rst || !ack)
    }
}

/// Parses a frame.
///
/// `head` starts at the Ethernet header and holds the first chunk's bytes; `length` is the
/// frame's length over all its chunks. When the two are equal the frame is in one piece.
///
/// # Errors
/// The reason under which the packet is dropped. [`DropReason::L2Ethertype`],
/// [`DropReason::L2Vlan`] and [`DropReason::Ip6Disabled`] only say that the frame is not ours to
/// read: from an uplink it belongs to the kernel.
#[inline]
pub fn parse(head: &[u8], length: usize) -> Result<Parsed, DropReason> {
    let ethernet: [u8; wire::ETHERNET] = wire::array(head, 0).ok_or(DropReason::L2Short)?;
    let source: [u8; 6] = wire::array(&ethernet, at::MAC_SOURCE).ok_or(DropReason::L2Short)?;
    if source == [0; 6] || source[0] & 1 == 1 {
        return Err(DropReason::L2SrcBad);
    }
    match u16_at(&ethernet, at::ETHERTYPE).ok_or(DropReason::L2Short)? {
        wire::ETHERTYPE_IP4 => ip4(head, length).map(Parsed::Ip4),
        wire::ETHERTYPE_ARP => arp(head),
        other => Err(not_ours(head, other)),
    }
}

/// The reason for frames that are neither IPv4 nor ARP.
#[cold]
fn not_ours(head: &[u8], ethertype: u16) -> DropReason {
    match ethertype {
        wire::ETHERTYPE_IP6 => match u8_at(head, wire::ETHERNET).map(|byte| byte >> 4) {
            Some(6) => DropReason::Ip6Disabled,
            _ => DropReason::IpVersion,
        },
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

#[inline]
fn ip4(head: &[u8], length: usize) -> Result<Ip4, DropReason> {
    let frame = head.get(..head.len().min(length)).unwrap_or(head);
    let first = u8_at(frame, wire::ETHERNET).ok_or(DropReason::Ip4Short)?;
    if first >> 4 != 4 {
        return Err(DropReason::IpVersion);
    }
    let fixed: [u8; wire::IP4] = wire::array(frame, wire::ETHERNET).ok_or(DropReason::Ip4Short)?;
    let header_length = usize::from(first & 0x0f) * 4;
    let l4_offset = wire::ETHERNET + header_length;
    if header_length < wire::IP4 || frame.len() < l4_offset {
        return Err(DropReason::Ip4Ihl);
    }
    let [
        _,
        _,
        total_high,
        total_low,
        _,
        _,
        frag_high,
        frag_low,
        ttl,
        protocol,
        ..,
    ] = fixed;
    let total_length = usize::from(u16::from_be_bytes([total_high, total_low]));
    if total_length < header_length || wire::ETHERNET + total_length > length {
        return Err(DropReason::Ip4Len);
    }
    let header = frame
        .get(wire::ETHERNET..l4_offset)
        .ok_or(DropReason::Ip4Ihl)?;
    if Sum::ZERO.bytes(header).fold() != 0xffff {
        return Err(DropReason::Ip4Csum);
    }
    if header_length > wire::IP4 {
        options::check(header.get(wire::IP4..).unwrap_or_default())?;
    }
    let word = |offset| u32_at(&fixed, offset).ok_or(DropReason::Ip4Short);
    let flags = u16::from_be_bytes([frag_high, frag_low]);
    let mut packet = Ip4 {
        frame_length: wire::ETHERNET + total_length,
        l4_offset,
        source: Ipv4Addr::from_bits(word(at::IP_SOURCE - wire::ETHERNET)?),
        destination: Ipv4Addr::from_bits(word(at::IP_DESTINATION - wire::ETHERNET)?),
        protocol,
        ttl,
        dont_fragment: flags & 0x4000 != 0,
        fragment: Fragment::None,
        l4: L4::Other,
    };
    // The bytes of L4 that are both inside the packet and at hand.
    let l4 = frame
        .get(l4_offset..frame.len().min(packet.frame_length))
        .unwrap_or_default();
    let l4_length = total_length - header_length;
    if flags & 0x3fff != 0 {
        packet.fragment = fragment(flags, protocol, l4, l4_length)?;
    }
    if packet.fragment != Fragment::Later {
        packet.l4 = l4_header(protocol, l4, l4_length, packet.fragment);
    }
    Ok(packet)
}

/// Judges a fragment; `flags` is the header's flags and offset word with one of MF or offset set.
#[cold]
fn fragment(flags: u16, protocol: u8, l4: &[u8], length: usize) -> Result<Fragment, DropReason> {
    let offset = usize::from(flags & 0x1fff);
    if offset * 8 + length > 65_535 - wire::IP4 {
        return Err(DropReason::FragToolong);
    }
    let least = match protocol {
        wire::PROTOCOL_TCP => wire::TCP,
        wire::PROTOCOL_UDP | wire::PROTOCOL_ICMP => wire::UDP,
        _ => 0,
    };
    match offset {
        0 if l4.len() < least => Err(DropReason::FragTiny),
        0 => Ok(Fragment::First),
        1 if protocol == wire::PROTOCOL_TCP => Err(DropReason::FragOffset1),
        _ => Ok(Fragment::Later),
    }
}

/// Reads the L4 header; `l4` are its bytes at hand, `length` the bytes the packet says it has.
#[inline]
fn l4_header(protocol: u8, l4: &[u8], length: usize, fragment: Fragment) -> L4 {
    match protocol {
        wire::PROTOCOL_TCP => tcp(l4, length).unwrap_or(L4::Malformed(DropReason::TcpBad)),
        wire::PROTOCOL_UDP => {
            udp(l4, length, fragment).unwrap_or(L4::Malformed(DropReason::UdpLen))
        }
        wire::PROTOCOL_ICMP => icmp::classify(l4).unwrap_or(L4::Malformed(DropReason::IcmpBad)),
        _ => L4::Other,
    }
}

#[inline]
fn tcp(l4: &[u8], length: usize) -> Option<L4> {
    let header: [u8; wire::TCP] = wire::array(l4, 0)?;
    let offset = usize::from(u8_at(&header, 12)? >> 4) * 4;
    if offset < wire::TCP || offset > length {
        return None;
    }
    Some(L4::Tcp {
        source: u16_at(&header, 0)?,
        destination: u16_at(&header, 2)?,
        flags: TcpFlags(u8_at(&header, 13)? & 0x3f),
    })
}

#[inline]
fn udp(l4: &[u8], length: usize, fragment: Fragment) -> Option<L4> {
    let header: [u8; wire::UDP] = wire::array(l4, 0)?;
    let claimed = usize::from(u16_at(&header, 4)?);
    // A first fragment's UDP length is the whole datagram's.
    if claimed < wire::UDP || (claimed > length && fragment == Fragment::None) {
        return None;
    }
    Some(L4::Udp {
        source: u16_at(&header, 0)?,
        destination: u16_at(&header, 2)?,
    })
}

/// Length of the frame whose IPv4 header [`parse`] accepted: what to send when the frame came
/// with a trailer. 0 when there is no IPv4 header to ask.
#[inline]
#[must_use]
pub fn frame_length(head: &[u8]) -> usize {
    match (
        u16_at(head, at::ETHERTYPE),
        u16_at(head, at::IP_TOTAL_LENGTH),
    ) {
        (Some(wire::ETHERTYPE_IP4), Some(total)) => wire::ETHERNET + usize::from(total),
        _ => 0,
    }
}
