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

/// A worker that has not looked for this long finds packets nobody waits for any more.
const AWAY: Duration = Duration::from_millis(100);

/// One worker's heartbeat.
#[derive(Debug)]
pub struct Pulse {
    stamps: Arc<StampArray>,
    index: u32,
    last_ns: u64,
    away: bool,
}

impl Pulse {
    /// The heartbeat of worker `index`.
    #[must_use]
    pub fn new(stamps: Arc<StampArray>, index: u32) -> Self {
        Self {
            stamps,
            index,
            last_ns: 0,
            away: false,
        }
    }

    /// Reads the clock, and stamps when the last stamp is old enough.
    pub fn tick(&mut self) -> Timestamp {
        let now = clock::monotonic_ns();
        self.away = is_away(self.last_ns, now);
        if now.saturating_sub(self.last_ns) >= STAMP_EVERY_NS {
            self.stamps.store(self.index, now);
            self.last_ns = now;
        }
        Timestamp::from_nanos(now)
    }

    /// Whether the time before the last tick was so long that received packets are stale.
    #[must_use]
    pub const fn was_away(&self) -> bool {
        self.away
    }

    /// Says at once that this worker takes nothing more.
    pub fn stop(&self) {
        self.stamps.store(self.index, 0);
    }
}

/// Whether a worker that last stamped at `last_ns` was away; not before its first stamp.
fn is_away(last_ns: u64, now_ns: u64) -> bool {
    last_ns > 0 && Duration::from_nanos(now_ns.saturating_sub(last_ns)) > AWAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_are_no_absence_and_a_stop_is() {
        let start = 1_000_000_000;
        assert!(!is_away(0, start), "the first tick");
        assert!(!is_away(start, start + 5_000_000), "a nap");
        assert!(!is_away(start, start + 100_000_000));
        assert!(is_away(start, start + 100_000_001));
        assert!(!is_away(start, start - 1), "the clock never runs backwards");
    }
}
