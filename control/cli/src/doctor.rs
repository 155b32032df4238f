//! `penstock doctor`: reads back everything a node needs, and says what is wrong and what to do.
//!
//! Changes nothing. The settings are those of `kernel-config/knobs.toml` ([`settings`]); what is
//! no setting, such as a route that is missing, is looked for in [`paths`], [`host`] and
//! [`daemons`]. Every check says PASS, NOTE (it would be faster otherwise), WARN or FAIL.

mod daemons;
mod host;
mod paths;
mod settings;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::arguments::Format;
use crate::daemons::Daemons;
use crate::failure::Failure;
use crate::host::Host;
use crate::scene::Scene;
use crate::table::{Column, View, text};

/// The agent's default for PENSTOCK_SNAT_PORTS.
const SNAT_PORTS: &str = "11000-29999";

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Where the host's file system is, seen from a container.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The runtime's directory of network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: String,
    /// The runtime's directory of plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: String,
    /// L4 ports the dataplane translates to, as the agent was told.
    #[arg(long, env = "PENSTOCK_SNAT_PORTS", value_name = "FIRST-LAST", default_value = SNAT_PORTS)]
    snat_ports: String,
    /// Only what is wrong.
    #[arg(short, long)]
    quiet: bool,
    /// Output format.
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        default_value = "table"
    )]
    format: Format,
}

/// What a check comes to, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verdict {
    /// As it should be.
    Pass,
    /// Correct, and could be faster.
    Note,
    /// Trouble under load.
    Warn,
    /// Packets or pods are lost.
    Fail,
}

/// One check of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    verdict: Verdict,
    check: String,
    /// Interface, pod or process; `node` for the whole.
    on: String,
    found: String,
    /// One line; empty when there is nothing to do.
    fix: String,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Note => "NOTE",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

impl Finding {
    fn pass(check: &str, on: &str, found: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Pass,
            check: check.to_owned(),
            on: on.to_owned(),
            found: found.into(),
            fix: String::new(),
        }
    }

    fn bad(
        verdict: Verdict,
        (check, on): (&str, &str),
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            verdict,
            fix: fix.into(),
            ..Self::pass(check, on, found)
        }
    }
}

/// Looks at everything and prints it; the exit status is the worst verdict: 0, 1 for WARN, 2 for
/// FAIL.
pub(crate) fn run(
    daemons: &Daemons,
    arguments: &DoctorArguments,
    output: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let host = Host::at(&arguments.root);
    let scene = Scene::survey(daemons, &arguments.snat_ports)?;
    let mut findings = host::check(&host, &arguments.cni_conf_dir, &arguments.cni_bin_dir);
    findings.extend(daemons::check(&scene));
    findings.extend(paths::check(&scene)?);
    findings.extend(settings::check(&host, &scene)?);
    write(&findings, arguments, output)?;
    Ok(match worst(&findings) {
        Verdict::Pass | Verdict::Note => ExitCode::SUCCESS,
        Verdict::Warn => ExitCode::from(1),
        Verdict::Fail => ExitCode::from(2),
    })
}

fn worst(findings: &[Finding]) -> Verdict {
    let verdicts = findings.iter().map(|finding| finding.verdict);
    verdicts.max().unwrap_or(Verdict::Pass)
}

fn write(
    findings: &[Finding],
    arguments: &DoctorArguments,
    output: &mut impl Write,
) -> std::io::Result<()> {
    const COLUMNS: &[Column] = &[
        text("VERDICT"),
        text("CHECK"),
        text("ON"),
        text("FOUND"),
        text("FIX"),
    ];
    let shown = |finding: &&Finding| !arguments.quiet || finding.verdict >= Verdict::Warn;
    let shown: Vec<&Finding> = findings.iter().filter(shown).collect();
    let row = |finding: &&Finding| {
        vec![
            finding.verdict.word().to_owned(),
            finding.check.clone(),
            finding.on.clone(),
            finding.found.clone(),
            finding.fix.clone(),
        ]
    };
    let view = View {
        json: serde_json::to_value(&shown)?,
        columns: COLUMNS,
        rows: shown.iter().map(row).collect(),
    };
    view.write(arguments.format, true, output)?;
    if arguments.format.is_for_machines() {
        return Ok(());
    }
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    writeln!(
        output,
        "\n{} passed, {} notes, {} warnings, {} failures.",
        count(Verdict::Pass),
        count(Verdict::Note),
        count(Verdict::Warn),
        count(Verdict::Fail)
    )
}

/// `findings`, those of one check that are alike as one line for all.
fn merged(findings: Vec<Finding>, kind: &str) -> Vec<Finding> {
    let mut merged: Vec<(Finding, usize)> = Vec::new();
    for finding in findings {
        let like = |(other, _): &&mut (Finding, usize)| {
            other.verdict == Verdict::Pass
                && finding.verdict == Verdict::Pass
                && (&other.check, &other.found) == (&finding.check, &finding.found)
        };
        match merged.iter_mut().find(like) {
            Some((_, count)) => *count += 1,
            None => merged.push((finding, 1)),
        }
    }
    let named = |(mut finding, count): (Finding, usize)| {
        if count > 1 {
            finding.on = format!("{count} {kind}");
        }
        finding
    };
    merged.into_iter().map(named).collect()
}
