//! `penstock top`: workers, ports and drops as they are now, on a live screen or once.
//!
//! Two looks at the counters make one picture ([`rates`]); nothing is armed in the packet path.

mod rates;
mod screen;

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use penstock_dataplane_api::Counters;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::arguments::Format;
use crate::daemons::Daemons;
use crate::failure::Failure;
use crate::table::{Column, View, number, text};
use rates::Rates;
use screen::Screen;

#[derive(Debug, Args)]
pub(crate) struct TopArguments {
    /// One picture instead of a live screen; needs no terminal.
    #[arg(long)]
    once: bool,
    /// Milliseconds between two looks.
    #[arg(long, value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    interval: u64,
    /// Output format of --once.
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        default_value = "table",
        requires = "once"
    )]
    format: Format,
}

/// A look and when it was.
struct Sample {
    at: Instant,
    counters: Counters,
}

impl Sample {
    fn take(daemons: &Daemons) -> Result<Self, Failure> {
        let counters = daemons.counters()?;
        let at = Instant::now();
        Ok(Self { at, counters })
    }

    fn since(&self, before: &Self) -> Rates {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        Rates::between(&before.counters, &self.counters, seconds)
    }
}

/// Shows it.
pub(crate) fn run(
    daemons: &Daemons,
    arguments: &TopArguments,
    output: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let interval = Duration::from_millis(arguments.interval);
    let first = Sample::take(daemons)?;
    if arguments.once {
        // A rate is over a time.
        thread::sleep(interval);
        let rates = Sample::take(daemons)?.since(&first);
        view(&rates)?.write(arguments.format, true, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !io::stdout().is_terminal() {
        return Err(Failure::Node(
            "standard output is no terminal; use `penstock top --once`".to_owned(),
        ));
    }
    let mut terminal = ratatui::try_init()?;
    let outcome = live(daemons, interval, first, &mut terminal);
    ratatui::try_restore()?;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Draws until `q`.
fn live(
    daemons: &Daemons,
    interval: Duration,
    first: Sample,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), Failure> {
    let mut before = first;
    let mut screen = Screen::default();
    let mut next = Instant::now() + interval;
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            match event::read()? {
                Event::Key(key) if ends(key) => return Ok(()),
                Event::Key(key) if key.kind == KeyEventKind::Press => screen.press(key.code),
                _ => {}
            }
            continue;
        }
        next = Instant::now() + interval;
        match Sample::take(daemons) {
            Ok(now) => {
                screen.show(now.since(&before));
                before = now;
            }
            Err(failure) => screen.fail(&failure.to_string()),
        }
    }
}

fn ends(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

/// The picture as a table: one row for each worker and port.
fn view(rates: &Rates) -> Result<View, Failure> {
    const COLUMNS: &[Column] = &[
        text("WHAT"),
        number("BUSY %"),
        number("RX PPS"),
        number("TX PPS"),
        number("RX BPS"),
        number("TX BPS"),
        number("BATCH"),
        number("DROPS/S"),
        number("FLOWS"),
    ];
    let worker = |worker: &rates::WorkerRate| {
        vec![
            format!("worker {}", worker.worker),
            format!("{:.1}", worker.busy_percent),
            format!("{:.0}", worker.rx_pps),
            format!("{:.0}", worker.tx_pps),
            "-".to_owned(),
            "-".to_owned(),
            format!("{:.1}", worker.batch),
            format!("{:.0}", worker.drops),
            worker.flows.to_string(),
        ]
    };
    let port = |port: &rates::PortRate| {
        vec![
            format!("{}/{}", port.ifname, port.queue),
            "-".to_owned(),
            format!("{:.0}", port.rx_pps),
            format!("{:.0}", port.tx_pps),
            format!("{:.0}", port.rx_bps),
            format!("{:.0}", port.tx_bps),
            "-".to_owned(),
            format!("{:.0}", port.kernel_drops),
            "-".to_owned(),
        ]
    };
    let rows = rates.workers.iter().map(worker);
    Ok(View {
        json: serde_json::to_value(rates).map_err(io::Error::from)?,
        columns: COLUMNS,
        rows: rows.chain(rates.ports.iter().map(port)).collect(),
    })
}
