//! AF_XDP sockets, rings and UMEM; the only crate with unsafe code.
//!
//! One worker owns one [`Umem`] and the [`Port`]s (AF_XDP sockets) that share it; a frame moves
//! from one port's RX ring to another port's TX ring without a copy. Ports are bound on a control
//! thread through a [`UmemHandle`] and moved to the worker once.
//!
//! Guarantees: no `unsafe` on a public signature; every [`Frame`] has exactly one owner (the
//! ownership law is in [`umem`]); whatever the kernel writes into a ring is checked before it is
//! used; nothing becomes visible to the kernel before an explicit commit.
//!
//! It must not: parse packets, log, or allocate per packet.
//!
//! Besides sockets it holds the few other kernel interfaces that need `unsafe`: BPF links
//! ([`link`]), mapped heartbeat arrays ([`stamp`]) and the ethtool ioctl ([`ethtool`]).

pub mod error;
pub mod ethtool;
pub mod frame;
pub mod link;
pub mod map;
pub mod packet;
pub mod port;
pub mod stamp;
pub mod umem;

mod config;
mod index;
mod poll;
mod ring;
mod sys;

#[cfg(test)]
mod netns_tests;

pub use config::{BindMode, HugePages, Mode, PortConfig, RingSize, UmemConfig};
pub use error::{AttachError, EthtoolError, SetupError};
pub use frame::{Frame, FrameSize};
pub use packet::{Batch, Packet};
pub use poll::wait;
pub use port::{FlushOutcome, Port, PortCounters, PortState, Statistics};
pub use umem::{FrameCounts, Umem, UmemHandle};
