//! What the agent says about itself.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Answer to a status request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// EC2's name of the instance.
    pub instance_id: String,
    /// EC2 instance type.
    pub instance_type: String,
    /// Whether ADD is served.
    pub ready: bool,
    /// Why not, or what is wrong; empty when all is well.
    pub problem: String,
    /// Generation last published to the dataplane.
    pub generation: u64,
    /// Generation the dataplane has confirmed; 0 when it is away.
    pub dataplane_generation: u64,
    /// The addresses.
    pub pool: PoolReport,
    /// How often something others had changed in the kernel was put back, since start.
    #[serde(default)]
    pub repairs: u64,
    /// The last of them; empty when there was none.
    #[serde(default)]
    pub last_repair: String,
}

/// The addresses of the node by state; `total = assigned + cooling + free`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolReport {
    /// Secondary addresses attached.
    pub total: u32,
    /// Held by pods.
    pub assigned: u32,
    /// Released and not yet reusable.
    pub cooling: u32,
    /// Ready to hand out.
    pub free: u32,
    /// Most the instance type could hold.
    pub limit: u32,
}

/// One pod interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRow {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// EC2's name of the ENI that owns it.
    pub eni_id: String,
    /// Device number of that ENI.
    pub device_number: u32,
    /// Host side of the veth pair.
    pub host_ifname: String,
    /// CNI network name.
    pub network: String,
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME: the pod's side.
    pub ifname: String,
    /// Whether the attachment is complete.
    pub confirmed: bool,
}

/// One ENI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EniRow {
    /// EC2's name.
    pub eni_id: String,
    /// Interface name in the kernel.
    pub ifname: String,
    /// Device number; 0 is the primary.
    pub device_number: u32,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Subnet it lies in.
    pub subnet_id: String,
    /// Route table of its pods' traffic.
    pub table: u32,
    /// Secondary addresses attached.
    pub addresses: u32,
    /// Of these, held by pods.
    pub assigned: u32,
    /// MTU of the interface.
    pub mtu: u32,
}
