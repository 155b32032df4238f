//! Reads source and TTL of the first matching packet that reaches a namespace.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};

use super::{ANSWER_DEADLINE, Seen};
use crate::error::{Context as _, Result};
use crate::netns::NetNs;

/// A raw socket that was opened before the traffic began, so the first packet is not missed.
pub(super) struct Observer {
    socket: Socket,
    local: SocketAddrV4,
}

impl Observer {
    /// Watches packets of `protocol` to `local` in `netns`; a zero port matches any.
    pub(super) fn open(netns: &NetNs, protocol: Protocol, local: SocketAddrV4) -> Result<Self> {
        let socket = netns
            .run(|| Socket::new(Domain::IPV4, Type::RAW, Some(protocol)))?
            .context(|| format!("raw socket in {}", netns.name()))?;
        socket
            .set_read_timeout(Some(ANSWER_DEADLINE))
            .context(|| "raw socket deadline")?;
        Ok(Self { socket, local })
    }

    /// The first packet from `remote` (any, when unspecified) that has arrived or arrives in time.
    pub(super) fn first(&self, remote: Ipv4Addr) -> Option<Seen> {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        let mut packet = [0_u8; 64];
        while Instant::now() < deadline {
            let length = match read(&self.socket, &mut packet) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
            let seen = packet
                .get(..length)
                .and_then(|packet| parse(packet, self.local));
            if let Some(seen) =
                seen.filter(|seen| remote.is_unspecified() || *seen.source.ip() == remote)
            {
                return Some(seen);
            }
        }
        None
    }
}

fn read(mut socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    io::Read::read(&mut socket, buffer)
}

/// IPv4 header (RFC 791 3.1), then two ports for TCP and UDP; ICMP has none.
fn parse(packet: &[u8], local: SocketAddrV4) -> Option<Seen> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let address = |at: usize| -> Option<Ipv4Addr> {
        Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into())
    };
    if address(16)? != *local.ip() {
        return None;
    }
    let with_ports = local.port() != 0;
    if with_ports && word(header + 2)? != local.port() {
        return None;
    }
    let source_port = if with_ports { word(header)? } else { 0 };
    Some(Seen {
        source: SocketAddrV4::new(address(12)?, source_port),
        ttl: *packet.get(8)?,
    })
}
