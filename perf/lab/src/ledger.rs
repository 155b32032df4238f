//! A node's counters, and waiting until they add up.

use std::time::{Duration, Instant};

use penstock_dataplane_api::{Counters, Request, Response};

use crate::error::{Error, Result};
use crate::node::Node;

/// How long a node is given to become quiet.
const QUIET_WITHIN: Duration = Duration::from_secs(3);

impl Node {
    /// All counters of the node's dataplane, now.
    ///
    /// # Errors
    /// When the dataplane cannot be reached or answers something else.
    pub fn counters(&self) -> Result<Counters> {
        match self.dataplane_call(&Request::Counters)? {
            Response::Counters(counters) => Ok(*counters),
            other => Err(Error::Invalid(format!("asked for counters, got {other:?}"))),
        }
    }

    /// Counters of a quiet node: read until the conservation law holds and nothing moved since the
    /// reading before.
    ///
    /// # Errors
    /// When that does not happen in time; the message lists each equation with both sides.
    pub fn settled_counters(&self) -> Result<Counters> {
        let deadline = Instant::now() + QUIET_WITHIN;
        let mut last = self.counters()?;
        loop {
            let now = self.counters()?;
            let violations = now.violations();
            let quiet = now.without_polls() == last.without_polls();
            if violations.is_empty() && quiet {
                return Ok(now);
            }
            if Instant::now() > deadline {
                let name = self.name();
                let found = violations.join("; ");
                return Err(Error::Invalid(format!(
                    "{name}: counters do not settle (quiet: {quiet}): {found}"
                )));
            }
            last = now;
        }
    }
}
