//! Where the processors' time goes while a contestant has its turn, by stage.
//!
//! Samples of all processors by the kernel's clock event: no counter of the processor is needed.
//! Code that runs with interrupts off is seen when they come on again. A sample belongs to the
//! first stage that its call chain names, from the innermost function outwards.

mod stage;
mod symbols;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use perf_event::data::Record;
use perf_event::events::Software;
use perf_event::{Builder, SampleFlag, Sampler};

use symbols::Symbols;

/// Samples a second of each processor; no divisor of the tick.
const FREQUENCY: u64 = 4_999;
/// Bytes of samples that a processor may have waiting: some seconds' worth.
const BUFFER: usize = 8 << 20;
/// From here on up the callchain's entries are no addresses but say where the next ones are
/// (PERF_CONTEXT_MAX, linux/perf_event.h).
const CONTEXT: u64 = u64::MAX - 4095;
/// Addresses of the kernel have their highest bit set, on every processor Linux knows this for.
const KERNEL: u64 = 1 << 63;

/// Samples by stage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stages {
    counts: BTreeMap<&'static str, u64>,
    /// Functions of each stage that were running themselves.
    functions: BTreeMap<(&'static str, String), u64>,
    total: u64,
}

/// Samplers of every processor, between `start` and `stop`.
pub struct Profile {
    samplers: Vec<Sampler>,
}

impl Profile {
    /// Begins.
    ///
    /// # Errors
    /// When the kernel does not let this user sample others (perf_event_paranoid).
    pub fn start() -> Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let samplers = (0..processors)
            .map(|processor| {
                let mut sampler = Builder::new(Software::CPU_CLOCK)
                    .any_pid()
                    .one_cpu(processor)
                    .include_kernel()
                    .sample_frequency(FREQUENCY)
                    .sample(SampleFlag::IP | SampleFlag::TID | SampleFlag::CALLCHAIN)
                    .build()
                    .and_then(|counter| counter.sampled(BUFFER))
                    .context("sample the processors; is kernel.perf_event_paranoid too high?")?;
                sampler.enable()?;
                Ok(sampler)
            })
            .collect::<Result<_>>()?;
        Ok(Self { samplers })
    }

    /// Ends, and says what was seen.
    ///
    /// # Errors
    /// When the kernel hides its functions.
    pub fn stop(mut self) -> Result<Stages> {
        for sampler in &mut self.samplers {
            sampler.disable()?;
        }
        // Only now: by now the programs that were sampled are loaded.
        let mut symbols = Symbols::load()?;
        let mut stages = Stages::default();
        for sampler in &mut self.samplers {
            while let Some(record) = sampler.next_record() {
                if let Ok(Record::Sample(sample)) = record.parse_record() {
                    let chain = sample.callchain().unwrap_or_default();
                    stages.add(&mut symbols, sample.pid().unwrap_or(0), chain);
                }
            }
        }
        Ok(stages)
    }
}

impl Stages {
    fn add(&mut self, symbols: &mut Symbols, pid: u32, chain: &[u64]) {
        let mut names: Vec<String> = Vec::new();
        let mut in_kernel = false;
        for &address in chain.iter().filter(|&&address| address < CONTEXT) {
            if address >= KERNEL {
                in_kernel = true;
                names.push(symbols.kernel(address).to_owned());
            } else {
                names.extend(symbols.program(pid, address));
                // Without frame pointers the callers are guesses.
                break;
            }
        }
        let stage = stage::of(&names, in_kernel)
            .unwrap_or_else(|| stage::of_process(&symbols.process(pid), in_kernel));
        let function = names.into_iter().next().unwrap_or_else(|| "?".to_owned());
        *self.counts.entry(stage).or_default() += 1;
        *self.functions.entry((stage, function)).or_default() += 1;
        self.total += 1;
    }

    /// Adds another turn's.
    pub fn merge(&mut self, other: Self) {
        self.total += other.total;
        for (stage, count) in other.counts {
            *self.counts.entry(stage).or_default() += count;
        }
        for (key, count) in other.functions {
            *self.functions.entry(key).or_default() += count;
        }
    }

    /// Share of the samples that were not idle, by stage, the greatest first.
    #[must_use]
    pub fn shares(&self) -> Vec<(&'static str, f64)> {
        let busy = self.total - self.counts.get(stage::IDLE).copied().unwrap_or(0);
        let mut shares: Vec<_> = self
            .counts
            .iter()
            .filter(|(stage, _)| **stage != stage::IDLE)
            .map(|(stage, count)| (*stage, *count as f64 / busy.max(1) as f64))
            .collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        shares
    }

    /// The stage table: share of busy time, and each stage's three functions that take most of it.
    #[must_use]
    pub fn table(&self) -> String {
        const FUNCTIONS: usize = 3;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["STAGE", "BUSY TIME", "WHERE IN IT"]);
        for (stage, share) in self.shares() {
            let mut inside: Vec<_> = self
                .functions
                .iter()
                .filter(|((of, _), _)| *of == stage)
                .map(|((_, function), count)| (function, *count))
                .collect();
            inside.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let total = self.counts.get(stage).copied().unwrap_or(1) as f64;
            let words: Vec<String> = inside
                .iter()
                .take(FUNCTIONS)
                .map(|(function, count)| {
                    format!("{} {:.0} %", short(function), *count as f64 / total * 100.0)
                })
                .collect();
            table.add_row([
                stage.to_owned(),
                format!("{:.1} %", share * 100.0),
                words.join(", "),
            ]);
        }
        let idle = self.counts.get(stage::IDLE).copied().unwrap_or(0) as f64;
        format!(
            "{table}\n{} samples, {:.0} % of them idle",
            self.total,
            idle / self.total.max(1) as f64 * 100.0
        )
    }
}

/// The last two parts of a path are enough to find a function.
fn short(function: &str) -> &str {
    let mut ends = function.rmatch_indices("::");
    match ends.nth(1) {
        Some((at, _)) if !function.contains('<') => &function[at + 2..],
        _ => function,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_idle_time_out() {
        let mut stages = Stages {
            counts: BTreeMap::from([("parse", 30), ("rings", 10), (stage::IDLE, 60)]),
            functions: BTreeMap::from([(("parse", "a::b::c".to_owned()), 30)]),
            total: 100,
        };
        assert_eq!(stages.shares(), [("parse", 0.75), ("rings", 0.25)]);
        stages.merge(stages.clone());
        assert_eq!(stages.shares(), [("parse", 0.75), ("rings", 0.25)]);
        let table = stages.table();
        assert!(
            table.contains("b::c 100 %") && table.contains("60 % of them idle"),
            "{table}"
        );
    }
}
