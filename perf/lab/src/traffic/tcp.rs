//! One TCP stream for a time, every byte checked against its place.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::observe::Observer;
use super::{ANSWER_DEADLINE, End, StreamReport, pattern};
use crate::error::{Context as _, Error, Result};

const WRITE_BYTES: usize = 64 << 10;
/// Position-dependent, yet cheap: the stream repeats a block whose length is prime, so no segment
/// boundary ever lines up with it.
const BLOCK_BYTES: usize = 65_537;
const SEED: u32 = 0x7063_7374;

/// Streams from `client` to `server` for `duration`, then waits until the server has read it all.
///
/// # Errors
/// When the connection cannot be made or breaks; the message says at which byte.
pub fn tcp(client: End<'_>, server: End<'_>, duration: Duration) -> Result<StreamReport> {
    let listener = server
        .netns
        .run(|| TcpListener::bind(SocketAddrV4::new(server.address, 0)))?
        .context(|| format!("listen in {}", server.netns.name()))?;
    let SocketAddr::V4(server_at) = listener.local_addr().context(|| "listener")? else {
        return Err(Error::Traffic("listener is not IPv4".to_owned()));
    };
    let at_server = Observer::open(server.netns, Protocol::TCP, server_at)?;
    let started = Instant::now();
    let reader = thread::spawn(move || accept_and_check(&listener, duration));
    let stream = connect(client, server_at)?;
    let at_client =
        local_end(&stream).and_then(|local| Observer::open(client.netns, Protocol::TCP, local))?;
    let sent = send_for(stream, duration).context(|| format!("send to {server_at}"))?;
    let (bytes, corrupt) = reader
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("reader panicked")))
        .context(|| format!("receive at {server_at}"))?;
    let elapsed = started.elapsed();
    if bytes != sent {
        return Err(Error::Traffic(format!(
            "sent {sent} bytes, {server_at} received {bytes}"
        )));
    }
    Ok(StreamReport {
        bytes,
        corrupt,
        at_server: at_server.first(Ipv4Addr::UNSPECIFIED),
        at_client: at_client.first(server.address),
        elapsed,
    })
}

fn connect(client: End<'_>, server: SocketAddrV4) -> Result<TcpStream> {
    let socket = client
        .netns
        .run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))?
        .context(|| format!("TCP socket in {}", client.netns.name()))?;
    socket
        .bind(&SockAddr::from(SocketAddrV4::new(client.address, 0)))
        .context(|| format!("bind {}", client.address))?;
    socket
        .connect_timeout(&SockAddr::from(server), ANSWER_DEADLINE)
        .context(|| format!("connect {} to {server}", client.address))?;
    Ok(socket.into())
}

fn local_end(stream: &TcpStream) -> Result<SocketAddrV4> {
    match stream.local_addr().context(|| "local address")? {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => Err(Error::Traffic(format!("{address} is not IPv4"))),
    }
}

fn block() -> Vec<u8> {
    (0..BLOCK_BYTES as u64)
        .map(|at| pattern(SEED, at))
        .collect()
}

fn send_for(mut stream: TcpStream, duration: Duration) -> io::Result<u64> {
    stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
    let block = block();
    let doubled: Vec<u8> = block.iter().chain(&block).copied().collect();
    let deadline = Instant::now() + duration;
    let mut sent = 0_u64;
    while Instant::now() < deadline {
        let from = (sent % BLOCK_BYTES as u64) as usize;
        let chunk = &doubled[from..from + WRITE_BYTES.min(BLOCK_BYTES)];
        stream.write_all(chunk)?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The peer closes once it has read everything; until then the port stays ours.
    stream.set_read_timeout(Some(duration + ANSWER_DEADLINE))?;
    let _ = stream.read(&mut [0; 1])?;
    Ok(sent)
}

/// Returns bytes received and how many of them were wrong.
fn accept_and_check(listener: &TcpListener, duration: Duration) -> io::Result<(u64, u64)> {
    let mut stream = accept(listener)?;
    stream.set_read_timeout(Some(duration + ANSWER_DEADLINE))?;
    let block = block();
    let mut buffer = vec![0; WRITE_BYTES];
    let (mut received, mut corrupt) = (0_u64, 0_u64);
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok((received, corrupt));
        }
        corrupt += differences(&buffer[..length], &block, received);
        received += length as u64;
    }
}

/// Accepts one connection within the probe's deadline.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;

    let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(ANSWER_DEADLINE).unwrap_or(PollTimeout::MAX);
    if poll(&mut ready, timeout)? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody connected"));
    }
    listener.accept().map(|(stream, _)| stream)
}

fn differences(received: &[u8], block: &[u8], position: u64) -> u64 {
    let mut at = (position % BLOCK_BYTES as u64) as usize;
    let mut rest = received;
    let mut wrong = 0;
    while !rest.is_empty() {
        let length = rest.len().min(BLOCK_BYTES - at);
        let (now, later) = rest.split_at(length);
        let expected = &block[at..at + length];
        if now != expected {
            wrong += now
                .iter()
                .zip(expected)
                .filter(|(got, want)| got != want)
                .count() as u64;
        }
        rest = later;
        at = 0;
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_segment_is_seen() {
        let block = block();
        let at = BLOCK_BYTES as u64 - 10;
        let mut wire: Vec<u8> = (0..100)
            .map(|offset| block[((at + offset) % BLOCK_BYTES as u64) as usize])
            .collect();
        assert_eq!(differences(&wire, &block, at), 0);
        wire[50] ^= 1;
        assert_eq!(differences(&wire, &block, at), 1);
        assert!(differences(&wire, &block, at + 1) > 50);
    }
}
