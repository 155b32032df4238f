//! A VPC on one machine, as a library: network namespaces for nodes, pods, the fabric and the
//! outside; a fabric that delivers by address ownership and checks sources as EC2 does; the EC2
//! API and instance metadata, where attaching an ENI makes a real interface appear; and a rig that
//! runs Penstock's own binaries in it and drives real sockets through them.
//!
//! [`Lab::up`] builds all of it, dropping the [`Lab`] removes it, and [`sweep_stale`] removes what
//! a crashed run left. Guarantees: nothing outside the lab's own namespaces, `/run/netns` entries
//! named `pen-<id>-…` and `/run/penstock-lab/<id>` is touched; the caller's namespace never
//! changes. Needs root. Must not be used by anything that ships on a node.

mod binaries;
mod cabling;
mod daemon;
mod error;
pub mod fabric;
mod lab;
mod ledger;
pub mod netns;
mod node;
mod pod;
mod registry;
mod tool;
pub mod traffic;

pub use binaries::find as find_binary;
pub use error::{Error, Result};
pub use fabric::{Fabric, FabricCounters, PortCounters, Sink, Verdict};
pub use lab::{Lab, LabConfig, OUTSIDE_ADDRESSES, OUTSIDE_CIDR, SUBNETS, VPC_CIDR};
pub use netns::NetNs;
pub use node::{EC2_ENDPOINT, IMDS_ENDPOINT, Node};
pub use pod::{IFNAME, NETWORK, Pod};
pub use registry::{DIRECTORY, list, sweep, sweep_stale};
