//! How long an idle flow lives. Only [`Timeouts`] knows; everything else asks it.
//!
//! Packets of either direction count as life (RFC 4787 REQ-6 allows it and the kernel does the
//! same); ICMP errors never do (RFC 5508 REQ-6).

use std::time::Duration;

use penstock_packet::wire::{PROTOCOL_ICMP, PROTOCOL_TCP};

use crate::tcp_state::TcpState;

/// Idle times after which a flow ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP, and protocols without ports; RFC 4787 REQ-5 recommends 5 minutes, at least 2.
    pub udp: Duration,
    /// TCP in both directions; RFC 5382 REQ-5 wants at least 2 hours 4 minutes.
    pub tcp_established: Duration,
    /// TCP that opens or closes; RFC 5382 REQ-5 wants at least 4 minutes.
    pub tcp_transitory: Duration,
    /// ICMP echo; RFC 5508 REQ-2 wants at least 60 seconds.
    pub icmp: Duration,
    /// How long a SNAT port stays unused towards the same remote endpoint after a flow that was
    /// not seen to close (RFC 6888 REQ-8).
    pub quarantine: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            tcp_established: Duration::from_secs(7_440),
            tcp_transitory: Duration::from_secs(240),
            icmp: Duration::from_secs(60),
            quarantine: Duration::from_secs(120),
        }
    }
}

impl Timeouts {
    /// Idle time of a flow of `protocol`, in `tcp` if that is TCP.
    #[must_use]
    pub(crate) const fn idle(&self, protocol: u8, tcp: Option<TcpState>) -> Duration {
        match (protocol, tcp) {
            (PROTOCOL_TCP, Some(TcpState::Established)) => self.tcp_established,
            (PROTOCOL_TCP, _) => self.tcp_transitory,
            (PROTOCOL_ICMP, _) => self.icmp,
            _ => self.udp,
        }
    }
}
