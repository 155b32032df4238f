//! Datagrams one way at a constant rate through a fault: what was lost, and when nothing came.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{GLANCE, is_idle};
use crate::place::Place;

/// How long datagrams are waited for after the last was sent.
const GRACE: Duration = Duration::from_secs(1);

/// Which flows the datagrams belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flows {
    /// One, spoken on both ways before.
    Established,
    /// A new one for every datagram.
    New,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    /// Datagrams sent.
    pub sent: u64,
    /// Seconds from the start to each arrival, in order.
    pub arrivals: Vec<f64>,
}

impl Passage {
    /// Datagrams that never came.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.arrivals.len() as u64
    }

    /// Longest time without an arrival, in milliseconds, between the first and the last.
    #[must_use]
    pub fn longest_gap_ms(&self) -> f64 {
        let gaps = self.arrivals.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.fold(0.0, f64::max) * 1e3
    }

    /// Arrivals a second in pieces of `width` seconds: (middle of the piece, rate).
    #[must_use]
    pub fn rate_over_time(&self, width: f64) -> Vec<(f64, f64)> {
        let Some(last) = self.arrivals.last() else {
            return Vec::new();
        };
        let mut counts = vec![0_u32; (last / width) as usize + 1];
        for arrival in &self.arrivals {
            counts[(arrival / width) as usize] += 1;
        }
        counts
            .iter()
            .enumerate()
            .map(|(at, &count)| ((at as f64 + 0.5) * width, f64::from(count) / width))
            .collect()
    }
}

/// Sends `per_second` datagrams from `client` to `server` until `stop`, and counts what arrives.
///
/// # Errors
/// When sockets cannot be made or an established flow gets no answer at its beginning.
pub fn run(
    (client, server): (&Place, &Place),
    flows: Flows,
    per_second: u32,
    stop: &AtomicBool,
    started: Instant,
) -> Result<Passage> {
    let at = SocketAddrV4::new(server.address, 0);
    let listener = server.netns.run(|| UdpSocket::bind(at))??;
    listener.set_read_timeout(Some(GLANCE))?;
    let server_at = listener.local_addr()?;
    let first = connected(client, server_at)?;
    if flows == Flows::Established {
        establish(&first, &listener)?;
    }
    let (sent_all, interval) = (AtomicBool::new(false), 1.0 / f64::from(per_second));
    thread::scope(|scope| {
        let arrivals = scope.spawn(|| arrivals(&listener, &sent_all, started));
        let sending = client.netns.run(|| -> Result<u64> {
            let mut sent = 0;
            let mut socket = first;
            while !stop.load(Ordering::Relaxed) {
                if flows == Flows::New {
                    socket = UdpSocket::bind(SocketAddrV4::new(client.address, 0))?;
                    socket.connect(server_at)?;
                }
                // What the node refuses is lost like what it drops.
                let _ = socket.send(&[0; 32]);
                sent += 1;
                let due = started + Duration::from_secs_f64(sent as f64 * interval);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            Ok(sent)
        });
        let sent = sending.context("enter the sender's namespace").flatten();
        thread::sleep(GRACE);
        sent_all.store(true, Ordering::Relaxed);
        Ok(Passage {
            arrivals: arrivals.join().unwrap_or_default(),
            sent: sent?,
        })
    })
}

fn connected(client: &Place, to: SocketAddr) -> Result<UdpSocket> {
    let socket = client
        .netns
        .run(|| UdpSocket::bind(SocketAddrV4::new(client.address, 0)))??;
    socket.connect(to)?;
    Ok(socket)
}

/// Some words there and back.
fn establish(client: &UdpSocket, server: &UdpSocket) -> Result<()> {
    const ROUNDS: u32 = 5;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    server.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut word = [0; 32];
    for _ in 0..ROUNDS {
        client.send(&word)?;
        let (length, from) = server.recv_from(&mut word).context("the flow's server")?;
        server.send_to(&word[..length], from)?;
        client.recv(&mut word).context("the flow's client")?;
    }
    server.set_read_timeout(Some(GLANCE))?;
    Ok(())
}

fn arrivals(socket: &UdpSocket, over: &AtomicBool, started: Instant) -> Vec<f64> {
    let mut arrivals = Vec::new();
    let mut word = [0; 64];
    loop {
        match socket.recv(&mut word) {
            Ok(_) => arrivals.push(started.elapsed().as_secs_f64()),
            Err(error) if is_idle(&error) => {
                if over.load(Ordering::Relaxed) {
                    return arrivals;
                }
            }
            Err(_) => return arrivals,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_losses_are_what_is_missing() {
        let passage = Passage {
            sent: 6,
            arrivals: vec![0.0, 0.1, 0.2, 0.7, 0.8],
        };
        assert_eq!(passage.lost(), 1);
        assert!((passage.longest_gap_ms() - 500.0).abs() < 1e-6);
        let rates = passage.rate_over_time(0.5);
        assert_eq!(rates.len(), 2);
        assert!((rates[0].1 - 6.0).abs() < 1e-9 && (rates[1].1 - 4.0).abs() < 1e-9);
    }
}
