//! Penstock's daemons as children of the lab: start, wait until they answer, stop, kill.
//!
//! Guarantees: a daemon that was started is recorded for the sweep, its output is in a file, and
//! it does not outlive this value. "Ready" means it answered on its socket, never that time passed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Context, Error, Result};
use crate::netns::NetNs;
use crate::registry::Registry;

/// How long a daemon is given to answer after its start.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// How long a daemon is given to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between two looks at the same condition.
const POLL: Duration = Duration::from_millis(5);

/// How much of a log an error quotes.
const TAIL_BYTES: usize = 4096;

/// A running daemon.
pub(crate) struct Daemon {
    name: &'static str,
    node: String,
    child: Child,
    log: PathBuf,
    registry: Registry,
}

impl Daemon {
    /// Starts `command` in `netns` with its output appended to `log`.
    pub(crate) fn start(
        name: &'static str,
        netns: &NetNs,
        mut command: Command,
        log: PathBuf,
        registry: &Registry,
    ) -> Result<Self> {
        let output = append(&log)?;
        let errors = output.try_clone().context(|| "copy a log file")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // A group of its own: Ctrl-C is for the lab's owner, which ends its daemons in order.
        command.process_group(0);
        let child = netns.spawn(command)?;
        registry.record_child(child.id())?;
        Ok(Self {
            name,
            node: netns.name().to_owned(),
            child,
            log,
            registry: registry.clone(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `probe` succeeds; `probe` says why not, for the error.
    pub(crate) fn wait_ready(
        &mut self,
        probe: impl Fn() -> std::result::Result<(), String>,
    ) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let last = match (probe(), self.exited()) {
                (Ok(()), _) => return Ok(started.elapsed()),
                (Err(_), Some(status)) => format!("it ended with {status}"),
                (Err(why), None) if started.elapsed() < READY_DEADLINE => {
                    tracing::trace!(daemon = self.name, why, "not ready yet");
                    thread::sleep(POLL);
                    continue;
                }
                (Err(why), None) => why,
            };
            return Err(Error::NotReady {
                daemon: self.name,
                node: self.node.clone(),
                waited_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                last,
                log: self.log.clone(),
                tail: tail(&self.log),
            });
        }
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end and waits; a daemon that does not listen is killed and reported.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.exited() {
                return self.judge(status);
            }
            thread::sleep(POLL);
        }
        Err(Error::Invalid(format!(
            "{} of {} ignored SIGTERM for {} s and was killed; end of its log:\n{}",
            self.name,
            self.node,
            STOP_DEADLINE.as_secs(),
            tail(&self.log)
        )))
    }

    fn judge(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        Err(Error::Command {
            command: self.name.to_owned(),
            status: status.to_string(),
            output: tail(&self.log),
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // A child that was not waited for keeps its id, so this cannot hit a stranger.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }
}

impl Drop for Daemon {
    /// SIGKILL, and wait: nothing of the daemon runs when this returns.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.registry.forget_child(self.child.id());
    }
}

fn append(log: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .context(|| format!("open {}", log.display()))
}

/// The end of a log, for errors.
pub(crate) fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let start = bytes.len().saturating_sub(TAIL_BYTES);
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}
