//! One flow: both directions of a conversation, with everything a further packet needs.
//!
//! Created and removed whole. What is in here was decided once, under [`Flow::epoch`].

use std::net::Ipv4Addr;

use penstock_packet::rewrite::End;

use crate::Timestamp;
use crate::hop::Hop;
use crate::key::{Direction, FlowKey};
use crate::tcp_state::{Sender, Tcp, TcpState};

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// What its packets look like when they arrive.
    pub(crate) key: FlowKey,
    /// What is done to them.
    pub(crate) hop: Hop,
    /// Packets forwarded.
    pub(crate) packets: u64,
}

/// Both directions of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    /// From the pod.
    pub(crate) egress: Way,
    /// To the pod.
    pub(crate) ingress: Way,
    /// Snapshot under which it was decided, or confirmed.
    pub(crate) epoch: u64,
    /// Last packet of either direction; start of the quarantine once that began.
    pub(crate) last_seen: Timestamp,
    /// TCP state; `None` for other protocols.
    pub(crate) tcp: Option<Tcp>,
    /// Direction of the packet that created it.
    pub(crate) originator: Direction,
    /// Dead, but its SNAT port must not be used towards this remote endpoint yet.
    pub(crate) quarantined: bool,
}

const _: () = assert!(size_of::<Flow>() <= 152);

impl Flow {
    /// One direction.
    #[inline]
    #[must_use]
    pub(crate) const fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }

    /// One direction, to change.
    #[inline]
    pub(crate) const fn way_mut(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Egress => &mut self.egress,
            Direction::Ingress => &mut self.ingress,
        }
    }

    /// Address and port that replace the pod's, when they are replaced.
    #[inline]
    #[must_use]
    pub(crate) fn snat(&self) -> Option<End> {
        self.egress
            .hop
            .rewrite
            .translation
            .map(|translation| translation.to())
    }

    /// The pod's address.
    #[must_use]
    pub(crate) const fn pod(&self) -> Ipv4Addr {
        self.egress.key.source
    }

    /// Who sends in `direction`.
    #[must_use]
    pub(crate) fn sender(&self, direction: Direction) -> Sender {
        if direction == self.originator {
            Sender::Originator
        } else {
            Sender::Responder
        }
    }

    /// TCP state without its book-keeping.
    #[must_use]
    pub(crate) fn tcp_state(&self) -> Option<TcpState> {
        self.tcp.map(|tcp| tcp.state)
    }
}
