//! Bytes to meaning and back, in place: parsing, checksums, rewrites.
//!
//! Pure over byte slices: no I/O, no clock, no state, no allocation, no panic on any input.
//! [`parse()`] reads a frame once; [`rewrite::Rewrite`] changes it in place; [`icmp`] reads quoted
//! packets and neighbors' claims and writes errors; [`mss`] lowers what a SYN offers;
//! [`DropReason`] names everything that is not forwarded. Values are in host order; only this
//! crate knows the wire's.

#![deny(clippy::indexing_slicing)]

#[cfg(feature = "build")]
pub mod build;
pub mod checksum;
mod drop_reason;
mod extension;
mod glance;
pub mod hash;
pub mod icmp;
mod ip;
mod ip4;
mod ip6;
pub mod mss;
mod options;
pub mod parse;
pub mod rewrite;
mod tcp;
mod udp;
pub mod wire;

pub use drop_reason::DropReason;
pub use glance::{Glance4, glance4};
pub use icmp::{ErrorKind, Neighbor, NeighborKind, neighbor};
pub use ip::{Fragment, Ip, L4, Parsed, Piece};
pub use ip6::is_martian_source6;
pub use parse::{frame_length, parse};
pub use tcp::TcpFlags;
