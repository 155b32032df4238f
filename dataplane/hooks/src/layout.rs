//! What goes into the maps, and how it lies there.
//!
//! The byte layouts mirror the structures in `bpf/maps.h`, field by field; a length that does not
//! match is refused by libbpf. Addresses and MACs are in network order, everything else in the
//! machine's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

/// What all hooks decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookConfig {
    /// Kernel's index of `trunk0`.
    pub trunk_ifindex: u32,
    /// Number of workers and so of the trunk's queues; 0 leaves everything to the kernel.
    pub workers: u32,
    /// Address and ports whose answers are the workers'; absent when the node does not translate.
    pub snat: Option<SnatRange>,
    /// The node's own IPv6 address; without one, IPv6 that is for no pod is the kernel's.
    pub node6: Option<Ipv6Addr>,
    /// Whether pods may reach 169.254.169.254 and fd00:ec2::254.
    pub imds: ImdsAccess,
    /// Age at which a worker's heartbeat is stale.
    pub stale_after: Duration,
}

/// Inclusive range of L4 ports and ICMP identifiers on one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnatRange {
    /// Address that replaces the pods'.
    pub address: Ipv4Addr,
    /// Lowest.
    pub first: u16,
    /// Highest.
    pub last: u16,
}

/// What becomes of packets to the instance metadata service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImdsAccess {
    /// They are the kernel's.
    Allow,
    /// They are dropped by name.
    Deny,
}

/// One pod's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodEntry {
    /// Kernel's index of the veth's host side.
    pub ifindex: u32,
    /// The pod's IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// The pod's IPv6 address; without one, no IPv6 of the pod is carried.
    pub address6: Option<Ipv6Addr>,
    /// MAC of the pod's side.
    pub pod_mac: [u8; 6],
    /// MAC of the host side.
    pub host_mac: [u8; 6],
}

impl PodEntry {
    /// The pod's addresses, of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let address = self.address.map(IpAddr::V4);
        address.into_iter().chain(self.address6.map(IpAddr::V6))
    }
}

/// `struct config`.
pub(crate) fn config(config: &HookConfig) -> [u8; 48] {
    let none = SnatRange {
        address: Ipv4Addr::UNSPECIFIED,
        first: 1,
        last: 0,
    };
    let snat = config.snat.unwrap_or(none);
    let stale_ns = u64::try_from(config.stale_after.as_nanos()).unwrap_or(u64::MAX >> 1);
    let imds = match config.imds {
        ImdsAccess::Allow => 1_u32,
        ImdsAccess::Deny => 0,
    };
    let mut bytes = [0; 48];
    bytes[0..8].copy_from_slice(&stale_ns.to_ne_bytes());
    bytes[8..12].copy_from_slice(&config.trunk_ifindex.to_ne_bytes());
    bytes[12..16].copy_from_slice(&config.workers.to_ne_bytes());
    bytes[16..20].copy_from_slice(&snat.address.octets());
    bytes[20..22].copy_from_slice(&snat.first.to_ne_bytes());
    bytes[22..24].copy_from_slice(&snat.last.to_ne_bytes());
    bytes[24..28].copy_from_slice(&imds.to_ne_bytes());
    bytes[32..48].copy_from_slice(&octets6(config.node6));
    bytes
}

/// `struct endpoint`.
pub(crate) fn endpoint(pod: &PodEntry) -> [u8; 32] {
    let mut bytes = [0; 32];
    let address = pod.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    bytes[0..4].copy_from_slice(&address.octets());
    bytes[4..10].copy_from_slice(&pod.pod_mac);
    bytes[10..16].copy_from_slice(&pod.host_mac);
    bytes[16..32].copy_from_slice(&octets6(pod.address6));
    bytes
}

/// `struct uplink`.
pub(crate) fn uplink(slot: u32, mac: [u8; 6]) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0..4].copy_from_slice(&slot.to_ne_bytes());
    bytes[4..10].copy_from_slice(&mac);
    bytes
}

/// `struct cidr`: a key of the kernel's longest-prefix-match trie.
pub(crate) fn cidr(net: &Ipv4Net) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[0..4].copy_from_slice(&u32::from(net.prefix_len()).to_ne_bytes());
    bytes[4..8].copy_from_slice(&net.network().octets());
    bytes
}

/// `struct cidr6`: the same for IPv6.
pub(crate) fn cidr6(net: &Ipv6Net) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[0..4].copy_from_slice(&u32::from(net.prefix_len()).to_ne_bytes());
    bytes[4..20].copy_from_slice(&net.network().octets());
    bytes
}

/// `struct address6`; zeros are none.
fn octets6(address: Option<Ipv6Addr>) -> [u8; 16] {
    address.unwrap_or(Ipv6Addr::UNSPECIFIED).octets()
}
