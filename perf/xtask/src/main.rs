//! `cargo xtask demo` and `cargo xtask test`: from a machine with only Rust, git and a C compiler
//! to running traffic, in one command.
//!
//! Guarantees: says what it installs before it does; is safe to run twice; leaves no network
//! namespace, process or file of a lab behind, also after Ctrl-C or a failed earlier run. It must
//! stay small: it is built before anything else is there.

mod packages;
mod step;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use step::{Privilege, Step};

/// Where `build("dev")` leaves the command line.
const DEBUG_CLI: &str = "target/debug/penstock";

const USAGE: &str = "\
usage: cargo xtask <demo|test|perf|packages> [-- ARGS]

  demo       bring up a VPC on this machine, attach pods, watch traffic, prove each claim
             (cargo xtask demo -- --keep leaves it running and prints what to try)
  test       format, lints, unit tests, then the tests that need root and namespaces
  perf       build in release and run `penstock-perf ARGS`
  packages   only install the system packages that the others need
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let rest: Vec<String> = args.skip_while(|arg| arg == "--").collect();
    let started = Instant::now();
    // Children share the terminal's process group and get the signal themselves; this process
    // must outlive them to clean up. The handler only has to exist.
    let outcome = ctrlc::set_handler(|| {})
        .map_err(Into::into)
        .and_then(|()| run(&verb, &rest));
    match outcome {
        Ok(()) => {
            eprintln!("xtask: {verb} done in {} s", started.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &str, rest: &[String]) -> Result<()> {
    match verb {
        "demo" => demo(rest),
        "test" => test(),
        "perf" => perf(rest),
        "packages" => packages::ensure(),
        _ => bail!("unknown command `{verb}`\n\n{USAGE}"),
    }
}

fn demo(rest: &[String]) -> Result<()> {
    packages::ensure()?;
    build("dev", &[])?;
    let outcome = Step::program(DEBUG_CLI, Privilege::Root)
        .args(["lab", "demo"])
        .args(rest)
        .run("demo");
    if !rest.iter().any(|arg| arg == "--keep") {
        sweep(DEBUG_CLI);
    }
    outcome
}

fn test() -> Result<()> {
    packages::ensure()?;
    Step::cargo()
        .args(["fmt", "--all", "--check"])
        .run("format")?;
    Step::cargo()
        .args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ])
        .run("lints")?;
    // With the tests: what only they need widens the features of shared crates, and the AWS SDK
    // would be built once for either set.
    build("dev", &["--tests"])?;
    Step::cargo()
        .args(["test", "--workspace", "--quiet"])
        .run("unit tests")?;
    sweep(DEBUG_CLI);
    let outcome = Step::cargo()
        .args(["test", "--workspace", "--quiet", "--no-fail-fast"])
        .args(["--", "--ignored", "--test-threads=1"])
        .test_binaries_as_root()
        .run("tests in network namespaces");
    sweep(DEBUG_CLI);
    outcome
}

fn perf(rest: &[String]) -> Result<()> {
    packages::ensure()?;
    build("release", &[])?;
    let outcome = Step::program("target/release/penstock-perf", Privilege::Root)
        .args(rest)
        .run("perf");
    sweep("target/release/penstock");
    outcome
}

/// Builds every binary, and what `besides` names; the shim is linked statically, since it runs on
/// hosts whose C library we do not choose.
fn build(profile: &str, besides: &[&str]) -> Result<()> {
    Step::cargo()
        .args(["build", "--workspace", "--bins", "--profile", profile])
        .args(besides)
        .run(&format!("build ({profile})"))?;
    Step::cargo()
        .args([
            "rustc",
            "--package",
            "penstock-cni",
            "--bin",
            "penstock-cni",
        ])
        .args([
            "--profile",
            profile,
            "--",
            "-C",
            "target-feature=+crt-static",
        ])
        .run("link the shim statically")
}

/// Removes what a lab left behind that died without cleaning up; a live lab is not touched.
/// `cli` is the `penstock` that was just built.
fn sweep(cli: &str) {
    let swept = Step::program(cli, Privilege::Root)
        .args(["lab", "sweep"])
        .run("clean up");
    if let Err(error) = swept {
        eprintln!("xtask: {error:#}; `penstock lab sweep` can be run again by hand");
    }
}
