//! Cycles and time of code that runs in short pieces.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use quanta::Clock;

/// What some packets cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Counter ticks of one packet, in the median piece: on a machine that others use as well, a
    /// piece now and then holds somebody else's work.
    pub cycles: f64,
    /// Nanoseconds of one packet, likewise.
    pub nanos: f64,
    /// Nanoseconds of one packet, all time counted.
    pub mean_nanos: f64,
    /// Longest piece, all its packets together.
    pub worst_piece: Duration,
}

/// Adds up pieces.
#[derive(Debug, Clone)]
pub struct Meter {
    clock: Clock,
    began: u64,
    ticks: u64,
    packets: u64,
    /// Ticks a packet, in sixteenths, of each piece.
    pieces: Histogram<u32>,
    worst: u64,
}

/// Sixteenths of a tick: fine enough for a pipeline of some tens of cycles.
const FRACTION: u64 = 16;

impl Meter {
    /// A meter at zero; the first one of a process calibrates the counter against the clock.
    ///
    /// # Errors
    /// When memory for the histogram is short.
    pub fn new() -> Result<Self> {
        Ok(Self {
            clock: Clock::new(),
            began: 0,
            ticks: 0,
            packets: 0,
            pieces: Histogram::new_with_bounds(1, 1 << 32, 3)?,
            worst: 0,
        })
    }

    /// Back to zero.
    pub fn reset(&mut self) {
        self.ticks = 0;
        self.packets = 0;
        self.worst = 0;
        self.pieces.reset();
    }

    /// A piece begins.
    #[inline]
    pub fn start(&mut self) {
        self.began = self.clock.raw();
    }

    /// It ends, and was about so many packets.
    #[inline]
    pub fn stop(&mut self, packets: usize) {
        let ticks = self.clock.raw() - self.began;
        let packets = packets as u64;
        self.ticks += ticks;
        self.packets += packets;
        self.worst = self.worst.max(ticks);
        if let Some(each) = (ticks * FRACTION).checked_div(packets) {
            self.pieces.saturating_record(each);
        }
    }

    /// Time so far.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.delta(0, self.ticks)
    }

    /// What a packet cost.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let cycles = self.pieces.value_at_quantile(0.5) as f64 / FRACTION as f64;
        let tick = self.clock.delta_as_nanos(0, 1 << 40) as f64 / (1u64 << 40) as f64;
        Cost {
            cycles,
            nanos: cycles * tick,
            mean_nanos: self.ticks as f64 * tick / self.packets.max(1) as f64,
            worst_piece: self.clock.delta(0, self.worst),
        }
    }

    /// The counter and its rate, for the report. Where the processor has no constant one it is
    /// the system's clock, at one tick a nanosecond.
    #[must_use]
    pub fn counter(&self) -> String {
        const SAMPLE: u64 = 1 << 40;
        let nanos = self.clock.delta_as_nanos(0, SAMPLE) as f64;
        let rate = SAMPLE as f64 / nanos;
        if (rate - 1.0).abs() < 1e-6 {
            "monotonic clock, 1 tick a nanosecond".to_owned()
        } else {
            format!("time-stamp counter, {rate:.3} ticks a nanosecond")
        }
    }
}
