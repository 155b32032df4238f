//! A worker's heartbeat and its one clock read per batch.
//!
//! The hooks pass to the kernel what would go to a worker whose stamp is older than
//! [`STALE_AFTER`].

use std::sync::Arc;
use std::time::Duration;

use penstock_flow::Timestamp;
use penstock_xsk::stamp::StampArray;

use crate::clock;

/// Age at which the hooks take a worker for gone (docs/ARCHITECTURE.md).
pub const STALE_AFTER: Duration = Duration::from_millis(20);

/// Least time between two stamps: the word is shared with every CPU that runs a hook.
const STAMP_EVERY_NS: u64 = 1_000_000;

/// One worker's heartbeat.
#[derive(Debug)]
pub struct Pulse {
    stamps: Arc<StampArray>,
    index: u32,
    last_ns: u64,
}

impl Pulse {
    /// The heartbeat of worker `index`.
    #[must_use]
    pub fn new(stamps: Arc<StampArray>, index: u32) -> Self {
        Self {
            stamps,
            index,
            last_ns: 0,
        }
    }

    /// Reads the clock, and stamps when the last stamp is old enough.
    pub fn tick(&mut self) -> Timestamp {
        let now = clock::monotonic_ns();
        if now.saturating_sub(self.last_ns) >= STAMP_EVERY_NS {
            self.stamps.store(self.index, now);
            self.last_ns = now;
        }
        Timestamp::from_nanos(now)
    }

    /// Says at once that this worker takes nothing more.
    pub fn stop(&self) {
        self.stamps.store(self.index, 0);
    }
}
