//! Where hooks and their flows stay when the process does not.
//!
//! ```text
//! DIRECTORY/LAYOUT/flows4, flows6            the maps of offloaded flows
//! DIRECTORY/LAYOUT/pod-7, uplink-2, ...      the links, by hook and interface
//! ```
//!
//! A directory of a BPF file system, mounted here when it is not one. Programs and all other maps
//! live as long as the links that use them. What another layout left is removed, never read.
//! Guarantees: nothing here outlives [`Pins::remove`].

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::HookKind;
use crate::error::HookError;

/// Grows whenever an entry of the flow maps, or what it means, changes. No dots: the BPF file
/// system allows none.
const LAYOUT: &str = "1";

/// A directory for pins.
#[derive(Debug, Clone)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Prepares `directory`, which is made and mounted when need be.
    ///
    /// # Errors
    /// [`HookError::Pin`], for instance without CAP_SYS_ADMIN.
    pub fn open(directory: &Path) -> Result<Self, HookError> {
        let ours = directory.join(LAYOUT);
        let prepare = || -> io::Result<()> {
            make(directory)?;
            if statfs(directory)?.filesystem_type() != BPF_FS_MAGIC {
                let kind = Some("bpf");
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                mount(kind, directory, kind, flags, Some("mode=0700"))?;
            }
            for other in directories(directory)? {
                if other != ours {
                    fs::remove_dir_all(other)?;
                }
            }
            make(&ours)
        };
        prepare().map_err(|source| pin_error("prepare", directory, source))?;
        Ok(Self { directory: ours })
    }

    /// Path of a map.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Path of a link.
    pub(crate) fn link(&self, hook: HookKind, ifindex: u32) -> PathBuf {
        self.directory.join(format!("{}-{ifindex}", hook.label()))
    }

    /// Removes the links of all interfaces but those in use; how many those were.
    ///
    /// # Errors
    /// [`HookError::Pin`].
    pub fn retain(&self, used: impl Fn(HookKind, u32) -> bool) -> Result<usize, HookError> {
        let failed = |source| pin_error("list", &self.directory, source);
        let mut removed = 0;
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some((hook, ifindex)) = name.to_str().and_then(parse) else {
                continue;
            };
            if !used(hook, ifindex) {
                let path = entry.path();
                fs::remove_file(&path).map_err(|source| pin_error("remove", &path, source))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes everything in it: what nobody else holds is detached.
    ///
    /// # Errors
    /// [`HookError::Pin`].
    pub fn clear(&self) -> Result<(), HookError> {
        let clear = || {
            fs::remove_dir_all(&self.directory)?;
            make(&self.directory)
        };
        clear().map_err(|source| pin_error("clear", &self.directory, source))
    }

    /// Removes everything in `directory` and the directory, whatever layout it has. None is fine.
    ///
    /// # Errors
    /// [`HookError::Pin`].
    pub fn remove(directory: &Path) -> Result<(), HookError> {
        let remove = || -> io::Result<()> {
            if statfs(directory)?.filesystem_type() == BPF_FS_MAGIC {
                for any in directories(directory)? {
                    fs::remove_dir_all(any)?;
                }
                umount2(directory, MntFlags::MNT_DETACH)?;
            }
            fs::remove_dir(directory)
        };
        match remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(pin_error("remove", directory, error))
            }
            _ => Ok(()),
        }
    }
}

/// Directories in a directory. Files in the root of a BPF file system are the kernel's own.
fn directories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Hook and interface of a link's name.
fn parse(name: &str) -> Option<(HookKind, u32)> {
    let (label, ifindex) = name.rsplit_once('-')?;
    let hook = HookKind::ALL.into_iter().find(|hook| hook.label() == label);
    Some((hook?, ifindex.parse().ok()?))
}

fn pin_error(op: &'static str, path: &Path, source: io::Error) -> HookError {
    HookError::Pin {
        op,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_known_by_their_names() {
        let pins = Pins {
            directory: PathBuf::from("/x"),
        };
        for hook in HookKind::ALL {
            let path = pins.link(hook, 17);
            let name = path.file_name().and_then(|name| name.to_str()).unwrap();
            assert_eq!(parse(name), Some((hook, 17)));
        }
        assert_eq!(parse("flows4"), None);
        assert_eq!(parse("pod-x"), None);
    }
}
