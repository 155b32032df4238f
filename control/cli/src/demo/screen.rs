//! The live table: one row per node, redrawn in place on a terminal.

use std::io::{self, Write};
use std::time::Instant;

use penstock_control_api::PoolReport;
use penstock_dataplane_api::Counters;

use crate::arguments::Format;
use crate::table::{Column, View, number, text};

const COLUMNS: &[Column] = &[
    text("NODE"),
    number("PODS"),
    number("FREE"),
    number("ENIS"),
    number("FLOWS"),
    number("RX PPS"),
    number("TX PPS"),
    number("SNAT PPS"),
    number("TO KERNEL"),
    number("DROPS"),
    text("PATH"),
];

/// What a node shows at one moment; rates are absent in a first reading.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    node: String,
    at: Instant,
    pods: u32,
    free: u32,
    enis: usize,
    flows: u64,
    rx: u64,
    tx: u64,
    snat: u64,
    to_kernel: u64,
    drops: u64,
    fallback_queues: u32,
    rates: Option<[u64; 3]>,
}

impl Reading {
    /// Sums a node's counters.
    pub(super) fn new(
        node: &str,
        counters: &Counters,
        pool: PoolReport,
        enis: usize,
        fallback_queues: u32,
    ) -> Self {
        let workers = &counters.workers;
        Self {
            node: node.to_owned(),
            at: Instant::now(),
            pods: pool.assigned,
            free: pool.free,
            enis,
            flows: workers.iter().map(|worker| worker.flows).sum(),
            rx: counters.carried(),
            tx: workers.iter().map(|worker| worker.tx).sum::<u64>() + counters.offloaded(),
            snat: workers.iter().map(|worker| worker.snat).sum(),
            to_kernel: counters.hooks.iter().map(|hook| hook.to_kernel).sum(),
            drops: counters.drops().values().sum(),
            fallback_queues,
            rates: None,
        }
    }

    /// The same reading with the rates since an earlier one.
    pub(super) fn since(&self, last: &Self) -> Self {
        let seconds = self.at.duration_since(last.at).as_secs_f64();
        let rate = |now: u64, before: u64| ((now - before) as f64 / seconds) as u64;
        let rates = [
            rate(self.rx, last.rx),
            rate(self.tx, last.tx),
            rate(self.snat, last.snat),
        ];
        Self {
            rates: Some(rates),
            ..self.clone()
        }
    }

    fn cells(&self) -> Vec<String> {
        let [rx, tx, snat] = self.rates.unwrap_or_default();
        let path = if self.fallback_queues == 0 {
            "workers, hooks"
        } else {
            "kernel (fallback)"
        };
        vec![
            self.node.clone(),
            self.pods.to_string(),
            self.free.to_string(),
            self.enis.to_string(),
            self.flows.to_string(),
            rx.to_string(),
            tx.to_string(),
            snat.to_string(),
            self.to_kernel.to_string(),
            self.drops.to_string(),
            path.to_owned(),
        ]
    }
}

/// The place the table is drawn in: over itself on a terminal, line after line elsewhere.
pub(super) struct Screen {
    animate: bool,
    lines: usize,
}

impl Screen {
    pub(super) fn new(animate: bool) -> Self {
        Self { animate, lines: 0 }
    }

    /// Draws one table; on a terminal, over the one before it.
    pub(super) fn draw(&mut self, readings: &[Reading], output: &mut impl Write) -> io::Result<()> {
        if self.animate && self.lines > 0 {
            // Up to the first line (CUU), then clear to the end (ED); ECMA-48 8.3.22 and 8.3.39.
            write!(output, "\x1b[{}A\x1b[J", self.lines)?;
        }
        let view = View {
            json: serde_json::Value::Null,
            columns: COLUMNS,
            rows: readings.iter().map(Reading::cells).collect(),
        };
        view.write(Format::Table, self.animate || self.lines == 0, output)?;
        self.lines = readings.len() + 1;
        output.flush()
    }
}
