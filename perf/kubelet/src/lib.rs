//! A kubelet in miniature: brings pods up and down by the container runtime interface, on a real
//! containerd that lives inside a node of the lab.
//!
//! Guarantees: what runs is containerd, runc and `penstock-cni` as on a machine in production, the
//! plugin called by the runtime and nobody else; nothing of the host's own runtime is touched; all
//! of it ends with the [`Kubelet`]. Needs root, and Debian's `containerd`, `runc`,
//! `containernetworking-plugins` and `busybox-static`. Must not be used by anything that ships.

mod cri;
mod grpc;
mod image;
mod runtime;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use penstock_lab::{Lab, Node};

use cri::{
    ContainerConfig, ContainerMetadata, Cri, ImageSpec, KeyValue, LinuxPodSandboxConfig,
    PodSandboxConfig, PodSandboxMetadata, PortMapping,
};
pub use image::GREETING;
use runtime::Runtime;

/// Longest containerd is given to answer after its start.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// What a pod is asked to be.
#[derive(Debug, Clone, Default)]
pub struct PodSpec {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Whom `/cgi-bin/outside` asks.
    pub outside: Option<SocketAddrV4>,
    /// Kubernetes annotations.
    pub annotations: BTreeMap<String, String>,
    /// Ports of the node that lead to ports of the pod: (node's, pod's).
    pub host_ports: Vec<(u16, u16)>,
}

/// A pod whose container runs.
#[derive(Debug)]
pub struct Pod {
    /// The runtime's id of the sandbox.
    pub sandbox: String,
    /// The address the runtime has for it.
    pub address: Ipv4Addr,
    /// How long the sandbox took, network included.
    pub sandbox_time: Duration,
}

/// A node's kubelet and runtime.
#[derive(Debug)]
pub struct Kubelet {
    // Dropped in this order: the client, then what it talks to.
    cri: Cri,
    executor: tokio::runtime::Runtime,
    runtime: Runtime,
    uids: AtomicU32,
}

impl Kubelet {
    /// Starts containerd on `node`, whose agent must serve, with the plugins of `chain` (names joined by
    /// commas, as `penstock-control install` takes them) after ours, and loads the image.
    /// May be used from several threads at once.
    ///
    /// # Errors
    /// When a package is missing or containerd does not answer; with the end of its log.
    pub fn start(lab: &Lab, node: &Node, chain: &str) -> Result<Self> {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kubelet")
            .enable_all()
            .build()?;
        let runtime = Runtime::prepare(lab, node, chain)?;
        let cri = Cri::new(runtime.socket());
        let kubelet = Self {
            cri,
            executor,
            runtime,
            uids: AtomicU32::new(0),
        };
        kubelet.start_containerd()?;
        kubelet.runtime.import_image()?;
        Ok(kubelet)
    }

    /// Starts containerd, after [`Self::kill_containerd`], and waits until it answers.
    ///
    /// # Errors
    /// When it does not; with the end of its log.
    pub fn start_containerd(&self) -> Result<()> {
        self.runtime.start()?;
        let answering = async {
            while self.cri.answers().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = self
            .executor
            .block_on(async { tokio::time::timeout(READY_DEADLINE, answering).await });
        if waited.is_err() {
            bail!(
                "containerd does not answer within {READY_DEADLINE:?}: {}",
                self.runtime.log_tail()
            );
        }
        Ok(())
    }

    /// SIGKILL for containerd. Pods live on, as they do on a real node.
    ///
    /// # Errors
    /// When it could not be found.
    pub fn kill_containerd(&self) -> Result<()> {
        self.runtime.kill()
    }

    /// Brings a pod up: sandbox with its network, then a container that serves HTTP. Like a kubelet,
    /// cleans up after a failure and leaves the next try to the caller.
    ///
    /// # Errors
    /// The runtime's words, with the plugin's in them.
    pub fn run(&self, spec: &PodSpec) -> Result<Pod> {
        let config = self.sandbox(spec);
        let started = Instant::now();
        self.executor.block_on(async {
            let sandbox = self.cri.run_sandbox(config.clone()).await?;
            let sandbox_time = started.elapsed();
            let container = container(spec);
            let up = async {
                let running = self.cri.run_container(&sandbox, container, config);
                running.await?;
                let address = self.cri.address_of(&sandbox).await?;
                let address = address.parse().context("the runtime's address")?;
                Ok::<Ipv4Addr, anyhow::Error>(address)
            };
            match up.await {
                Ok(address) => Ok(Pod {
                    sandbox,
                    address,
                    sandbox_time,
                }),
                Err(error) => {
                    self.delete(&sandbox).await?;
                    Err(error)
                }
            }
        })
    }

    /// Takes a sandbox down, whoever made it. Returns how long stopping took, network included.
    ///
    /// # Errors
    /// The runtime's words.
    pub fn remove(&self, sandbox: &str) -> Result<Duration> {
        self.executor.block_on(self.delete(sandbox))
    }

    /// The runtime's ids of all sandboxes, those half made or dead included.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub fn sandboxes(&self) -> Result<Vec<String>> {
        self.executor.block_on(self.cri.sandboxes())
    }

    /// Files that are there only while pods are.
    #[must_use]
    pub fn pod_files(&self) -> Vec<PathBuf> {
        self.runtime.pod_files()
    }

    /// The end of containerd's log, for a test that fails.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.runtime.log_tail()
    }

    async fn delete(&self, sandbox: &str) -> Result<Duration> {
        let started = Instant::now();
        self.cri.stop_sandbox(sandbox).await?;
        let took = started.elapsed();
        self.cri.remove_sandbox(sandbox).await?;
        Ok(took)
    }

    fn sandbox(&self, spec: &PodSpec) -> PodSandboxConfig {
        let uid = self.uids.fetch_add(1, Ordering::Relaxed);
        let mapping = |&(host, pod): &(u16, u16)| PortMapping {
            protocol: 0,
            container_port: pod.into(),
            host_port: host.into(),
        };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: spec.name.clone(),
                uid: format!("00000000-0000-4000-8000-{uid:012}"),
                namespace: spec.namespace.clone(),
                attempt: 0,
            }),
            hostname: spec.name.clone(),
            log_directory: self.runtime.log_directory().display().to_string(),
            port_mappings: spec.host_ports.iter().map(mapping).collect(),
            annotations: spec.annotations.clone(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.runtime.cgroup_parent().to_owned(),
            }),
        }
    }
}

fn container(spec: &PodSpec) -> ContainerConfig {
    let outside = spec.outside.map(|to| format!("{} {}", to.ip(), to.port()));
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "web".to_owned(),
        }),
        image: Some(ImageSpec {
            image: image::NAME.to_owned(),
        }),
        command: image::SERVE.map(str::to_owned).into(),
        envs: vec![KeyValue {
            key: "OUTSIDE".to_owned(),
            value: outside.unwrap_or_default(),
        }],
        log_path: String::new(),
    }
}
