//! Sizes the maps are made with: one place for Rust and C.
//!
//! The build script writes these into the C header the programs include, so neither side can
//! disagree with the other. Plain numbers only: this file is compiled twice.

/// Most pods on a node; EC2 allows 737 addresses on its largest instances without prefixes.
pub const MAX_PODS: u32 = 1_024;

/// Most interfaces with AF_XDP sockets: slot [`TRUNK_SLOT`] and the uplinks.
pub const MAX_SLOTS: u32 = 32;

/// Most receive queues of an interface, and so most workers. ENA has up to 32 queues.
pub const MAX_QUEUES: u32 = 64;

/// Most CIDRs that belong to the kernel.
pub const MAX_KERNEL_CIDRS: u32 = 1_024;

/// Slot of the trunk in the socket map; uplinks take 1 and up.
pub const TRUNK_SLOT: u32 = 0;

/// How long the kernel keeps a worker's traffic after its heartbeat has come back, in
/// nanoseconds: a worker that stutters must not make flows jump between paths.
pub const RETURN_AFTER_NS: u64 = 100_000_000;

/// Slots of the filter for ends of conversations that kernel conntrack translates; a power of two.
/// With 10,000 such conversations fewer than one packet in six asks conntrack in vain.
pub const KERNEL_END_SLOTS: u32 = 1 << 17;
