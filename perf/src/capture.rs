//! Raw frames off an interface, byte for byte, by AF_PACKET (packet(7)).
//!
//! For tests that compare what arrived with what was sent. Sees a frame before the namespace's own
//! stack, and what the namespace itself sends as well.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::inject::link_address;

/// Bytes of frames, with the kernel's overhead, that may wait to be read.
const WAITING: usize = 64 << 20;

/// Milliseconds a reader waits for a frame.
const SILENCE: i64 = 100;

/// Longest frame: an IP packet of the greatest length behind an Ethernet header.
const LONGEST: usize = 65_535 + 14;

/// A socket that has seen every frame since it was opened.
pub struct Capture {
    socket: OwnedFd,
    frame: Vec<u8>,
}

impl Capture {
    /// Watches `ifname` of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the interface is not there, or the caller may not watch it (CAP_NET_RAW).
    pub fn open(ifname: &str) -> Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .context("AF_PACKET socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &WAITING).context("receive buffer")?;
        let silence = TimeVal::milliseconds(SILENCE);
        setsockopt(&socket, sockopt::ReceiveTimeout, &silence).context("deadline")?;
        bind(socket.as_raw_fd(), &link_address(ifname)?)
            .with_context(|| format!("watch {ifname}"))?;
        Ok(Self {
            socket,
            frame: vec![0; LONGEST],
        })
    }

    /// The next frame, or `None` when none has arrived and none does within a tenth of a second.
    ///
    /// # Errors
    /// When the interface goes away.
    pub fn frame(&mut self) -> Result<Option<&[u8]>> {
        self.receive(MsgFlags::empty())
    }

    /// The next frame that has arrived, or `None` at once.
    ///
    /// # Errors
    /// When the interface goes away.
    pub fn frame_now(&mut self) -> Result<Option<&[u8]>> {
        self.receive(MsgFlags::MSG_DONTWAIT)
    }

    fn receive(&mut self, flags: MsgFlags) -> Result<Option<&[u8]>> {
        loop {
            let received = recv(self.socket.as_raw_fd(), &mut self.frame, flags);
            return match received {
                Ok(length) => Ok(self.frame.get(..length)),
                Err(Errno::EAGAIN) => Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => bail!("receive: {error}"),
            };
        }
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
