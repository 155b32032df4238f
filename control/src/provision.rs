//! Keeps addresses in stock: carries out the plan against EC2, one action at a time.
//!
//! Woken by every ADD and DEL and by a clock. No lock is held over a call. After a refusal it waits as long as the kind
//! of refusal asks for, with full jitter, and says so in the state, so that an ADD can name the cause.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, DATAPLANE_PATIENCE};
use crate::clock::Timestamp;
use crate::discover::{self, Discovery, Found, PlugError};
use crate::ec2::{
    Ec2Error, ErrorKind, Filter, NewEni, TAG_CLUSTER, TAG_CREATED, TAG_INSTANCE, Tags,
};
use crate::ipam::plan::{self, Action, Situation};
use crate::node::{priority, table_of};
use crate::state::{NodeEni, Trouble};

/// Time between looks at the pool when nothing wakes the loop.
const PERIOD: Duration = Duration::from_secs(5);
/// Time between looks at the VPC's ranges, as in the VPC CNI.
const REFRESH: Duration = Duration::from_secs(30);
/// Longest wait after throttling or silence.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Longest wait for an ENI to let go.
const DETACH_PATIENCE: Duration = Duration::from_secs(60);

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
enum ProvisionError {
    #[error(transparent)]
    Ec2(#[from] Ec2Error),
    #[error(transparent)]
    Plug(#[from] PlugError),
    #[error("{0}")]
    State(String),
}

/// The pool loop's own memory.
struct Stock {
    agent: Arc<Agent>,
    /// No action before this.
    hold: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// Token of a creation whose answer was lost.
    unanswered: Option<String>,
    tokens: u64,
    refreshed: Instant,
}

/// Runs for as long as the agent does.
pub async fn keep_in_stock(agent: Arc<Agent>) {
    let mut stock = Stock {
        agent,
        hold: None,
        failures: 0,
        unanswered: None,
        tokens: 0,
        refreshed: Instant::now(),
    };
    stock.clear_orphans().await;
    loop {
        if stock.refreshed.elapsed() >= REFRESH {
            stock.refresh().await;
        }
        if stock.step().await {
            continue;
        }
        let held = stock
            .hold
            .map(|until| until.saturating_duration_since(Instant::now()));
        let pause = held
            .filter(|left| !left.is_zero())
            .map_or(PERIOD, |left| left.min(PERIOD));
        tokio::select! {
            () = stock.agent.pool_kick.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

impl Stock {
    /// Does one action; whether there may be another one right away.
    async fn step(&mut self) -> bool {
        if self.hold.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let action = self.next_action();
        let done = match &action {
            Action::Rest => {
                self.agent.lock().trouble = None;
                return false;
            }
            Action::AddAddresses { eni_id, count } => self.add_addresses(eni_id, *count).await,
            Action::AddEni { addresses } => self.add_eni(*addresses).await,
            Action::RemoveEni { eni_id } => self.remove_eni(eni_id).await,
        };
        match done {
            Ok(()) => {
                self.failures = 0;
                self.hold = None;
                self.agent.lock().trouble = None;
                self.agent.pool_changed.notify_waiters();
                true
            }
            Err(error) => {
                self.failed(&action, &error);
                self.agent.pool_changed.notify_waiters();
                false
            }
        }
    }

    fn next_action(&self) -> Action {
        let state = self.agent.lock();
        plan::next_action(&Situation {
            enis: &state.pool.views(Timestamp::now()),
            unmanaged: state.unmanaged,
            targets: self.agent.config.targets,
            limits: state.limits,
            starving: self.agent.waiting.load(Ordering::Relaxed) > 0,
        })
    }

    fn failed(&mut self, action: &Action, error: &ProvisionError) {
        self.failures = self.failures.saturating_add(1);
        let kind = match error {
            ProvisionError::Ec2(error) => error.kind,
            _ => ErrorKind::Other,
        };
        let (wait, advice, passing) = match kind {
            ErrorKind::SubnetFull => (
                Duration::from_secs(120),
                "the subnet is full; enlarge it or use another",
                false,
            ),
            ErrorKind::AddressLimit | ErrorKind::EniLimit => (
                Duration::from_secs(300),
                "the instance holds all it can; use a larger one",
                false,
            ),
            ErrorKind::Unauthorized => {
                let advice = "the node's role lacks a permission; attach AmazonEKS_CNI_Policy";
                (MAX_BACKOFF, advice, false)
            }
            ErrorKind::Throttled => (backoff(self.failures), "EC2 throttles; it passes", true),
            ErrorKind::NotFound | ErrorKind::Transport | ErrorKind::Other => {
                (backoff(self.failures), "trying again", true)
            }
        };
        tracing::warn!(%error, ?action, wait_ms = wait.as_millis(), advice, "the pool did not change");
        self.hold = Some(Instant::now() + wait);
        self.agent.lock().trouble = Some(Trouble {
            text: format!("{error}; {advice}"),
            passing,
        });
    }

    async fn add_addresses(&mut self, eni_id: &str, count: u32) -> Result<(), ProvisionError> {
        let assigned = match self.agent.ec2.assign(eni_id, count).await {
            // The subnet may hold fewer than a whole ENI's worth: one is better than none.
            Err(error) if error.kind == ErrorKind::SubnetFull && count > 1 => {
                self.agent.ec2.assign(eni_id, 1).await?
            }
            Err(error) if error.kind == ErrorKind::AddressLimit => {
                self.refresh().await;
                return Err(error.into());
            }
            other => other?,
        };
        // The reply alone is not proof; what a description does not show yet comes with a later refresh.
        let like = self.primary()?;
        let found = discover::find_new(self.agent.ec2.as_ref(), eni_id, &like).await?;
        let proven = found
            .secondaries
            .iter()
            .filter(|address| assigned.contains(address));
        let mut state = self.agent.lock();
        for address in proven {
            state
                .pool
                .add_address(eni_id, *address)
                .map_err(|e| ProvisionError::State(e.to_string()))?;
        }
        tracing::info!(eni = eni_id, count = assigned.len(), "addresses added");
        Ok(())
    }

    async fn add_eni(&mut self, addresses: u32) -> Result<(), ProvisionError> {
        let primary = self.primary()?;
        let device_number = self.free_device_number().await?;
        let eni_id = self.create(&primary, addresses).await?;
        let attached = self.attach(&eni_id, device_number).await;
        if let Err(error) = attached {
            self.discard(&eni_id).await;
            return Err(error.into());
        }
        let found = self.await_visible(&eni_id, &primary).await?;
        self.put_to_use(&found).await
    }

    async fn create(&mut self, primary: &NodeEni, addresses: u32) -> Result<String, Ec2Error> {
        self.tokens += 1;
        let fresh = format!(
            "{}-{}-{}",
            self.agent.instance.id,
            Timestamp::now().0,
            self.tokens
        );
        let token = self.unanswered.take().unwrap_or(fresh);
        let created = self
            .agent
            .ec2
            .create(NewEni {
                client_token: token.clone(),
                subnet_id: primary.subnet_id.clone(),
                groups: primary.groups.clone(),
                description: format!("aws-K8S-{}", self.agent.instance.id),
                tags: self.tags(),
                secondary_addresses: addresses,
            })
            .await;
        if created
            .as_ref()
            .is_err_and(|error| error.kind == ErrorKind::Transport)
        {
            self.unanswered = Some(token);
        }
        created
    }

    fn tags(&self) -> Tags {
        let config = &self.agent.config;
        let mut tags = config.eni_tags.clone();
        tags.insert(TAG_INSTANCE.to_owned(), self.agent.instance.id.clone());
        let now = time::OffsetDateTime::now_utc();
        if let Ok(now) = now.format(&time::format_description::well_known::Rfc3339) {
            tags.insert(TAG_CREATED.to_owned(), now);
        }
        if let Some(cluster) = &config.cluster_name {
            tags.insert(TAG_CLUSTER.to_owned(), cluster.clone());
            tags.insert("eks:eni:owner".to_owned(), "amazon-vpc-cni".to_owned());
        }
        tags
    }

    /// The lowest number no attachment uses, ours or not.
    async fn free_device_number(&self) -> Result<u32, Ec2Error> {
        let filter = Filter::Instance(self.agent.instance.id.clone());
        let described = self.agent.ec2.describe(filter).await?;
        let plugs = described.into_iter().filter_map(|eni| eni.attachment);
        let used: Vec<u32> = plugs
            .filter(|plug| plug.network_card == 0)
            .map(|plug| plug.device_number)
            .collect();
        Ok((0..)
            .find(|number| !used.contains(number))
            .unwrap_or(u32::MAX))
    }

    async fn attach(&self, eni_id: &str, device_number: u32) -> Result<(), Ec2Error> {
        let ec2 = &self.agent.ec2;
        let mut pause = Duration::from_millis(100);
        let attachment = loop {
            match ec2
                .attach(eni_id, &self.agent.instance.id, device_number)
                .await
            {
                // EC2 is eventually consistent: what was just created may not be visible yet.
                Err(error)
                    if error.kind == ErrorKind::NotFound && pause < Duration::from_secs(30) =>
                {
                    sleep(pause).await;
                    pause *= 2;
                }
                other => break other?,
            }
        };
        if let Err(error) = ec2.delete_on_termination(eni_id, &attachment).await {
            tracing::warn!(%error, eni = eni_id, "the ENI will outlive the instance");
        }
        Ok(())
    }

    async fn await_visible(&self, eni_id: &str, like: &NodeEni) -> Result<Found, Ec2Error> {
        let mut pause = Duration::from_millis(100);
        loop {
            match discover::find_new(self.agent.ec2.as_ref(), eni_id, like).await {
                Err(error)
                    if error.kind == ErrorKind::NotFound && pause < Duration::from_secs(30) =>
                {
                    sleep(pause).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
    }

    async fn put_to_use(&self, found: &Found) -> Result<(), ProvisionError> {
        let agent = &self.agent;
        let eni = discover::plug(&agent.node, &agent.config, found).await?;
        discover::enter(&mut agent.lock(), eni, found, Timestamp::now());
        agent.eni_added.notify_one();
        agent
            .refresh_policy()
            .await
            .map_err(|error| ProvisionError::State(error.to_string()))?;
        agent.publisher.changed();
        Ok(())
    }

    /// Deletes an ENI that is attached to nothing.
    async fn discard(&self, eni_id: &str) {
        let mut pause = Duration::from_millis(500);
        while let Err(error) = self.agent.ec2.delete(eni_id).await {
            let gone = error.kind == ErrorKind::NotFound && pause > Duration::from_secs(4);
            if gone || pause > Duration::from_secs(30) {
                tracing::warn!(%error, eni = eni_id, "an ENI was left behind");
                return;
            }
            sleep(pause).await;
            pause *= 2;
        }
        tracing::info!(eni = eni_id, "ENI deleted");
    }

    /// ENIs an earlier life of this agent created and did not attach.
    async fn clear_orphans(&self) {
        let filter = Filter::Orphans(self.agent.instance.id.clone());
        match self.agent.ec2.describe(filter).await {
            Ok(orphans) => {
                for eni in orphans {
                    self.discard(&eni.eni_id).await;
                }
            }
            Err(error) => tracing::warn!(%error, "orphaned ENIs not looked for"),
        }
    }

    /// The dataplane lets go first, then the kernel, then EC2.
    async fn remove_eni(&mut self, eni_id: &str) -> Result<(), ProvisionError> {
        let eni = {
            let mut state = self.agent.lock();
            let drained = state.pool.set_draining(eni_id, true);
            drained.map_err(|error| ProvisionError::State(error.to_string()))?;
            let eni = state.enis.get_mut(eni_id);
            let eni = eni.ok_or_else(|| ProvisionError::State(format!("{eni_id} is unknown")))?;
            eni.leaving = true;
            eni.clone()
        };
        let ticket = self.agent.publisher.changed();
        self.agent
            .publisher
            .settled(ticket, DATAPLANE_PATIENCE)
            .await;
        if let Err(error) = self.detach(eni_id).await {
            let mut state = self.agent.lock();
            // It stays in use; both know it, so neither step can fail.
            let _ = state.pool.set_draining(eni_id, false);
            if let Some(eni) = state.enis.get_mut(eni_id) {
                eni.leaving = false;
            }
            drop(state);
            self.agent.publisher.changed();
            return Err(error.into());
        }
        let table = table_of(eni.device_number);
        let rule = self
            .agent
            .node
            .delete_rule_from(eni.address, table, priority::FROM_ENI)
            .await;
        if let Err(error) = rule {
            tracing::warn!(%error, eni = eni_id, "an ENI's rule was not removed");
        }
        {
            let mut state = self.agent.lock();
            state.enis.remove(eni_id);
            let removed = state.pool.remove_eni(eni_id);
            removed.map_err(|error| ProvisionError::State(error.to_string()))?;
        }
        let refreshed = self.agent.refresh_policy().await;
        refreshed.map_err(|error| ProvisionError::State(error.to_string()))?;
        self.discard(eni_id).await;
        Ok(())
    }

    async fn detach(&self, eni_id: &str) -> Result<(), Ec2Error> {
        let ec2 = &self.agent.ec2;
        let deadline = Instant::now() + DETACH_PATIENCE;
        let mut pause = Duration::from_millis(200);
        let mut asked = false;
        loop {
            let described = ec2.describe(Filter::Eni(eni_id.to_owned())).await?;
            let plug = described.into_iter().find_map(|eni| eni.attachment);
            match plug {
                None => return Ok(()),
                Some(plug) if !asked => ec2.detach(&plug.id).await?,
                Some(_) if Instant::now() < deadline => {}
                Some(_) => {
                    return Err(Ec2Error {
                        call: "DetachNetworkInterface",
                        kind: ErrorKind::Other,
                        code: String::new(),
                        message: format!("{eni_id} is not detached after {DETACH_PATIENCE:?}"),
                    });
                }
            }
            asked = true;
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    fn primary(&self) -> Result<NodeEni, ProvisionError> {
        let primary = self.agent.lock().primary().cloned();
        primary.ok_or_else(|| ProvisionError::State("the primary ENI is not known".to_owned()))
    }

    /// Compares with the cloud: VPC ranges, new ENIs, addresses that came or went.
    async fn refresh(&mut self) {
        self.refreshed = Instant::now();
        let agent = Arc::clone(&self.agent);
        let discovery = match discover::discover(agent.ec2.as_ref(), &agent.instance.id).await {
            Ok(discovery) => discovery,
            Err(error) => {
                tracing::warn!(%error, "the cloud was not looked at; the last good view stands");
                return;
            }
        };
        let strangers = self.reconcile(&discovery);
        for found in strangers {
            if let Err(error) = self.put_to_use(&found).await {
                tracing::error!(%error, eni = %found.eni_id, "a new ENI is not used");
            }
        }
        if let Err(error) = agent.refresh_policy().await {
            tracing::error!(%error, "the kernel's policy is not up to date");
        }
        agent.pool_changed.notify_waiters();
    }

    /// Takes over what the two sources agree on; returns managed ENIs that are not in use yet.
    fn reconcile(&self, discovery: &Discovery) -> Vec<Found> {
        let mut state = self.agent.lock();
        let unmanaged = discovery.enis.iter().filter(|eni| !eni.managed).count();
        state.unmanaged = u32::try_from(unmanaged).unwrap_or(u32::MAX);
        if !discovery.vpc_cidrs.is_empty() && state.vpc_cidrs != discovery.vpc_cidrs {
            tracing::info!(from = ?state.vpc_cidrs, to = ?discovery.vpc_cidrs, "VPC ranges changed");
            state.vpc_cidrs.clone_from(&discovery.vpc_cidrs);
            self.agent.publisher.changed();
        }
        let mut strangers = Vec::new();
        for found in discovery.enis.iter().filter(|eni| eni.managed) {
            let Some(eni) = state.enis.get_mut(&found.eni_id) else {
                if !found.subnet_id.is_empty() {
                    strangers.push(found.clone());
                }
                continue;
            };
            if !found.subnet_id.is_empty() {
                eni.subnet_id.clone_from(&found.subnet_id);
                eni.groups.clone_from(&found.groups);
            }
            for address in &found.secondaries {
                if let Err(error) = state.pool.add_address(&found.eni_id, *address) {
                    tracing::error!(%error, "address left out of the pool");
                }
            }
            let known: Vec<_> = state.pool.addresses(&found.eni_id).collect();
            let vanished = known
                .into_iter()
                .filter(|address| !found.rumoured.contains(address));
            for address in vanished.collect::<Vec<_>>() {
                match state.pool.remove_address(address) {
                    Ok(()) => tracing::warn!(%address, "address is gone from EC2, forgotten"),
                    Err(_) => tracing::error!(%address, "EC2 has lost an address a pod uses; kept"),
                }
            }
        }
        strangers
    }
}

/// Full jitter: anything from nothing to twice the last wait (AWS Architecture Blog, "Exponential backoff and jitter").
fn backoff(failures: u32) -> Duration {
    let ceiling = Duration::from_secs(1 << failures.min(6)).min(MAX_BACKOFF);
    ceiling.mul_f64(rand::rng().random_range(0.0..=1.0))
}
