//! The container runtime interface, version 1, as far as a kubelet needs it to run a pod.
//!
//! The messages are declared by hand: a dozen of the interface's two hundred, and only the fields
//! that are set or read here, so that no protocol compiler is needed. Field numbers are those of
//! `runtime/v1/api.proto` (k8s.io/cri-api). Fields that are not declared are skipped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use prost::Message;

use crate::grpc;

/// Longest the runtime is given for one call; the kubelet's own default is two minutes.
const CALL_DEADLINE: Duration = Duration::from_secs(120);

/// One pod as the runtime is told of it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub(crate) metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    pub(crate) hostname: String,
    #[prost(string, tag = "3")]
    pub(crate) log_directory: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) port_mappings: Vec<PortMapping>,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
    #[prost(uint32, tag = "4")]
    pub(crate) attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PortMapping {
    /// 0 is TCP.
    #[prost(int32, tag = "1")]
    pub(crate) protocol: i32,
    #[prost(int32, tag = "2")]
    pub(crate) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(crate) host_port: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    pub(crate) cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodSandboxNetworkStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
}

/// A request that names one sandbox or container, and an answer that does.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

/// One container of a pod.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub(crate) metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    pub(crate) image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    pub(crate) command: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) envs: Vec<KeyValue>,
    #[prost(string, tag = "11")]
    pub(crate) log_path: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ImageSpec {
    #[prost(string, tag = "1")]
    pub(crate) image: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<Id>,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// A runtime's socket; every call has a connection of its own, so that a runtime may restart.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    socket: PathBuf,
}

impl Cri {
    /// A client of the runtime at `socket`.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Whether the runtime answers.
    pub(crate) async fn answers(&self) -> Result<()> {
        self.call::<_, Empty>("Version", Empty {}).await.map(drop)
    }

    pub(crate) async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        let config = Some(config);
        let made: Id = self
            .call("RunPodSandbox", RunPodSandboxRequest { config })
            .await?;
        Ok(made.id)
    }

    /// The address the runtime has for a sandbox.
    pub(crate) async fn address_of(&self, sandbox: &str) -> Result<String> {
        let status: PodSandboxStatusResponse =
            self.call("PodSandboxStatus", Id::of(sandbox)).await?;
        let network = status.status.and_then(|status| status.network);
        Ok(network.context("the runtime knows no address")?.ip)
    }

    /// Creates and starts a container.
    pub(crate) async fn run_container(
        &self,
        sandbox: &str,
        container: ContainerConfig,
        pod: PodSandboxConfig,
    ) -> Result<()> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container),
            sandbox_config: Some(pod),
        };
        let made: Id = self.call("CreateContainer", request).await?;
        self.call::<_, Empty>("StartContainer", made)
            .await
            .map(drop)
    }

    /// Ends a pod's processes and gives its network back.
    pub(crate) async fn stop_sandbox(&self, sandbox: &str) -> Result<()> {
        self.call::<_, Empty>("StopPodSandbox", Id::of(sandbox))
            .await
            .map(drop)
    }

    /// Forgets a pod, its containers included.
    pub(crate) async fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        self.call::<_, Empty>("RemovePodSandbox", Id::of(sandbox))
            .await
            .map(drop)
    }

    /// Ids of all sandboxes, dead or alive.
    pub(crate) async fn sandboxes(&self) -> Result<Vec<String>> {
        let list: ListPodSandboxResponse = self.call("ListPodSandbox", Empty {}).await?;
        Ok(list.items.into_iter().map(|item| item.id).collect())
    }

    async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &'static str,
        request: Q,
    ) -> Result<A> {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let call = grpc::unary(&self.socket, &path, &request);
        let answer = tokio::time::timeout(CALL_DEADLINE, call).await;
        answer
            .context("no answer in time")
            .and_then(|answer| answer)
            .with_context(|| method)
    }
}

impl Id {
    fn of(id: &str) -> Self {
        Self { id: id.to_owned() }
    }
}
