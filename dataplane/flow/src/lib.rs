//! Flow state and decisions: keys, tables, SNAT, forwarding.
//!
//! [`forward()`] takes one packet through; [`Engine`] is one worker's state; [`Snapshot`] is what
//! all workers go by. Pure: no I/O, no clock, no lock, no allocation after start, no panic on any
//! input. Host order throughout; bytes are `penstock-packet`'s.

#![deny(clippy::indexing_slicing)]

mod classify;
pub mod config;
mod decide;
mod engine;
mod entry;
mod flows;
mod forward;
pub mod fragments;
mod hop;
mod icmp_error;
pub mod key;
mod look;
mod memory;
mod miss;
pub mod offload;
mod pieces;
pub mod ports;
pub mod prefixes;
pub mod quota;
mod reject;
#[cfg(test)]
mod runs;
mod seeded;
mod slots;
mod snapshot;
mod table;
pub mod tcp_state;
mod time;
pub mod timeout;
mod verdict;
mod wheel;

pub use config::{
    Access, Cidr, Config, ConfigError, Endpoint, NodeSnat, PortChoice, PortRange, Snat, Tuning,
    Uplink,
};
pub use engine::{Engine, EngineConfig, EngineStats, FlowView};
pub use forward::{forward, forward_seen};
pub use look::Look;
pub use seeded::Seed;
pub use snapshot::Snapshot;
pub use tcp_state::TcpState;
pub use time::Timestamp;
pub use timeout::Timeouts;
pub use verdict::{Ingress, OutIf, Packet, Rejection, UplinkId, Verdict};
