//! The generator at its fastest, and what arrives of it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use penstock_lab::NetNs;

use super::{Core, pin};
use crate::generator::{Generator, Stream};

/// Load before a measurement, as a share of it: caches are then warm.
const WARM_UP: f64 = 0.3;

/// Packets a second that arrive, as `arrived` counts them, while the generator sends from `from`.
///
/// # Errors
/// When the generator cannot be pinned or loaded, or the count fails.
pub fn rate(
    from: &NetNs,
    stream: &Stream,
    duration: Duration,
    arrived: &(dyn Fn() -> Result<u64> + Sync),
) -> Result<f64> {
    from.run(|| -> Result<f64> {
        ensure!(pin(Core::Last), "the generator cannot be pinned");
        let mut generator = Generator::load(stream)?;
        generator.run(duration.mul_f64(WARM_UP))?;
        let (before, started) = (arrived()?, Instant::now());
        generator.run(duration)?;
        let count = arrived()? - before;
        Ok(count as f64 / started.elapsed().as_secs_f64())
    })?
}
