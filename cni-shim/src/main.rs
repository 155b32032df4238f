//! `penstock-cni`, the CNI plugin: attaches one pod to its node, or detaches it.
//!
//! The agent (`penstock-control`) decides the address, the host interface's name and the MTU; this
//! process builds the veth pair, has the agent make it live, and prints the result. It runs once
//! per pod operation, on one thread, and keeps no state.
//!
//! Guarantees: everything is validated before anything changes; what fails after the address was
//! reserved is undone; DEL succeeds whatever is missing; every read is bounded in size and time;
//! errors leave only through [`report`], as CNI error JSON.
//!
//! Linked statically for hosts whose C library we do not choose:
//! `cargo rustc --release -p penstock-cni --bin penstock-cni -- -C target-feature=+crt-static`.
//! The flag reaches this binary alone, so everything else stays as `cargo build` made it; a plain
//! `cargo build` links it dynamically, which is good for tests.
//!
//! References: CNI specification 1.1.0; Amazon VPC CNI `cmd/routed-eni-cni-plugin`.

mod agent;
mod attach;
mod clock;
mod config;
mod failure;
mod invocation;
mod netns;
mod pod;
mod previous;
mod result;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use penstock_control_api::Failure;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::config::Config;
use crate::failure::{VERSION, failure};
use crate::invocation::{Command, Invocation};

/// Versions of the specification this plugin speaks, oldest first.
const SUPPORTED: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", LATEST];
const LATEST: &str = "1.1.0";

fn main() -> ExitCode {
    let mut version = LATEST.to_owned();
    match run(&mut version) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&version, &failure, &mut io::stdout());
            ExitCode::FAILURE
        }
    }
}

/// Serves one invocation; `version` becomes the caller's as soon as it is known.
fn run(version: &mut String) -> Result<(), Failure> {
    let clock = Clock::new(Instant::now());
    let invocation = Invocation::from_environment()?;
    if invocation.command == Command::Version {
        return print(&versions());
    }
    let config = Config::read(io::stdin())?;
    version.clone_from(&config.version);
    refuse_commands_newer_than_config(invocation.command, version)?;
    match invocation.command {
        Command::Add => attach::add(&invocation, &config, clock),
        Command::Del => attach::del(&invocation, &config),
        Command::Check => attach::check(&invocation, &config),
        Command::Status => agent::status(&config),
        Command::Gc => agent::collect_garbage(&config),
        Command::Version => Ok(()),
    }
}

fn refuse_commands_newer_than_config(command: Command, version: &str) -> Result<(), Failure> {
    let since = match command {
        Command::Check => "0.4.0",
        Command::Status | Command::Gc => "1.1.0",
        _ => return Ok(()),
    };
    // SUPPORTED is in order, and holds both.
    let age = |wanted: &str| SUPPORTED.iter().position(|known| *known == wanted);
    if age(version) >= age(since) {
        return Ok(());
    }
    Err(failure(
        VERSION,
        format!("cniVersion {version} has no {command:?}"),
        format!("set cniVersion to {since} or later"),
    ))
}

/// The answer to VERSION: in the caller's version when it sent one we know.
fn versions() -> Value {
    let asked = Config::read_version(io::stdin()).unwrap_or_else(|| LATEST.to_owned());
    json!({ "cniVersion": asked, "supportedVersions": SUPPORTED })
}

/// Writes a result to standard output.
///
/// # Errors
/// A [`Failure`] when nobody reads it: the runtime will not know of what was done.
fn print(value: &Value) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    writeln!(output, "{value}")
        .and_then(|()| output.flush())
        .map_err(|error| {
            failure(
                failure::IO,
                "cannot write the result to standard output",
                error.to_string(),
            )
        })
}

/// Writes an error as CNI error JSON: the only function that prints one. Nothing can be done when
/// the stream is closed; the exit status says the rest.
fn report(version: &str, failure: &Failure, stream: &mut impl Write) {
    let error = json!({
        "cniVersion": version,
        "code": failure.code,
        "msg": failure.message,
        "details": failure.details,
    });
    let _ = writeln!(stream, "{error}").and_then(|()| stream.flush());
}
