//! Two runs side by side: what agrees within the printed intervals, and what moved.

use comfy_table::{Table, presets};

use super::summary::{interval, number};
use super::{Figure, Report};

/// How a figure moved between two runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// The intervals overlap.
    None,
    /// They do not.
    Moved,
    /// One of them has no interval.
    Unknown,
}

impl Change {
    fn between(before: &Figure, after: &Figure) -> Self {
        match (before.interval, after.interval) {
            (Some((a, b)), Some((c, d))) if a <= d && c <= b => Self::None,
            (Some(_), Some(_)) => Self::Moved,
            _ if before.value == after.value => Self::None,
            _ => Self::Unknown,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::None => "agrees",
            Self::Moved => "MOVED",
            Self::Unknown => "no interval",
        }
    }
}

/// A table of the figures both runs have, and how many of the ratios moved.
#[must_use]
pub fn compare(before: &[Report], after: &[Report]) -> (String, usize) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "SCENARIO", "FIGURE", "BEFORE", "95 %", "AFTER", "95 %", "UNIT", "CHANGE", "VERDICT",
    ]);
    let (mut shared, mut ratios, mut moved) = (0, 0, 0);
    for (old, new) in pairs(before, after) {
        for a in &old.figures {
            let Some(b) = new.figure(&a.name) else {
                continue;
            };
            shared += 1;
            let change = Change::between(a, b);
            let ratio = a.unit == "ratio";
            ratios += usize::from(ratio);
            moved += usize::from(ratio && change == Change::Moved);
            table.add_row([
                old.scenario.clone(),
                a.name.clone(),
                number(a.value),
                interval(a),
                number(b.value),
                interval(b),
                a.unit.clone(),
                percent(a.value, b.value),
                change.word().to_owned(),
            ]);
        }
    }
    let mut text = table.to_string();
    for (old, new) in pairs(before, after) {
        for report in [old, new] {
            if !report.valid {
                text.push_str(&format!(
                    "\n{} at {} was invalid: {}",
                    report.scenario,
                    report.commit,
                    report.why_invalid.join("; ")
                ));
            }
        }
        if old.machine != new.machine {
            text.push_str(&format!(
                "\n{} ran on different machines: only its ratios can be compared",
                old.scenario
            ));
        }
    }
    text.push_str(&format!(
        "\n{shared} figures in both; {moved} of {ratios} ratios moved beyond their intervals"
    ));
    (text, moved)
}

fn pairs<'a>(
    before: &'a [Report],
    after: &'a [Report],
) -> impl Iterator<Item = (&'a Report, &'a Report)> {
    before.iter().filter_map(|old| {
        let new = after.iter().find(|new| new.scenario == old.scenario)?;
        Some((old, new))
    })
}

fn percent(before: f64, after: f64) -> String {
    if before == 0.0 || !before.is_finite() || !after.is_finite() {
        return String::new();
    }
    format!("{:+.1} %", (after / before - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(samples: &[f64]) -> Vec<Report> {
        let mut report = Report::new("x");
        report.push(Figure::new("f", "ratio", samples));
        vec![report]
    }

    #[test]
    fn only_intervals_apart_count_as_moved() {
        let (text, moved) = compare(&run(&[1.0, 1.1, 1.2]), &run(&[1.15, 1.3, 1.4]));
        assert_eq!(moved, 0, "{text}");
        let (text, moved) = compare(&run(&[1.0, 1.1, 1.2]), &run(&[1.25, 1.3, 1.4]));
        assert_eq!(moved, 1, "{text}");
        assert!(text.contains("+18.2 %"), "{text}");
    }
}
