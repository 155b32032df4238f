//! Puts the plugin and its configuration where the container runtime looks, and takes them away again.
//!
//! Guarantees: nothing is installed before the agent can serve ADD and the plugin has run on this host; the
//! configuration, by which the runtime finds all the rest, is last; each file is whole or not there, and a file that is
//! right already is not touched. Nothing is removed while pods are attached, since the runtime needs both files for
//! their DEL. Must not change what another plugin has installed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use penstock_control_api::{Request, Response, SOCKET_NAME, client};
use serde_json::{Value, json};

/// The plugin, in the agent's directory and in the runtime's.
pub const PLUGIN: &str = "penstock-cni";

/// The configuration. Runtimes take the first by name: it comes before the VPC CNI's `10-aws.conflist`, which can stay
/// while a node is migrated.
pub const CONFLIST: &str = "05-penstock.conflist";

/// Network name; pods are found again by it, so it must not change while any are attached.
const NETWORK: &str = "penstock";

/// Longest one question to the agent may take.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// Pause between two questions.
const POLL: Duration = Duration::from_millis(200);

/// Where things go and what the chain is.
#[derive(Debug, Clone)]
pub struct Target {
    /// The runtime's directory of plugins, `/opt/cni/bin` by convention.
    pub bin_dir: PathBuf,
    /// The runtime's directory of network configurations, `/etc/cni/net.d` by convention.
    pub conf_dir: PathBuf,
    /// The agent's run directory as the runtime sees it.
    pub run_dir: PathBuf,
    /// Prefix of host interface names; the agent's.
    pub veth_prefix: String,
    /// Plugins after ours.
    pub chain: Vec<Chained>,
}

/// A plugin that may come after ours, configured as the VPC CNI configures it. `bandwidth` is not among them: it shapes
/// what passes the queue of the host's interface, which what workers deliver does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Chained {
    /// Host ports.
    Portmap,
    /// No IPv6 in pods.
    Tuning,
}

/// Why nothing was changed, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The agent is away or cannot serve yet.
    #[error("the agent is not ready after {waited:?}: {problem}")]
    NotReady {
        /// How long it was waited for.
        waited: Duration,
        /// Its last words.
        problem: String,
    },
    /// The plugin does not run here.
    #[error("{path} does not work on this host: {problem}")]
    Plugin {
        /// Which.
        path: String,
        /// What it did instead of listing its versions.
        problem: String,
    },
    /// A chained plugin is missing: every pod would fail.
    #[error("{name} is not in {directory}; install it or take it out of the chain")]
    Missing {
        /// The plugin.
        name: &'static str,
        /// Where it was looked for.
        directory: String,
    },
    /// Pods need what would be removed.
    #[error("{0}; drain the node first")]
    InUse(String),
    /// A file operation failed.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// What came back.
        cause: io::Error,
    },
}

impl Chained {
    fn name(self) -> &'static str {
        match self {
            Self::Portmap => "portmap",
            Self::Tuning => "tuning",
        }
    }

    fn config(self) -> Value {
        match self {
            Self::Portmap => json!({
                "type": "portmap", "capabilities": { "portMappings": true }, "snat": true,
            }),
            Self::Tuning => json!({
                "type": "tuning",
                "sysctl": {
                    "net.ipv6.conf.all.disable_ipv6": "1",
                    "net.ipv6.conf.default.disable_ipv6": "1",
                    "net.ipv6.conf.lo.disable_ipv6": "1",
                },
            }),
        }
    }
}

impl Target {
    /// Waits for the agent, then puts `plugin` and the configuration in place. Returns whether anything had to change.
    ///
    /// # Errors
    /// [`InstallError`]; the configuration is as it was then.
    pub fn install(&self, plugin: &Path, patience: Duration) -> Result<bool, InstallError> {
        for chained in &self.chain {
            self.require(chained.name())?;
        }
        wait_ready(&self.run_dir, patience)?;
        let bytes = read(plugin)?;
        let path = self.bin_dir.join(PLUGIN);
        let binary = put(&path, &bytes, 0o755, proves_itself)?;
        let conflist = format!("{:#}\n", self.conflist());
        let conflist = put(
            &self.conflist_path(),
            conflist.as_bytes(),
            0o644,
            |_| Ok(()),
        )?;
        Ok(binary || conflist)
    }

    /// Takes the configuration away, then the plugin, if no pod is attached; `force` asks nobody. Gone already is
    /// success.
    ///
    /// # Errors
    /// [`InstallError::InUse`] while pods are attached, or when the agent cannot be asked.
    pub fn uninstall(&self, force: bool) -> Result<(), InstallError> {
        if !force && let Some(reason) = self.in_use() {
            return Err(InstallError::InUse(reason));
        }
        remove(&self.conflist_path())?;
        remove(&self.bin_dir.join(PLUGIN))
    }

    /// The configuration the runtime reads.
    #[must_use]
    pub fn conflist(&self) -> Value {
        let ours = json!({
            "type": PLUGIN,
            "vethPrefix": self.veth_prefix,
            "runDir": self.run_dir,
        });
        let chain = self.chain.iter().map(|chained| chained.config());
        let plugins: Vec<Value> = std::iter::once(ours).chain(chain).collect();
        json!({ "cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins })
    }

    fn conflist_path(&self) -> PathBuf {
        self.conf_dir.join(CONFLIST)
    }

    fn require(&self, name: &'static str) -> Result<(), InstallError> {
        if self.bin_dir.join(name).is_file() {
            return Ok(());
        }
        let directory = self.bin_dir.display().to_string();
        Err(InstallError::Missing { name, directory })
    }

    fn in_use(&self) -> Option<String> {
        let socket = self.run_dir.join(SOCKET_NAME);
        match client::call(&socket, &Request::Pods, CALL_DEADLINE) {
            Ok(Response::Pods(pods)) if pods.is_empty() => None,
            Ok(Response::Pods(pods)) => Some(format!("{} pods are attached", pods.len())),
            Ok(other) => Some(format!("the agent answered {other:?}")),
            Err(error) => Some(format!(
                "the agent cannot be asked whether pods are attached ({}: {error})",
                socket.display()
            )),
        }
    }
}

fn wait_ready(run_dir: &Path, patience: Duration) -> Result<(), InstallError> {
    let socket = run_dir.join(SOCKET_NAME);
    let deadline = Instant::now() + patience;
    loop {
        let problem = match client::call(&socket, &Request::Status, CALL_DEADLINE) {
            Ok(Response::Status(status)) if status.ready => return Ok(()),
            Ok(Response::Status(status)) => status.problem,
            Ok(other) => format!("it answered {other:?}"),
            Err(error) => format!("{}: {error}", socket.display()),
        };
        if Instant::now() >= deadline {
            return Err(InstallError::NotReady {
                waited: patience,
                problem,
            });
        }
        thread::sleep(POLL);
    }
}

/// Asks the plugin for its versions, as a runtime may.
fn proves_itself(path: &Path) -> Result<(), InstallError> {
    let refused = |problem: String| InstallError::Plugin {
        path: path.display().to_string(),
        problem,
    };
    let output = Command::new(path)
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| refused(error.to_string()))?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if answer["supportedVersions"].is_array() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(refused(format!("{}: {}", output.status, words.trim())))
}

/// Writes a file whole and durably, under a name runtimes do not read until `accept` has agreed. Returns whether the
/// file was another one before.
fn put(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    accept: impl FnOnce(&Path) -> Result<(), InstallError>,
) -> Result<bool, InstallError> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Runtimes read *.conf, *.conflist and *.json.
    let draft = directory.join(format!(".{name}.new"));
    let written = (|| -> io::Result<()> {
        fs::create_dir_all(directory)?;
        remove_if_there(&draft)?;
        let mut file = File::create_new(&draft)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    })();
    let renamed = written
        .map_err(|cause| failed("write", &draft, cause))
        .and_then(|()| accept(&draft))
        .and_then(|()| {
            fs::rename(&draft, path).map_err(|cause| failed("put in place", path, cause))
        })
        .and_then(|()| sync(directory));
    if renamed.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&draft);
    }
    renamed.map(|()| true)
}

fn remove(path: &Path) -> Result<(), InstallError> {
    remove_if_there(path).map_err(|cause| failed("remove", path, cause))?;
    match path.parent() {
        Some(directory) if directory.exists() => sync(directory),
        _ => Ok(()),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, InstallError> {
    fs::read(path).map_err(|cause| failed("read", path, cause))
}

fn sync(directory: &Path) -> Result<(), InstallError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|cause| failed("sync", directory, cause))
}

fn failed(what: &str, path: &Path, cause: io::Error) -> InstallError {
    InstallError::Io {
        what: format!("{what} {}", path.display()),
        cause,
    }
}
