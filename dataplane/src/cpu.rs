//! Which core each worker runs on.
//!
//! Workers go before ordinary processes on their core. A core list is written as the kernel writes one (`2,4-6`). Pinning that is refused is not
//! fatal: the worker runs unpinned and says so in its report.

use std::str::FromStr;

/// Highest core number accepted: the last one a `cpu_set_t` has room for.
const MAX_CORE: usize = 1023;

/// Cores in the order workers take them; never empty, no core twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreList(Vec<usize>);

/// The text is no core list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a core list; expected numbers and ranges such as 2,4-6")]
pub struct ParseCoreListError(String);

impl CoreList {
    /// The core of worker `worker`: in order, from the start again when there are more workers
    /// than cores.
    #[must_use]
    pub fn core(&self, worker: usize) -> usize {
        self.0[worker % self.0.len()]
    }

    /// The cores this process may run on, lowest last: core 0 takes most interrupts, so workers
    /// come to it only when nothing else is left.
    #[must_use]
    pub fn allowed() -> Option<Self> {
        let mut cores: Vec<usize> = core_affinity::get_core_ids()?
            .into_iter()
            .map(|core| core.id)
            .collect();
        cores.sort_unstable_by(|a, b| b.cmp(a));
        (!cores.is_empty()).then_some(Self(cores))
    }
}

impl FromStr for CoreList {
    type Err = ParseCoreListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseCoreListError(text.to_owned());
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| error())?;
            let last: usize = last.trim().parse().map_err(|_| error())?;
            if last < first || last > MAX_CORE {
                return Err(error());
            }
            cores.extend(first..=last);
        }
        let mut sorted = cores.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != cores.len() {
            return Err(error());
        }
        Ok(Self(cores))
    }
}

/// Pins the calling thread to `core`; says whether that worked.
#[must_use]
pub fn pin(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

/// The most favourable nice value (setpriority(2)).
const FIRST: i32 = -20;

/// Puts the calling thread before ordinary processes of its core; says whether that worked.
///
/// A worker that must wait longer than `pulse::STALE_AFTER` for its core is taken for dead, and
/// the translated flows it holds cannot be carried by the kernel.
#[must_use]
pub fn take_precedence() -> bool {
    // Linux: no process id means the calling thread.
    rustix::process::setpriority_process(None, FIRST).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        let list: CoreList = "2,4-6".parse().unwrap();
        assert_eq!(list, CoreList(vec![2, 4, 5, 6]));
        assert_eq!(list.core(1), 4);
        assert_eq!(list.core(4), 2, "a fifth worker starts over");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a", "1-", "3-1", "1,1", "1,0-2", "-1", "0-99999999"] {
            assert!(text.parse::<CoreList>().is_err(), "{text}");
        }
    }
}
