//! Pods as a container runtime makes them: a namespace, and the real CNI plugin run on it.
//!
//! Guarantees: the plugin gets the environment, standard input and namespace path a runtime gives
//! it, runs inside the node, and is bounded in time. The pod's namespace is deleted on drop; DEL is
//! the caller's, as it is the runtime's.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Context, Error, Result};
use crate::netns::NetNs;

/// Longest time the plugin is given.
const PLUGIN_DEADLINE: Duration = Duration::from_secs(60);

/// Network name of the configuration the lab's runtime uses.
pub const NETWORK: &str = "penstock";

/// Interface name inside pods.
pub const IFNAME: &str = "eth0";

/// What a runtime knows of a node.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(crate) node: Arc<NetNs>,
    pub(crate) plugin: PathBuf,
    pub(crate) run_dir: PathBuf,
}

/// A pod with its interface.
#[derive(Debug)]
pub struct Pod {
    namespace: String,
    name: String,
    container_id: String,
    address: Ipv4Addr,
    result: Value,
    add_time: Duration,
    netns: NetNs,
    runtime: Runtime,
}

impl Pod {
    /// Makes the namespace and runs ADD.
    pub(crate) fn add(
        runtime: Runtime,
        netns: NetNs,
        (namespace, name): (&str, &str),
        container_id: String,
    ) -> Result<Self> {
        let mut pod = Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            container_id,
            address: Ipv4Addr::UNSPECIFIED,
            result: Value::Null,
            add_time: Duration::ZERO,
            netns,
            runtime,
        };
        let (result, add_time) = pod.plugin("ADD")?;
        pod.address = address_of(&result).ok_or_else(|| Error::Cni {
            verb: "ADD".to_owned(),
            pod: pod.full_name(),
            code: 0,
            message: "the result names no IPv4 address".to_owned(),
            details: result.to_string(),
        })?;
        pod.result = result;
        pod.add_time = add_time;
        Ok(pod)
    }

    /// Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Pod name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// CNI_CONTAINERID.
    #[must_use]
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The address ADD answered.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The pod's namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// ADD's result, as the plugin printed it.
    #[must_use]
    pub fn result(&self) -> &Value {
        &self.result
    }

    /// Name of the host's end of the pod's veth pair, as ADD's result names it.
    #[must_use]
    pub fn host_ifname(&self) -> Option<&str> {
        let interfaces = self.result.get("interfaces")?.as_array()?;
        let on_host = interfaces
            .iter()
            .find(|interface| interface["sandbox"].as_str().is_none_or(str::is_empty))?;
        on_host["name"].as_str()
    }

    /// How long ADD took, from starting the plugin to its end.
    #[must_use]
    pub fn add_time(&self) -> Duration {
        self.add_time
    }

    /// Runs CHECK.
    ///
    /// # Errors
    /// [`Error::Cni`] with what the plugin found.
    pub fn check(&self) -> Result<Duration> {
        self.plugin("CHECK").map(|(_, time)| time)
    }

    /// Runs DEL and deletes the namespace; returns how long DEL took.
    ///
    /// # Errors
    /// [`Error::Cni`] with the plugin's words; the namespace is deleted all the same.
    pub fn del(self) -> Result<Duration> {
        self.plugin("DEL").map(|(_, time)| time)
    }

    /// Runs DEL and keeps the namespace, as runtimes do when they repeat a DEL.
    ///
    /// # Errors
    /// [`Error::Cni`] with the plugin's words.
    pub fn del_only(&self) -> Result<Duration> {
        self.plugin("DEL").map(|(_, time)| time)
    }

    fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn plugin(&self, verb: &str) -> Result<(Value, Duration)> {
        let mut config = json!({
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "type": "penstock-cni",
            "vethPrefix": "eni",
            "runDir": self.runtime.run_dir,
        });
        if !self.result.is_null() {
            config["prevResult"] = self.result.clone();
        }
        let started = Instant::now();
        let output = self.execute(verb, &config.to_string())?;
        let took = started.elapsed();
        if !output.status.success() {
            return Err(self.failure(verb, &output));
        }
        let result = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        Ok((result, took))
    }

    fn execute(&self, verb: &str, config: &str) -> Result<Output> {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={id};\
             K8S_POD_UID={id}",
            self.namespace,
            self.name,
            id = self.container_id
        );
        let mut command = Command::new(&self.runtime.plugin);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.container_id)
            .env("CNI_NETNS", self.netns.path())
            .env("CNI_IFNAME", IFNAME)
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", self.runtime.plugin.with_file_name(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.runtime.node.spawn(command)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that ends without reading is judged by how it ended.
            let _ = stdin.write_all(config.as_bytes());
        }
        finish(child).context(|| format!("run {verb} for {}", self.full_name()))
    }

    fn failure(&self, verb: &str, output: &Output) -> Error {
        let object: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let printed = object["msg"].is_string();
        Error::Cni {
            verb: verb.to_owned(),
            pod: self.full_name(),
            code: object["code"].as_u64().unwrap_or(0),
            message: if printed {
                text("msg")
            } else {
                format!("no error object, {}", output.status)
            },
            details: if printed {
                text("details")
            } else {
                String::from_utf8_lossy(&output.stderr).trim().to_owned()
            },
        }
    }
}

/// Waits for the plugin, and kills it when it takes too long. Its answers fit a pipe's buffer, so
/// nothing needs reading before it ends.
fn finish(mut child: Child) -> std::io::Result<Output> {
    let deadline = Instant::now() + PLUGIN_DEADLINE;
    let mut pause = Duration::from_micros(100);
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
    child.wait_with_output()
}

fn address_of(result: &Value) -> Option<Ipv4Addr> {
    let ips = result.get("ips")?.as_array()?;
    ips.iter().find_map(|ip| {
        let text = ip["address"].as_str()?;
        text.split_once('/')?.0.parse().ok()
    })
}
