//! The terminal's summary: what a person reads in ten seconds.

use comfy_table::{Table, presets};

use super::{Figure, Report, Target};

/// How much of a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Comparisons and what has a target.
    Verdicts,
    /// Every figure.
    All,
}

/// One report as text.
#[must_use]
pub fn summary(report: &Report, detail: Detail) -> String {
    let validity = if report.valid {
        "valid".to_owned()
    } else {
        format!("INVALID: {}", report.why_invalid.join("; "))
    };
    let mut text = format!(
        "{} on {} ({} cores, kernel {}), commit {}, {:.0} s: {validity}\n",
        report.scenario,
        report.machine.processor,
        report.machine.cores,
        report.machine.kernel,
        report.commit,
        report.took_seconds,
    );
    for note in &report.notes {
        text.push_str(&format!("  {note}\n"));
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "FIGURE", "MEDIAN", "95 %", "UNIT", "AGAINST", "TARGET", "VERDICT",
    ]);
    let shown = |figure: &&Figure| detail == Detail::All || figure.vs.is_some();
    for figure in report.figures.iter().filter(shown) {
        table.add_row([
            figure.name.clone(),
            number(figure.value),
            interval(figure),
            figure.unit.clone(),
            figure.vs.clone().unwrap_or_default(),
            figure.target.map(bound).unwrap_or_default(),
            verdict(figure),
        ]);
    }
    text.push('\n');
    text.push_str(&table.to_string());
    text
}

pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub(super) fn interval(figure: &Figure) -> String {
    figure.interval.map_or_else(String::new, |(low, high)| {
        format!("{} to {}", number(low), number(high))
    })
}

pub(super) fn bound(target: Target) -> String {
    match target {
        Target::AtLeast(value) => format!(">= {value}"),
        Target::AtMost(value) => format!("<= {value}"),
    }
}

/// `met`, `short by N %`, or nothing without a target. Where the bound is zero, by how much.
#[must_use]
pub fn verdict(figure: &Figure) -> String {
    match (figure.met, figure.target.map(Target::bound)) {
        (Some(true), _) => "met".to_owned(),
        (Some(false), Some(0.0)) => format!("short by {}", number(figure.value)),
        (Some(false), Some(bound)) => {
            format!(
                "short by {:.0} %",
                (1.0 - figure.value / bound).abs() * 100.0
            )
        }
        _ => String::new(),
    }
}
