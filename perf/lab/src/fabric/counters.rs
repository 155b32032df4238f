//! What the fabric counted: every frame that entered it, under exactly one verdict.

use std::collections::BTreeMap;
use std::fmt;

/// Number of verdicts; VERDICTS in the program.
pub(super) const VERDICTS: usize = Verdict::ALL.len();

/// What became of a frame that entered the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Verdict {
    /// Delivered to the ENI that owns the destination.
    Delivered,
    /// Delivered to the outside.
    ToOutside,
    /// An ARP request, answered in place.
    ArpAnswered,
    /// Would have been delivered; counted and dropped because the port is a sink.
    Sunk,
    /// Dropped: the source address does not belong to the sending ENI.
    SourceCheck,
    /// Dropped: the source MAC is not the sending ENI's.
    SourceMac,
    /// Dropped: the destination MAC is neither the router's nor the destination's.
    DestinationMac,
    /// Dropped: inside the VPC, and nobody has the address.
    NoOwner,
    /// Dropped: leaves the VPC from an address that is no node's primary one.
    OutsideSource,
    /// Dropped: link-local, loopback, multicast, broadcast or unspecified destination.
    NotRoutable,
    /// Dropped: longer than the receiver's MTU.
    TooBig,
    /// Dropped: cut or lying headers.
    Malformed,
    /// Dropped: neither IPv4 nor ARP.
    NotIpv4,
    /// Dropped: an ARP packet that asks for nobody, or does not ask.
    ArpUnanswered,
    /// Dropped: came in where no port is configured (yet, or any more).
    NoPort,
}

impl Verdict {
    /// All of them, in the program's order.
    pub const ALL: [Self; 15] = [
        Self::Delivered,
        Self::ToOutside,
        Self::ArpAnswered,
        Self::Sunk,
        Self::SourceCheck,
        Self::SourceMac,
        Self::DestinationMac,
        Self::NoOwner,
        Self::OutsideSource,
        Self::NotRoutable,
        Self::TooBig,
        Self::Malformed,
        Self::NotIpv4,
        Self::ArpUnanswered,
        Self::NoPort,
    ];

    /// Stable name for tables and JSON.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::ToOutside => "to_outside",
            Self::ArpAnswered => "arp_answered",
            Self::Sunk => "sunk",
            Self::SourceCheck => "source_check",
            Self::SourceMac => "source_mac",
            Self::DestinationMac => "destination_mac",
            Self::NoOwner => "no_owner",
            Self::OutsideSource => "outside_source",
            Self::NotRoutable => "not_routable",
            Self::TooBig => "too_big",
            Self::Malformed => "malformed",
            Self::NotIpv4 => "not_ipv4",
            Self::ArpUnanswered => "arp_unanswered",
            Self::NoPort => "no_port",
        }
    }

    /// Whether the frame ended here against its sender's will.
    #[must_use]
    pub fn is_drop(self) -> bool {
        !matches!(
            self,
            Self::Delivered | Self::ToOutside | Self::ArpAnswered | Self::Sunk
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Counters of one port. `rx_packets` equals the sum of the verdicts; segments of a packet the
/// sender left to the hardware to cut count one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounters {
    /// Packets that entered the fabric here.
    pub rx_packets: u64,
    /// Their bytes, Ethernet headers included.
    pub rx_bytes: u64,
    /// Packets sent out here; ARP answers not counted.
    pub tx_packets: u64,
    /// Their bytes, Ethernet headers included.
    pub tx_bytes: u64,
    /// Bytes counted and dropped while the port was a sink.
    pub sunk_bytes: u64,
    verdicts: [u64; VERDICTS],
}

impl PortCounters {
    pub(super) fn from_words(words: &[u64; 5 + VERDICTS]) -> Self {
        let [
            rx_packets,
            rx_bytes,
            tx_packets,
            tx_bytes,
            sunk_bytes,
            verdicts @ ..,
        ] = *words;
        Self {
            rx_packets,
            rx_bytes,
            tx_packets,
            tx_bytes,
            sunk_bytes,
            verdicts,
        }
    }

    /// Packets that entered here and got this verdict.
    #[must_use]
    pub fn verdict(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict as usize]
    }

    /// Packets that entered here and were dropped.
    #[must_use]
    pub fn drops(&self) -> u64 {
        let drops = Verdict::ALL.into_iter().filter(|verdict| verdict.is_drop());
        drops.map(|verdict| self.verdict(verdict)).sum()
    }

    fn add(&mut self, other: &Self) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        self.sunk_bytes += other.sunk_bytes;
        for (mine, theirs) in self.verdicts.iter_mut().zip(other.verdicts) {
            *mine += theirs;
        }
    }
}

/// Counters of all ports, by name: [`super::OUTSIDE_PORT`], [`super::UNPLUGGED`], or the ENI's id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FabricCounters {
    /// The ports.
    pub ports: BTreeMap<String, PortCounters>,
}

impl FabricCounters {
    /// All ports together.
    #[must_use]
    pub fn total(&self) -> PortCounters {
        let mut total = PortCounters::default();
        for port in self.ports.values() {
            total.add(port);
        }
        total
    }

    /// Packets of all ports with this verdict.
    #[must_use]
    pub fn verdict(&self, verdict: Verdict) -> u64 {
        self.total().verdict(verdict)
    }

    /// One port; zeros when there is none of that name.
    #[must_use]
    pub fn port(&self, name: &str) -> PortCounters {
        self.ports.get(name).copied().unwrap_or_default()
    }
}
