//! Tests against the kernel, in network namespaces of their own.
//!
//! ```text
//!   one anonymous namespace per test, gone with the test's thread
//!   ┌───────────────────────────────────────────────┐
//!   │  a (2 queues) ═══ veth ═══ b (2 queues)       │
//!   │  AF_XDP port TX             XDP ─► AF_XDP port│
//!   └───────────────────────────────────────────────┘
//! ```

mod bpf;
mod rig;

mod attach;
mod binding;
mod measure;
mod traffic;
