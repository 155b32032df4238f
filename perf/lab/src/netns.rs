//! Named network namespaces, as `ip netns` makes them, without a helper process.
//!
//! A namespace lives as a bind mount under [`DIRECTORY`], so `ip netns exec`, CNI plugins and people
//! find it by name. Guarantees: the calling thread never changes namespace (work runs on a thread
//! of its own, which ends with the work), and an owned namespace is unlinked on drop. Must not:
//! touch the namespace it was called in.
//!
//! Only the network namespace changes: `/sys` stays the machine's and does not show the
//! namespace's interfaces, while `/proc/sys/net` does follow the thread.

use std::fs::{self, File};
use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{Context, Result};
use crate::tool;

/// Where namespaces are mounted, iproute2's NETNS_RUN_DIR.
pub const DIRECTORY: &str = "/run/netns";

/// A named network namespace.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
    owned: bool,
}

impl NetNs {
    /// Creates the namespace `name` with its loopback up; it is deleted when this value drops.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken; `PermissionDenied` without CAP_SYS_ADMIN.
    pub fn create(name: &str) -> Result<Self> {
        fs::create_dir_all(DIRECTORY).context(|| format!("create {DIRECTORY}"))?;
        let path = path_of(name);
        File::create_new(&path).context(|| format!("create namespace {name}"))?;
        if let Err(error) = mount_new(&path) {
            // Leave nothing behind that a second attempt would stumble over.
            let _ = fs::remove_file(&path);
            return Err(error).context(|| format!("create namespace {name}"));
        }
        let file = File::open(&path).context(|| format!("open namespace {name}"))?;
        let netns = Self {
            name: name.to_owned(),
            file,
            owned: true,
        };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// Opens a namespace somebody else owns; dropping this value leaves it alone.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub fn open(name: &str) -> Result<Self> {
        let file = File::open(path_of(name)).context(|| format!("open namespace {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            file,
            owned: false,
        })
    }

    /// Name under [`DIRECTORY`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// File that stands for the namespace; what CNI_NETNS takes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs `work` on a thread inside the namespace and returns what it returned. Sockets, links
    /// and children made by `work` belong to the namespace and may outlive the call.
    ///
    /// # Errors
    /// When the thread cannot be started or may not enter the namespace.
    ///
    /// # Panics
    /// Only when `work` does: the panic is passed on unchanged.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> io::Result<T> {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name(self.name.chars().take(15).collect())
                .spawn_scoped(scope, inside)?;
            thread
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
        .context(|| format!("enter namespace {}", self.name))
    }

    /// Starts `command` inside the namespace.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.run(|| command.spawn())?
            .context(|| format!("start {command:?} in {}", self.name))
    }

    /// Runs `ip` inside the namespace and returns its standard output.
    ///
    /// # Errors
    /// [`crate::Error::Command`] with the program's own words.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        self.tool("ip", arguments)
    }

    /// Runs any program inside the namespace to its end and returns its standard output.
    ///
    /// # Errors
    /// [`crate::Error::Command`] with the program's own words.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run(|| tool::output(program, arguments))?
    }

    /// Sets a sysctl of the namespace, named as under `/proc/sys/net` with slashes.
    ///
    /// # Errors
    /// When there is no such key or the value is refused.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.run(|| fs::write(&path, value))?
            .context(|| format!("set net/{key}={value} in {}", self.name))
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // A lab that was taken down, or swept, has unlinked its namespaces already.
        if self.owned
            && self.path().exists()
            && let Err(error) = delete(&self.name)
        {
            tracing::warn!(name = self.name, %error, "namespace not deleted");
        }
    }
}

/// Unlinks the namespace `name`; the kernel frees it when its last process and socket are gone.
///
/// # Errors
/// `NotFound` when there is none of that name.
pub fn delete(name: &str) -> Result<()> {
    let path = path_of(name);
    // A file without a mount is what a half-made namespace leaves; removing it is all there is to do.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    fs::remove_file(&path).context(|| format!("delete namespace {name}"))
}

/// Names of all namespaces that start with `prefix`.
///
/// # Errors
/// When [`DIRECTORY`] exists and cannot be read.
pub fn list(prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("list {DIRECTORY}"))?,
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect())
}

fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Unshares on a thread of its own and keeps the new namespace by a bind mount on `path`.
fn mount_new(path: &Path) -> io::Result<()> {
    let inside = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(
            Some("/proc/thread-self/ns/net"),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(())
    };
    thread::scope(|scope| {
        scope
            .spawn(inside)
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}
