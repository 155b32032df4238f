//! Connections a second: connect, one request, one answer, close.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{GLANCE, PATIENCE, is_idle};
use crate::place::Place;

/// Clients at once: as many as keep two cores busy.
const CLIENTS: usize = 4;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Connections {
    /// Completed a second.
    pub per_second: f64,
    /// Completed.
    pub completed: u64,
    /// Not connected, reset, or without answer.
    pub failed: u64,
    /// Why one of them failed.
    pub why: Option<String>,
}

/// Connects from `clients` to `server` over and over for `duration`.
///
/// # Errors
/// When the server cannot listen.
pub fn run(clients: &[Place], server: &Place, duration: Duration) -> Result<Connections> {
    let at = SocketAddrV4::new(server.address, 0);
    let listener = server.netns.run(|| TcpListener::bind(at))??;
    let SocketAddr::V4(at) = listener.local_addr()? else {
        anyhow::bail!("the listener is not IPv4");
    };
    listener.set_nonblocking(true).context("listener")?;
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let tally = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| serve(&listener, &stop));
        }
        let clients: Vec<_> = clients
            .iter()
            .cycle()
            .take(CLIENTS)
            .map(|client| scope.spawn(move || ask(client, at, started + duration)))
            .collect();
        let tally = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_default())
            .fold(Connections::default(), Connections::and);
        stop.store(true, Ordering::Relaxed);
        tally
    });
    Ok(Connections {
        per_second: tally.completed as f64 / started.elapsed().as_secs_f64(),
        ..tally
    })
}

impl Connections {
    fn and(mut self, other: Self) -> Self {
        self.completed += other.completed;
        self.failed += other.failed;
        self.why = self.why.or(other.why);
        self
    }
}

fn ask(client: &Place, at: SocketAddrV4, until: Instant) -> Connections {
    // One entry into the namespace for all of them.
    let asked = client.netns.run(|| {
        let mut tally = Connections::default();
        while Instant::now() < until {
            match once(at) {
                Ok(()) => tally.completed += 1,
                Err(error) => {
                    tally.failed += 1;
                    tally.why.get_or_insert_with(|| error.to_string());
                }
            }
        }
        tally
    });
    asked.unwrap_or_else(|error| Connections {
        failed: 1,
        why: Some(error.to_string()),
        ..Connections::default()
    })
}

fn once(at: SocketAddrV4) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::V4(at), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    let mut answer = Vec::with_capacity(1);
    // To the end: the server closes first, so that its side waits and ours can use the port again.
    stream.read_to_end(&mut answer)?;
    if answer == b"!" {
        Ok(())
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;

    let wait = PollTimeout::try_from(GLANCE).unwrap_or(PollTimeout::MAX);
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                // What goes wrong here the client counts.
                let _ = answer(stream);
            }
            Err(error) if is_idle(&error) => {
                let _ = poll(
                    &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)],
                    wait,
                );
            }
            Err(_) => return,
        }
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])?;
    stream.write_all(b"!")
}
