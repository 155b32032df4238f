//! The XDP and TCX programs and their maps.
//!
//! ```text
//! pod      TCX ingress, host side of a pod's veth   guard the source; kernel's, or trunk0 queue w
//! trunk    TCX ingress, trunk0                      to a pod, or the kernel's
//! trunk-rx XDP, trunk1                              queue w to worker w's socket
//! uplink   XDP, an ENI                              pods' and SNAT's to the queue's worker; kernel's
//! uplink-tcx  TCX ingress, an ENI                   offloaded flows into pods; kernel's
//! ```
//!
//! [`Hooks`] loads them, fills their maps and attaches them. Guarantees: every packet a hook sees
//! is counted once (`seen = to_worker + to_kernel + to_pod + offloaded + drops`); a worker whose heartbeat is
//! stale, or a queue without a socket on an uplink, falls back to the kernel; a link lives exactly
//! as long as its [`HookLink`], and with [`Pins`] as long as nobody drops that; no program of anybody else is ever detached.
//!
//! It must not hold policy of its own, talk netlink, or touch packets in Rust. The C sources are
//! in `bpf/`, one file per hook.

mod counters;
mod error;
pub mod flows;
mod hooks;
mod kernel_ends;
mod layout;
pub mod limits;
mod pins;

pub use counters::{HookCounters, HookKind};
pub use error::HookError;
pub use flows::FlowMap;
pub use hooks::{HookLink, Hooks, Lapse};
pub use kernel_ends::KernelEnds;
pub use layout::{HookConfig, ImdsAccess, Offload, PodEntry, SnatRange};
pub use pins::Pins;

#[cfg(test)]
mod tests;
