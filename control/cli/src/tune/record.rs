//! What was there before tuning: a file of the run directory, which a reboot clears as it clears
//! the settings themselves.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One value that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) setting: String,
    /// Interface; empty for the node's.
    pub(super) on: String,
    pub(super) before: String,
}

/// All of them, in the order they were replaced.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) entries: Vec<Entry>,
}

/// Where the record is.
pub(super) fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("tuned.json")
}

impl Record {
    /// What was recorded; nothing when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a record.
    pub(super) fn load(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Keeps `before`, unless an earlier value is kept already.
    pub(super) fn remember(&mut self, setting: &str, on: &str, before: &str) {
        let known = |entry: &Entry| entry.setting == setting && entry.on == on;
        if !self.entries.iter().any(known) {
            self.entries.push(Entry {
                setting: setting.to_owned(),
                on: on.to_owned(),
                before: before.to_owned(),
            });
        }
    }

    pub(super) fn forget(&mut self, entry: &Entry) {
        self.entries.retain(|kept| kept != entry);
    }

    /// Writes the file whole, or removes it when nothing is recorded.
    ///
    /// # Errors
    /// When the run directory cannot be written.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        if self.entries.is_empty() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let next = path.with_extension("json.new");
        fs::write(&next, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&next, path)
    }
}
