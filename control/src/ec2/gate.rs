//! The gate every call to EC2 passes: one budget for all of them.
//!
//! Guarantees: no more than one call per [`PACE`]; after throttling or silence the gate closes for a random time that
//! doubles up to [`MAX_PAUSE`], and then lets a single call through to see; a throttled call, which had no effect, is
//! made again by itself, so callers never see throttling, only time. A call whose effect is unknown is not repeated:
//! that is for its caller, who can find out. The metadata service is the node's own and passes freely.
//!
//! EC2 throttles per account, so restraint here is for the neighbours' good: a node that has been throttled for minutes
//! asks at most twice a minute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use penstock_dataplane_api::MacAddr;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    Created, Described, Ec2, Ec2Error, ErrorKind, Filter, Granted, Instance, NewEni, Observed,
    Subnet, SubnetFilter, Tags,
};
use crate::clock::{Clock, Timestamp};
use crate::ipam::plan::{Limits, Units};
use crate::ipam::pool::Parting;
use crate::meter::Meter;

/// Shortest time between two calls of one node.
pub const PACE: Duration = Duration::from_millis(200);

/// Longest pause. At least half of it always passes, so that a minute sees two attempts at most.
pub const MAX_PAUSE: Duration = Duration::from_secs(70);

/// How long EC2 must not have refused a call before one that nobody waits for is made: the account's budget is spent on
/// pods first. Half of it at least, so that nodes do not all find leisure at once.
const LEISURE: Duration = Duration::from_secs(240);

/// After which such a call is made all the same.
const LEISURE_PATIENCE: Duration = Duration::from_secs(600);

/// Longest first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// At which the pause has reached [`MAX_PAUSE`].
const MAX_SEVERITY: u32 = 18;

/// How EC2 has treated us lately; kept over a restart, so that an agent that crashes while it is throttled does not
/// begin to ask as if it were not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restraint {
    /// How far the pauses have grown.
    pub severity: u32,
    /// Throttled or unanswered calls in a row.
    pub failures: u32,
    /// No call before.
    pub closed_until: Timestamp,
    /// What came back last, if it was a failure.
    pub cause: String,
}

/// An [`Ec2`] behind its budget.
pub struct Gate {
    inner: Arc<dyn Ec2>,
    clock: Arc<dyn Clock>,
    meter: Arc<Meter>,
    state: Mutex<State>,
    /// A call came back: those who wait may look again.
    moved: Notify,
}

#[derive(Debug)]
struct State {
    /// Earliest moment of the next call.
    next: Timestamp,
    /// Two steps up for each failure, one down for each answer: how long to pause after the next failure. What an
    /// account's nodes find by it is their share of its budget, of which a third of the calls at most goes to waste.
    severity: u32,
    /// Throttled or unanswered calls in a row.
    failures: u32,
    /// Nobody passes before.
    closed_until: Timestamp,
    /// Nobody passes before who nobody waits for.
    leisure_from: Timestamp,
    /// After a failure one call is let through; the others wait for what it finds.
    probing: bool,
    /// What came back last, if it was a failure.
    cause: String,
}

impl Gate {
    /// Puts a gate before `inner`; calls are counted by `meter`.
    #[must_use]
    pub fn new(inner: Arc<dyn Ec2>, clock: Arc<dyn Clock>, meter: Arc<Meter>) -> Self {
        let now = clock.now();
        Self {
            inner,
            clock,
            meter,
            state: Mutex::new(State {
                next: now,
                severity: 0,
                failures: 0,
                closed_until: now,
                leisure_from: now,
                probing: false,
                cause: String::new(),
            }),
            moved: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn. Whoever gets it must say what came of it by dropping the pass or by [`Pass::end`].
    async fn enter(&self) -> Pass<'_> {
        loop {
            let moved = self.moved.notified();
            let turn = self.lock().turn(self.clock.now());
            match turn {
                Turn::At(moment, probe) => {
                    let pass = Pass {
                        gate: self,
                        probe,
                        ended: false,
                    };
                    self.wait_until(moment).await;
                    // Another call may have failed meanwhile.
                    if probe || self.lock().failures == 0 {
                        return pass;
                    }
                }
                Turn::After(moment) => self.wait_until(moment).await,
                Turn::WhenMoved => moved.await,
            }
        }
    }

    async fn wait_until(&self, moment: Timestamp) {
        let left = moment.since(self.clock.now());
        if !left.is_zero() {
            self.clock.sleep(left).await;
        }
    }

    async fn call<'a, T>(
        &'a self,
        action: &'static str,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, Ec2Error>> + Send,
    ) -> Result<T, Ec2Error> {
        loop {
            let pass = self.enter().await;
            let began = self.clock.now();
            let result = attempt().await;
            let took = self.clock.now().since(began);
            self.meter.call(action, result.as_ref().err(), took);
            let throttled = matches!(&result, Err(error) if error.kind == ErrorKind::Throttled);
            pass.end(result.as_ref().err());
            if !throttled {
                return result;
            }
        }
    }
}

enum Turn {
    /// At this moment; whether as the one that finds out.
    At(Timestamp, bool),
    /// To be asked for again then.
    After(Timestamp),
    /// To be asked for again when a call has come back.
    WhenMoved,
}

impl State {
    fn turn(&mut self, now: Timestamp) -> Turn {
        if now < self.closed_until {
            return Turn::After(self.closed_until);
        }
        if self.failures > 0 && self.probing {
            return Turn::WhenMoved;
        }
        let probe = self.failures > 0;
        self.probing = probe;
        let moment = self.next.max(now);
        self.next = moment.plus(PACE);
        Turn::At(moment, probe)
    }

    fn failed(&mut self, now: Timestamp, error: &Ec2Error) {
        self.failures = self.failures.saturating_add(1);
        self.cause = error.to_string();
        self.severity = (self.severity + 2).min(MAX_SEVERITY);
        let pause = pause(self.severity, rand::rng().random_range(0.5..=1.0));
        self.closed_until = self.closed_until.max(now.plus(pause));
        let leisure = LEISURE.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.leisure_from = self.leisure_from.max(now.plus(leisure));
        tracing::warn!(%error, failures = self.failures, pause_ms = pause.as_millis(), "EC2 is left alone");
    }
}

/// The pause after a failure; `share` of its ceiling.
fn pause(severity: u32, share: f64) -> Duration {
    let doublings = severity.div_ceil(2).saturating_sub(1);
    (FIRST_PAUSE * 2u32.pow(doublings.min(MAX_SEVERITY)))
        .min(MAX_PAUSE)
        .mul_f64(share)
}

/// The right to make one call.
struct Pass<'a> {
    gate: &'a Gate,
    probe: bool,
    ended: bool,
}

impl Pass<'_> {
    fn end(mut self, error: Option<&Ec2Error>) {
        self.ended = true;
        let now = self.gate.clock.now();
        let mut state = self.gate.lock();
        match error {
            Some(error) if matches!(error.kind, ErrorKind::Throttled | ErrorKind::Transport) => {
                state.failed(now, error);
            }
            // Whatever else EC2 says, it answers.
            _ => {
                state.failures = 0;
                state.severity = state.severity.saturating_sub(1);
                state.closed_until = state.closed_until.min(now);
            }
        }
        if self.probe {
            state.probing = false;
        }
        drop(state);
        self.gate.moved.notify_waiters();
    }
}

/// The caller went away: another one may find out.
impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.ended && self.probe {
            self.gate.lock().probing = false;
            self.gate.moved.notify_waiters();
        }
    }
}

impl Ec2 for Gate {
    fn instance(&self) -> BoxFuture<'_, Result<Instance, Ec2Error>> {
        self.inner.instance()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, Ec2Error>> {
        self.inner.observe()
    }

    fn observe_eni(&self, mac: MacAddr) -> BoxFuture<'_, Result<Option<Observed>, Ec2Error>> {
        self.inner.observe_eni(mac)
    }

    fn at_leisure(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let latest = self.clock.now().plus(LEISURE_PATIENCE);
            loop {
                let moment = self.lock().leisure_from.min(latest);
                if moment <= self.clock.now() {
                    return;
                }
                self.wait_until(moment).await;
            }
        })
    }

    fn is_at_leisure(&self) -> bool {
        self.lock().leisure_from <= self.clock.now()
    }

    fn restraint(&self) -> Option<Restraint> {
        let state = self.lock();
        (state.severity > 0).then(|| Restraint {
            severity: state.severity,
            failures: state.failures,
            closed_until: state.closed_until,
            cause: state.cause.clone(),
        })
    }

    fn restrain(&self, restraint: &Restraint) {
        let now = self.clock.now();
        let mut state = self.lock();
        state.severity = restraint.severity.min(MAX_SEVERITY);
        state.failures = restraint.failures;
        state.cause.clone_from(&restraint.cause);
        // Whatever a file says, nobody waits for longer than one pause.
        state.closed_until = restraint.closed_until.min(now.plus(MAX_PAUSE));
    }

    fn trouble(&self) -> Option<String> {
        let state = self.lock();
        let left = state.closed_until.since(self.clock.now());
        (state.failures > 0).then(|| {
            let cause = &state.cause;
            format!(
                "{cause} ({} in a row); next attempt in {} s",
                state.failures,
                left.as_secs()
            )
        })
    }

    fn limits<'a>(&'a self, instance_type: &'a str) -> BoxFuture<'a, Result<Limits, Ec2Error>> {
        Box::pin(self.call("DescribeInstanceTypes", move || {
            self.inner.limits(instance_type)
        }))
    }

    fn describe(&self, filter: Filter) -> BoxFuture<'_, Result<Vec<Described>, Ec2Error>> {
        Box::pin(self.call("DescribeNetworkInterfaces", move || {
            self.inner.describe(filter.clone())
        }))
    }

    fn create(&self, eni: NewEni) -> BoxFuture<'_, Result<Created, Ec2Error>> {
        Box::pin(self.call("CreateNetworkInterface", move || {
            self.inner.create(eni.clone())
        }))
    }

    fn attach<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
        device_number: u32,
    ) -> BoxFuture<'a, Result<String, Ec2Error>> {
        Box::pin(self.call("AttachNetworkInterface", move || {
            self.inner.attach(eni_id, instance_id, device_number)
        }))
    }

    fn delete_on_termination<'a>(
        &'a self,
        eni_id: &'a str,
        attachment_id: &'a str,
    ) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(self.call("ModifyNetworkInterfaceAttribute", move || {
            self.inner.delete_on_termination(eni_id, attachment_id)
        }))
    }

    fn assign<'a>(
        &'a self,
        eni_id: &'a str,
        units: Units,
    ) -> BoxFuture<'a, Result<Granted, Ec2Error>> {
        Box::pin(self.call("AssignPrivateIpAddresses", move || {
            self.inner.assign(eni_id, units)
        }))
    }

    fn unassign<'a>(
        &'a self,
        eni_id: &'a str,
        parting: Parting,
    ) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(self.call("UnassignPrivateIpAddresses", move || {
            self.inner.unassign(eni_id, parting.clone())
        }))
    }

    fn set_groups<'a>(
        &'a self,
        eni_id: &'a str,
        groups: Vec<String>,
    ) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(self.call("ModifyNetworkInterfaceAttribute", move || {
            self.inner.set_groups(eni_id, groups.clone())
        }))
    }

    fn tag<'a>(&'a self, eni_id: &'a str, tags: Tags) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(self.call("CreateTags", move || self.inner.tag(eni_id, tags.clone())))
    }

    fn subnets(&self, filter: SubnetFilter) -> BoxFuture<'_, Result<Vec<Subnet>, Ec2Error>> {
        Box::pin(self.call("DescribeSubnets", move || {
            self.inner.subnets(filter.clone())
        }))
    }

    fn detach<'a>(&'a self, attachment_id: &'a str) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(self.call("DetachNetworkInterface", move || {
            self.inner.detach(attachment_id)
        }))
    }

    fn delete<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(self.call("DeleteNetworkInterface", move || self.inner.delete(eni_id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_limit_at_which_a_minute_sees_two_attempts() {
        assert_eq!(pause(2, 1.0), FIRST_PAUSE);
        assert_eq!(pause(6, 1.0), FIRST_PAUSE * 4);
        assert_eq!(pause(MAX_SEVERITY, 1.0), MAX_PAUSE);
        assert!(pause(MAX_SEVERITY, 0.5) > Duration::from_secs(30));
    }
}
