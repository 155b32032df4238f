//! What a snapshot is compiled from: plain data in the engine's words, and what can be wrong.
//!
//! Nothing here is checked; [`crate::Snapshot::compile`] does that and reports every problem at
//! once, each with the entry it is about.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use crate::{Timeouts, UplinkId};

/// The node as the engine must see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Version of the whole; flows decided under another one are looked at again.
    pub epoch: u64,
    /// The node's primary address: source of ICMP errors towards pods.
    pub primary_address: Ipv4Addr,
    /// The node's IPv6 address: source of ICMPv6 errors towards pods, which get none without it.
    pub primary_address6: Option<Ipv6Addr>,
    /// MAC of the trunk's kernel end.
    pub trunk_mac: [u8; 6],
    /// Destinations that keep the pod's address because they are in the VPC. IPv6 always does.
    pub vpc_cidrs: Vec<Cidr>,
    /// Destinations that are the kernel's, whoever sends to them.
    pub kernel_cidrs: Vec<Cidr>,
    /// Source NAT of what leaves the VPC.
    pub snat: Snat,
    /// Whether pods may reach 169.254.169.254.
    pub imds: Access,
    /// What the flow engine is tuned by.
    pub tuning: Tuning,
    /// ENIs.
    pub uplinks: Vec<Uplink>,
    /// Pods' interfaces.
    pub endpoints: Vec<Endpoint>,
}

/// What the flow engine is tuned by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// Idle times.
    pub timeouts: Timeouts,
    /// Most flows of one pod on the node at a time (N13); `None` is unlimited.
    pub flows_per_pod: Option<NonZeroU32>,
    /// Largest segment size, in bytes, that SYNs may offer; `None` leaves them alone.
    pub mss_clamp: Option<u16>,
    /// Whether flows are offered to the hooks.
    pub offload: bool,
}

/// A prefix of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// Any address in it.
    pub address: IpAddr,
    /// Number of leading bits that count, 0 to 32 or 128.
    pub prefix: u8,
}

/// Permission for a class of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Pass to the kernel.
    Allow,
    /// Drop.
    Deny,
}

/// Who translates what leaves the VPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snat {
    /// This node does, on the primary uplink.
    Node(NodeSnat),
    /// Something outside does; pods keep their addresses and leave by their own ENI.
    External,
}

/// How this node translates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSnat {
    /// Address that replaces the pod's.
    pub address: Ipv4Addr,
    /// L4 ports and ICMP identifiers that are the engine's on that address.
    pub ports: PortRange,
    /// Those of them that are not for pods: sockets of the node listen there (N8).
    pub reserved: Vec<u16>,
    /// How a port is chosen.
    pub choice: PortChoice,
    /// Destinations outside the VPC that keep the pod's address all the same.
    pub exclude_cidrs: Vec<Cidr>,
}

/// Inclusive range of L4 ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// Lowest.
    pub first: u16,
    /// Highest.
    pub last: u16,
}

/// Names and meaning as AWS_VPC_K8S_CNI_RANDOMIZESNAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChoice {
    /// Unpredictable for every flow (RFC 6056, algorithm 1).
    Prng,
    /// A keyed hash of the flow picks where the search starts (RFC 6056, algorithm 3).
    Hashrandom,
    /// In order.
    None,
}

/// An ENI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// Its slot.
    pub id: UplinkId,
    /// Its MAC.
    pub mac: [u8; 6],
    /// MAC of the subnet's router for IPv4; `None` until known.
    pub gateway_mac: Option<[u8; 6]>,
    /// MAC of the subnet's router for IPv6; `None` until known, and where there is none.
    pub gateway_mac6: Option<[u8; 6]>,
    /// Bytes of IP packet it carries.
    pub mtu: u16,
    /// Its primary address: source of ICMP errors that leave by it.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if it has one: source of ICMPv6 errors that leave by it.
    pub address6: Option<Ipv6Addr>,
    /// Whether translated traffic leaves here; exactly one uplink says yes.
    pub primary: bool,
}

/// A pod's interface under one of its addresses; a pod with an address of each family is two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod's address.
    pub address: IpAddr,
    /// ENI that owns the address.
    pub uplink: UplinkId,
    /// MAC of the host's end of the veth pair: what the pod takes for its gateway.
    pub host_mac: [u8; 6],
    /// MAC of the pod's end.
    pub pod_mac: [u8; 6],
    /// Bytes of IP packet the pod's interface takes.
    pub mtu: u16,
}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The entry, as `endpoints[10.0.0.7]` or `uplinks[1]`.
    pub entry: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A MAC is zero or a group's.
    Mac,
    /// An address that no interface can have.
    Address,
    /// A prefix longer than its family's addresses.
    Prefix,
    /// An MTU below IPv4's least, 68 (RFC 791).
    Mtu,
    /// A port range that is empty or holds port 0.
    Ports,
    /// Another entry has the same key.
    Duplicate,
    /// The uplink it names is not there.
    UnknownUplink,
    /// Not exactly one uplink is the primary one.
    PrimaryUplink,
    /// More entries than can be numbered.
    TooMany,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mac => "the MAC is zero or a group address",
            Self::Address => "no interface can have this address",
            Self::Prefix => "the prefix is longer than an address",
            Self::Mtu => "the MTU is below 68 bytes",
            Self::Ports => "the port range is empty or holds port 0",
            Self::Duplicate => "another entry has the same key",
            Self::UnknownUplink => "it names an uplink that is not there",
            Self::PrimaryUplink => "exactly one uplink must be primary",
            Self::TooMany => "there are more entries than the dataplane can number",
        })
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.entry, self.problem)
    }
}

impl std::error::Error for ConfigError {}
