//! Start-up, in order: who we are, what the node has, what stood before, the policy; only then is the shim let in.
//!
//! A step that depends on the cloud is tried until it works, because pods that run already need nothing from it. A step
//! that depends on this node and fails is an error a person must look at.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::agent::{Agent, Places};
use crate::clock::{Timestamp, boot_id};
use crate::config::Config;
use crate::discover::{self, Discovery, PlugError};
use crate::ec2::{Ec2, Ec2Error, Instance};
use crate::ipam::checkpoint::{self, Checkpoint, Loaded};
use crate::ipam::plan::Limits;
use crate::ipam::pool::Pool;
use crate::node::{Node, NodeError, sysctl};
use crate::policy::PolicyError;
use crate::restore::{self, Kernel};
use crate::server;
use crate::state::State;

/// Longest wait between attempts to reach the cloud.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Directories and settings of one agent.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Holds both daemons' sockets.
    pub run_dir: PathBuf,
    /// Holds the checkpoint.
    pub state_dir: PathBuf,
    /// Validated settings.
    pub config: Config,
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
    let node = Node::open()?;
    let instance = until_done("instance identity", || ec2.instance()).await;
    let discovery = until_done("ENIs", || discover::discover(ec2.as_ref(), &instance.id)).await;
    let limits = limits(ec2.as_ref(), &instance, &discovery).await;
    tracing::info!(
        instance = %instance.id, instance_type = %instance.instance_type,
        enis = limits.enis, addresses_per_eni = limits.addresses_per_eni, "this is the node"
    );
    let mut state = State::new(Pool::new(setup.config.cooldown), limits);
    plug_all(&node, setup, &discovery, &mut state).await?;
    settings(&node, setup).await?;
    bring_back(&node, setup, checkpoint, &mut state).await?;
    let places = Places {
        run_dir: &setup.run_dir,
        state_dir: &setup.state_dir,
    };
    let agent = Agent::start(setup.config.clone(), (ec2, instance), node, state, places);
    agent.refresh_policy().await?;
    agent
        .journal
        .persist()
        .await
        .map_err(|error| BootError::Files(error, std::io::ErrorKind::Other.into()))?;
    Ok(agent)
}

/// The checkpoint of this boot; `None` sends [`restore::decide`] to the kernel.
fn load(setup: &Setup) -> Result<Option<Checkpoint>, BootError> {
    let wrong = |what: &str| {
        let what = format!("{what} in {}", setup.state_dir.display());
        move |error| BootError::Files(what, error)
    };
    let boot = boot_id().map_err(|error| BootError::Files("boot id".to_owned(), error))?;
    match checkpoint::load(&setup.state_dir).map_err(wrong("checkpoint"))? {
        Loaded::Absent => Ok(None),
        Loaded::Good(checkpoint) if checkpoint.boot_id == boot => Ok(Some(checkpoint)),
        Loaded::Good(stale) => {
            tracing::info!(
                pods = stale.attachments.len(),
                "the checkpoint is of an earlier boot"
            );
            Ok(None)
        }
        Loaded::Bad { reason, aside } => {
            tracing::error!(
                %reason, aside = %aside.display(),
                "the checkpoint is damaged; rebuilding from the kernel's interfaces and routes"
            );
            Ok(None)
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

/// Without an answer the node keeps what it has and does not grow.
async fn limits(ec2: &dyn Ec2, instance: &Instance, discovery: &Discovery) -> Limits {
    match ec2.limits(&instance.instance_type).await {
        Ok(limits) => limits,
        Err(error) => {
            tracing::error!(%error, "limits unknown; the pool stays as it is until the next start");
            let most = discovery
                .enis
                .iter()
                .map(|eni| eni.secondaries.len())
                .max()
                .unwrap_or(0);
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            Limits {
                enis: count(discovery.enis.len()),
                addresses_per_eni: count(most) + 1,
            }
        }
    }
}

async fn plug_all(
    node: &Node,
    setup: &Setup,
    discovery: &Discovery,
    state: &mut State,
) -> Result<(), BootError> {
    state.vpc_cidrs.clone_from(&discovery.vpc_cidrs);
    for found in &discovery.enis {
        if !found.managed {
            state.unmanaged += 1;
            continue;
        }
        match discover::plug(node, &setup.config, found).await {
            Ok(eni) => discover::enter(state, eni, found, Timestamp::now()),
            Err(error) if found.device_number == 0 => return Err(error.into()),
            Err(error) => tracing::error!(%error, eni = %found.eni_id, "an ENI is not used"),
        }
    }
    state.primary().map(|_| ()).ok_or(BootError::NoPrimary)
}

async fn settings(node: &Node, setup: &Setup) -> Result<(), BootError> {
    sysctl::write("net/ipv4/ip_forward", "1")?;
    sysctl::reserve_ports(setup.config.snat_ports)?;
    Ok(node.add_mark_rule().await?)
}

/// Takes over what stood before; a pod that runs gets back whatever of its path is missing.
async fn bring_back(
    node: &Node,
    setup: &Setup,
    checkpoint: Option<Checkpoint>,
    state: &mut State,
) -> Result<(), BootError> {
    let kernel = Kernel {
        links: node.links().await?,
        routes: node.pod_routes().await?,
        neighbors: node.neighbors().await?,
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
    for record in state.records.values().filter(|record| record.is_live()) {
        let Some(path) = State::path_of(record) else {
            continue;
        };
        let repaired = match node.prepare_pod(&path).await {
            Ok(()) => node.raise_pod(&path).await,
            refused => refused,
        };
        if let Err(error) = repaired {
            tracing::error!(%error, address = %path.address, "a running pod's path is incomplete");
        }
    }
    let swept = node.sweep_pod_rules(&restore::tables(state)).await?;
    tracing::info!(
        pods = state.records.len(),
        swept_rules = swept,
        "state restored"
    );
    Ok(())
}
