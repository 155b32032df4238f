//! Keeps addresses in stock: makes the plan, has its actions carried out side by side, and makes it again whenever
//! something changed.
//!
//! Woken by every ADD and DEL, by every action that ends, and by a clock. What is under way is in the state as an
//! order, so a plan never orders it twice. No lock is held over a call. A refusal is remembered for as long as its kind
//! asks for ([`orders::Refusals`]), and its cause is in the state, so that an ADD can name it.

pub mod orders;
mod place;
mod refresh;
mod site;
mod sweep;
#[cfg(test)]
mod tests;
mod work;

pub use place::Place;
pub(crate) use site::Site;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::task::JoinSet;

use crate::discover::PlugError;
use crate::ec2::{Ec2Error, ErrorKind};
use crate::ipam::plan::{self, Action, Allowed, Situation};
use crate::state::Trouble;
use orders::{OrderId, Trial};
use work::Worker;

/// Time between looks at the pool when nothing wakes the loop.
const PERIOD: Duration = Duration::from_secs(5);
/// Time between looks at the cloud, as in the VPC CNI.
const REFRESH: Duration = Duration::from_secs(30);
/// Time between searches for ENIs nobody owns, as in the VPC CNI.
const SWEEP: Duration = Duration::from_secs(3600);

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProvisionError {
    #[error(transparent)]
    Ec2(#[from] Ec2Error),
    #[error(transparent)]
    Plug(#[from] PlugError),
    #[error("{0}")]
    State(String),
}

impl ProvisionError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Ec2(error) => error.kind,
            Self::Plug(_) | Self::State(_) => ErrorKind::Other,
        }
    }
}

/// Runs for as long as the agent does.
pub(crate) async fn keep_in_stock<S: Site>(site: Arc<S>) {
    let worker = Worker::new(site);
    tokio::select! {
        () = stock(&worker) => {}
        () = look_around(&worker) => {}
        () = sweep_now_and_then(&worker) => {}
    }
}

async fn stock<S: Site>(worker: &Worker<S>) {
    let mut actions = JoinSet::new();
    loop {
        begin(worker, &mut actions);
        tokio::select! {
            () = worker.site.kick().notified() => {}
            () = worker.site.clock().sleep(worker.next_look()) => {}
            Some(_) = actions.join_next() => {}
        }
    }
}

/// Starts whatever the plan wants now.
fn begin<S: Site>(worker: &Worker<S>, actions: &mut JoinSet<()>) {
    let planned = {
        let site = &worker.site;
        let mut state = site.lock();
        let situation = state.situation(site.config(), site.waiting(), site.clock().now());
        let planned = plan::plan(&situation);
        let order = |action| (state.orders.place(&action), action);
        planned.into_iter().map(order).collect::<Vec<_>>()
    };
    for (order, action) in planned {
        let worker = worker.clone();
        actions.spawn(async move { worker.carry_out(order, action).await });
    }
}

/// The cloud as it is, compared with what we think.
async fn look_around<S: Site>(worker: &Worker<S>) {
    loop {
        worker.refresh().await;
        worker.site.clock().sleep(REFRESH).await;
    }
}

async fn sweep_now_and_then<S: Site>(worker: &Worker<S>) {
    let clock = worker.site.clock();
    let born = OffsetDateTime::now_utc();
    // Pods wait for what is on order, nobody for this.
    while !worker.is_at_rest() {
        clock.sleep(PERIOD).await;
    }
    worker.clear_earlier_lives(born).await;
    clock.sleep(sweep::first_pause()).await;
    loop {
        worker.sweep_leaked().await;
        clock.sleep(SWEEP).await;
    }
}

impl<S: Site> Worker<S> {
    /// The plan changes by itself when a refusal ends.
    fn next_look(&self) -> Duration {
        let now = self.now();
        let ends = self.site.lock().refusals.next_end(now);
        ends.map_or(PERIOD, |end| end.since(now).min(PERIOD))
            .max(Duration::from_millis(10))
    }

    /// Nothing is on order, and nothing would be if EC2 allowed it.
    fn is_at_rest(&self) -> bool {
        let site = &self.site;
        let state = site.lock();
        let situation = Situation {
            allowed: Allowed::ALL,
            ..state.situation(site.config(), site.waiting(), self.now())
        };
        let grows = |action: &Action| matches!(action, Action::Fill { .. } | Action::AddEni { .. });
        state.orders.is_empty() && !plan::plan(&situation).iter().any(grows)
    }

    async fn carry_out(&self, order: OrderId, action: Action) {
        let mut trial = self.trial(&action);
        let done = match &action {
            Action::Fill { eni_id, units } => self.fill(order, eni_id, *units).await,
            Action::AddEni { units } => self.add_eni(order, *units, &mut trial).await,
            Action::Release { eni_id, units } => self.release(eni_id, *units).await,
            Action::RemoveEni { eni_id } => self.remove_eni(eni_id).await,
        };
        let now = self.now();
        {
            let mut state = self.site.lock();
            state.orders.close(order);
            match &done {
                Ok(()) => {
                    state.refusals.lifted(&trial);
                    state.refused = None;
                }
                Err(error) => {
                    let advice = state.refusals.note(&trial, error.kind(), now);
                    tracing::warn!(%error, ?action, advice = advice.text, "the pool did not change");
                    let text = format!("{error}; {}", advice.text);
                    if !advice.passing {
                        let reason = match error.kind() {
                            ErrorKind::Unauthorized => "MissingIAMPermissions",
                            _ => "NoMoreAddresses",
                        };
                        self.site.warn(reason, text.clone());
                    }
                    state.refused = Some(Trouble {
                        text,
                        passing: advice.passing,
                    });
                }
            }
        }
        self.site.changed();
        self.site.kick().notify_one();
    }

    /// What the action puts to the test.
    fn trial(&self, action: &Action) -> Trial {
        let state = self.site.lock();
        let (eni_id, units) = match action {
            Action::Fill { eni_id, units } => (Some(eni_id), *units),
            Action::AddEni { units } => (None, *units),
            Action::Release { .. } | Action::RemoveEni { .. } => return Trial::Return,
        };
        Trial::Growth {
            // That of a new ENI is chosen later.
            subnet_id: eni_id
                .and_then(|eni_id| state.enis.get(eni_id))
                .map(|eni| eni.subnet_id.clone()),
            eni_id: eni_id.cloned(),
            prefixes: units.prefixes > 0,
        }
    }
}
