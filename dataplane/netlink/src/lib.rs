//! Synchronous netlink: links, addresses, routes, rules, neighbours and conntrack entries of one
//! network namespace.
//!
//! [`Netlink::open`] binds a socket to the network namespace the calling thread is in at that
//! moment; the socket keeps speaking to that namespace wherever the thread goes afterwards.
//! Each method is one request (or one dump) and returns when the kernel has answered.
//!
//! Guarantees: answers are matched to requests by sequence number; only the kernel is listened
//! to; every error names the operation, the object and the errno; an inconsistent dump is
//! repeated. IPv4 only, but for conntrack.
//!
//! Must not: change sysctls, enter namespaces, or hold state beyond the socket.
//!
//! References: RFC 3549; kernel `net/core/rtnetlink.c`, `net/ipv4/{devinet,fib_frontend}.c`,
//! `net/core/{fib_rules,neighbour}.c`.

mod address;
pub mod conntrack;
mod error;
mod link;
mod neighbor;
mod route;
mod rule;
mod socket;

pub use address::Address;
pub use error::{Error, Result};
pub use ipnet::Ipv4Net;
pub use link::{Link, LinkChange, VethEnd, VethSpec};
pub use neighbor::Neighbor;
pub use route::{MAIN_TABLE, Route, Scope};
pub use rule::Rule;
pub use socket::Netlink;

/// An Ethernet (EUI-48) address in transmission order.
pub type MacAddr = [u8; 6];
