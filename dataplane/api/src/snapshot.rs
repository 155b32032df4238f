//! What control publishes: the node as the packet path must see it.
//!
//! A [`Snapshot`] is complete and immutable: the dataplane never merges two, it swaps. It holds
//! intent only, never state. IPv4 is always there, IPv6 beside it where the VPC has it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::{FlowSettings, MacAddr};

/// The whole of what the dataplane forwards by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Grows by at least one with each publication; an equal or lower one is ignored.
    pub generation: u64,
    /// The node itself.
    pub node: Node,
    /// The VPC's address space; packets to it keep the pod's address.
    pub vpc_cidrs: Vec<IpNet>,
    /// Destinations that belong to the kernel whoever sends to them: the node's own addresses,
    /// Service CIDRs, link-local.
    pub kernel_cidrs: Vec<IpNet>,
    /// Source NAT for what leaves the VPC.
    pub snat: Snat,
    /// Whether pods may reach the instance metadata service, 169.254.169.254 and fd00:ec2::254.
    pub imds: Access,
    /// What the flow engine may be tuned by.
    #[serde(default)]
    pub flow: FlowSettings,
    /// The ENIs that carry pods, the primary one included.
    pub uplinks: Vec<Uplink>,
    /// The pods' interfaces.
    pub endpoints: Vec<Endpoint>,
}

/// The node as other parts name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Kubernetes node name or instance id; for people.
    pub name: String,
    /// Primary address of the primary ENI; source of ICMP errors and of SNAT.
    pub primary_address: Ipv4Addr,
    /// The primary ENI's first IPv6 address; source of ICMPv6 errors.
    #[serde(default)]
    pub primary_address6: Option<Ipv6Addr>,
}

/// Permission for a class of destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Pass to the kernel.
    Allow,
    /// Drop, named and counted.
    Deny,
}

/// Source NAT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snat {
    /// Who translates.
    pub mode: SnatMode,
    /// Destinations outside the VPC that keep the pod's address all the same; IPv6 always does.
    pub exclude_cidrs: Vec<Ipv4Net>,
    /// Address that replaces the pod's; the node's primary address.
    pub address: Ipv4Addr,
    /// Ports (and ICMP identifiers) that belong to the dataplane on `address`.
    pub ports: PortRange,
    /// How a port is chosen within `ports`.
    pub port_choice: PortChoice,
}

/// Who translates pod addresses that leave the VPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnatMode {
    /// The node does (AWS_VPC_K8S_CNI_EXTERNALSNAT=false).
    Node,
    /// Something outside does; pods keep their addresses (AWS_VPC_K8S_CNI_EXTERNALSNAT=true).
    External,
}

/// Names and meaning as AWS_VPC_K8S_CNI_RANDOMIZESNAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortChoice {
    /// Unpredictable for every flow.
    #[default]
    Prng,
    /// A keyed hash of the flow picks where the search starts.
    Hashrandom,
    /// In order.
    None,
}

/// Inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    /// Lowest port; not zero.
    pub first: u16,
    /// Highest port; not below `first`.
    pub last: u16,
}

/// One ENI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// EC2's name, `eni-…`.
    pub eni_id: String,
    /// Kernel's name of the interface.
    pub ifname: String,
    /// Kernel's index of the interface.
    pub ifindex: u32,
    /// Address of the interface.
    pub mac: MacAddr,
    /// Bytes of IP packet it carries.
    pub mtu: u32,
    /// Whether SNATed traffic leaves here; exactly one uplink says yes.
    pub primary: bool,
    /// The ENI's own (primary private) address.
    pub address: Ipv4Addr,
    /// The subnet's router: base address + 1.
    pub gateway: Ipv4Addr,
    /// The ENI's own IPv6 address, if it has one.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// The subnet's IPv6 router, as router advertisements name it: link-local as a rule.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// The router's Ethernet address, for both families; absent until the kernel has resolved it.
    pub gateway_mac: Option<MacAddr>,
}

/// One pod interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The pod's addresses: one or two, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// ENI that owns the addresses: the pod's traffic leaves there.
    pub eni_id: String,
    /// Host side of the veth pair.
    pub ifname: String,
    /// Kernel's index of the host side.
    pub ifindex: u32,
    /// Address of the host side; what the pod believes its gateway to be.
    pub host_mac: MacAddr,
    /// Address of the pod's side.
    pub pod_mac: MacAddr,
    /// Bytes of IP packet the pod's interface takes.
    pub mtu: u32,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Sandbox (container) id of the attachment.
    pub container_id: String,
}

impl Endpoint {
    /// The pod's IPv4 address, if it has one.
    #[must_use]
    pub fn address4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// The pod's IPv6 address, if it has one.
    #[must_use]
    pub fn address6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
    }
}
