//! Instructions of the hot path, counted one by one: the same on a quiet machine and on a busy one.
//!
//! A child of this program prepares an engine, then stops itself before and after the packets; in
//! between it is single-stepped (ptrace(2)) and the steps are counted. No counter of the processor
//! is needed, so that virtual machines without any can be guarded as well. What the stops
//! themselves cost is counted with no packets between them and taken off.
//!
//! Counts depend on compiler and profile, so a baseline names its profile.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::pipeline::{Family, Load, Order, Rig};

/// Packets of a batch, as a worker takes them.
const BATCH: usize = 32;
/// Batches counted: enough that no single packet's luck shows.
const BATCHES: u32 = 2;
const FLOWS: u32 = 4_096;
/// Most steps of one count; beyond, the child has gone astray.
const LONGEST: u64 = 50_000_000;
/// Where a count begins and ends.
const MARK: Signal = Signal::SIGUSR1;

/// A path through the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// A packet of a known flow, translated.
    Snat4,
    /// A packet of a known IPv6 flow.
    Forward6,
    /// The first packet of a flow that is translated.
    First4,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Snat4, Self::Forward6, Self::First4];

    /// Its name in baselines and arguments.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Snat4 => "snat4",
            Self::Forward6 => "forward6",
            Self::First4 => "first4",
        }
    }

    fn family(self) -> Family {
        match self {
            Self::Snat4 | Self::First4 => Family::Ip4,
            Self::Forward6 => Family::Ip6,
        }
    }
}

/// Instructions a packet by profile and case.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Baseline(pub BTreeMap<String, BTreeMap<String, f64>>);

impl Baseline {
    /// Reads a baseline.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))
    }

    /// Every count that is more than `tolerance` (a share) above the baseline of this profile.
    ///
    /// # Errors
    /// When the baseline says nothing of this profile or of a case.
    pub fn regressions(
        &self,
        counts: &BTreeMap<String, f64>,
        tolerance: f64,
    ) -> Result<Vec<String>> {
        let known = self
            .0
            .get(profile())
            .with_context(|| format!("no baseline for profile {}", profile()))?;
        let mut found = Vec::new();
        for (case, &count) in counts {
            let &before = known
                .get(case)
                .with_context(|| format!("no baseline for {case}"))?;
            if count > before * (1.0 + tolerance) {
                found.push(format!(
                    "{case}: {count:.1} instructions a packet, {before:.1} before ({:+.1} %, at most {:+.0} %)",
                    (count / before - 1.0) * 100.0,
                    tolerance * 100.0
                ));
            }
        }
        Ok(found)
    }
}

/// Name of the profile this program was built in.
#[must_use]
pub fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    }
}

/// Instructions a packet of each case. `program` is this program: it is started as its own child.
///
/// # Errors
/// When tracing is forbidden, or a child fails.
pub fn count(program: &Path) -> Result<BTreeMap<String, f64>> {
    Case::ALL
        .into_iter()
        .map(|case| {
            let count = of(program, case).with_context(|| format!("count {}", case.name()))?;
            Ok((case.name().to_owned(), count))
        })
        .collect()
}

fn of(program: &Path, case: Case) -> Result<f64> {
    let mut child = Command::new(program)
        .args(["counted", case.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("start the child")?;
    let counted = counts_of(Pid::from_raw(child.id().cast_signed()));
    finish(&mut child, counted.is_ok())?;
    let (empty, full) = counted?;
    ensure!(full > empty, "{full} steps with packets, {empty} without");
    Ok((full - empty) as f64 / f64::from(BATCHES) / BATCH as f64)
}

/// Steps without packets, and with them.
fn counts_of(child: Pid) -> Result<(u64, u64)> {
    let mut counts = [0; 2];
    for count in &mut counts {
        wait_mark(child)?;
        *count = steps(child)?;
        ptrace::cont(child, None)?;
    }
    let [empty, full] = counts;
    Ok((empty, full))
}

fn wait_mark(child: Pid) -> Result<()> {
    match waitpid(child, None)? {
        WaitStatus::Stopped(_, MARK) => Ok(()),
        other => bail!("the child did not get to its mark: {other:?}"),
    }
}

/// Steps from one mark to the next.
fn steps(child: Pid) -> Result<u64> {
    let mut steps = 0;
    loop {
        ptrace::step(child, None).context("single step")?;
        match waitpid(child, None)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => steps += 1,
            WaitStatus::Stopped(_, MARK) => return Ok(steps),
            other => bail!("the child went astray: {other:?}"),
        }
        ensure!(steps < LONGEST, "the child did not come to its second mark");
    }
}

fn finish(child: &mut Child, well: bool) -> Result<()> {
    if !well {
        // Its own error is the caller's to tell.
        let _ = child.kill();
    }
    let status = child.wait()?;
    ensure!(!well || status.success(), "the child ended with {status}");
    Ok(())
}

/// The child's part: prepares everything, then marks where counting begins and ends.
///
/// # Errors
/// When tracing is forbidden or a packet is not forwarded.
pub fn counted(case: Case) -> Result<()> {
    let mut rig = Rig::new(FLOWS)?;
    let mut order = Order::new(FLOWS);
    let mut load = || {
        let mut load = Load::new(case.family(), BATCH);
        load.write(std::iter::from_fn(|| Some(order.step())));
        load
    };
    if case != Case::First4 {
        for _ in 0..FLOWS.div_ceil(BATCH as u32) {
            rig.forward(&mut load())?;
        }
    }
    // What is done for the first time once: lazily bound symbols, the first of a table's pages.
    rig.forward(&mut load())?;
    let mut loads: Vec<Load> = (0..BATCHES).map(|_| load()).collect();
    ptrace::traceme().context("be traced")?;
    for loads in [&mut [], loads.as_mut_slice()] {
        raise(MARK)?;
        for load in loads {
            rig.forward(load)?;
        }
        raise(MARK)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(value: f64) -> BTreeMap<String, f64> {
        BTreeMap::from([("snat4".to_owned(), value)])
    }

    #[test]
    fn only_more_than_the_tolerance_is_a_regression() {
        let baseline = Baseline(BTreeMap::from([(profile().to_owned(), counts(100.0))]));
        assert!(
            baseline
                .regressions(&counts(101.9), 0.02)
                .expect("known")
                .is_empty()
        );
        assert!(
            baseline
                .regressions(&counts(50.0), 0.02)
                .expect("known")
                .is_empty()
        );
        let found = baseline.regressions(&counts(103.0), 0.02).expect("known");
        assert!(
            found[0].contains("103.0") && found[0].contains("+3.0 %"),
            "{found:?}"
        );
        assert!(Baseline::default().regressions(&counts(1.0), 0.02).is_err());
    }
}
