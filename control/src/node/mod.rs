//! The node's kernel, by rtnetlink and /proc/sys: ENIs, pods' routes and rules, neighbours.
//!
//! Every operation is idempotent: what is already there is success, what is already gone is success. Works in the
//! network namespace of the process and spawns no processes. Must not decide anything: tables, priorities and
//! addresses come from the caller or from the constants here (VPC CNI's, so that its users find what they know).

mod delete;
mod eni;
mod link;
mod neighbor;
mod pod;
mod repair;
mod rule;
pub mod sysctl;
mod watch;

pub use eni::EniSetup;
pub use link::Link;
pub use pod::PodPath;
pub use repair::Missing;
pub use watch::{LinkChange, LinkWish};

use std::io;
use std::sync::Arc;

use futures::{TryStream, TryStreamExt as _};
use rtnetlink::Handle;

/// The kernel's main table, RT_TABLE_MAIN.
pub const MAIN_TABLE: u32 = 254;

/// ip-rule priorities, those of the VPC CNI.
pub mod priority {
    /// To a pod: main table.
    pub const TO_POD: u32 = 512;
    /// Marked for the primary ENI: main table.
    pub const MARK: u32 = 1024;
    /// To a network of AWS_EXTERNAL_SERVICE_CIDRS: main table.
    pub const TO_SERVICE: u32 = 1535;
    /// From a pod on a secondary ENI: that ENI's table.
    pub const FROM_POD: u32 = 1536;
    /// From a secondary ENI's own address: that ENI's table.
    pub const FROM_ENI: u32 = 32765;
}

/// The bit of the packet mark that sends a packet out by the primary ENI.
pub const PRIMARY_MARK: u32 = 0x80;

/// Route table of the ENI with this device number: main for the primary, n + 1 for the others.
#[must_use]
pub fn table_of(device_number: u32) -> u32 {
    match device_number {
        0 => MAIN_TABLE,
        number => number + 1,
    }
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct NodeError {
    /// What was tried, with the names a person needs.
    pub what: String,
    /// What came back.
    pub cause: Cause,
}

/// Where a refusal came from.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// rtnetlink.
    #[error("{0}")]
    Netlink(rtnetlink::Error),
    /// A file in /proc/sys, or the netlink socket.
    #[error("{0}")]
    Io(io::Error),
}

impl NodeError {
    fn netlink(what: impl Into<String>, cause: rtnetlink::Error) -> Self {
        Self {
            what: what.into(),
            cause: Cause::Netlink(cause),
        }
    }

    fn io(what: impl Into<String>, cause: io::Error) -> Self {
        Self {
            what: what.into(),
            cause: Cause::Io(cause),
        }
    }
}

/// A handle on the kernel's network configuration; clones share one socket.
#[derive(Debug, Clone)]
pub struct Node {
    netlink: Handle,
    /// Held while a list is read.
    listing: Arc<tokio::sync::Mutex<()>>,
    deleter: delete::Deleter,
}

impl Node {
    /// Opens the netlink socket in the current network namespace; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open() -> Result<Self, NodeError> {
        let opened = rtnetlink::new_connection();
        let (connection, netlink, _) =
            opened.map_err(|cause| NodeError::io("open a netlink socket", cause))?;
        tokio::spawn(connection);
        let deleter = delete::Deleter::start(netlink.clone());
        Ok(Self {
            netlink,
            listing: Arc::default(),
            deleter,
        })
    }

    /// Reads a whole list. A netlink socket carries one at a time and refuses a second with EBUSY
    /// (`__netlink_dump_start` in net/netlink/af_netlink.c), so they take turns.
    async fn list<S: TryStream<Error = rtnetlink::Error>>(
        &self,
        what: impl Into<String>,
        ask: impl FnOnce(&Handle) -> S,
    ) -> Result<Vec<S::Ok>, NodeError> {
        let _turn = self.listing.lock().await;
        let all = ask(&self.netlink).try_collect().await;
        all.map_err(|cause| NodeError::netlink(what, cause))
    }
}

/// Treats one errno as success.
fn unless(
    expected: nix::errno::Errno,
    result: Result<(), rtnetlink::Error>,
) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(expected) => Ok(()),
        other => other,
    }
}

/// The kernel's error number, if it was the kernel that refused.
fn errno(error: &rtnetlink::Error) -> Option<nix::errno::Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(nix::errno::Errno::from_raw(
            message.raw_code().wrapping_neg(),
        )),
        _ => None,
    }
}
