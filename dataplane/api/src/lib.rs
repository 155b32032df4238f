//! What the dataplane accepts and reports: plain data, spoken as length-prefixed JSON over a
//! Unix stream socket.
//!
//! The dataplane serves; control and the CLI call. One [`Request`] gets one [`Response`] on the
//! same connection, in order; a connection may carry many. This crate knows no sockets beyond
//! [`frame`] and [`client`], holds no state and decides nothing.

pub mod client;
mod conservation;
mod explain;
mod flow;
pub mod frame;
mod mac;
mod report;
mod snapshot;

pub use explain::{Explanation, Fate, Question};
pub use flow::{FlowSettings, FlowTimers};
pub use mac::{MacAddr, ParseMacError};
pub use report::{
    Bucket, Counters, DropCount, FlowRow, HookReport, Offload, OffloadReport, PortReport, Status,
    UplinkMode, UplinkReport, WorkerReport,
};
pub use snapshot::{
    Access, Endpoint, Node, PortChoice, PortRange, Snapshot, Snat, SnatMode, Uplink,
};

use serde::{Deserialize, Serialize};

/// Name of the dataplane's socket inside the run directory.
pub const SOCKET_NAME: &str = "dataplane.sock";

/// What a caller asks of the dataplane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Replace everything the dataplane knows about the node, as one transaction.
    Publish(Box<Snapshot>),
    /// One page of health: what is bound, attached and alive.
    Status,
    /// All counters: hooks, workers, ports.
    Counters,
    /// Switch offload; answered by `Applied` once it is in force. A restart forgets it.
    Offload(Offload),
    /// What would become of a packet; none is sent.
    Explain(Question),
    /// Another filter for the log, in `RUST_LOG`'s words.
    LogFilter(String),
    /// Up to `limit` flows of all workers.
    Flows {
        /// Most rows to return; bounds the answer, not the table.
        limit: u32,
    },
}

/// The dataplane's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The snapshot is live on every worker and in every hook.
    Applied {
        /// Generation now in force.
        generation: u64,
    },
    /// The snapshot was refused as a whole; what was in force stays in force.
    Rejected {
        /// Every problem found, each naming the entry it is about.
        problems: Vec<String>,
    },
    /// Answer to [`Request::Status`].
    Status(Box<Status>),
    /// Answer to [`Request::Counters`].
    Counters(Box<Counters>),
    /// Answer to [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// Answer to [`Request::LogFilter`].
    Done,
    /// Answer to [`Request::Flows`].
    Flows(Vec<FlowRow>),
    /// The request could not be served.
    Error {
        /// What went wrong and what to do next.
        message: String,
    },
}
