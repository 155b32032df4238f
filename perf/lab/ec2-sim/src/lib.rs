//! An EC2 endpoint and IMDSv2 for one VPC, strict on the limits real EC2 enforces.
//!
//! [`Cloud`] is the state machine: synchronous, without sockets, and usable from tests directly. [`http::router`] puts
//! the EC2 query API (version 2016-11-15) in front of it and [`imds::router`] one instance's metadata service, both in
//! the wire format the AWS SDK parses. [`Wire`] is how a test bed learns that an interface appeared or an address
//! moved.
//!
//! Guarantees: ids, MACs and addresses are a function of the configuration and the order of calls; no input panics;
//! no request makes memory grow beyond the configured VPC. It must not be taken for an access control: requests need a
//! Signature Version 4 header, but the signature is not checked against any key.

pub mod cloud;
mod config;
mod error;
pub mod http;
pub mod imds;
mod instance_type;
mod model;
mod subnet;
mod wire;

pub use cloud::Cloud;
pub use config::{CloudConfig, ConfigError, SecurityGroupConfig, SubnetConfig};
pub use error::ApiError;
pub use instance_type::{Hypervisor, InstanceType};
pub use model::{AttachmentStatus, Eni, EniStatus, Fault, Instance, Tags};
pub use wire::{NoWire, Wire};
