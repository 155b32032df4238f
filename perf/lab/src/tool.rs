//! Runs a system program to its end and keeps what it said.

use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};

/// Standard output of `program` run in the calling thread's namespaces.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let line = || format!("{program} {}", arguments.join(" "));
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context(line)?;
    let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(Error::Command {
        command: line(),
        status: done.status.to_string(),
        output: if stderr.is_empty() { stdout } else { stderr },
    })
}
