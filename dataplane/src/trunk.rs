//! The veth pair that carries all pods' packets between the hooks and the workers.
//!
//! `trunk0` faces the kernel: what the hooks send into it is segmented and checksummed there,
//! because its offloads are off, so workers see finished packets while pods keep theirs.
//! `trunk1` faces the workers, one queue each. Both live and die with the process.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use penstock_netlink::{Link, LinkChange, Netlink, VethEnd, VethSpec};
use penstock_xsk::EthtoolError;
use penstock_xsk::ethtool::{self, Feature};

/// The end the kernel delivers from.
pub const KERNEL_SIDE: &str = "trunk0";

/// The end the workers' sockets are bound to.
pub const WORKER_SIDE: &str = "trunk1";

/// Bytes of IP packet: the largest a VPC carries.
const MTU: u32 = 9_001;

/// Address of `trunk0`: link-local (RFC 3927), next to the pods' gateway, spoken to by nobody.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);

/// Offloads of `trunk0` that would let unfinished packets through. Scatter-gather stays on:
/// without it every jumbo packet is copied into one high-order allocation.
const UNFINISHED: [Feature; 3] = [Feature::TxChecksum, Feature::Tso, Feature::Gso];

/// Why there is no trunk.
#[derive(Debug, thiserror::Error)]
pub enum TrunkError {
    /// rtnetlink refused.
    #[error("trunk")]
    Netlink(#[from] penstock_netlink::Error),
    /// ethtool refused.
    #[error("trunk")]
    Feature(#[from] EthtoolError),
    /// A sysctl could not be written.
    #[error("write {path}")]
    Sysctl {
        /// File below /proc/sys.
        path: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The pair, up; deleted on drop.
#[derive(Debug)]
pub struct Trunk {
    netlink: Netlink,
    /// `trunk0`.
    pub kernel_side: Link,
    /// `trunk1`.
    pub worker_side: Link,
}

impl Trunk {
    /// Creates the pair with one queue a worker, in the calling thread's network namespace.
    /// A pair left by a dead predecessor is deleted first; the caller has made sure it is dead.
    ///
    /// # Errors
    /// What the kernel refused; nothing is left behind.
    pub fn create(workers: u32) -> Result<Self, TrunkError> {
        let mut netlink = Netlink::open()?;
        for name in [KERNEL_SIDE, WORKER_SIDE] {
            delete_if_present(&mut netlink, name)?;
        }
        netlink.create_veth(&VethSpec {
            name: KERNEL_SIDE,
            mac: None,
            mtu: MTU,
            queues: workers,
            peer: VethEnd {
                name: WORKER_SIDE,
                mac: None,
                mtu: MTU,
                queues: workers,
                netns: None,
            },
        })?;
        let kernel_side = netlink.link_by_name(KERNEL_SIDE)?;
        let worker_side = netlink.link_by_name(WORKER_SIDE)?;
        let mut trunk = Self {
            netlink,
            kernel_side,
            worker_side,
        };
        trunk.prepare()?;
        Ok(trunk)
    }

    fn prepare(&mut self) -> Result<(), TrunkError> {
        for feature in UNFINISHED {
            ethtool::set_feature(KERNEL_SIDE, feature, false)?;
        }
        // Loose: packets the workers punt come back by trunk0 with pods' source addresses. The
        // kernel's loose check refuses every packet of an interface without an address
        // (net/ipv4/fib_frontend.c, __fib_validate_source), hence one that nothing else uses.
        self.netlink
            .add_link_address(self.kernel_side.index, ADDRESS.into())?;
        sysctl(&format!("net/ipv4/conf/{KERNEL_SIDE}/rp_filter"), "2")?;
        for name in [KERNEL_SIDE, WORKER_SIDE] {
            no_ipv6(name)?;
        }
        for index in [self.worker_side.index, self.kernel_side.index] {
            let up = LinkChange {
                up: Some(true),
                ..LinkChange::default()
            };
            self.netlink.set_link(index, &up)?;
        }
        Ok(())
    }

    /// Deletes a pair left by a dead predecessor.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn remove() -> Result<(), TrunkError> {
        Ok(delete_if_present(&mut Netlink::open()?, KERNEL_SIDE)?)
    }

    /// Whether both ends are still the ones created.
    pub fn is_whole(&mut self) -> bool {
        [&self.kernel_side, &self.worker_side].iter().all(|end| {
            self.netlink
                .link_by_index(end.index)
                .is_ok_and(|now| now.name == end.name)
        })
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        match self.netlink.delete_link(self.kernel_side.index) {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(%error, "trunk not deleted");
            }
            _ => {}
        }
    }
}

fn delete_if_present(netlink: &mut Netlink, name: &str) -> Result<(), penstock_netlink::Error> {
    match netlink.link_by_name(name) {
        Ok(link) => {
            tracing::info!(name, "deleting what a predecessor left");
            netlink.delete_link(link.index)
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Keeps neighbour discovery off the trunk; a kernel without IPv6 has nothing to switch off.
fn no_ipv6(name: &str) -> Result<(), TrunkError> {
    match sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1") {
        Err(TrunkError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        result => result,
    }
}

/// Writes a sysctl of the calling thread's network namespace.
fn sysctl(key: &str, value: &str) -> Result<(), TrunkError> {
    let path = format!("/proc/sys/{key}");
    fs::write(&path, value).map_err(|source| TrunkError::Sysctl { path, source })
}
