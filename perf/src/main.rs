//! `penstock-perf`: scenarios, generators and reports.
//!
//! Timings are printed, never asserted; the exit code says whether a run was valid, not whether it
//! was fast.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use penstock_perf::instructions::{self, Baseline, Case};
use penstock_perf::report::{self, Detail, Report};
use penstock_perf::scenario::{self, Options, Session};

/// Share of instructions by which a path may grow unnoticed.
const TOLERANCE: f64 = 0.02;

/// Flows of the scenario `scale`: the design's million.
const MOST_FLOWS: u32 = 1_000_000;

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
    /// Run scenarios; exit code 1 when one broke a validity rule.
    Run(Run),
    /// Two files of runs side by side; exit code 1 when a ratio moved beyond its interval.
    Compare {
        /// The earlier run.
        before: PathBuf,
        /// The later run.
        after: PathBuf,
    },
    /// One HTML page of files of runs; of one scenario the last run counts.
    Report {
        /// Files that `run --save` wrote.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// Where the page goes.
        #[arg(short, long, default_value = "report.html")]
        output: PathBuf,
    },
    /// Where the processors' time goes in each contestant's turn, as a table of stages.
    Profile {
        /// A name that `list` prints.
        name: String,
        /// Seconds of load per measurement.
        #[arg(long, default_value_t = 1.0, value_parser = seconds)]
        seconds: f64,
        /// Pods on a node.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(4..=200))]
        pods: u32,
    },
    /// Instructions a packet of the engine's paths, counted by single steps.
    Instructions {
        /// Compare with a baseline; exit code 1 when a path takes more.
        #[arg(long, value_name = "FILE")]
        check: Option<PathBuf>,
        /// Write the counts into a baseline, beside those of other profiles.
        #[arg(long, value_name = "FILE", conflicts_with = "check")]
        write: Option<PathBuf>,
    },
    /// The part of `instructions` that is counted.
    #[command(hide = true)]
    Counted {
        /// Which path.
        case: Case,
    },
}

#[derive(Args)]
struct Run {
    /// Names that `list` prints, or `all`.
    #[arg(required = true)]
    names: Vec<String>,
    /// Print one JSON object a scenario instead of a summary.
    #[arg(long)]
    json: bool,
    /// Print every figure, not only comparisons and targets.
    #[arg(long, conflicts_with = "json")]
    full: bool,
    /// Also write everything, samples and charts included, for `compare` and `report`.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Interleaved repeats; the median is quoted.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Seconds of load per measurement.
    #[arg(long, default_value_t = 0.4, value_parser = seconds)]
    seconds: f64,
    /// Numbers of pods on a node.
    #[arg(long, value_delimiter = ',', default_value = "4,110",
          value_parser = clap::value_parser!(u32).range(4..=200))]
    pods: Vec<u32>,
    /// Flows of the scenario `scale`.
    #[arg(long, default_value_t = MOST_FLOWS,
          value_parser = clap::value_parser!(u32).range(1_000..=i64::from(MOST_FLOWS)))]
    flows: u32,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds between 0.01 and 600".to_owned()),
    }
}

fn main() -> ExitCode {
    match dispatch(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("penstock-perf: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether what ran was valid, or what was compared agrees.
fn dispatch(arguments: &Arguments) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match &arguments.verb {
        Verb::List => {
            for scenario in scenario::ALL {
                writeln!(out, "{:<14} {}", scenario.name, scenario.purpose)?;
            }
            Ok(true)
        }
        Verb::Run(arguments) => run(arguments, &mut out),
        Verb::Compare { before, after } => {
            let (text, moved) = report::compare(&report::load(before)?, &report::load(after)?);
            writeln!(out, "{text}")?;
            Ok(moved == 0)
        }
        Verb::Profile {
            name,
            seconds,
            pods,
        } => profile(name, *seconds, *pods, &mut out),
        Verb::Instructions { check, write } => {
            instructions(check.as_deref(), write.as_deref(), &mut out)
        }
        Verb::Counted { case } => {
            instructions::counted(*case)?;
            Ok(true)
        }
        Verb::Report { runs, output } => {
            let mut reports = Vec::new();
            for path in runs {
                reports.extend(report::load(path)?);
            }
            let page = report::page(&reports)?;
            std::fs::write(output, page).with_context(|| format!("write {}", output.display()))?;
            writeln!(out, "{}", output.display())?;
            Ok(true)
        }
    }
}

/// One turn of every contestant at every point of a scenario, sampled.
fn profile(name: &str, seconds: f64, pods: u32, out: &mut impl Write) -> Result<bool> {
    let session = Session::profiled(Options {
        repeats: 1,
        seconds,
        pods: vec![pods],
        flows: MOST_FLOWS,
    });
    scenario::by_name(name)?.run(&session)?;
    let stages = session.stages();
    ensure!(!stages.is_empty(), "{name} has no steady load to profile");
    for (turn, stages) in &stages {
        writeln!(out, "{turn}\n{}\n", stages.table())?;
    }
    Ok(true)
}

/// Returns whether no path takes more instructions than `check` says.
fn instructions(check: Option<&Path>, write: Option<&Path>, out: &mut impl Write) -> Result<bool> {
    let counts = instructions::count(&std::env::current_exe()?)?;
    for (case, count) in &counts {
        writeln!(out, "{case:<10} {count:7.1} instructions a packet")?;
    }
    if let Some(path) = write {
        let mut baseline = if path.exists() {
            Baseline::load(path)?
        } else {
            Baseline::default()
        };
        baseline
            .0
            .insert(instructions::profile().to_owned(), counts);
        let text = serde_json::to_string_pretty(&baseline)? + "\n";
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        return Ok(true);
    }
    let Some(path) = check else {
        return Ok(true);
    };
    let regressions = Baseline::load(path)?.regressions(&counts, TOLERANCE)?;
    for regression in &regressions {
        writeln!(out, "{regression}")?;
    }
    Ok(regressions.is_empty())
}

fn run(arguments: &Run, out: &mut impl Write) -> Result<bool> {
    let scenarios = scenario::by_names(&arguments.names)?;
    let mut save = arguments.save.as_deref().map(create).transpose()?;
    let session = Session::new(Options {
        repeats: arguments.repeats,
        seconds: arguments.seconds,
        pods: arguments.pods.clone(),
        flows: arguments.flows,
    });
    let detail = if arguments.full {
        Detail::All
    } else {
        Detail::Verdicts
    };
    let mut reports = Vec::new();
    for scenario in scenarios {
        let report = scenario
            .run(&session)
            .with_context(|| format!("scenario {}", scenario.name))?;
        if let Some(file) = &mut save {
            serde_json::to_writer(&mut *file, &report)?;
            writeln!(file)?;
            file.flush()?;
        }
        if arguments.json {
            writeln!(out, "{}", report.brief())?;
        } else {
            writeln!(out, "{}\n", report::summary(&report, detail))?;
        }
        reports.push(report);
    }
    if !arguments.json && reports.len() > 1 {
        writeln!(out, "{}", tally(&reports))?;
    }
    Ok(reports.iter().all(|report| report.valid))
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    Ok(BufWriter::new(file))
}

/// The last line of a long run.
fn tally(reports: &[Report]) -> String {
    let verdicts = || reports.iter().flat_map(|report| &report.figures);
    let met = verdicts().filter(|figure| figure.met == Some(true)).count();
    let short = verdicts()
        .filter(|figure| figure.met == Some(false))
        .count();
    let invalid: Vec<&str> = reports
        .iter()
        .filter(|report| !report.valid)
        .map(|report| report.scenario.as_str())
        .collect();
    let mut line = format!("{met} targets met, {short} short");
    if !invalid.is_empty() {
        line.push_str(&format!("; invalid: {}", invalid.join(", ")));
    }
    line
}
