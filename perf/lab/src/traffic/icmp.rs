//! ICMP echo, by a raw socket on the client's side; the server is the other kernel.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::observe::Observer;
use super::{ANSWER_DEADLINE, EchoReport, End, Seen, pattern};
use crate::error::{Context as _, Result};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const HEADER: usize = 8;

/// Sends `count` echo requests with `length` payload bytes, one at a time.
///
/// # Errors
/// When sockets cannot be made; losses are in the report.
pub fn ping(client: End<'_>, server: End<'_>, count: u32, length: usize) -> Result<EchoReport> {
    // Two probes at once in one namespace must not read each other's replies.
    static IDENTIFIER: AtomicU16 = AtomicU16::new(1);
    let identifier = IDENTIFIER.fetch_add(1, Ordering::Relaxed);
    let server_at = SocketAddrV4::new(server.address, 0);
    let at_server = Observer::open(server.netns, Protocol::ICMPV4, server_at)?;
    let socket = client
        .netns
        .run(|| -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
            socket.bind(&SockAddr::from(SocketAddrV4::new(client.address, 0)))?;
            socket.set_read_timeout(Some(ANSWER_DEADLINE))?;
            Ok(socket)
        })?
        .context(|| format!("ICMP socket in {}", client.netns.name()))?;

    let mut received = 0;
    let mut at_client = None;
    for sequence in 0..count {
        let request = echo_request(identifier, sequence, length);
        if socket
            .send_to(&request, &SockAddr::from(server_at))
            .is_err()
        {
            continue;
        }
        if let Some(seen) = await_reply(&socket, server.address, &request) {
            received += 1;
            at_client = Some(seen);
        }
    }
    let at_server = at_server.first(Ipv4Addr::UNSPECIFIED);
    Ok(EchoReport {
        sent: count,
        received,
        at_server,
        at_client,
    })
}

/// RFC 792 page 14, checksum per RFC 1071.
fn echo_request(identifier: u16, sequence: u32, length: usize) -> Vec<u8> {
    let mut message = vec![ECHO_REQUEST, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend((sequence as u16).to_be_bytes());
    message.extend((0..length as u64).map(|at| pattern(sequence, at)));
    let mut sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}

fn await_reply(mut socket: &Socket, server: Ipv4Addr, request: &[u8]) -> Option<Seen> {
    let deadline = Instant::now() + ANSWER_DEADLINE;
    let mut packet = vec![0; request.len() + 60];
    while Instant::now() < deadline {
        let length = io::Read::read(&mut socket, &mut packet).ok()?;
        if let Some(seen) = reply_in(packet.get(..length)?, server, request) {
            return Some(seen);
        }
    }
    None
}

fn reply_in(packet: &[u8], server: Ipv4Addr, request: &[u8]) -> Option<Seen> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let source = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
    let message = packet.get(header..)?;
    // Identifier, sequence and payload must be the request's; type and checksum differ.
    let ours = source == server
        && message.first() == Some(&ECHO_REPLY)
        && message.get(4..HEADER)? == request.get(4..HEADER)?
        && message.get(HEADER..)? == request.get(HEADER..)?;
    ours.then_some(Seen {
        source: SocketAddrV4::new(source, 0),
        ttl: *packet.get(8)?,
    })
}
