//! What a run says: one JSON object for machines, one table for people.

use std::process::Command;

use comfy_table::{Table, presets};
use serde::Serialize;

/// Result of one scenario; the shape is fixed by the design (section 6).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Scenario name.
    pub scenario: String,
    /// Whether every validity rule held.
    pub valid: bool,
    /// Each rule that did not hold.
    pub why_invalid: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// Commit of the code.
    pub commit: String,
    /// What was measured.
    pub figures: Vec<Figure>,
}

/// Where a run took place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Processor model.
    pub processor: String,
    /// Processors online.
    pub cores: usize,
    /// What counted cycles, where cycles were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counter: Option<String>,
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Median over the repeats.
    pub value: f64,
    /// Smallest of the repeats.
    pub min: f64,
    /// Largest of the repeats.
    pub max: f64,
    /// Unit of `value`; `ratio` for a comparison.
    pub unit: String,
    /// What it is compared with, when it is a ratio.
    pub vs: Option<String>,
    /// The design's target, when there is one.
    pub target: Option<Target>,
    /// Computed from `target` alone; absent without one.
    pub met: Option<bool>,
}

/// A bound on a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The value must reach it.
    AtLeast(f64),
    /// The value must not exceed it.
    AtMost(f64),
}

impl Target {
    /// Whether `value` satisfies the bound.
    #[must_use]
    pub fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl Figure {
    /// A figure from its repeats.
    #[must_use]
    pub fn new(name: &str, unit: &str, samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (sorted.first().copied(), sorted.last().copied());
        Self {
            name: name.to_owned(),
            value: median(&sorted),
            min: min.unwrap_or(f64::NAN),
            max: max.unwrap_or(f64::NAN),
            unit: unit.to_owned(),
            vs: None,
            target: None,
            met: None,
        }
    }

    /// Says what the figure is compared with, and the bound it is held to.
    #[must_use]
    pub fn against(mut self, vs: &str, target: Option<Target>) -> Self {
        self.vs = Some(vs.to_owned());
        self.target = target;
        self.met = target.map(|target| target.is_met_by(self.value));
        self
    }
}

fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(
                || std::env::consts::ARCH.to_owned(),
                |(_, name)| name.trim().to_owned(),
            );
        Self {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            processor,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            counter: None,
        }
    }
}

/// The commit checked out where this runs, or `unknown`; a dirty tree says so.
#[must_use]
pub fn commit() -> String {
    Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(
            || "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
}

/// The summary a person reads.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "FIGURE", "MEDIAN", "MIN", "MAX", "UNIT", "AGAINST", "TARGET", "VERDICT",
    ]);
    for figure in &report.figures {
        table.add_row([
            figure.name.clone(),
            number(figure.value),
            number(figure.min),
            number(figure.max),
            figure.unit.clone(),
            figure.vs.clone().unwrap_or_default(),
            figure.target.map(bound).unwrap_or_default(),
            verdict(figure),
        ]);
    }
    let validity = if report.valid {
        "valid".to_owned()
    } else {
        format!("INVALID: {}", report.why_invalid.join("; "))
    };
    format!(
        "{} on {} ({} cores, kernel {}), commit {}: {validity}\n\n{table}",
        report.scenario,
        report.machine.processor,
        report.machine.cores,
        report.machine.kernel,
        report.commit,
    )
}

fn number(value: f64) -> String {
    if value.abs() >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn bound(target: Target) -> String {
    match target {
        Target::AtLeast(value) => format!(">= {value}"),
        Target::AtMost(value) => format!("<= {value}"),
    }
}

fn verdict(figure: &Figure) -> String {
    match (figure.met, figure.target) {
        (Some(true), _) => "met".to_owned(),
        (Some(false), Some(Target::AtLeast(value) | Target::AtMost(value))) => {
            format!(
                "short by {:.0} %",
                (1.0 - figure.value / value).abs() * 100.0
            )
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn met_follows_from_the_target_alone() {
        let figure = Figure::new("x", "ratio", &[3.0, 1.0, 2.0]);
        assert_eq!((figure.value, figure.min, figure.max), (2.0, 1.0, 3.0));
        assert_eq!(figure.met, None);
        let at_least = figure.clone().against("y", Some(Target::AtLeast(2.5)));
        assert_eq!(at_least.met, Some(false));
        assert_eq!(verdict(&at_least), "short by 20 %");
        let at_most = figure.against("y", Some(Target::AtMost(2.5)));
        assert_eq!(at_most.met, Some(true));
    }

    #[test]
    fn an_even_number_of_repeats_takes_the_middle() {
        assert_eq!(Figure::new("x", "y", &[4.0, 1.0, 2.0, 3.0]).value, 2.5);
    }
}
