//! TCP throughput of some streams at once, as the receivers count it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::PATIENCE;
use crate::place::Place;

const CHUNK: usize = 128 << 10;

/// Which end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The end that connected.
    Out,
    /// The end that listened.
    In,
}

/// One constellation.
#[derive(Debug, Clone, Copy)]
pub struct Bulk<'a> {
    /// Connects.
    pub client: &'a Place,
    /// Listens.
    pub server: &'a Place,
    /// Connections at once.
    pub streams: usize,
    /// Which end sends.
    pub direction: Direction,
}

impl Bulk<'_> {
    /// Gbit/s of payload received in `duration`, after `warm_up`.
    ///
    /// # Errors
    /// When a connection cannot be made or nothing arrives.
    pub fn run(&self, warm_up: Duration, duration: Duration) -> Result<f64> {
        let pairs = self.connect()?;
        let (received, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let (bytes, took) = thread::scope(|scope| {
            for (client, server) in &pairs {
                let (from, to) = match self.direction {
                    Direction::Out => (client, server),
                    Direction::In => (server, client),
                };
                scope.spawn(|| send(from, &stop));
                scope.spawn(|| receive(to, &received));
            }
            thread::sleep(warm_up);
            let (before, started) = (received.load(Ordering::Relaxed), Instant::now());
            thread::sleep(duration);
            let bytes = received.load(Ordering::Relaxed) - before;
            let took = started.elapsed();
            stop.store(true, Ordering::Relaxed);
            // Whoever is blocked in a call sees the end.
            for (client, server) in &pairs {
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            }
            (bytes, took)
        });
        ensure!(bytes > 0, "no byte arrived");
        Ok(bytes as f64 * 8.0 / took.as_secs_f64() / 1e9)
    }

    fn connect(&self) -> Result<Vec<(TcpStream, TcpStream)>> {
        let at = SocketAddrV4::new(self.server.address, 0);
        let listener = self
            .server
            .netns
            .run(|| TcpListener::bind(at))?
            .with_context(|| format!("listen on {at}"))?;
        let SocketAddr::V4(at) = listener.local_addr()? else {
            anyhow::bail!("the listener is not IPv4");
        };
        (0..self.streams)
            .map(|_| {
                let client = dial(self.client, at)?;
                // The handshake is complete: accepting does not wait.
                let (server, _) = listener.accept()?;
                for stream in [&client, &server] {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                }
                Ok((client, server))
            })
            .collect()
    }
}

/// A connection from a place.
///
/// # Errors
/// When nobody answers in time.
pub fn dial(from: &Place, to: SocketAddrV4) -> Result<TcpStream> {
    let socket = from
        .netns
        .run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))??;
    socket
        .connect_timeout(&SockAddr::from(to), PATIENCE)
        .with_context(|| format!("connect {} to {to}", from.address))?;
    Ok(socket.into())
}

fn send(mut stream: &TcpStream, stop: &AtomicBool) {
    let chunk = vec![0; CHUNK];
    while !stop.load(Ordering::Relaxed) && stream.write_all(&chunk).is_ok() {}
}

fn receive(mut stream: &TcpStream, received: &AtomicU64) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}
