//! What a packet is, whatever its address family: the parser's answer.
//!
//! Plain values in host order, small enough to copy. Nothing here judges: what is odd but legal
//! is reported, and the flow engine decides what follows from it.

use std::net::{IpAddr, Ipv4Addr};

use crate::wire;
use crate::{DropReason, ErrorKind, NeighborKind, TcpFlags};

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A well-formed IP header and whatever follows it.
    Ip(Ip),
    /// ARP for IPv4 over Ethernet.
    Arp,
}

/// An IP packet in an untagged Ethernet frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Bytes from the Ethernet header to the end of the IP packet; what lies behind is trailer
    /// and must not be sent on (P15).
    pub frame_length: usize,
    /// Offset of the L4 header from the start of the frame, behind IPv4 options and IPv6
    /// extension headers.
    pub l4_offset: usize,
    /// Source address.
    pub source: IpAddr,
    /// Destination address; always of the source's family.
    pub destination: IpAddr,
    /// IP protocol number; for IPv6 that of what follows the extension headers.
    pub protocol: u8,
    /// Time to live, or hop limit, as received.
    pub ttl: u8,
    /// Whether no router may fragment it: IPv4's DF bit; always so for IPv6.
    pub dont_fragment: bool,
    /// Whether there are IPv4 options, or IPv6 extension headers other than a fragment header:
    /// odd but legal, the kernel's to carry.
    pub has_options: bool,
    /// Whether this is a whole datagram.
    pub fragment: Fragment,
    /// What the L4 header says. For later fragments always [`L4::Other`].
    pub l4: L4,
}

impl Ip {
    /// Bytes of the IP packet, header included; what an MTU is compared with.
    #[inline]
    #[must_use]
    pub const fn ip_length(&self) -> usize {
        self.frame_length - wire::ETHERNET
    }

    /// Source and destination of an IPv4 packet.
    #[inline]
    #[must_use]
    pub const fn addresses4(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some((source, destination)),
            _ => None,
        }
    }
}

/// Whether a packet is a whole datagram, and if not, which part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// The datagram is whole. An IPv6 packet whose fragment header says so counts as whole
    /// ("atomic", RFC 6946).
    None,
    /// First of several; the L4 header is here.
    First(Piece),
    /// Not the first; there are no L4 ports to read.
    Later(Piece),
}

/// Where a fragment belongs in its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The datagram's identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Bytes of the datagram's payload before this piece.
    pub offset: u16,
    /// Bytes of the datagram's payload in this piece; with `offset` at most 65,535.
    pub length: u16,
    /// Whether more pieces follow.
    pub more: bool,
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
        /// Sequence number.
        sequence: u32,
        /// Acknowledgment number; means nothing without [`TcpFlags::ACK`].
        acknowledgment: u32,
    },
    /// A UDP header whose length field is true.
    Udp {
        /// Source port; 0 is legal here.
        source: u16,
        /// Destination port; 0 is legal here.
        destination: u16,
    },
    /// ICMP or ICMPv6 echo request.
    EchoRequest {
        /// Identifier.
        id: u16,
    },
    /// ICMP or ICMPv6 echo reply.
    EchoReply {
        /// Identifier.
        id: u16,
    },
    /// An ICMP or ICMPv6 error that quotes a packet.
    IcmpError(ErrorKind),
    /// An ICMPv6 message of neighbor discovery.
    Neighbor(NeighborKind),
    /// Any other ICMP or ICMPv6 message.
    IcmpOther,
    /// A protocol this crate does not look into, or a later fragment.
    Other,
    /// TCP, UDP or ICMP whose header is cut or lies; the reason to drop it *if* it must be
    /// translated.
    Malformed(DropReason),
}
