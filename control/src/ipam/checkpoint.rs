//! What must survive a restart of the agent, in one file.
//!
//! Format: one line `penstock-ipam/1 <crc32 in hex> <bytes>`, then that many bytes of JSON. Written to a temporary file,
//! synced, renamed over the old one, and the directory synced: a reader finds the old state or the new, never a mix.
//! A file that cannot be trusted is set aside, never guessed at and never deleted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use penstock_control_api::AttachmentKey;
use serde::{Deserialize, Serialize};

use super::Record;
use crate::clock::Timestamp;
use crate::ec2::gate::Restraint;

/// Name of the file inside the state directory.
pub const FILE_NAME: &str = "ipam.checkpoint";

const MAGIC: &str = "penstock-ipam/1";

/// More than any node can need; bounds what a damaged file makes us read.
const MAX_BYTES: u64 = 64 << 20;

/// The persisted state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Boot the time stamps and interface indices belong to.
    pub boot_id: String,
    /// Attachments, reserved and live.
    pub attachments: Vec<Record>,
    /// Addresses at rest.
    pub cooling: Vec<Cooling>,
    /// Attachments deleted recently.
    pub tombstones: Vec<Tombstone>,
    /// ENIs that were ours, for a start while EC2 is silent.
    #[serde(default)]
    pub enis: Vec<String>,
    /// What was given back recently.
    #[serde(default)]
    pub returned: Vec<Returned>,
    /// How EC2 has treated us lately.
    #[serde(default)]
    pub restraint: Option<Restraint>,
}

impl Checkpoint {
    /// What holds in the next boot: no pod runs, and what pods had, or was resting, rests from `now` on, because the
    /// old time stamps mean nothing any more.
    #[must_use]
    pub fn after_reboot(self, now: Timestamp) -> Self {
        let used = self.attachments.iter().map(|pod| pod.address);
        let resting = self.cooling.iter().map(|cooling| cooling.address);
        let returned = self.returned.iter().map(|returned| returned.what);
        Self {
            boot_id: String::new(),
            attachments: Vec::new(),
            cooling: used
                .chain(resting)
                .map(|address| Cooling {
                    address,
                    since: now,
                })
                .collect(),
            tombstones: Vec::new(),
            returned: returned.map(|what| Returned { what, at: now }).collect(),
            enis: self.enis,
            restraint: None,
        }
    }
}

/// An address or prefix that was given back to EC2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Returned {
    /// The prefix; a single address as a /32.
    pub what: Ipv4Net,
    /// When EC2 had it.
    pub at: Timestamp,
}

/// An address at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cooling {
    /// The address.
    pub address: Ipv4Addr,
    /// When it was released.
    pub since: Timestamp,
}

/// A deleted attachment; a late ADD for it is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// The attachment.
    pub key: AttachmentKey,
    /// When it was deleted.
    pub at: Timestamp,
}

/// What was found at start.
#[derive(Debug)]
pub enum Loaded {
    /// No file: a fresh node.
    Absent,
    /// A file that can be trusted.
    Good(Checkpoint),
    /// A file that cannot; it now lies at `aside`.
    Bad {
        /// What is wrong with it.
        reason: String,
        /// Where it was moved to.
        aside: PathBuf,
    },
}

/// Reads the checkpoint of `state_dir`.
///
/// # Errors
/// When the file cannot be read, or a bad one cannot be moved aside.
pub fn load(state_dir: &Path) -> io::Result<Loaded> {
    let path = state_dir.join(FILE_NAME);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Absent),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match decode(&bytes) {
        Ok(checkpoint) => Ok(Loaded::Good(checkpoint)),
        Err(reason) => {
            let aside = state_dir.join(format!("{FILE_NAME}.bad"));
            fs::rename(&path, &aside)?;
            Ok(Loaded::Bad { reason, aside })
        }
    }
}

/// Replaces the checkpoint of `state_dir`; durable when it returns.
///
/// # Errors
/// Whatever the file system reports; the previous checkpoint is then still in place.
pub fn store(state_dir: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    let bytes = encode(checkpoint)?;
    let temporary = state_dir.join(format!("{FILE_NAME}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, state_dir.join(FILE_NAME))?;
    File::open(state_dir)?.sync_all()
}

fn encode(checkpoint: &Checkpoint) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(checkpoint)?;
    let header = format!("{MAGIC} {:08x} {}\n", crc32fast::hash(&body), body.len());
    Ok([header.into_bytes(), body].concat())
}

fn decode(bytes: &[u8]) -> Result<Checkpoint, String> {
    let line_end = bytes.iter().take(64).position(|byte| *byte == b'\n');
    let line_end = line_end.ok_or("no header line")?;
    let header = std::str::from_utf8(&bytes[..line_end]).map_err(|_| "header is not text")?;
    let body = &bytes[line_end + 1..];
    let [magic, crc, length] = header
        .split(' ')
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "header has not three fields")?;
    if magic != MAGIC {
        return Err(format!(
            "written by another version: {magic:?}, this one reads {MAGIC:?}"
        ));
    }
    if length.parse() != Ok(body.len()) {
        return Err(format!("holds {} bytes instead of {length}", body.len()));
    }
    if crc != format!("{:08x}", crc32fast::hash(body)) {
        return Err("checksum does not match".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("not the expected JSON: {error}"))
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
