//! `penstock health`: one word and an exit status, for probes that run a command.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::daemons::Daemons;
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("question").required(true)))]
pub(crate) struct HealthArguments {
    /// Does it answer? A daemon that does not should be started again.
    #[arg(long, group = "question")]
    live: bool,
    /// Can it do its work? One that cannot should be given no new pods.
    #[arg(long, group = "question")]
    ready: bool,
    /// Whose health.
    #[arg(long, value_name = "DAEMON", default_value = "all")]
    of: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whose {
    Control,
    Dataplane,
    All,
}

/// Prints `ok` and succeeds, or fails with what is wrong.
pub(crate) fn run(
    daemons: &Daemons,
    arguments: &HealthArguments,
    output: &mut impl Write,
) -> Result<ExitCode, Failure> {
    if arguments.of != Whose::Dataplane {
        let status = daemons.control_status()?;
        if arguments.ready && !status.ready {
            return Err(Failure::Node(format!(
                "penstock-control is not ready: {}",
                status.problem
            )));
        }
    }
    if arguments.of != Whose::Control {
        let status = daemons.dataplane_status()?;
        if arguments.ready && status.generation == 0 {
            return Err(Failure::Node(
                "penstock-dataplane is not ready: nothing is published yet".to_owned(),
            ));
        }
        if arguments.ready && status.fallback_queues > 0 {
            return Err(Failure::Node(format!(
                "penstock-dataplane is late: the kernel serves {} of its queues",
                status.fallback_queues
            )));
        }
    }
    writeln!(output, "ok")?;
    Ok(ExitCode::SUCCESS)
}
