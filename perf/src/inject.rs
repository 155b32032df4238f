//! Raw frames onto an interface, byte for byte, by AF_PACKET (packet(7)).
//!
//! For tests that must send what no well-behaved stack would. Runs in the calling thread's network
//! namespace.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

/// A way onto one interface.
pub struct Injector {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Injector {
    /// Opens `ifname` of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the interface is not there, or the caller may not send raw frames (CAP_NET_RAW).
    pub fn open(ifname: &str) -> Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .context("AF_PACKET socket")?;
        Ok(Self {
            socket,
            interface: link_address(ifname)?,
        })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the kernel refuses it: it wants at least an Ethernet header and at most the MTU.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let (socket, to) = (self.socket.as_raw_fd(), &self.interface);
        sendto(socket, frame, to, MsgFlags::empty())?;
        Ok(())
    }
}

/// Sends `frames`, in order, out of `ifname`.
///
/// # Errors
/// As [`Injector::open`] and [`Injector::send`].
pub fn frames<'a>(ifname: &str, frames: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    let injector = Injector::open(ifname)?;
    for (index, frame) in frames.into_iter().enumerate() {
        injector
            .send(frame)
            .with_context(|| format!("frame {index} on {ifname}"))?;
    }
    Ok(())
}

pub(crate) fn link_address(ifname: &str) -> Result<LinkAddr> {
    getifaddrs()
        .context("list interfaces")?
        .filter(|interface| interface.interface_name == ifname)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .with_context(|| format!("no interface {ifname} here"))
}
