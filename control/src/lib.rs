//! The Penstock node agent: EC2, addresses, netlink, the shim's server.
//!
//! The parts, from pure to practical: [`config`] and [`ipam`] decide; [`ec2`] asks the cloud; [`node`] and [`policy`] tell
//! the kernel; [`publish`] tells the dataplane; [`agent`] attaches pods with them; [`provision`] keeps addresses in
//! stock; [`server`] lets the shim and the CLI in. Packets never pass through here, and the dataplane keeps
//! forwarding when this process is gone.

pub mod clock;
pub mod config;
pub mod ec2;
pub mod ipam;
pub mod node;
pub mod policy;
