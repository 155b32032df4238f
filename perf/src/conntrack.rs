//! Empties the kernel's connection tracking, so that every trial begins as the first did.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
/// NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE (linux/netfilter/nfnetlink*.h).
const DELETE: u16 = 1 << 8 | 2;
/// netlink header, and nfgenmsg of no family, which stands for everything.
const LENGTH: usize = 20;

/// Forgets all connections of the calling thread's namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn flush() -> Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )
    .context("netfilter socket")?;
    let mut message = [0; LENGTH];
    message[..4].copy_from_slice(&(LENGTH as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    send(socket.as_raw_fd(), &message, MsgFlags::empty()).context("ask netfilter")?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    if length < LENGTH || kind != NLMSG_ERROR || code != 0 {
        bail!("netfilter did not forget its connections: error {code}");
    }
    Ok(())
}
