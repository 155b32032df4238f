//! The agent: everything the parts share, and what others may ask about it.
//!
//! Attaching and detaching pods is in [`crate::attach`] and [`crate::detach`], keeping addresses in stock in
//! [`crate::provision`]. No lock is held while waiting for anything outside.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use penstock_control_api::{AttachmentKey, Failure, Request, Response, Status};
use penstock_dataplane_api::SnatMode;
use tokio::sync::{Notify, OwnedMutexGuard};

use crate::clock::{Clock, MachineClock, Timestamp};
use crate::config::Config;
use crate::discover::{self, Found, PlugError};
use crate::ec2::{Ec2, Instance};
use crate::ipam::checkpoint::Checkpoint;
use crate::ipam::plan;
use crate::journal::Journal;
use crate::kubernetes::{Cluster, Event, Subject};
use crate::meter::{self, Meter, Reading};
use crate::node::{Node, NodeError, priority, table_of};
use crate::policy::{self, Policy, PolicyError};
use crate::provision::Site;
use crate::publish::Publisher;
use crate::state::{NodeEni, State};

/// Longest wait for the dataplane before a pod goes on without it.
pub const DATAPLANE_PATIENCE: Duration = Duration::from_secs(1);

/// What the agent is made of.
pub struct Agent {
    /// Settings.
    pub config: Config,
    /// Who we are.
    pub instance: Instance,
    /// The cloud.
    pub ec2: Arc<dyn Ec2>,
    /// The kernel.
    pub node: Node,
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) journal: Journal,
    pub(crate) cluster: Cluster,
    pub(crate) meter: Arc<Meter>,
    pub(crate) publisher: Publisher,
    /// Wakes the pool loop.
    pub(crate) pool_kick: Notify,
    /// Tells waiting ADDs that the pool changed.
    pub(crate) pool_changed: Notify,
    /// Wakes the watch on the kernel: a new ENI's router is to be resolved.
    pub(crate) eni_added: Notify,
    /// ADDs that wait for an address.
    pub(crate) waiting: AtomicU32,
    /// What the last record says of the restraint towards EC2.
    recorded_severity: AtomicU32,
    /// The policy in force.
    pub(crate) policy: tokio::sync::Mutex<Option<InForce>>,
    /// What others changed and the agent put back.
    pub(crate) repairs: Mutex<Repairs>,
    turns: Turns,
    started: Instant,
}

/// A policy and how the kernel shows it.
#[derive(Debug)]
pub(crate) struct InForce {
    policy: Policy,
    listing: Option<String>,
}

/// What others changed and the agent put back, since its start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repairs {
    count: u64,
    last: String,
}

impl Repairs {
    /// Counts one, in the words of the log.
    pub(crate) fn note(&mut self, what: String) {
        self.count += 1;
        self.last = what;
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// Who is around the agent.
#[derive(Debug)]
pub struct Surroundings {
    /// Who we are.
    pub instance: Instance,
    /// The kernel.
    pub node: Node,
    /// The cluster.
    pub cluster: Cluster,
    /// What counts.
    pub meter: Arc<Meter>,
}

/// What [`Agent::start`] needs besides the state.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Holds both daemons' sockets.
    pub run_dir: &'a Path,
    /// Holds the checkpoint.
    pub state_dir: &'a Path,
}

impl Agent {
    /// Puts the parts together and starts the writer and the publisher; must be called inside a tokio runtime.
    #[must_use]
    pub fn start(
        config: Config,
        ec2: Arc<dyn Ec2>,
        surroundings: Surroundings,
        state: State,
        places: Places<'_>,
    ) -> Arc<Self> {
        let Surroundings {
            instance,
            node,
            cluster,
            meter,
        } = surroundings;
        let state = Arc::new(Mutex::new(state));
        let boot_id = crate::clock::boot_id().unwrap_or_default();
        let (shared, asked) = (Arc::clone(&state), Arc::clone(&ec2));
        let journal = Journal::start(places.state_dir.to_owned(), move || Checkpoint {
            restraint: asked.restraint(),
            ..locked(&shared).checkpoint(&boot_id, Timestamp::now())
        });
        let shared = Arc::clone(&state);
        let told = config.clone();
        let name = config.node_name(&instance).to_owned();
        let socket = places.run_dir.join(penstock_dataplane_api::SOCKET_NAME);
        let publisher = Publisher::start(socket, move || {
            locked(&shared).snapshot(&told, &name, Timestamp::now())
        });
        Arc::new(Self {
            config,
            instance,
            ec2,
            node,
            state,
            journal,
            cluster,
            meter,
            publisher,
            pool_kick: Notify::new(),
            pool_changed: Notify::new(),
            eni_added: Notify::new(),
            waiting: AtomicU32::new(0),
            recorded_severity: AtomicU32::new(0),
            policy: tokio::sync::Mutex::new(None),
            repairs: Mutex::default(),
            turns: Turns::default(),
            started: Instant::now(),
        })
    }

    /// Serves one request; failures of the request are an answer.
    pub async fn answer(&self, request: Request) -> Response {
        let (verb, began) = (meter::verb(&request), Instant::now());
        let response = self.serve(request).await;
        self.meter.request(verb, &response, began.elapsed());
        response
    }

    async fn serve(&self, request: Request) -> Response {
        let result = match request {
            Request::Add {
                key,
                pod,
                netns,
                veth_prefix,
            } => {
                let added = self.add(key, pod, netns, &veth_prefix).await;
                added.map(Response::Attachment)
            }
            Request::Confirm {
                key,
                host_ifindex,
                host_mac,
                pod_mac,
                generation,
            } => {
                let link = crate::ipam::PodLink {
                    ifindex: host_ifindex,
                    host_mac,
                    pod_mac: Some(pod_mac),
                };
                let confirmed = self.confirm(&key, link, generation).await;
                confirmed.map(|()| Response::Done)
            }
            Request::Del { key, generation } => {
                self.del(&key, generation).await;
                Ok(Response::Done)
            }
            Request::Check { key } => self.check(&key).await.map(Response::Attachment),
            Request::Status => Ok(Response::Status(Box::new(self.status()))),
            Request::Pods => Ok(Response::Pods(self.lock().pod_rows())),
            Request::Enis => Ok(Response::Enis(self.lock().eni_rows(Timestamp::now()))),
        };
        result.unwrap_or_else(Response::Error)
    }

    /// Health and readiness.
    #[must_use]
    pub fn status(&self) -> Status {
        let progress = self.publisher.progress();
        let state = self.lock();
        let now = Timestamp::now();
        let capacity = plan::capacity(&state.situation(&self.config, 0, now));
        let pool = state.pool.report(now, capacity);
        let trouble = state.trouble().map(|trouble| trouble.text);
        let trouble = trouble.or_else(|| self.ec2.trouble());
        let refused = Some(progress.problem).filter(|problem| !problem.is_empty());
        let problems: Vec<String> = trouble.into_iter().chain(refused).collect();
        let repairs = locked(&self.repairs).clone();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            instance_id: self.instance.id.clone(),
            instance_type: self.instance.instance_type.clone(),
            ready: true,
            problem: problems.join("; "),
            generation: progress.generation,
            dataplane_generation: progress.confirmed,
            pool,
            repairs: repairs.count,
            last_repair: repairs.last,
        }
    }

    /// The state at this moment, as numbers.
    pub(crate) fn reading(&self) -> Reading {
        let progress = self.publisher.progress();
        let restraint = self.ec2.restraint();
        let state = self.lock();
        let now = Timestamp::now();
        let situation = state.situation(&self.config, 0, now);
        let most = plan::usable_enis(situation.targets, situation.limits, situation.unmanaged);
        Reading {
            waiting: self.waiting.load(Ordering::Relaxed),
            severity: restraint.map_or(0, |restraint| restraint.severity),
            generations: (progress.generation, progress.confirmed),
            ..Reading::of(
                &state,
                state.pool.report(now, plan::capacity(&situation)),
                most,
            )
        }
    }

    /// Brings the kernel's policy up to date with the ENIs and VPC ranges; no work when nothing changed.
    ///
    /// # Errors
    /// When `nft` refuses; the previous policy then stays.
    pub async fn refresh_policy(&self) -> Result<(), PolicyError> {
        let Some(wanted) = self.wanted_policy() else {
            return Ok(());
        };
        let mut in_force = self.policy.lock().await;
        if in_force.as_ref().map(|now| &now.policy) == Some(&wanted) {
            return Ok(());
        }
        policy::apply(&wanted).await?;
        tracing::info!(uplinks = ?wanted.uplinks, direct = ?wanted.direct, "kernel policy in force");
        let listing = policy::listing().await?;
        *in_force = Some(InForce {
            policy: wanted,
            listing,
        });
        Ok(())
    }

    /// Installs the policy again if the kernel's differs from what was installed; whether it did.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub(crate) async fn repair_policy(&self) -> Result<bool, PolicyError> {
        let mut in_force = self.policy.lock().await;
        let Some(known) = in_force.as_mut() else {
            return Ok(false);
        };
        if known.listing.is_some() && known.listing == policy::listing().await? {
            return Ok(false);
        }
        policy::apply(&known.policy).await?;
        known.listing = policy::listing().await?;
        Ok(true)
    }

    fn wanted_policy(&self) -> Option<Policy> {
        let state = self.lock();
        let primary = state.primary()?;
        let mut uplinks: Vec<String> = state.enis.values().map(|eni| eni.ifname.clone()).collect();
        uplinks.sort_unstable();
        let exclusions = &self.config.snat_exclusions;
        Some(Policy {
            veth_prefix: self.config.veth_prefix.clone(),
            primary: primary.ifname.clone(),
            uplinks,
            direct: state.vpc_cidrs.iter().chain(exclusions).copied().collect(),
            address: primary.address,
            snat: match self.config.snat_mode {
                SnatMode::Node => Some(self.config.port_choice),
                SnatMode::External => None,
            },
            dataplane_ports: self.config.snat_ports,
            imds: self.config.imds,
            node_ports: self.config.node_ports,
        })
    }

    /// Records how EC2 treats us when that has changed. To be called about once a second.
    pub async fn record_restraint(&self) {
        let severity = self
            .ec2
            .restraint()
            .map_or(0, |restraint| restraint.severity);
        if self.recorded_severity.swap(severity, Ordering::Relaxed) != severity {
            // A failure is logged by the writer, which tries again.
            let _ = self.journal.persist().await;
        }
    }

    /// Keeps addresses in stock, for as long as the agent runs.
    pub async fn keep_in_stock(self: Arc<Self>) {
        crate::provision::keep_in_stock(self).await;
    }

    /// The state. Never keep the guard across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// One request at a time for one attachment.
    pub(crate) async fn turn(&self, key: &AttachmentKey) -> Turn<'_> {
        self.turns.take(key).await
    }

    /// An ADD waits for an address until the guard is dropped.
    pub(crate) fn wait_for_address(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting {
            count: &self.waiting,
        }
    }
}

impl Site for Agent {
    fn config(&self) -> &Config {
        &self.config
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn ec2(&self) -> &dyn Ec2 {
        self.ec2.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn clock(&self) -> &dyn Clock {
        &MachineClock
    }

    fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn warn(&self, reason: &'static str, message: String) {
        self.cluster.warn(Event {
            subject: Subject::Node,
            reason,
            message,
        });
    }

    fn kick(&self) -> &Notify {
        &self.pool_kick
    }

    fn changed(&self) {
        self.pool_changed.notify_waiters();
    }

    fn plug<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Result<NodeEni, PlugError>> {
        Box::pin(async move {
            let eni = discover::plug(&self.node, &self.config, found).await?;
            self.eni_added.notify_one();
            Ok(eni)
        })
    }

    fn unplug<'a>(&'a self, eni: &'a NodeEni) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let table = table_of(eni.device_number);
            let rule = self
                .node
                .delete_rule_from(eni.address, table, priority::FROM_ENI)
                .await;
            if let Err(error) = rule {
                tracing::warn!(%error, eni = %eni.eni_id, "an ENI's rule was not removed");
            }
        })
    }

    fn plugged_in<'a>(&'a self, eni: &'a NodeEni) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let found = self
                .node
                .link_by_mac(eni.mac, &self.config.veth_prefix)
                .await;
            // Not knowing is no reason to let go.
            !matches!(found, Ok(None))
        })
    }

    fn live(&self) -> BoxFuture<'_, Result<HashSet<Ipv4Addr>, NodeError>> {
        Box::pin(async {
            let links = self.node.links().await?;
            let routes = self.node.pod_routes().await?;
            let prefix = &self.config.veth_prefix;
            let pods: HashSet<u32> = links
                .iter()
                .filter(|link| link.veth && link.name.starts_with(prefix))
                .map(|link| link.index)
                .collect();
            let live = routes.into_iter().filter(|(_, oif)| pods.contains(oif));
            Ok(live.map(|(address, _)| address).collect())
        })
    }

    fn publish(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let ticket = self.publisher.changed();
            self.publisher.settled(ticket, DATAPLANE_PATIENCE).await;
            let refreshed = self.refresh_policy().await;
            refreshed.map_err(|error| error.to_string())
        })
    }

    fn persist(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.journal.persist())
    }
}

/// The state is plain data and each change is whole, so a panic elsewhere leaves it usable.
pub(crate) fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`Agent::wait_for_address`].
pub(crate) struct Waiting<'a> {
    count: &'a AtomicU32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Locks by attachment; an entry lives as long as somebody holds or awaits it.
#[derive(Default)]
struct Turns {
    queues: Mutex<HashMap<AttachmentKey, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to work on one attachment.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    key: AttachmentKey,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    async fn take(&self, key: &AttachmentKey) -> Turn<'_> {
        let queue = Arc::clone(self.lock().entry(key.clone()).or_default());
        Turn {
            turns: self,
            key: key.clone(),
            guard: Some(queue.lock_owned().await),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AttachmentKey, Arc<tokio::sync::Mutex<()>>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queues = self.turns.lock();
        self.guard = None;
        // The map's own reference is the last one when nobody awaits this attachment.
        if queues
            .get(&self.key)
            .is_some_and(|queue| Arc::strong_count(queue) == 1)
        {
            queues.remove(&self.key);
        }
    }
}

/// A failure with its cause.
pub(crate) fn failure(code: u32, message: &str, details: impl Into<String>) -> Failure {
    Failure {
        code,
        message: message.to_owned(),
        details: details.into(),
    }
}
