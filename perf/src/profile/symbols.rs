//! Names for addresses: the kernel's from its own list, programs' from their debug information,
//! inlined functions included.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use addr2line::Loader;
use anyhow::{Context as _, Result};

/// A piece of a process's address space that a file is mapped to.
#[derive(Debug, Clone)]
struct Mapping {
    start: u64,
    end: u64,
    /// Place in the file of `start`, as an address of the file.
    offset: u64,
    path: PathBuf,
}

/// What has been looked up so far.
pub(super) struct Symbols {
    /// Sorted by address.
    kernel: Vec<(u64, String)>,
    processes: HashMap<u32, Process>,
    files: HashMap<PathBuf, Option<Loader>>,
    known: HashMap<(PathBuf, u64), Vec<String>>,
}

#[derive(Debug, Clone, Default)]
struct Process {
    name: String,
    mappings: Vec<Mapping>,
}

impl Symbols {
    /// The kernel's names as they are now: programs loaded later have none.
    ///
    /// # Errors
    /// When the kernel keeps its addresses to itself (kptr_restrict).
    pub(super) fn load() -> Result<Self> {
        let text = fs::read_to_string("/proc/kallsyms").context("read /proc/kallsyms")?;
        let mut kernel: Vec<(u64, String)> = text.lines().filter_map(kernel_symbol).collect();
        kernel.sort_unstable_by_key(|(address, _)| *address);
        anyhow::ensure!(
            kernel.last().is_some_and(|(address, _)| *address > 0),
            "the kernel hides its addresses; set kernel.kptr_restrict to 1 and run as root"
        );
        Ok(Self {
            kernel,
            processes: HashMap::new(),
            files: HashMap::new(),
            known: HashMap::new(),
        })
    }

    /// The kernel's function at an address.
    #[must_use]
    pub(super) fn kernel(&self, address: u64) -> &str {
        let after = self.kernel.partition_point(|(at, _)| *at <= address);
        after
            .checked_sub(1)
            .and_then(|at| self.kernel.get(at))
            .map_or("?", |(_, name)| name)
    }

    /// Name of a process, as `comm` says; `?` when it is gone.
    pub(super) fn process(&mut self, pid: u32) -> String {
        self.of(pid).name.clone()
    }

    /// A program's functions at an address, the innermost inlined one first; empty when the file
    /// says nothing of it.
    pub(super) fn program(&mut self, pid: u32, address: u64) -> Vec<String> {
        let mappings = &self.of(pid).mappings;
        let found = mappings
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&address));
        let Some(mapping) = found.cloned() else {
            return Vec::new();
        };
        let at = address - mapping.start + mapping.offset;
        let key = (mapping.path.clone(), at);
        if let Some(names) = self.known.get(&key) {
            return names.clone();
        }
        let file = self
            .files
            .entry(mapping.path.clone())
            .or_insert_with(|| Loader::new(&mapping.path).ok());
        let names = file
            .as_ref()
            .map(|file| frames(file, at))
            .unwrap_or_default();
        self.known.insert(key, names.clone());
        names
    }

    fn of(&mut self, pid: u32) -> &Process {
        self.processes.entry(pid).or_insert_with(|| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            Process {
                name: comm.map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned()),
                mappings: mappings(&maps),
            }
        })
    }
}

/// `ffffffff81000000 T name [module]`: functions only.
fn kernel_symbol(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?;
    matches!(kind, "t" | "T" | "w" | "W").then_some(())?;
    Some((address, words.next()?.to_owned()))
}

/// Executable mappings of files (proc_pid_maps(5)). A file's code is at the same distance from the
/// first mapping's start as its addresses are from zero.
fn mappings(maps: &str) -> Vec<Mapping> {
    let mut bases: HashMap<&str, u64> = HashMap::new();
    let mut found = Vec::new();
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(range), Some(rights), Some(path)) = (words.first(), words.get(1), words.get(5))
        else {
            continue;
        };
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let hex = |text| u64::from_str_radix(text, 16).unwrap_or(0);
        let (start, end) = (hex(start), hex(end));
        let base = *bases.entry(path).or_insert(start);
        if rights.contains('x') && path.starts_with('/') {
            found.push(Mapping {
                start,
                end,
                offset: start - base,
                path: PathBuf::from(path),
            });
        }
    }
    found
}

fn frames(file: &Loader, at: u64) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(mut frames) = file.find_frames(at) {
        while let Ok(Some(frame)) = frames.next() {
            let name = frame
                .function
                .as_ref()
                .and_then(|name| name.demangle().ok());
            names.extend(name.map(std::borrow::Cow::into_owned));
        }
    }
    if names.is_empty() {
        names.extend(file.find_symbol(at).map(str::to_owned));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_function_is_found_by_its_address() {
        let mut symbols = Symbols {
            kernel: vec![(10, "a".to_owned()), (20, "b".to_owned())],
            processes: HashMap::new(),
            files: HashMap::new(),
            known: HashMap::new(),
        };
        let address = kernel_symbol as fn(&str) -> Option<(u64, String)>;
        let names = symbols.program(std::process::id(), address as usize as u64);
        assert!(
            names.iter().any(|name| name.contains("kernel_symbol")),
            "{names:?}"
        );
        assert_eq!((symbols.kernel(15), symbols.kernel(25)), ("a", "b"));
        assert_eq!(symbols.kernel(5), "?");
    }

    #[test]
    fn functions_of_the_kernels_list_are_taken_and_data_is_not() {
        let text = kernel_symbol("ffffffff81000010 T veth_xmit\t[veth]");
        assert_eq!(text, Some((0xffff_ffff_8100_0010, "veth_xmit".to_owned())));
        assert_eq!(kernel_symbol("ffffffff82000010 D jiffies"), None);
    }
}
