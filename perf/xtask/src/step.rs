//! One child process with a title, as root when it must be.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// Whether a step needs root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// As the caller.
    User,
    /// As root; through sudo when the caller is not.
    Root,
}

/// A command to run from the top of the repository.
pub(crate) struct Step {
    command: Command,
}

impl Step {
    /// The cargo that runs this xtask.
    pub(crate) fn cargo() -> Self {
        Self::program(
            std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            Privilege::User,
        )
    }

    /// Any program; a relative path with a slash is taken from the repository.
    pub(crate) fn program(program: impl AsRef<OsStr>, privilege: Privilege) -> Self {
        let mut command = if privilege == Privilege::Root && !is_root() {
            let mut sudo = Command::new("sudo");
            sudo.arg("--preserve-env").arg(program);
            sudo
        } else {
            Command::new(program)
        };
        command.current_dir(repository());
        Self { command }
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Has cargo start test executables through sudo, so that the build itself stays the user's.
    pub(crate) fn test_binaries_as_root(mut self) -> Self {
        if !is_root() {
            let target = format!(
                "{}_UNKNOWN_LINUX_GNU",
                std::env::consts::ARCH.to_uppercase()
            );
            self.command.env(
                format!("CARGO_TARGET_{target}_RUNNER"),
                "sudo --preserve-env",
            );
        }
        self
    }

    /// Runs it, with its output passed on.
    ///
    /// # Errors
    /// When it cannot be started or does not succeed; the message names the step.
    pub(crate) fn run(mut self, title: &str) -> Result<()> {
        eprintln!("xtask: {title} ...");
        let started = Instant::now();
        let status = self.command.status().with_context(|| {
            format!(
                "{title}: cannot start {}",
                self.command.get_program().display()
            )
        })?;
        if !status.success() {
            bail!(
                "{title} failed ({status}) after {} s",
                started.elapsed().as_secs()
            );
        }
        eprintln!(
            "xtask: {title} ok, {:.1} s",
            started.elapsed().as_secs_f32()
        );
        Ok(())
    }
}

/// Whether this process may change network namespaces as it is.
pub(crate) fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// Top of the repository: this crate sits two levels below it.
fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
