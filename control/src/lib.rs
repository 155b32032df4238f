//! The Penstock node agent: EC2, addresses, netlink, the shim's server.
//!
//! The parts, from pure to practical: [`config`] and [`ipam`] decide; [`ec2`] asks the cloud; [`node`] and [`policy`] tell
//! the kernel; [`agent`] attaches pods and tells the dataplane; [`provision`] keeps addresses in stock; [`server`] lets
//! the shim and the CLI in. Packets never pass through here, and the dataplane keeps
//! forwarding when this process is gone.

pub mod agent;
mod attach;
pub mod boot;
pub mod clock;
mod cluster;
pub mod config;
mod detach;
pub mod discover;
pub mod ec2;
pub mod install;
pub mod ipam;
pub mod journal;
pub mod kubernetes;
pub mod meter;
pub mod node;
pub mod pages;
pub mod policy;
pub mod provision;
pub mod publish;
mod repair;
pub mod restore;
pub mod server;
pub mod state;
pub mod watch;
pub mod wire;

pub use attach::{ADDRESS_PATIENCE, host_ifname};
pub use detach::{LEASE, TOMBSTONE};
