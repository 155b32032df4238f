//! `penstock`, the one command: looks inside a running node, and brings a lab up.
//!
//! It asks the two daemons over their sockets and prints what they say, and reads the node's
//! settings back ([`doctor`]). Only `offload`, `log-level` and [`tune`] change anything; the last
//! records what was there before. A lab ([`lab`]) is namespaces of its own. Standard output carries
//! the answer, standard error the problems, and the exit status the verdict (see [`arguments`]).

mod arguments;
mod daemons;
mod demo;
mod doctor;
mod explain;
mod failure;
mod get;
mod health;
mod host;
mod knob;
mod lab;
mod monitor;
mod scene;
mod status;
mod table;
mod top;
mod tune;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::arguments::{Arguments, Command, USAGE_EXIT};
use crate::daemons::Daemons;
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let refused = error.use_stderr();
            // Nothing to be done when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(if refused { USAGE_EXIT } else { 0 });
        }
    };
    let mut output = io::stdout().lock();
    let outcome = run(&arguments, &mut output).and_then(|code| {
        output.flush()?;
        Ok(code)
    });
    match outcome {
        Ok(code) => code,
        // The reader has seen enough, as `head` does.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = writeln!(io::stderr(), "penstock: {failure}");
            failure.exit_code()
        }
    }
}

fn run(arguments: &Arguments, output: &mut impl Write) -> Result<ExitCode, Failure> {
    let daemons = Daemons::at(&arguments.run_dir);
    match &arguments.command {
        Command::Status { format } => status::show(&daemons, *format, output),
        Command::Get(request) => get::show(&daemons, request, output),
        Command::Offload { setting } => {
            daemons.set_offload((*setting).into())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain(request) => explain::run(&daemons, request, output),
        Command::Monitor(request) => monitor::run(&daemons, request, output),
        Command::Top(request) => top::run(&daemons, request, output),
        Command::Health(request) => health::run(&daemons, request, output),
        Command::LogLevel { filter } => {
            daemons.set_log_filter(filter)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor(request) => doctor::run(&daemons, request, output),
        Command::Tune(request) => tune::run((&daemons, &arguments.run_dir), request, output),
        Command::Lab(command) => lab::run(command, output),
        Command::Version => {
            writeln!(output, "penstock {}", env!("CARGO_PKG_VERSION"))?;
            daemons.versions(output)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory } => {
            std::fs::create_dir_all(directory)?;
            clap_mangen::generate_to(Arguments::command(), directory)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "penstock", output);
            Ok(ExitCode::SUCCESS)
        }
    }
}
