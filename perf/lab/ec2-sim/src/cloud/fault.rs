//! Scripted failures and the record of calls.
//!
//! Guarantees: faults are used up in the order they were injected; an injected error changes nothing in the cloud.

use std::time::Duration;

use crate::Fault;
use crate::cloud::Cloud;

/// The name under which metadata requests are counted and made to fail.
pub(crate) const IMDS: &str = "imds";

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Answers this code, does nothing.
    Error(String),
    /// Does what was asked, then answers `InternalError`.
    LostReply,
    /// Answers these bytes, does nothing.
    Body {
        /// HTTP status.
        status: u16,
        /// What comes instead of an answer.
        body: String,
    },
}

/// An account's budget of calls: a token bucket, as EC2 throttles by ("Request throttling for the Amazon EC2 API").
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    capacity: f64,
    per_second: f64,
    tokens: f64,
    filled: Duration,
}

impl Budget {
    fn spend(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.capacity);
        self.filled = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

impl Cloud {
    /// The next `fault.count` calls of `fault.action` answer `fault.error_code`.
    ///
    /// `*` is any action of the API. The action `imds` is any metadata request but one for a token; its code is an
    /// HTTP status, for example `503`.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push((
            fault.action,
            FaultKind::Error(fault.error_code),
            fault.count,
        ));
    }

    /// The next `count` calls of `action` take effect but answer `InternalError`, as when a reply is lost.
    pub fn inject_lost_reply(&self, action: &str, count: u32) {
        self.lock()
            .faults
            .push((action.to_owned(), FaultKind::LostReply, count));
    }

    /// The next call of `action` answers `body` with `status`, whatever that is, and changes nothing.
    pub fn inject_reply(&self, action: &str, status: u16, body: &str) {
        let kind = FaultKind::Body {
            status,
            body: body.to_owned(),
        };
        self.lock().faults.push((action.to_owned(), kind, 1));
    }

    /// Forgets every fault not used up.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Gives all calls together a budget: `capacity` at once, `per_second` in the long run. What is over it answers
    /// `RequestLimitExceeded` and does nothing.
    pub fn set_budget(&self, capacity: u32, per_second: f64) {
        let filled = self.now();
        self.lock().budget = Some(Budget {
            capacity: capacity.into(),
            per_second,
            tokens: capacity.into(),
            filled,
        });
    }

    /// Makes descriptions and the metadata service show what was the case this long ago.
    pub fn set_view_lag(&self, lag: Duration) {
        let now = self.now();
        let mut state = self.lock();
        state.lag = lag;
        state.past.clear();
        state.remember(now);
        // Until something changes, the past was like the present.
        if let Some((at, _)) = state.past.front_mut() {
            *at = Duration::ZERO;
        }
    }

    /// Makes every API call from now on take this long.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Makes attachments and detachments from now on take this long.
    pub fn set_attachment_delays(&self, attach: Duration, detach: Duration) {
        let mut state = self.lock();
        state.attach_delay = attach;
        state.detach_delay = detach;
    }

    /// How long a call takes now.
    #[must_use]
    pub fn latency(&self) -> Duration {
        self.lock().latency
    }

    /// Counts a call of `action` (one of a fixed set of names), charges it to the budget and uses up the first fault
    /// that applies to it. For whoever puts another front before the cloud; the HTTP fronts do it by themselves.
    pub fn admit(&self, action: &'static str) -> Option<FaultKind> {
        let now = self.now();
        let mut state = self.lock();
        *state.calls.entry(action.to_owned()).or_default() += 1;
        let spent = match &mut state.budget {
            Some(budget) if action != IMDS => budget.spend(now),
            _ => true,
        };
        if !spent {
            return Some(FaultKind::Error("RequestLimitExceeded".to_owned()));
        }
        state.faults.retain(|(_, _, left)| *left > 0);
        let applies = |(name, _, _): &&mut (String, FaultKind, u32)| {
            name == action || (name == "*" && action != IMDS)
        };
        let (_, kind, left) = state.faults.iter_mut().find(applies)?;
        *left -= 1;
        Some(kind.clone())
    }
}
