//! The corpus: every row of the reliability tables that the flow engine decides, as data.
//!
//! A row is a name, packets with the interface each comes in by, what must become of each, and
//! what the counters must have moved by at the end. A counter that is not named must not have
//! moved. Rows P01 to P78 are bad and odd packets, N1 to N15 the behaviour of translation;
//! docs/TESTING.md says which test shows which row.
#![expect(clippy::panic, reason = "a failed test panics")]

#[path = "../node/mod.rs"]
mod node;
mod row;

mod fragment;
mod icmp;
mod ip4;
mod ip6;
mod l4;
mod link;
mod nat;
