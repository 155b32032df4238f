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
pub(crate) enum FaultKind {
    /// Answers this code, does nothing.
    Error(String),
    /// Does what was asked, then answers `InternalError`.
    LostReply,
    /// Answers these bytes, does nothing.
    Body { status: u16, body: String },
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

    pub(crate) fn latency(&self) -> Duration {
        self.lock().latency
    }

    /// Counts a call of `action` (one of a fixed set of names) and uses up the first fault that applies to it.
    pub(crate) fn admit(&self, action: &'static str) -> Option<FaultKind> {
        let mut state = self.lock();
        *state.calls.entry(action.to_owned()).or_default() += 1;
        state.faults.retain(|(_, _, left)| *left > 0);
        let applies = |(name, _, _): &&mut (String, FaultKind, u32)| {
            name == action || (name == "*" && action != IMDS)
        };
        let (_, kind, left) = state.faults.iter_mut().find(applies)?;
        *left -= 1;
        Some(kind.clone())
    }
}
