//! Kernel settings of this network namespace, by /proc/sys.
//!
//! Writes only what the caller names, and only when the value differs, so that the kernel's log of a node stays quiet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use penstock_dataplane_api::PortRange;

use super::NodeError;

/// Sets `key`, a path below /proc/sys.
///
/// # Errors
/// When the file is missing or cannot be written.
pub fn write(key: &str, value: &str) -> Result<(), NodeError> {
    let path = path_of(key);
    let wrong = |cause| NodeError::io(format!("set {key} to {value}"), cause);
    if fs::read_to_string(&path).map_err(wrong)?.trim() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(wrong)
}

/// Sets `key` if the kernel has it (IPv6 may be compiled or switched off).
///
/// # Errors
/// When the file is there and cannot be written.
pub fn write_if_there(key: &str, value: &str) -> Result<(), NodeError> {
    match write(key, value) {
        Err(error) if is_missing(&error) => Ok(()),
        other => other,
    }
}

/// Adds `range` to the ports the host never picks for itself; what is reserved already stays.
///
/// # Errors
/// When the list cannot be read or written.
pub fn reserve_ports(range: PortRange) -> Result<(), NodeError> {
    let key = "net/ipv4/ip_local_reserved_ports";
    let current = fs::read_to_string(path_of(key))
        .map_err(|cause| NodeError::io(format!("read {key}"), cause))?;
    let ours = format!("{}-{}", range.first, range.last);
    match current.trim() {
        "" => write(key, &ours),
        list if list.split(',').any(|entry| entry == ours) => Ok(()),
        list => write(key, &format!("{list},{ours}")),
    }
}

fn path_of(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

fn is_missing(error: &NodeError) -> bool {
    matches!(&error.cause, super::Cause::Io(cause) if cause.kind() == io::ErrorKind::NotFound)
}
