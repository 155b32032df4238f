//! A node of the lab: a namespace with ENIs, the EC2 and metadata endpoints, and, when started,
//! Penstock's own daemons.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use penstock_control_api as control;
use penstock_dataplane_api as dataplane;

use crate::binaries;
use crate::daemon::Daemon;
use crate::error::{Context, Error, Result};
use crate::netns::NetNs;
use crate::pod::{Pod, Runtime};
use crate::registry::Registry;

/// Where the EC2 API listens inside every node.
pub const EC2_ENDPOINT: &str = "127.0.0.1:4599";

/// Where instance metadata listens inside every node.
pub const IMDS_ENDPOINT: &str = "169.254.169.254:80";

/// How long a daemon is given to answer one request.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// How long one readiness probe may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// Which of the node's daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Control,
    Dataplane,
}

impl Part {
    fn binary(self) -> &'static str {
        match self {
            Self::Control => "penstock-control",
            Self::Dataplane => "penstock-dataplane",
        }
    }
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) lab_id: String,
    pub(crate) name: String,
    pub(crate) index: usize,
    pub(crate) netns: Arc<NetNs>,
    pub(crate) instance: ec2_sim::Instance,
    pub(crate) region: String,
    pub(crate) mtu: u32,
    pub(crate) registry: Registry,
}

/// One node.
pub struct Node {
    parts: Parts,
    directory: PathBuf,
    daemons: Mutex<BTreeMap<Part, Daemon>>,
    pods_made: AtomicU64,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Result<Self> {
        let directory = parts.registry.directory().join(&parts.name);
        for part in ["run", "state", "log"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).context(|| format!("create {}", path.display()))?;
        }
        Ok(Self {
            parts,
            directory,
            daemons: Mutex::new(BTreeMap::new()),
            pods_made: AtomicU64::new(0),
        })
    }

    /// `node1`, `node2`, ...
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// Position in [`crate::Lab::nodes`].
    #[must_use]
    pub fn index(&self) -> usize {
        self.parts.index
    }

    /// EC2's name of the instance.
    #[must_use]
    pub fn instance_id(&self) -> &str {
        &self.parts.instance.instance_id
    }

    /// The node's own address: the primary one of its primary ENI.
    #[must_use]
    pub fn primary_address(&self) -> Ipv4Addr {
        self.parts.instance.primary_eni.primary
    }

    /// EC2's name of the primary ENI, which is also the name of its port of the fabric.
    #[must_use]
    pub fn primary_eni(&self) -> &str {
        &self.parts.instance.primary_eni.eni_id
    }

    /// The node's namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.parts.netns
    }

    /// The daemons' `--run-dir`.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// The agent's `--state-dir`.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Everything `penstock-control` has written.
    #[must_use]
    pub fn control_log(&self) -> PathBuf {
        self.log(Part::Control)
    }

    /// Everything `penstock-dataplane` has written.
    #[must_use]
    pub fn dataplane_log(&self) -> PathBuf {
        self.log(Part::Dataplane)
    }

    /// Environment of a process that talks to the lab's cloud as an instance does.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL_EC2", format!("http://{EC2_ENDPOINT}")),
            (
                "AWS_EC2_METADATA_SERVICE_ENDPOINT",
                format!("http://{}", IMDS_ENDPOINT.trim_end_matches(":80")),
            ),
            ("AWS_REGION", self.parts.region.clone()),
            ("AWS_ACCESS_KEY_ID", "lab".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "lab".to_owned()),
            ("AWS_VPC_ENI_MTU", self.parts.mtu.to_string()),
            ("MY_NODE_NAME", self.parts.name.clone()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// Starts `penstock-control` and waits until it is ready to serve ADD; returns how long that
    /// took. `overrides` are environment variables, on top of [`Node::env`].
    ///
    /// # Errors
    /// [`Error::NotReady`] with the end of its log; [`Error::Invalid`] when it runs already.
    pub fn start_control(&self, overrides: &[(&str, &str)]) -> Result<Duration> {
        let mut command = Command::new(binaries::find(Part::Control.binary())?);
        command
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .envs(self.env())
            .envs(overrides.iter().copied());
        self.start(Part::Control, command, || self.probe_control())
    }

    /// Starts `penstock-dataplane` with `arguments` after `--run-dir` and waits until it answers;
    /// returns how long that took.
    ///
    /// # Errors
    /// [`Error::NotReady`] with the end of its log; [`Error::Invalid`] when it runs already.
    pub fn start_dataplane(&self, arguments: &[&str]) -> Result<Duration> {
        let mut command = Command::new(binaries::find(Part::Dataplane.binary())?);
        command
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(arguments.iter().map(OsStr::new));
        self.start(Part::Dataplane, command, || self.probe_dataplane())
    }

    /// Ends `penstock-control` by SIGTERM; success when it does not run.
    ///
    /// # Errors
    /// When it had to be killed or ended with an error.
    pub fn stop_control(&self) -> Result<()> {
        self.take(Part::Control).map_or(Ok(()), Daemon::stop)
    }

    /// Ends `penstock-dataplane` by SIGTERM; success when it does not run.
    ///
    /// # Errors
    /// When it had to be killed or ended with an error.
    pub fn stop_dataplane(&self) -> Result<()> {
        self.take(Part::Dataplane).map_or(Ok(()), Daemon::stop)
    }

    /// SIGKILL; it is gone when this returns.
    pub fn kill_control(&self) {
        drop(self.take(Part::Control));
    }

    /// SIGKILL; it is gone when this returns.
    pub fn kill_dataplane(&self) {
        drop(self.take(Part::Dataplane));
    }

    /// Runs `penstock-dataplane --remove`: what a dead one left goes.
    ///
    /// # Errors
    /// With the program's own words.
    pub fn remove_dataplane(&self) -> Result<()> {
        let program = binaries::find(Part::Dataplane.binary())?;
        let run_dir = self.run_dir();
        let arguments = ["--remove", "--run-dir", &run_dir.to_string_lossy()];
        let program = program.to_string_lossy();
        self.netns().tool(&program, &arguments).map(|_| ())
    }

    /// Sends any signal to `penstock-dataplane`, such as SIGSTOP; nothing when it does not run.
    pub fn signal_dataplane(&self, signal: Signal) {
        if let Some(daemon) = self.lock().get(&Part::Dataplane) {
            daemon.signal(signal);
        }
    }

    /// Process id of `penstock-control`, while it runs.
    #[must_use]
    pub fn control_pid(&self) -> Option<u32> {
        self.pid(Part::Control)
    }

    /// Process id of `penstock-dataplane`, while it runs.
    #[must_use]
    pub fn dataplane_pid(&self) -> Option<u32> {
        self.pid(Part::Dataplane)
    }

    /// Asks the agent.
    ///
    /// # Errors
    /// When it cannot be reached. Its own refusals are a [`control::Response::Error`].
    pub fn control_call(&self, request: &control::Request) -> Result<control::Response> {
        let socket = self.run_dir().join(control::SOCKET_NAME);
        control::client::call(&socket, request, CALL_DEADLINE)
            .context(|| format!("ask penstock-control of {}", self.name()))
    }

    /// Asks the dataplane.
    ///
    /// # Errors
    /// When it cannot be reached. Its own refusals are a [`dataplane::Response::Error`].
    pub fn dataplane_call(&self, request: &dataplane::Request) -> Result<dataplane::Response> {
        let socket = self.run_dir().join(dataplane::SOCKET_NAME);
        dataplane::client::call(&socket, request, CALL_DEADLINE)
            .context(|| format!("ask penstock-dataplane of {}", self.name()))
    }

    /// Makes a pod as a container runtime would: a namespace, then ADD by `penstock-cni`. May be
    /// called from several threads at once.
    ///
    /// # Errors
    /// [`Error::Cni`] with the plugin's words; the namespace is deleted again, and no DEL is run.
    pub fn add_pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        let serial = self.pods_made.fetch_add(1, Ordering::Relaxed);
        let runtime = Runtime {
            node: Arc::clone(&self.parts.netns),
            plugin: binaries::find("penstock-cni")?,
            run_dir: self.run_dir(),
        };
        let netns = NetNs::create(&format!(
            "{}pod-{}-{serial}-{name}",
            crate::registry::prefix(&self.parts.lab_id),
            self.index() + 1
        ))?;
        // Runtimes use 64 hex digits; unique within the machine's life of the lab.
        let container_id = format!(
            "{:08x}{:08x}{serial:048x}",
            std::process::id(),
            self.index() + 1
        );
        Pod::add(runtime, netns, (namespace, name), container_id)
    }

    /// Runs CHECK for a pod.
    ///
    /// # Errors
    /// [`Error::Cni`] with what the plugin found.
    pub fn check_pod(&self, pod: &Pod) -> Result<Duration> {
        pod.check()
    }

    /// Directory of the node's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn start(
        &self,
        part: Part,
        command: Command,
        probe: impl Fn() -> std::result::Result<(), String>,
    ) -> Result<Duration> {
        let mut daemons = self.lock();
        if let Some(running) = daemons.get_mut(&part)
            && running.exited().is_none()
        {
            return Err(Error::Invalid(format!(
                "{} of {} runs already",
                part.binary(),
                self.name()
            )));
        }
        daemons.remove(&part);
        let mut daemon = Daemon::start(
            part.binary(),
            &self.parts.netns,
            command,
            self.log(part),
            &self.parts.registry,
        )?;
        let took = daemon.wait_ready(probe)?;
        daemons.insert(part, daemon);
        Ok(took)
    }

    fn probe_control(&self) -> std::result::Result<(), String> {
        let socket = self.run_dir().join(control::SOCKET_NAME);
        let answer = control::client::call(&socket, &control::Request::Status, PROBE_DEADLINE);
        match answer {
            Ok(control::Response::Status(status)) if status.ready => Ok(()),
            Ok(control::Response::Status(status)) => Err(format!("not ready: {}", status.problem)),
            Ok(other) => Err(format!("answered {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn probe_dataplane(&self) -> std::result::Result<(), String> {
        let socket = self.run_dir().join(dataplane::SOCKET_NAME);
        let answer = dataplane::client::call(&socket, &dataplane::Request::Status, PROBE_DEADLINE);
        match answer {
            Ok(dataplane::Response::Status(_)) => Ok(()),
            Ok(other) => Err(format!("answered {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn take(&self, part: Part) -> Option<Daemon> {
        self.lock().remove(&part)
    }

    fn pid(&self, part: Part) -> Option<u32> {
        let mut daemons = self.lock();
        let daemon = daemons.get_mut(&part)?;
        daemon.exited().is_none().then(|| daemon.pid())
    }

    fn log(&self, part: Part) -> PathBuf {
        let name = format!("{}.log", part.binary());
        self.directory.join("log").join(name)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Part, Daemon>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills what runs.
    pub(crate) fn down(&self) {
        self.lock().clear();
    }
}
