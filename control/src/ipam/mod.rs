//! Addresses: who holds which, how many more are wanted, and how that survives a restart.
//!
//! Everything here is pure but [`checkpoint`]'s file access: no sockets, no clocks (time is passed in), no EC2.

pub mod checkpoint;
pub mod legacy;
pub mod max_pods;
pub mod plan;
pub mod pool;

use std::net::Ipv4Addr;

use penstock_control_api::{AttachmentKey, MacAddr, PodIdentity};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Everything on record about one attachment; what the checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The attachment.
    pub key: AttachmentKey,
    /// The pod.
    pub pod: PodIdentity,
    /// CNI_NETNS at the time of ADD.
    pub netns: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// ENI that owns the address.
    pub eni_id: String,
    /// Device number of that ENI.
    pub device_number: u32,
    /// Host side of the veth pair.
    pub host_ifname: String,
    /// MTU of both sides.
    pub mtu: u32,
    /// When the address was reserved.
    pub reserved_at: Timestamp,
    /// What the shim reported; present from Confirm on.
    pub link: Option<PodLink>,
    /// Another sandbox of the same pod name has taken the host interface's name; only the address is still held.
    #[serde(default)]
    pub superseded: bool,
}

impl Record {
    /// Whether Confirm has been recorded and the interface is still this attachment's.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.link.is_some() && !self.superseded
    }

    /// Namespace and name of the pod.
    #[must_use]
    pub fn pod_name(&self) -> (&str, &str) {
        (&self.pod.namespace, &self.pod.name)
    }

    /// Tells this reservation from an earlier one of the same key.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.reserved_at.0
    }
}

/// The veth pair of a confirmed attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodLink {
    /// Kernel's index of the host side.
    pub ifindex: u32,
    /// Address of the host side.
    pub host_mac: MacAddr,
    /// Address of the pod's side; absent when the record was rebuilt from the kernel.
    pub pod_mac: Option<MacAddr>,
}
