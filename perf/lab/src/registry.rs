//! What a lab leaves on disk so that a later run can remove it after a crash.
//!
//! `/run/penstock-lab/<id>/owner` names the process that owns the lab and `children/<pid>` those it
//! started, each with its start time, because process ids are reused. Guarantees: only a lab whose
//! owner is gone is swept, only processes that are provably the recorded ones are killed, and only
//! namespaces with the lab's prefix are deleted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Context, Error, Result};
use crate::netns;

/// Where labs keep their files.
pub const DIRECTORY: &str = "/run/penstock-lab";

/// How long a killed process is given to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Longest lab id: it is part of namespace names people type.
const ID_MAX: usize = 16;

/// One lab's files.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    id: String,
}

impl Registry {
    /// Claims the id for this process.
    pub(crate) fn claim(id: &str) -> Result<Self> {
        check_id(id)?;
        let directory = directory_of(id);
        if let Some(owner) = owner_of(id)
            && owner.is_alive()
        {
            return Err(Error::Invalid(format!(
                "lab {id} is up already, owned by process {}",
                owner.pid
            )));
        }
        sweep(id)?;
        fs::create_dir_all(directory.join("children"))
            .context(|| format!("create {}", directory.display()))?;
        let registry = Self { id: id.to_owned() };
        let me = Process::current()?;
        fs::write(directory.join("owner"), me.to_string()).context(|| format!("claim lab {id}"))?;
        Ok(registry)
    }

    pub(crate) fn directory(&self) -> PathBuf {
        directory_of(&self.id)
    }

    pub(crate) fn record_child(&self, pid: u32) -> Result<()> {
        let Some(process) = Process::find(pid) else {
            return Ok(()); // Gone before it could be recorded.
        };
        let path = self.directory().join("children").join(pid.to_string());
        fs::write(&path, process.to_string()).context(|| format!("write {}", path.display()))
    }

    pub(crate) fn forget_child(&self, pid: u32) {
        let _ = fs::remove_file(self.directory().join("children").join(pid.to_string()));
    }

    /// Removes everything of the lab, whoever made it.
    pub(crate) fn release(&self) -> Result<()> {
        remove(&self.id)
    }
}

/// Removes what the lab `id` left behind, unless its owner is alive. Returns whether there was
/// anything.
///
/// # Errors
/// When something cannot be removed; what can be is removed all the same.
pub fn sweep(id: &str) -> Result<bool> {
    check_id(id)?;
    if owner_of(id).is_some_and(|owner| owner.is_alive()) {
        return Ok(false);
    }
    let something = directory_of(id).exists() || !netns::list(&prefix(id))?.is_empty();
    if something {
        remove(id)?;
    }
    Ok(something)
}

/// Sweeps every lab whose owner is dead; returns their ids.
///
/// # Errors
/// The first failure, after all labs were tried.
pub fn sweep_stale() -> Result<Vec<String>> {
    let mut swept = Vec::new();
    let mut failed = None;
    for id in list()? {
        match sweep(&id) {
            Ok(true) => swept.push(id),
            Ok(false) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(swept), Err)
}

/// Ids of all labs with files, dead or alive.
///
/// # Errors
/// When [`DIRECTORY`] exists and cannot be read.
pub fn list() -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("list {DIRECTORY}"))?,
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|id| check_id(id).is_ok())
        .collect())
}

/// Prefix of every namespace of a lab.
pub(crate) fn prefix(id: &str) -> String {
    format!("pen-{id}-")
}

fn remove(id: &str) -> Result<()> {
    let directory = directory_of(id);
    kill_children(&directory.join("children"))?;
    let mut failed = None;
    for name in netns::list(&prefix(id))? {
        if let Err(error) = netns::delete(&name) {
            failed = failed.or(Some(error));
        }
    }
    unmount_below(&directory);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {}", directory.display()))
        }
        _ => failed.map_or(Ok(()), Err),
    }
}

/// Takes down the file systems that dataplanes mounted for their pins: what is pinned there is
/// detached by that.
fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for point in points.filter(|point| Path::new(point).starts_with(directory)) {
        // What stays mounted makes the removal fail, which is reported.
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

fn kill_children(directory: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    let recorded: Vec<Process> = entries
        .filter_map(|entry| Process::parse(&fs::read_to_string(entry.ok()?.path()).ok()?))
        .filter(Process::is_alive)
        .collect();
    for process in &recorded {
        let _ = kill(process.pid(), Signal::SIGKILL);
    }
    let deadline = Instant::now() + KILL_DEADLINE;
    while recorded.iter().any(Process::is_alive) {
        if Instant::now() > deadline {
            return Err(Error::Invalid(format!(
                "processes of {} did not die",
                directory.display()
            )));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn owner_of(id: &str) -> Option<Process> {
    Process::parse(&fs::read_to_string(directory_of(id).join("owner")).ok()?)
}

fn directory_of(id: &str) -> PathBuf {
    Path::new(DIRECTORY).join(id)
}

/// Ids go into file names and prefixes: no dash, so that no id's prefix is another's.
fn check_id(id: &str) -> Result<()> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(legal) {
        return Err(Error::Invalid(format!(
            "`{id}` is no lab id: 1 to {ID_MAX} lower-case letters and digits"
        )));
    }
    Ok(())
}

/// A process by id and start time, which together are not reused while the machine is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    /// Clock ticks after boot; field 22 of `/proc/<pid>/stat`.
    started: u64,
}

impl Process {
    fn current() -> Result<Self> {
        Self::find(std::process::id())
            .ok_or_else(|| Error::Invalid("cannot read /proc/self/stat".to_owned()))
    }

    /// `None` when there is no such process or it only waits to be reaped.
    fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything, brackets and spaces included.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, started })
    }

    fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.pid.cast_signed())
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pid, self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let me = Process::current().unwrap();
        assert!(me.is_alive());
        assert_eq!(Process::parse(&me.to_string()), Some(me));
        let impostor = Process {
            started: me.started + 1,
            ..me
        };
        assert!(!impostor.is_alive());
    }

    #[test]
    fn ids_cannot_reach_into_another_labs_names() {
        for id in ["", "a-b", "../x", "A", "aaaaaaaaaaaaaaaaa", "a b"] {
            assert!(check_id(id).is_err(), "{id}");
        }
        assert!(check_id("e2e7").is_ok());
    }
}
