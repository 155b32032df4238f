//! What a worker does when there is nothing to do.

use std::time::{Duration, Instant};

use penstock_xsk::wait;

use crate::args::Idle;
use crate::bench::Bench;
use crate::errand::Errands;

/// How long a worker spins before it sleeps: longer than a gap within a busy flow, shorter than
/// anybody would notice as load.
const SPIN: Duration = Duration::from_micros(50);

/// Longest sleep: the heartbeat must not grow old meanwhile (`pulse::STALE_AFTER`).
const NAP: Duration = Duration::from_millis(4);

/// One worker's way of resting.
#[derive(Debug)]
pub struct Rest {
    idle: Idle,
    since: Option<Instant>,
}

impl Rest {
    /// A worker that rests as told.
    #[must_use]
    pub const fn new(idle: Idle) -> Self {
        Self { idle, since: None }
    }

    /// Called after every loop.
    pub(crate) fn after(&mut self, busy: bool, bench: &Bench, errands: &Errands) {
        if busy || self.idle == Idle::Spin {
            self.since = None;
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < SPIN {
            std::hint::spin_loop();
            return;
        }
        errands.wake().sleep(
            || bench.exchange.has_waiting() || bench.line.has_news() || errands.is_waiting(),
            || {
                let mut fds = Vec::with_capacity(bench.ports.count() + 1);
                fds.push(errands.wake().as_fd());
                fds.extend(bench.ports.fds());
                // An error leaves the worker spinning, which is safe.
                let _ = wait(&fds, NAP);
            },
        );
    }
}
