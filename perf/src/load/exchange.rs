//! Requests and responses at a constant rate, and how long each took.
//!
//! Open loop: the schedule never waits for an answer, and a request's time runs from the moment it
//! was due, so that a stall shows in every request it delayed and not in one (no coordinated
//! omission). One thread sends and receives without blocking.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;

use super::bulk::dial;
use super::{Core, GLANCE, PATIENCE, is_idle, pin};
use crate::place::Place;

/// Bytes of a request and of its answer.
const MESSAGE: usize = 64;
/// How long answers are waited for after the last request.
const GRACE: Duration = Duration::from_secs(1);
/// Requests on the way at once when the rate is what is sought.
const WINDOW: u64 = 32;

/// Transport of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// One connection, without delay.
    Tcp,
}

impl Transport {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many a second, whatever comes back.
    PerSecond(f64),
    /// As soon as fewer than a window's worth are on the way.
    Window,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Requests sent.
    pub sent: u64,
    /// Answers received.
    pub answered: u64,
    /// Nanoseconds from the moment a request was due to its answer.
    pub latency: Histogram<u64>,
    /// How long requests were sent.
    pub took: Duration,
    /// Whether both ends were pinned.
    pub pinned: bool,
}

impl Exchange {
    /// Share of requests without answer.
    #[must_use]
    pub fn loss(&self) -> f64 {
        1.0 - self.answered as f64 / self.sent.max(1) as f64
    }

    /// Microseconds at a quantile.
    #[must_use]
    pub fn micros(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// Exchanges messages between two places for `duration`.
///
/// # Errors
/// When sockets cannot be made, the connection breaks, or nothing is answered.
pub fn run(
    (client, server): (&Place, &Place),
    transport: Transport,
    pace: Pace,
    duration: Duration,
) -> Result<Exchange> {
    let stop = AtomicBool::new(false);
    let mut ends = Ends::open(client, server, transport)?;
    let server = ends.server.take().context("no server")?;
    let exchange = thread::scope(|scope| {
        let server = scope.spawn(|| {
            let pinned = pin(Core::First);
            server.serve(&stop);
            pinned
        });
        let client = scope.spawn(|| {
            let pinned = pin(Core::Last);
            let mut exchange = drive(&mut ends.client, pace, duration)?;
            exchange.pinned = pinned;
            Ok::<_, anyhow::Error>(exchange)
        });
        let outcome = client
            .join()
            .unwrap_or_else(|_| bail!("the client panicked"));
        stop.store(true, Ordering::Relaxed);
        let pinned = server.join().unwrap_or(false);
        outcome.map(|mut exchange| {
            exchange.pinned &= pinned;
            exchange
        })
    })?;
    if exchange.answered == 0 {
        bail!("none of {} requests was answered", exchange.sent);
    }
    Ok(exchange)
}

fn drive(client: &mut Client, pace: Pace, duration: Duration) -> Result<Exchange> {
    let started = Instant::now();
    let mut exchange = Exchange {
        sent: 0,
        answered: 0,
        latency: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
        took: duration,
        pinned: false,
    };
    let since = |instant: Instant| instant.duration_since(started).as_nanos() as u64;
    loop {
        let now = Instant::now();
        if now >= started + duration + GRACE {
            break;
        }
        let sending = now < started + duration;
        if !sending && exchange.answered == exchange.sent {
            break;
        }
        let due = match pace {
            Pace::PerSecond(rate) => (exchange.sent as f64 / rate * 1e9) as u64,
            Pace::Window if exchange.sent - exchange.answered < WINDOW => since(now),
            Pace::Window => u64::MAX,
        };
        if sending && due <= since(now) {
            client.send(due)?;
            exchange.sent += 1;
        }
        while let Some(due) = client.receive()? {
            let took = since(Instant::now()).saturating_sub(due);
            exchange.latency.saturating_record(took.max(1));
            exchange.answered += 1;
        }
    }
    Ok(exchange)
}

struct Ends {
    client: Client,
    server: Option<Server>,
}

enum Client {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, partial: Vec<u8> },
}

enum Server {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Ends {
    fn open(client: &Place, server: &Place, transport: Transport) -> Result<Self> {
        let at = SocketAddrV4::new(server.address, 0);
        match transport {
            Transport::Udp => {
                let listener = server.netns.run(|| UdpSocket::bind(at))??;
                listener.set_read_timeout(Some(GLANCE))?;
                let from = SocketAddrV4::new(client.address, 0);
                let socket = client.netns.run(|| UdpSocket::bind(from))??;
                socket.connect(listener.local_addr()?)?;
                socket.set_nonblocking(true)?;
                Ok(Self {
                    client: Client::Udp(socket),
                    server: Some(Server::Udp(listener)),
                })
            }
            Transport::Tcp => {
                let listener = server.netns.run(|| TcpListener::bind(at))??;
                let SocketAddr::V4(at) = listener.local_addr()? else {
                    bail!("the listener is not IPv4");
                };
                let stream = dial(client, at)?;
                let (accepted, _) = listener.accept()?;
                for stream in [&stream, &accepted] {
                    stream.set_nodelay(true)?;
                }
                accepted.set_read_timeout(Some(GLANCE))?;
                accepted.set_write_timeout(Some(PATIENCE))?;
                stream.set_nonblocking(true)?;
                Ok(Self {
                    client: Client::Tcp {
                        stream,
                        partial: Vec::with_capacity(1 << 16),
                    },
                    server: Some(Server::Tcp(accepted)),
                })
            }
        }
    }
}

impl Client {
    /// Sends a request that says when it was due.
    fn send(&mut self, due: u64) -> Result<()> {
        let mut message = [0; MESSAGE];
        message[..8].copy_from_slice(&due.to_be_bytes());
        match self {
            Self::Udp(socket) => {
                // A full queue is a loss like any other.
                match socket.send(&message) {
                    Err(error) if !is_idle(&error) && !is_refused(&error) => Err(error.into()),
                    _ => Ok(()),
                }
            }
            Self::Tcp { stream, .. } => {
                let mut rest = message.as_slice();
                let deadline = Instant::now() + PATIENCE;
                while !rest.is_empty() {
                    match stream.write(rest) {
                        Ok(length) => rest = &rest[length..],
                        Err(error) if is_idle(&error) && Instant::now() < deadline => {}
                        Err(error) => return Err(error).context("the connection broke"),
                    }
                }
                Ok(())
            }
        }
    }

    /// When the next answered request was due, if one has been answered.
    fn receive(&mut self) -> Result<Option<u64>> {
        match self {
            Self::Udp(socket) => {
                let mut message = [0; MESSAGE];
                match socket.recv(&mut message) {
                    Ok(MESSAGE) => Ok(due_of(&message)),
                    Ok(_) => Ok(None),
                    Err(error) if is_idle(&error) || is_refused(&error) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Self::Tcp { stream, partial } => {
                if partial.len() < MESSAGE {
                    let mut chunk = [0; 4096];
                    match stream.read(&mut chunk) {
                        Ok(0) => bail!("the connection was closed"),
                        Ok(length) => partial.extend_from_slice(&chunk[..length]),
                        Err(error) if is_idle(&error) => {}
                        Err(error) => return Err(error).context("the connection broke"),
                    }
                }
                if partial.len() < MESSAGE {
                    return Ok(None);
                }
                let due = due_of(partial);
                partial.drain(..MESSAGE);
                Ok(due)
            }
        }
    }
}

fn due_of(message: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(message.get(..8)?.try_into().ok()?))
}

fn is_refused(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionRefused
}

impl Server {
    fn serve(mut self, stop: &AtomicBool) {
        let mut chunk = [0; 4096];
        while !stop.load(Ordering::Relaxed) {
            let outcome = match &mut self {
                Self::Udp(socket) => socket
                    .recv_from(&mut chunk)
                    .and_then(|(length, from)| socket.send_to(&chunk[..length], from)),
                Self::Tcp(stream) => match stream.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(length) => stream.write_all(&chunk[..length]).map(|()| length),
                    Err(error) => Err(error),
                },
            };
            if outcome.is_err_and(|error| !is_idle(&error)) {
                return;
            }
        }
    }
}
