//! The Penstock dataplane daemon: pinned AF_XDP workers and their wiring.
//!
//! ```text
//!  control, CLI ──► server ──► node ──► compile ──► flow::Snapshot ──► swapped into every worker
//!                               │ ├───► hooks (maps, attachments)
//!                               │ └───► ports (sockets) ──► command ──► worker
//!  worker w:  receive ─► forward ─► send │ hand off │ drop     (worker.rs: read this first)
//! ```
//!
//! | module | job |
//! |---|---|
//! | [`worker`] | the batch loop and what becomes of each packet |
//! | `bench` | what a worker has at hand, the ways a packet can leave it |
//! | [`ports`] | a worker's sockets and packet memory |
//! | [`exchange`], [`handoff`] | packets between workers |
//! | [`pulse`], [`clock`] | heartbeat, the one clock |
//! | [`rest`], [`wake`] | sleeping and being woken |
//! | [`errand`], [`crew`] | commands in, counters out: the worker's end, the control side's end |
//! | [`inherit`] | what a dead predecessor's hooks went on carrying |
//! | [`line`], [`clerk`] | established flows to the hooks: the worker's end, the thread with the maps |
//! | [`live`] | the snapshot in force |
//! | [`stats`] | counters and the conservation law |
//! | [`node`] | publications in order, with [`validate`], [`compile`], [`diff`], [`uplink`] |
//! | [`rounds`] | which conversations are the kernel's |
//! | [`report`] | what the dataplane says about itself |
//! | [`trunk`] | the veth pair of all pods |
//! | [`server`] | the Unix socket |
//! | [`daemon`] | start and stop, with [`args`] and [`cpu`] |
//!
//! Guarantees: workers never lock, allocate, log or block per packet; what a dead process leaves
//! behind is removed by the next start; every packet is counted once.

pub mod args;
mod bench;
pub mod clerk;
pub mod clock;
pub mod compile;
pub mod cpu;
pub mod crew;
pub mod daemon;
pub mod diff;
pub mod errand;
pub mod exchange;
pub mod explain;
pub mod handoff;
pub mod inherit;
pub mod line;
pub mod live;
pub mod logging;
pub mod node;
pub mod ports;
pub mod pulse;
pub mod report;
pub mod rest;
pub mod rounds;
pub mod server;
pub mod stats;
mod timers;
pub mod trunk;
pub mod uplink;
pub mod validate;
pub mod wake;
pub mod worker;

#[cfg(test)]
mod fixture;
