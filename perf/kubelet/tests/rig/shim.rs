//! The plugin run as a runtime runs it, without a runtime: any verb, at any time, in any order.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use penstock_lab::{IFNAME, NETWORK, NetNs, Node, find_binary};
use serde_json::{Value, json};

/// One node's plugin.
pub struct Shim {
    node: NetNs,
    plugin: PathBuf,
    run_dir: PathBuf,
}

impl Shim {
    pub fn of(node: &Node) -> Self {
        Self {
            node: NetNs::open(node.netns().name()).expect("node"),
            plugin: find_binary("penstock-cni").expect("plugin"),
            run_dir: node.run_dir(),
        }
    }

    /// The address, or what the plugin said.
    pub fn add(&self, container: &str, pod: &str, sandbox: &NetNs) -> Result<Ipv4Addr, String> {
        let (code, said) = self.run("ADD", (container, pod), Some(sandbox), json!({}));
        let address = said["ips"][0]["address"].as_str().unwrap_or_default();
        match address.strip_suffix("/32").map(str::parse) {
            Some(Ok(address)) if code == 0 => Ok(address),
            _ => Err(format!("ADD of {container}: {said}")),
        }
    }

    /// CNI error code of an ADD; absent when it succeeded.
    pub fn add_code(&self, container: &str, pod: &str, sandbox: &NetNs) -> Option<u64> {
        let (_, said) = self.run("ADD", (container, pod), Some(sandbox), json!({}));
        said["code"].as_u64()
    }

    /// Starts an ADD and kills the plugin, unless it is faster.
    pub fn add_and_kill(
        &self,
        container: &str,
        pod: &str,
        sandbox: &NetNs,
        after: Duration,
    ) -> Result<(), String> {
        let mut child = self
            .start("ADD", (container, pod), Some(sandbox), json!({}))
            .map_err(|error| error.to_string())?;
        thread::sleep(after);
        // Killing what has ended already is an error, and what was wanted.
        let _ = child.kill();
        child.wait().map(drop).map_err(|error| error.to_string())
    }

    pub fn del(&self, container: &str, sandbox: Option<&NetNs>) -> Result<(), String> {
        match self.run("DEL", (container, "any"), sandbox, json!({})) {
            (0, _) => Ok(()),
            (_, said) => Err(format!("DEL of {container}: {said}")),
        }
    }

    /// Starts a DEL and kills the plugin, unless it is faster.
    pub fn del_and_kill(
        &self,
        container: &str,
        sandbox: &NetNs,
        after: Duration,
    ) -> Result<(), String> {
        let mut child = self
            .start("DEL", (container, "any"), Some(sandbox), json!({}))
            .map_err(|error| error.to_string())?;
        thread::sleep(after);
        // Killing what has ended already is an error, and what was wanted.
        let _ = child.kill();
        child.wait().map(drop).map_err(|error| error.to_string())
    }

    /// With the address the pod has now as the earlier result.
    pub fn check(&self, container: &str, sandbox: &NetNs) -> Result<(), String> {
        let address = sandbox.ip(&["-4", "-o", "address", "show", "dev", IFNAME]);
        let address = address.map_err(|error| error.to_string())?;
        let address = address.split_whitespace().nth(3).unwrap_or_default();
        let previous = json!({ "prevResult": {
            "cniVersion": "1.1.0",
            "ips": [{ "address": address }],
            "routes": [{ "dst": "0.0.0.0/0" }],
        } });
        match self.run("CHECK", (container, "any"), Some(sandbox), previous) {
            (0, _) => Ok(()),
            (_, said) => Err(said.to_string()),
        }
    }

    /// GC with these as all that the runtime still has.
    pub fn collect_garbage(&self, valid: &[String]) -> Result<(), String> {
        let entry = |id: &String| json!({ "containerID": id, "ifname": IFNAME });
        let valid: Vec<Value> = valid.iter().map(entry).collect();
        let extra = json!({ "cni.dev/valid-attachments": valid });
        match self.run("GC", ("none", "any"), None, extra) {
            (0, _) => Ok(()),
            (_, said) => Err(said.to_string()),
        }
    }

    /// Exit code and what was printed.
    fn run(
        &self,
        verb: &str,
        who: (&str, &str),
        sandbox: Option<&NetNs>,
        extra: Value,
    ) -> (i32, Value) {
        let child = self.start(verb, who, sandbox, extra).expect("plugin");
        let output: Output = child.wait_with_output().expect("plugin");
        let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().unwrap_or(-1), said)
    }

    fn start(
        &self,
        verb: &str,
        (container, pod): (&str, &str),
        sandbox: Option<&NetNs>,
        extra: Value,
    ) -> std::io::Result<Child> {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": NETWORK, "type": "penstock-cni",
            "vethPrefix": "eni", "runDir": self.run_dir,
        });
        for (key, value) in extra.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let netns = sandbox.map(NetNs::path).unwrap_or_default();
        let mut command = Command::new(&self.plugin);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", IFNAME)
            .env(
                "CNI_ARGS",
                format!("K8S_POD_NAMESPACE=kube;K8S_POD_NAME={pod};IgnoreUnknown=1"),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = self.node.spawn(command).map_err(std::io::Error::other)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that ends without reading is judged by how it ended.
            let _ = stdin.write_all(config.to_string().as_bytes());
        }
        Ok(child)
    }
}
