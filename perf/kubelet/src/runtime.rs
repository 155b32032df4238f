//! containerd and runc, relocated: they run in a node's network namespace and in mount and process
//! namespaces of their own, with all files under one directory.
//!
//! Guarantees: nothing of the host's runtime is used or touched: `/run` and `/var/lib`, which
//! containerd's shims and CNI's cache use under fixed names, are private; when the keeper of the
//! namespaces dies, so does every process in them. Control groups are the one thing that is the
//! machine's: they lie under one parent, which is removed.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use penstock_lab::{Lab, Node, find_binary};

use crate::image;

/// Longest wait for the namespaces and for a tool in them.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Where distributions keep the reference plugins.
const PLUGIN_DIRECTORIES: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Makes the private file systems, then keeps the namespaces and reaps. The bind mount is not
/// recursive: the new `/run` must not contain itself.
const KEEPER: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs penstock /var/lib
mkdir -p "$1/private-run"
mount -t tmpfs penstock "$1/private-run"
mkdir -p "$1/private-run/penstock-lab" "$1/private-run/mount"
mount --bind /run/penstock-lab "$1/private-run/penstock-lab"
mount --move "$1/private-run" /run
touch "$1/kept"
while :; do sleep 60; done
"#;

/// The relocated runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    directory: PathBuf,
    keeper: Child,
    cgroup_parent: String,
}

impl Runtime {
    /// Lays the directory out, has the agent's own `install` put plugin and configuration in place, and makes the
    /// namespaces; containerd does not run yet.
    pub(crate) fn prepare(lab: &Lab, node: &Node, chain: &str) -> Result<Self> {
        let directory = node.directory().join("containerd");
        for part in ["root", "state", "opt", "cni/bin", "cni/net.d", "logs"] {
            fs::create_dir_all(directory.join(part))?;
        }
        fs::write(directory.join("config.toml"), config(&directory))?;
        link_plugins(&directory.join("cni/bin"))?;
        install(node, &directory.join("cni"), chain)?;
        image::write(&directory.join("image.tar"))?;

        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", KEEPER, "keeper"])
            .arg(&directory)
            .stdin(Stdio::null())
            .stdout(File::create(directory.join("keeper.log"))?)
            .stderr(File::create(directory.join("keeper.err"))?);
        let keeper = lab.spawn_recorded(node.netns(), command)?;
        let mut runtime = Self {
            cgroup_parent: format!("/penstock-{}-{}", lab.id(), node.name()),
            directory,
            keeper,
        };
        runtime.wait_kept()?;
        Ok(runtime)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    pub(crate) fn log_directory(&self) -> PathBuf {
        self.directory.join("logs")
    }

    pub(crate) fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    /// Starts containerd; it is not ready yet. It is in a process group of its own, so that Ctrl-C
    /// is for the lab's owner.
    pub(crate) fn start(&self) -> Result<()> {
        // It outlives the shell that started it; its end is the keeper's end.
        let containerd = r#"echo $$ > "$1/containerd.pid"
            exec containerd --config "$1/config.toml" >> "$1/containerd.log" 2>&1"#;
        let mut command = self.inside("sh");
        command
            .args([
                "-c",
                r#"setsid sh -c "$2" containerd "$1" < /dev/null &"#,
                "start",
            ])
            .arg(&self.directory)
            .arg(containerd);
        run(command)
    }

    /// SIGKILL for containerd; its shims and the pods live on.
    pub(crate) fn kill(&self) -> Result<()> {
        let pid = fs::read_to_string(self.directory.join("containerd.pid"))?;
        let mut command = self.inside("sh");
        let script = r#"kill -9 "$1"; while kill -0 "$1" 2> /dev/null; do sleep 0.01; done"#;
        command.args(["-c", script, "kill", pid.trim()]);
        run(command)
    }

    /// Loads the image.
    pub(crate) fn import_image(&self) -> Result<()> {
        let mut command = self.inside("ctr");
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(self.directory.join("image.tar"));
        run(command)
    }

    /// Files and directories below the state directory that pods leave while they run.
    pub(crate) fn pod_files(&self) -> Vec<PathBuf> {
        let kept = ["state/netns", "logs"];
        let list = |part: &str| fs::read_dir(self.directory.join(part)).ok();
        kept.into_iter()
            .filter_map(list)
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect()
    }

    /// The end of what containerd wrote.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.join("containerd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// A program in all namespaces of the runtime.
    fn inside(&self, program: &str) -> Command {
        let namespaces = format!("/proc/{}/ns", self.keeper.id());
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--net={namespaces}/net"))
            .arg(format!("--pid={namespaces}/pid_for_children"))
            .args(["--", program]);
        command
    }

    fn wait_kept(&mut self) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while !self.directory.join("kept").exists() {
            if let Some(status) = self.keeper.try_wait()? {
                let words = fs::read_to_string(self.directory.join("keeper.err"))?;
                bail!("the runtime's namespaces were not made: {status}: {words}");
            }
            ensure!(
                Instant::now() < deadline,
                "namespaces not within {DEADLINE:?}"
            );
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // The kernel ends everything in the process namespace with its first process.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        remove_cgroups(self.cgroup_parent.trim_start_matches('/'));
    }
}

/// Control groups under `name`, in every hierarchy. The kernel takes a moment to let go of them.
fn remove_cgroups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let mut parents: Vec<PathBuf> = hierarchies.map(|entry| entry.path().join(name)).collect();
    parents.push(root.join(name));
    let deadline = Instant::now() + Duration::from_secs(2);
    for parent in parents {
        while parent.exists() && !remove_tree(&parent) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
}

/// Removes directories, deepest first; a control group's files go with it.
fn remove_tree(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(path).is_ok()
}

fn run(mut command: Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}; `cargo xtask packages` installs it"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", words.trim());
    Ok(())
}

/// The reference plugins the runtime and the chain need.
fn link_plugins(directory: &Path) -> Result<()> {
    for name in ["loopback", "portmap", "tuning"] {
        let found = PLUGIN_DIRECTORIES
            .iter()
            .map(|place| Path::new(place).join(name))
            .find(|path| path.exists());
        let found = found.with_context(|| {
            format!("CNI plugin {name} is not here; `cargo xtask packages` installs it")
        })?;
        symlink(found, directory.join(name))?;
    }
    Ok(())
}

/// As on a real node; the agent must be there.
fn install(node: &Node, cni: &Path, chain: &str) -> Result<()> {
    let mut command = Command::new(find_binary("penstock-control")?);
    command
        .arg("--run-dir")
        .arg(node.run_dir())
        .args(["install", "--chain", chain, "--cni-bin-dir"])
        .arg(cni.join("bin"))
        .arg("--cni-conf-dir")
        .arg(cni.join("net.d"))
        .envs(node.env());
    run(command)
}

/// containerd's configuration. `restrict_oom_score_adj`: not every machine that runs tests has
/// CAP_SYS_RESOURCE, and runc fails without.
fn config(directory: &Path) -> String {
    let directory = directory.display();
    let image = image::NAME;
    format!(
        r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{directory}/containerd.sock"
[ttrpc]
  address = "{directory}/ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{directory}/cni/bin"
    conf_dir = "{directory}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
    )
}
