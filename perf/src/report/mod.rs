//! What a run says, and how it is read again.
//!
//! [`Report::brief`] is the object other programs get, in the shape the design fixes (section 6).
//! A saved run is the same object with more: intervals, samples, notes and charts. Every file of
//! runs is a sequence of such objects, one a line.

mod chart;
mod compare;
mod html;
mod plot;
mod summary;

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use chart::{Axis, Chart, Series};
pub use compare::compare;
pub use html::page;
pub use summary::{Detail, summary, verdict};

use crate::stats;
use crate::targets;

/// Result of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// What a reader must know to judge the figures: pinning, ceilings, sharing.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Pictures of it.
    #[serde(default)]
    pub charts: Vec<Chart>,
    /// Seconds it took.
    #[serde(default)]
    pub took_seconds: f64,
}

/// Where a run took place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Processor model.
    pub processor: String,
    /// Processors online.
    pub cores: usize,
    /// What counted cycles, where cycles were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<String>,
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Median over the repeats.
    pub value: f64,
    /// Unit of `value`; `ratio` for a comparison.
    pub unit: String,
    /// What it is compared with, when it is a ratio.
    pub vs: Option<String>,
    /// The design's target, when there is one.
    pub target: Option<Target>,
    /// Computed from `target` alone; absent without one.
    pub met: Option<bool>,
    /// Ends of the 95 % confidence interval of `value`.
    #[serde(default)]
    pub interval: Option<(f64, f64)>,
    /// One value per repeat, in order.
    #[serde(default)]
    pub samples: Vec<f64>,
}

/// A bound on a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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

    /// The bound.
    #[must_use]
    pub fn bound(self) -> f64 {
        match self {
            Self::AtLeast(bound) | Self::AtMost(bound) => bound,
        }
    }
}

impl Figure {
    /// A figure from its repeats.
    #[must_use]
    pub fn new(name: impl Into<String>, unit: &str, samples: &[f64]) -> Self {
        Self {
            name: name.into(),
            value: stats::median(samples),
            unit: unit.to_owned(),
            vs: None,
            target: None,
            met: None,
            interval: (samples.len() > 1).then(|| stats::interval(samples)),
            samples: samples.to_vec(),
        }
    }

    /// Says what the figure is compared with.
    #[must_use]
    pub fn against(mut self, vs: &str) -> Self {
        self.vs = Some(vs.to_owned());
        self
    }

    /// Judges the worst repeat instead of the median: for what must never happen.
    #[must_use]
    pub fn worst(mut self) -> Self {
        self.value = self.samples.iter().copied().fold(f64::NAN, f64::max);
        self
    }

    /// Half the interval's width as a share of the value; 0 for what did not vary.
    #[must_use]
    pub fn uncertainty(&self) -> f64 {
        match self.interval {
            Some((low, high)) if high > low => (high - low) / 2.0 / self.value.abs(),
            _ => 0.0,
        }
    }

    fn hold_to(&mut self, target: Option<Target>) {
        self.target = target;
        self.met = target.map(|target| target.is_met_by(self.value));
    }
}

impl Report {
    /// An empty, valid report of a run on this machine.
    #[must_use]
    pub fn new(scenario: &str) -> Self {
        Self {
            scenario: scenario.to_owned(),
            valid: true,
            why_invalid: Vec::new(),
            machine: Machine::here(),
            commit: commit(),
            figures: Vec::new(),
            notes: Vec::new(),
            charts: Vec::new(),
            took_seconds: 0.0,
        }
    }

    /// Adds a figure and holds it to the target that bears its name, if one does. A value that
    /// is no number makes the run invalid instead: JSON has no word for it.
    pub fn push(&mut self, mut figure: Figure) {
        if !figure.value.is_finite() || figure.samples.iter().any(|sample| !sample.is_finite()) {
            self.invalidate(format!("{} could not be computed", figure.name));
            return;
        }
        let target = targets::of(&self.scenario, &figure.name);
        figure.hold_to(target.map(|row| row.target));
        if let (None, Some(row)) = (&figure.vs, target) {
            figure.vs = Some(row.vs.to_owned());
        }
        self.figures.push(figure);
    }

    /// Says that a validity rule did not hold.
    pub fn invalidate(&mut self, why: impl Into<String>) {
        let why = why.into();
        if !self.why_invalid.contains(&why) {
            self.why_invalid.push(why);
        }
        self.valid = false;
    }

    /// Adds what a reader must know, once.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The figure of that name.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// The object of the design's shape, and nothing besides.
    #[must_use]
    pub fn brief(&self) -> serde_json::Value {
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|figure| {
                serde_json::json!({
                    "name": figure.name, "value": figure.value, "unit": figure.unit,
                    "vs": figure.vs, "target": figure.target, "met": figure.met,
                })
            })
            .collect();
        serde_json::json!({
            "scenario": self.scenario, "valid": self.valid, "why_invalid": self.why_invalid,
            "machine": self.machine, "commit": self.commit, "figures": figures,
        })
    }
}

/// All reports of a file of runs.
///
/// # Errors
/// When it cannot be read or holds something else; the message names file and line.
pub fn load(path: &Path) -> Result<Vec<Report>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::Deserializer::from_str(&text)
        .into_iter::<Report>()
        .collect::<std::result::Result<_, _>>()
        .with_context(|| format!("{} is not a file of runs", path.display()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn met_follows_from_the_target_alone() {
        let mut figure = Figure::new("x", "ratio", &[3.0, 1.0, 2.0]);
        assert_eq!((figure.value, figure.met), (2.0, None));
        figure.hold_to(Some(Target::AtLeast(2.5)));
        assert_eq!(figure.met, Some(false));
        assert_eq!(verdict(&figure), "short by 20 %");
        figure.hold_to(Some(Target::AtMost(2.5)));
        assert_eq!(figure.met, Some(true));
        assert_eq!(figure.worst().value, 3.0);
    }

    #[test]
    fn a_figure_takes_the_target_of_its_name() {
        let mut report = Report::new("cni-add");
        report.push(Figure::new("ADD alone", "ms", &[12.0]));
        report.push(Figure::new("DEL alone", "ms", &[12.0]));
        assert_eq!(report.figures[0].met, Some(true));
        assert_eq!(report.figures[1].target, None);
    }

    #[test]
    fn the_brief_object_has_the_designs_keys_only() {
        let mut report = Report::new("cni-add");
        report.push(Figure::new("ADD alone", "ms", &[12.0, 13.0]));
        let brief = report.brief();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value
                .as_object()
                .map(|map| map.keys().cloned().collect())
                .unwrap_or_default()
        };
        assert_eq!(
            keys(&brief),
            [
                "commit",
                "figures",
                "machine",
                "scenario",
                "valid",
                "why_invalid"
            ]
        );
        assert_eq!(
            keys(&brief["figures"][0]),
            ["met", "name", "target", "unit", "value", "vs"]
        );
        assert_eq!(brief["figures"][0]["target"]["at_most"], 15.0);
    }

    #[test]
    fn runs_of_before_intervals_were_kept_still_load() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs/2026-11-29-pipeline.json");
        let reports = load(&path).expect("the committed run");
        assert_eq!(reports[0].scenario, "pipeline");
        assert!(reports[0].figures.len() > 10);
    }
}
