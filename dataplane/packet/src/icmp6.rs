//! ICMPv6: what a message is. References: RFC 4443, RFC 4861.

/// Messages of neighbor discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighborKind {
    /// Type 133: a host asks for routers.
    RouterSolicitation,
    /// Type 134: a router speaks; from a pod always a lie (P74).
    RouterAdvertisement,
    /// Type 135: who has this address?
    Solicitation,
    /// Type 136: this address is mine.
    Advertisement,
    /// Type 137.
    Redirect,
}
