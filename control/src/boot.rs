//! Start-up, in order: who we are, what the node has, what stood before, the policy; only then is the shim let in.
//!
//! A step that depends on the cloud is tried until it works, because pods that run already need nothing from it. A step
//! that depends on this node and fails is an error a person must look at.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::{sleep, timeout};

use crate::agent::{Agent, Places, Surroundings};
use crate::clock::{MachineClock, Timestamp, boot_id};
use crate::config::{Config, Objects};
use crate::discover::{self, Discovery, Origin, PlugError, Trust};
use crate::ec2::{Ec2, Ec2Error, Instance, known_limits};
use crate::ipam::checkpoint::{self, Checkpoint, Loaded};
use crate::ipam::legacy::{self, Holders};
use crate::ipam::plan::Limits;
use crate::ipam::pool::Pool;
use crate::kubernetes::directory::Directory;
use crate::kubernetes::server::{Server, Settings};
use crate::kubernetes::{Cluster, Kubernetes};
use crate::meter::Meter;
use crate::node::{Node, NodeError, sysctl};
use crate::policy::PolicyError;
use crate::restore::{self, Kernel};
use crate::server;
use crate::state::{Custom, State};

/// Longest wait between attempts to reach the metadata service.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Longest wait for EC2: pods that run already need nothing from it.
pub(crate) const EC2_PATIENCE: Duration = Duration::from_secs(1);
/// Longest wait for the limits of an instance type that is in no table.
const LIMITS_PATIENCE: Duration = Duration::from_secs(10);

/// Pods whose paths are looked after at a time.
const AT_ONCE: usize = 16;

/// Directories and settings of one agent.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Holds both daemons' sockets.
    pub run_dir: PathBuf,
    /// Holds the checkpoint.
    pub state_dir: PathBuf,
    /// Validated settings.
    pub config: Config,
    /// Counts what the agent does.
    pub meter: Arc<Meter>,
}

/// What keeps the agent from starting.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A directory or the checkpoint.
    #[error("{0}: {1}")]
    Files(String, std::io::Error),
    /// The kernel refused a step.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// An ENI cannot be used.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// The kernel's policy cannot be installed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The metadata service shows no primary ENI.
    #[error("no primary ENI with an IPv4 address")]
    NoPrimary,
}

/// Brings the agent to the point where it can serve.
///
/// # Errors
/// What a person must look at.
pub async fn boot(setup: &Setup, ec2: Arc<dyn Ec2>) -> Result<Arc<Agent>, BootError> {
    server::make_private_dir(&setup.state_dir)
        .map_err(|error| BootError::Files(setup.state_dir.display().to_string(), error))?;
    let checkpoint = load(setup)?;
    if let Some(restraint) = &checkpoint.restraint {
        ec2.restrain(restraint);
    }
    let node = Node::open()?;
    let instance = until_done("instance identity", || ec2.instance()).await;
    let discovery = look(setup, ec2.as_ref(), &instance, &checkpoint).await;
    let limits = limits(setup, ec2.as_ref(), &instance, &discovery).await;
    tracing::info!(
        instance = %instance.id, instance_type = %instance.instance_type,
        enis = limits.enis, addresses_per_eni = limits.addresses_per_eni, "this is the node"
    );
    let mut state = State::new(Pool::new(setup.config.cooldown), limits);
    for returned in &checkpoint.returned {
        state.pool.set_returned(returned.what, returned.at);
    }
    if setup.config.custom_networking {
        let why = "custom networking waits for the cluster to show the node";
        state.set_custom(Custom::Unknown(why.to_owned()));
    }
    if discovery.complete {
        state.looked_at_ec2 = Some(Timestamp::now());
    }
    plug_all(&node, setup, &discovery, &mut state).await?;
    settings(&node, setup).await?;
    bring_back(&node, setup, checkpoint, &mut state).await?;
    let places = Places {
        run_dir: &setup.run_dir,
        state_dir: &setup.state_dir,
    };
    let surroundings = Surroundings {
        cluster: Cluster::start(kubernetes(setup, &instance)),
        instance,
        node,
        meter: Arc::clone(&setup.meter),
    };
    let agent = Agent::start(setup.config.clone(), ec2, surroundings, state, places);
    agent.refresh_policy().await?;
    agent
        .journal
        .persist()
        .await
        .map_err(|error| BootError::Files(error, std::io::ErrorKind::Other.into()))?;
    Ok(agent)
}

fn kubernetes(setup: &Setup, instance: &Instance) -> Arc<dyn Kubernetes> {
    let config = &setup.config;
    let node = config.node_name(instance).to_owned();
    match &config.objects {
        Objects::Directory(path) => {
            let path = path.clone();
            let path = path.unwrap_or_else(|| setup.run_dir.join("kubernetes"));
            Arc::new(Directory::new(path, node))
        }
        Objects::Server(endpoint) => Arc::new(Server::new(Settings {
            node,
            endpoint: endpoint.clone(),
            eni_configs: config.custom_networking,
        })),
    }
}

/// The metadata service is needed; EC2 confirms what it says if it answers soon.
async fn look(
    setup: &Setup,
    ec2: &dyn Ec2,
    instance: &Instance,
    checkpoint: &Checkpoint,
) -> Discovery {
    let observed = until_done("ENIs", || discover::observe(ec2)).await;
    if setup.config.imds_only {
        return discover::combine(&observed, None, &Trust::All);
    }
    let told = discover::ask(ec2, instance, &setup.config, (&MachineClock, EC2_PATIENCE)).await;
    let of_pods = checkpoint.attachments.iter().map(|pod| &pod.eni_id);
    let known = of_pods.chain(&checkpoint.enis).cloned().collect();
    discover::combine(&observed, told.as_ref(), &Trust::Known(known))
}

/// What is known from before: of this boot all of it, of an earlier one which addresses were in use; nothing sends
/// [`restore::decide`] to the kernel alone.
fn load(setup: &Setup) -> Result<Checkpoint, BootError> {
    let wrong = |what: &str| {
        let what = format!("{what} in {}", setup.state_dir.display());
        move |error| BootError::Files(what, error)
    };
    let boot = boot_id().map_err(|error| BootError::Files("boot id".to_owned(), error))?;
    match checkpoint::load(&setup.state_dir).map_err(wrong("checkpoint"))? {
        Loaded::Absent => Ok(Checkpoint::default()),
        Loaded::Good(checkpoint) if checkpoint.boot_id == boot => Ok(checkpoint),
        Loaded::Good(stale) => {
            tracing::info!(
                pods = stale.attachments.len(),
                "the checkpoint is of an earlier boot"
            );
            Ok(stale.after_reboot(Timestamp::now()))
        }
        Loaded::Bad { reason, aside } => {
            tracing::error!(
                %reason, aside = %aside.display(),
                "the checkpoint is damaged; rebuilding from the kernel's interfaces and routes"
            );
            Ok(Checkpoint::default())
        }
    }
}

async fn until_done<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, Ec2Error>>,
{
    let mut pause = Duration::from_millis(200);
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => tracing::warn!(%error, "{what} not known yet, trying again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// From the table of common types, else from EC2; without an answer the node keeps what it has and does not grow.
async fn limits(
    setup: &Setup,
    ec2: &dyn Ec2,
    instance: &Instance,
    discovery: &Discovery,
) -> Limits {
    if let Some(limits) = known_limits(&instance.instance_type) {
        return limits;
    }
    let problem = match setup.config.imds_only {
        true => "EC2 is not to be asked".to_owned(),
        false => match timeout(LIMITS_PATIENCE, ec2.limits(&instance.instance_type)).await {
            Ok(Ok(limits)) => return limits,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "EC2 does not answer".to_owned(),
        },
    };
    tracing::error!(
        problem, instance_type = %instance.instance_type,
        "limits unknown; the pool stays as it is until the next start"
    );
    let most = discovery.enis.iter();
    let most = most.map(|eni| eni.secondaries.len() + eni.prefixes.len());
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Limits {
        enis: count(discovery.enis.len()),
        addresses_per_eni: count(most.max().unwrap_or(0)) + 1,
        prefixes: false,
    }
}

async fn plug_all(
    node: &Node,
    setup: &Setup,
    discovery: &Discovery,
    state: &mut State,
) -> Result<(), BootError> {
    state.vpc_cidrs.clone_from(&discovery.vpc_cidrs);
    discover::note_foreign(state, discovery);
    for found in discovery.enis.iter().filter(|found| found.managed) {
        match discover::plug(node, &setup.config, found).await {
            Ok(eni) => discover::enter(state, eni, found, Origin::Present, Timestamp::now()),
            Err(error) if found.device_number == 0 => return Err(error.into()),
            Err(error) => tracing::error!(%error, eni = %found.eni_id, "an ENI is not used"),
        }
    }
    state.primary().map(|_| ()).ok_or(BootError::NoPrimary)
}

async fn settings(node: &Node, setup: &Setup) -> Result<(), BootError> {
    sysctl::write("net/ipv4/ip_forward", "1")?;
    sysctl::reserve_ports(setup.config.snat_ports)?;
    node.set_service_rules(&setup.config.external_service_cidrs)
        .await?;
    Ok(node.add_mark_rule().await?)
}

/// What the VPC CNI has written down, if it ran in this boot: its file lies on a tmpfs.
fn holders(path: &Path) -> Holders {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Holders::new(),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the VPC CNI's checkpoint is not read");
            return Holders::new();
        }
    };
    legacy::parse(&text).unwrap_or_else(|error| {
        tracing::warn!(error, path = %path.display(), "the VPC CNI's checkpoint is not understood");
        Holders::new()
    })
}

/// Takes over what stood before; a pod that runs gets back whatever of its path is missing.
async fn bring_back(
    node: &Node,
    setup: &Setup,
    checkpoint: Checkpoint,
    state: &mut State,
) -> Result<(), BootError> {
    let kernel = Kernel {
        links: node.links().await?,
        routes: node.pod_routes().await?,
        neighbors: node.neighbors().await?,
        holders: holders(&setup.config.backing_store),
    };
    let prefix = &setup.config.veth_prefix;
    let restored = restore::decide(checkpoint, &kernel, prefix, Timestamp::now());
    for path in &restored.gone {
        if let Err(error) = node.remove_pod(path).await {
            tracing::warn!(%error, address = %path.address, "a gone pod's path was not removed");
        }
    }
    for complaint in restore::apply(restored, state) {
        tracing::error!(complaint, "a running pod's address is not in the pool");
    }
    let live = state.records.values().filter(|record| record.is_live());
    let paths: Vec<_> = live.filter_map(State::path_of).collect();
    stream::iter(&paths)
        .for_each_concurrent(AT_ONCE, |path| async move {
            let repaired = match node.prepare_pod(path).await {
                Ok(()) => node.raise_pod(path).await,
                refused => refused,
            };
            if let Err(error) = repaired {
                tracing::error!(%error, address = %path.address, "a running pod's path is incomplete");
            }
        })
        .await;
    let swept = node.sweep_pod_rules(&restore::tables(state)).await?;
    tracing::info!(
        pods = state.records.len(),
        swept_rules = swept,
        "state restored"
    );
    Ok(())
}
