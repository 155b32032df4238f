//! Network namespaces by path: opened without blocking, entered only for the moment it takes to
//! open a netlink socket there.
//!
//! The process has one thread, so entering moves all of it; it returns before anything else runs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use penstock_control_api::Failure;
use penstock_netlink::Netlink;

use crate::failure::{IO, NETNS, failure};

/// A network namespace, held open.
pub(crate) struct Namespace(OwnedFd);

impl Namespace {
    /// The namespace of this process.
    pub(crate) fn own() -> Result<Self, Failure> {
        let path = Path::new("/proc/self/ns/net");
        open_namespace(path)
            .map(Self)
            .map_err(|error| refused(path, &error))
    }

    /// The namespace at `path`, which must be another one.
    ///
    /// # Errors
    /// Code 5 when `path` is not a network namespace, 8 when it is `own`.
    pub(crate) fn pod(path: &Path, own: &Self) -> Result<Self, Failure> {
        let pod = open_namespace(path)
            .map(Self)
            .map_err(|error| refused(path, &error))?;
        if pod.is(own).map_err(|error| refused(path, &error))? {
            return Err(failure(
                NETNS,
                format!("CNI_NETNS {} is the node's own namespace", path.display()),
                "a pod on the host network needs no plugin",
            ));
        }
        Ok(pod)
    }

    /// A netlink socket in this namespace, opened from `own`, where the process stays.
    pub(crate) fn netlink(&self, own: &Self) -> Result<Netlink, Failure> {
        let enter = |namespace: &Self| {
            setns(&namespace.0, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                failure(IO, "cannot enter the network namespace", errno.to_string())
            })
        };
        enter(self)?;
        let socket = Netlink::open();
        enter(own)?;
        socket.map_err(|error| failure(IO, "cannot use netlink in the pod", error.to_string()))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn is(&self, other: &Self) -> io::Result<bool> {
        let (a, b) = (fstat(&self.0)?, fstat(&other.0)?);
        Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }
}

/// Opens `path` if it is a namespace: first without touching what is there (a FIFO would block, a
/// device would notice), then for real through the same descriptor.
fn open_namespace(path: &Path) -> io::Result<OwnedFd> {
    let seen = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    if fstatfs(&seen)?.filesystem_type() != NSFS_MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a network namespace",
        ));
    }
    let again = format!("/proc/self/fd/{}", seen.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(open(again.as_str(), flags, Mode::empty())?)
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    failure(
        IO,
        format!("CNI_NETNS {} cannot be used", path.display()),
        error.to_string(),
    )
}
