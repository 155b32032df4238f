//! Raw frames onto an interface, byte for byte, by AF_PACKET (packet(7)).
//!
//! For tests that must send what no well-behaved stack would. Runs in the calling thread's network
//! namespace.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

/// Sends `frames`, in order, out of `ifname`.
///
/// # Errors
/// When the interface is not there, or the kernel refuses a frame (it wants at least an Ethernet
/// header and at most the MTU).
pub fn frames<'a>(ifname: &str, frames: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("AF_PACKET socket")?;
    let interface = link_address(ifname)?;
    for (index, frame) in frames.into_iter().enumerate() {
        sendto(socket.as_raw_fd(), frame, &interface, MsgFlags::empty())
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
