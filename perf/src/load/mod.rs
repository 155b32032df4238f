//! Real sockets under load: what applications of a pod would see.
//!
//! Everything is bounded in time and count. Sleeping is only ever the length of a measurement.

pub mod bulk;
pub mod connect;
pub mod exchange;
pub mod flood;
pub mod prime;
pub mod probe;

use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// Longest that one call on a socket may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a server that waits looks whether the measurement is over.
const GLANCE: Duration = Duration::from_millis(20);

/// Pins the calling thread to the first core (servers) or the last one (clients and generators);
/// returns whether that worked.
#[must_use]
pub fn pin(end: Core) -> bool {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let core = match end {
        Core::First => cores.first(),
        Core::Last => cores.last(),
    };
    core.is_some_and(|core| core_affinity::set_for_current(*core))
}

/// Which core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// Workers' and servers'.
    First,
    /// Generators' and clients'.
    Last,
}

/// Whether a socket only had nothing to give in time.
fn is_idle(error: &io::Error) -> bool {
    let idle = [Errno::EAGAIN, Errno::EINTR, Errno::ETIMEDOUT];
    error
        .raw_os_error()
        .is_some_and(|code| idle.contains(&Errno::from_raw(code)))
}
