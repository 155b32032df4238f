//! The dataplane daemon's entry: arguments, logging, run until a signal, exit code.
//!
//! Exit codes: 0 after SIGTERM or SIGINT, 64 (EX_USAGE) for bad arguments, 1 otherwise.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use clap::error::ErrorKind;
use crossbeam::channel;
use penstock_dataplane::args::Args;
use penstock_dataplane::daemon::{self, Daemon};
use penstock_dataplane::logging;

/// EX_USAGE of sysexits.h.
const BAD_ARGUMENTS: u8 = 64;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Nothing better to do when even standard error is closed.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(BAD_ARGUMENTS),
            };
        }
    };
    logging::start(args.log_format);
    let outcome = match args.remove {
        true => daemon::remove(&args),
        false => run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let (stop, stopped) = channel::bounded(1);
    let on_signal = stop.clone();
    // A second signal finds the channel full, which says the same thing.
    ctrlc::set_handler(move || drop(on_signal.try_send(Ok(())))).context("handle signals")?;
    let daemon = Daemon::start(args, move |fatal| drop(stop.try_send(Err(fatal))))?;
    let outcome = stopped.recv().context("wait for a signal")?;
    daemon.stop();
    outcome.map_err(anyhow::Error::msg)
}
