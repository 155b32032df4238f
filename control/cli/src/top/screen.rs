//! The live screen: one worker, port or drop a line, as many as there is room for.
//!
//! Drawing is pure over the last [`Rates`]; what does not fit is cut, never a panic.

use ratatui::Frame;
use ratatui::crossterm::event::KeyCode;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use super::rates::{DropRate, PortRate, Rates, WorkerRate};

const KEYS: &str = "q quit   space pause   s sort ports by traffic or name";

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    rates: Option<Rates>,
    problem: String,
    paused: bool,
    by_traffic: bool,
}

impl Screen {
    /// Takes a new picture, unless the screen is paused.
    pub(super) fn show(&mut self, rates: Rates) {
        self.problem.clear();
        if !self.paused {
            self.rates = Some(rates);
        }
    }

    /// The dataplane could not be asked; the last picture stays.
    pub(super) fn fail(&mut self, problem: &str) {
        problem
            .lines()
            .next()
            .unwrap_or_default()
            .clone_into(&mut self.problem);
    }

    /// A key that does not end the program.
    pub(super) fn press(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.by_traffic = !self.by_traffic,
            _ => {}
        }
    }

    /// Draws all of it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, workers, ports, drops, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(self.height(|rates| rates.workers.len())),
            Constraint::Length(self.height(|rates| rates.ports.len())),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(KEYS.dim(), foot);
        let Some(rates) = &self.rates else {
            let waiting = Paragraph::new("measuring ...");
            frame.render_widget(waiting, drops);
            return;
        };
        draw_workers(frame, workers, &rates.workers);
        draw_ports(frame, ports, self.sorted(&rates.ports));
        draw_drops(frame, drops, &rates.drops);
    }

    /// Lines of a table with its frame and names.
    fn height(&self, rows: impl Fn(&Rates) -> usize) -> u16 {
        let rows = self.rates.as_ref().map_or(0, rows);
        u16::try_from(rows.saturating_add(3)).unwrap_or(u16::MAX)
    }

    fn head(&self) -> Line<'_> {
        if !self.problem.is_empty() {
            return Line::from(self.problem.as_str().red());
        }
        let mut spans = vec![Span::from("penstock top").bold()];
        if let Some(rates) = &self.rates {
            spans.push(Span::from(format!(
                "   offloaded {}   to the kernel {}",
                pps(rates.offloaded_pps),
                pps(rates.to_kernel_pps)
            )));
            if rates.fallback_pps > 0.0 {
                let late = format!("   FALLBACK {}", pps(rates.fallback_pps));
                spans.push(Span::from(late).red().bold());
            }
        }
        if self.paused {
            spans.push(Span::from("   paused").yellow());
        }
        Line::from(spans)
    }

    fn sorted(&self, ports: &[PortRate]) -> Vec<PortRate> {
        let mut ports = ports.to_vec();
        if self.by_traffic {
            let traffic = |port: &PortRate| port.rx_pps + port.tx_pps;
            ports.sort_by(|one, other| traffic(other).total_cmp(&traffic(one)));
        }
        ports
    }
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, workers: &[WorkerRate]) {
    let row = |worker: &WorkerRate| {
        let core = worker
            .core
            .map_or_else(|| "-".to_owned(), |core| core.to_string());
        Row::new([
            worker.worker.to_string(),
            core,
            format!("{:.1}", worker.busy_percent),
            pps(worker.rx_pps),
            pps(worker.tx_pps),
            format!("{:.1}", worker.batch),
            pps(worker.drops),
            worker.flows.to_string(),
            worker.snat_ports.to_string(),
            format!("{}/{}", worker.free_frames, worker.frames),
        ])
    };
    let names = [
        "WORKER", "CORE", "BUSY %", "RX", "TX", "BATCH", "DROPS", "FLOWS", "SNAT", "FREE",
    ];
    let widths = [6, 4, 6, 11, 11, 6, 11, 9, 6, 15].map(Constraint::Length);
    let table = Table::new(workers.iter().map(row), widths);
    frame.render_widget(framed(table, "workers", names), area);
}

fn draw_ports(frame: &mut Frame<'_>, area: Rect, ports: Vec<PortRate>) {
    let row = |port: PortRate| {
        let row = Row::new([
            format!("{}/{}", port.ifname, port.queue),
            port.worker.to_string(),
            pps(port.rx_pps),
            pps(port.tx_pps),
            bps(port.rx_bps),
            bps(port.tx_bps),
            pps(port.kernel_drops),
        ]);
        if port.kernel_drops > 0.0 {
            row.red()
        } else {
            row
        }
    };
    let names = ["PORT", "WORKER", "RX", "TX", "RX BITS", "TX BITS", "LOST"];
    let widths = [18, 6, 11, 11, 13, 13, 11].map(Constraint::Length);
    let table = Table::new(ports.into_iter().map(row), widths);
    frame.render_widget(framed(table, "ports", names), area);
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, drops: &[DropRate]) {
    let row = |drop: &DropRate| {
        Row::new([
            drop.reason.clone(),
            drop.place.clone(),
            pps(drop.pps),
            drop.total.to_string(),
        ])
    };
    let widths = [20, 20, 11, 20].map(Constraint::Length);
    let table = Table::new(drops.iter().map(row), widths);
    let names = ["REASON", "PLACE", "NOW", "SINCE START"];
    frame.render_widget(framed(table, "drops", names), area);
}

fn framed<'a, const N: usize>(table: Table<'a>, title: &'a str, names: [&'a str; N]) -> Table<'a> {
    let style = Style::new().add_modifier(Modifier::BOLD);
    table
        .header(Row::new(names).style(style))
        .block(Block::new().borders(Borders::ALL).title(title))
}

fn pps(rate: f64) -> String {
    format!("{} p/s", short(rate))
}

fn bps(rate: f64) -> String {
    format!("{}bit/s", short(rate))
}

/// Three digits and a decimal prefix.
fn short(number: f64) -> String {
    for (unit, name) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if number >= unit {
            return format!("{:.2}{name}", number / unit);
        }
    }
    format!("{number:.0}")
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
