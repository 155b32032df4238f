//! The report as one HTML page: no script, no font and no picture from anywhere else.

use std::collections::BTreeSet;

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::summary::{bound, interval, number};
use super::{Figure, Report, plot, verdict};
use crate::targets;

const STYLE: &str = "
:root { color-scheme: light; --ink: #22272e; --soft: #5c6672; --line: #e3e6ea; --good: #1a7f4b; --bad: #b3261e; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; max-width: 1180px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { margin-top: 2.6rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
p.soft, .soft { color: var(--soft); } nav a { margin-right: 1rem; color: #1b5faa; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { text-align: left; padding: .28rem .7rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: .85rem; } td.n, th.n { text-align: right; }
.met { color: var(--good); font-weight: 600; } .short { color: var(--bad); font-weight: 600; } .none { color: var(--soft); }
.flag { border-left: 4px solid var(--bad); background: #fdf3f2; padding: .5rem .9rem; margin: .8rem 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(520px, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; } ul { padding-left: 1.2rem; }
details summary { cursor: pointer; color: var(--soft); margin: .5rem 0; } .scroll { overflow-x: auto; }
";

/// The page for some runs; of one scenario the last run counts.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn page(runs: &[Report]) -> Result<String> {
    let reports = latest(runs);
    let sections = reports
        .iter()
        .map(|report| section(report))
        .collect::<Result<Vec<_>>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Penstock: measured" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Penstock: measured" }
                (where_it_ran(&reports))
                nav { a href="#targets" { "Targets" } @for report in &reports {
                    a href={ "#" (report.scenario) } { (report.scenario) }
                } }
                (targets_table(&reports))
                @for section in sections { (section) }
            }
        }
    };
    Ok(page.into_string())
}

fn latest(runs: &[Report]) -> Vec<&Report> {
    let mut latest: Vec<&Report> = Vec::new();
    for run in runs {
        match latest.iter_mut().find(|held| held.scenario == run.scenario) {
            Some(held) => *held = run,
            None => latest.push(run),
        }
    }
    latest
}

fn where_it_ran(reports: &[&Report]) -> Markup {
    let places: BTreeSet<String> = reports
        .iter()
        .map(|report| {
            let machine = &report.machine;
            format!(
                "{}, {} cores, kernel {}, commit {}",
                machine.processor, machine.cores, machine.kernel, report.commit
            )
        })
        .collect();
    html! {
        @for place in places { p.soft { (place) } }
        p.soft {
            "Values are medians of interleaved repeats with 95 % bootstrap intervals; ratios are of "
            "repeats taken in turns. A scenario that broke a validity rule says so and proves nothing."
        }
    }
}

fn targets_table(reports: &[&Report]) -> Markup {
    let rows: Vec<_> = targets::all()
        .iter()
        .map(|row| {
            let report = reports
                .iter()
                .find(|report| report.scenario == row.scenario);
            (
                row,
                report,
                report.and_then(|report| report.figure(&row.figure)),
            )
        })
        .collect();
    let measured = rows.iter().filter(|(.., figure)| figure.is_some()).count();
    let met = rows
        .iter()
        .filter(|(.., figure)| figure.is_some_and(|figure| figure.met == Some(true)))
        .count();
    html! {
        h2 id="targets" { "Every target" }
        p { b { (met) " met, " (measured - met) " short, " (rows.len() - measured) " not measured" } }
        div.scroll { table {
            tr { th { "Scenario" } th { "Figure" } th.n { "Measured" } th.n { "95 %" } th { "Unit" }
                 th.n { "Target" } th { "Against" } th { "Verdict" } }
            @for (row, report, figure) in rows {
                tr {
                    td { a href={ "#" (row.scenario) } { (row.scenario) } }
                    td { (row.figure) }
                    @match figure {
                        Some(figure) => {
                            td.n { (number(figure.value)) } td.n { (interval(figure)) } td { (figure.unit) }
                            td.n { (bound(row.target)) } td { (row.vs) }
                            td { (judged(figure)) @if report.is_some_and(|report| !report.valid) { span.none { " (invalid run)" } } }
                        }
                        None => {
                            td {} td {} td {} td.n { (bound(row.target)) } td { (row.vs) }
                            td { span.none { "not measured" } }
                        }
                    }
                }
            }
        } }
    }
}

fn judged(figure: &Figure) -> Markup {
    let class = match figure.met {
        Some(true) => "met",
        Some(false) => "short",
        None => "none",
    };
    html! { span class=(class) { (verdict(figure)) } }
}

fn section(report: &Report) -> Result<Markup> {
    let charts = report
        .charts
        .iter()
        .map(plot::svg)
        .collect::<Result<Vec<_>>>()?;
    Ok(html! {
        h2 id=(report.scenario) { (report.scenario) }
        @if !report.valid {
            div.flag { b { "Invalid. " } (report.why_invalid.join("; ")) }
        }
        @if !report.notes.is_empty() {
            ul.soft { @for note in &report.notes { li { (note) } } }
        }
        div.charts { @for chart in charts { figure { (PreEscaped(chart)) } } }
        (figures(report))
    })
}

/// Comparisons in the open, the rest folded away.
fn figures(report: &Report) -> Markup {
    let (compared, rest): (Vec<_>, Vec<_>) = report
        .figures
        .iter()
        .partition(|figure| figure.vs.is_some());
    html! {
        @if !compared.is_empty() { (figure_table(&compared)) }
        @if !rest.is_empty() {
            details { summary { (rest.len()) " more figures" } (figure_table(&rest)) }
        }
    }
}

fn figure_table(figures: &[&Figure]) -> Markup {
    html! {
        div.scroll { table {
            tr { th { "Figure" } th.n { "Median" } th.n { "95 %" } th { "Unit" } th { "Against" } th.n { "Target" } th { "Verdict" } }
            @for figure in figures {
                tr {
                    td { (figure.name) } td.n { (number(figure.value)) } td.n { (interval(figure)) } td { (figure.unit) }
                    td { (figure.vs.as_deref().unwrap_or_default()) }
                    td.n { (figure.target.map(bound).unwrap_or_default()) } td { (judged(figure)) }
                }
            }
        } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_target_and_escapes_what_it_quotes() {
        let mut report = Report::new("cni-add");
        report.push(Figure::new("ADD alone", "ms", &[12.0, 13.0]));
        report.push(Figure::new("ADD, 50 at once, p99", "ms", &[150.0]));
        report.invalidate("steal <0.1 %");
        let page = page(&[report]).expect("draws");
        for row in targets::all() {
            assert!(page.contains(&row.figure), "{} is missing", row.figure);
        }
        assert!(page.contains("steal &lt;0.1 %"));
        assert!(page.contains("1 met, 1 short"));
        assert!(page.contains("short by 50 %") && page.contains("not measured"));
        assert!(
            !page.contains("http://") || page.contains("xmlns"),
            "nothing is loaded"
        );
    }

    #[test]
    fn of_one_scenario_the_last_run_counts() {
        let run = |value| {
            let mut report = Report::new("cni-add");
            report.push(Figure::new("ADD alone", "ms", &[value]));
            report
        };
        let page = page(&[run(99.0), run(11.0)]).expect("draws");
        assert!(page.contains("11.0") && !page.contains("99.0"));
    }
}
