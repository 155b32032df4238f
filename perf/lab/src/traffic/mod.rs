//! Real-socket probes between two namespaces: what an application would see.
//!
//! Every probe is bounded in time and count, checks each byte it receives, and reports what the
//! receiver saw of the sender: source address and TTL, read from the IP header by a raw socket
//! (raw(7): the header is delivered with the data). No probe waits by sleeping.

mod icmp;
mod observe;
mod tcp;
mod udp;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

pub use icmp::ping;
pub use tcp::tcp;
pub use udp::udp;

use crate::netns::NetNs;

/// One end of a probe: a namespace and an address that lives in it.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Where the socket is made.
    pub netns: &'a NetNs,
    /// Address of that end.
    pub address: Ipv4Addr,
}

/// What one end saw of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Source of the packet; the port is 0 for ICMP.
    pub source: SocketAddrV4,
    /// TTL left in the packet.
    pub ttl: u8,
}

/// Result of a UDP or ICMP echo probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoReport {
    /// Requests sent.
    pub sent: u32,
    /// Replies received with the right payload, each counted once.
    pub received: u32,
    /// What the server saw of the client; absent when nothing arrived.
    pub at_server: Option<Seen>,
    /// What the client saw of the server; absent when nothing came back.
    pub at_client: Option<Seen>,
}

/// Result of a TCP probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamReport {
    /// Bytes the server received.
    pub bytes: u64,
    /// Bytes that were not what was sent at that place of the stream.
    pub corrupt: u64,
    /// What the server saw of the client.
    pub at_server: Option<Seen>,
    /// What the client saw of the server.
    pub at_client: Option<Seen>,
    /// Time from connect to the server's last byte.
    pub elapsed: Duration,
}

/// Longest a probe waits for one answer.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// The byte at place `position` of a stream with `seed`: neither constant nor periodic in any
/// power of two, so a shifted, repeated or swapped segment shows.
pub(crate) fn pattern(seed: u32, position: u64) -> u8 {
    let mixed = (position ^ u64::from(seed)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as u8
}
