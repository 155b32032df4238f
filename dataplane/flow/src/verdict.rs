//! What is asked of the engine about a packet, and what it answers.

use penstock_packet::{DropReason, icmp};

use crate::fragments::Datagram;

/// Slot of an uplink, given by whoever compiles the snapshot; stable while the uplink exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UplinkId(pub u8);

/// Where a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ingress {
    /// A pod, by way of the trunk.
    Trunk,
    /// An ENI.
    Uplink(UplinkId),
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutIf {
    /// A pod of this node, by way of the trunk; the hook there finds it by destination.
    Endpoint,
    /// An ENI.
    Uplink(UplinkId),
}

/// One packet, as the worker holds it.
#[derive(Debug)]
pub struct Packet<'a> {
    /// First chunk's bytes, from the Ethernet header on; rewritten in place when forwarded.
    pub head: &'a mut [u8],
    /// Frame length over all chunks.
    pub length: usize,
    /// Where it came from.
    pub ingress: Ingress,
    /// Whether another worker handed it over.
    pub handed: bool,
}

impl Packet<'_> {
    /// MAC the packet was sent with; zero when there is none to read.
    pub(crate) fn source_mac(&self) -> [u8; 6] {
        let rest = self.head.get(6..).unwrap_or_default();
        rest.first_chunk().copied().unwrap_or_default()
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Rewritten in place; send the first [`penstock_packet::frame_length`] bytes there.
    Forward(OutIf),
    /// The kernel's: send it out of the trunk. The destination MAC is the trunk's, the rest
    /// is untouched, the TTL included.
    ToKernel,
    /// Another worker owns the flow; nothing was changed.
    HandOff(u16),
    /// A fragment whose first one has not come: keep it for at most
    /// [`crate::fragments::HOLD`] and ask again once [`crate::Engine::begun`] names its datagram;
    /// nothing was changed.
    Hold(Datagram),
    /// Drop under the reason and try [`crate::Engine::reject`]; nothing was changed.
    Reject(Rejection),
    /// Drop under the reason.
    Drop(DropReason),
}

/// A drop the sender may be told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Reason to count.
    pub reason: DropReason,
    /// What the sender may hear.
    pub error: icmp::Error,
    /// Where the packet came from, and where an answer would go.
    pub ingress: Ingress,
}

impl From<DropReason> for Verdict {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}
