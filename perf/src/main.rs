//! `penstock-perf`: scenarios, generators and reports.
//!
//! Timings are printed, never asserted; the exit code says whether a run was valid, not whether it
//! was fast.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use penstock_perf::scenario::{self, Options};

/// Measures Penstock beside the kernel path, in one interleaved run.
#[derive(Parser)]
#[command(name = "penstock-perf", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Names and purposes of the scenarios.
    List,
    /// Run one scenario.
    Run {
        /// A name that `list` prints.
        name: String,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
        /// Interleaved repeats; the median is quoted.
        #[arg(long, default_value_t = 5)]
        repeats: u32,
        /// Seconds of load per measurement.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("penstock-perf: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether what ran was valid.
fn run(arguments: &Arguments) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match &arguments.verb {
        Verb::List => {
            for scenario in scenario::ALL {
                writeln!(out, "{:<14} {}", scenario.name, scenario.purpose)?;
            }
            Ok(true)
        }
        Verb::Run {
            name,
            json,
            repeats,
            seconds,
        } => {
            let options = Options {
                repeats: *repeats,
                seconds: *seconds,
            };
            let report = scenario::by_name(name)?.run(&options)?;
            if *json {
                serde_json::to_writer(&mut out, &report)?;
                writeln!(out)?;
            } else {
                writeln!(out, "{}", penstock_perf::report::table(&report))?;
            }
            Ok(report.valid)
        }
    }
}
