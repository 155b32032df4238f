//! Conversations before the load: each flow is spoken on both ways, so that it is established
//! wherever flows are kept.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{GLANCE, is_idle};
use crate::place::Place;

/// Times each flow is spoken on.
const ROUNDS: u32 = 3;
/// Tries for one answer: the first packets of a flow may meet a cold path.
const TRIES: u32 = 10;
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// Speaks from `client`'s ports `first_port..first_port + flows` with `server`'s `port` and back.
/// Returns each flow's client as the server saw it.
///
/// # Errors
/// When a port is taken, or a flow gets no answer.
pub fn udp(
    client: &Place,
    server: &Place,
    port: u16,
    (first_port, flows): (u16, u16),
) -> Result<Vec<SocketAddrV4>> {
    let server_at = SocketAddrV4::new(server.address, port);
    let listener = bind(server, port)?;
    listener.set_read_timeout(Some(GLANCE))?;
    let sockets = (first_port..first_port + flows)
        .map(|port| {
            let socket = bind(client, port)?;
            socket.connect(server_at)?;
            socket.set_read_timeout(Some(ANSWER_WITHIN))?;
            Ok(socket)
        })
        .collect::<Result<Vec<_>>>()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| answer(&listener, &stop, flows.into()));
        let spoken = speak(&sockets);
        stop.store(true, Ordering::Relaxed);
        let seen = server.join().unwrap_or_default();
        spoken?;
        seen.into_iter()
            .collect::<Option<Vec<_>>>()
            .context("a flow was never seen by its server")
    })
}

fn bind(place: &Place, port: u16) -> Result<UdpSocket> {
    let at = SocketAddrV4::new(place.address, port);
    place
        .netns
        .run(|| UdpSocket::bind(at))?
        .with_context(|| format!("bind UDP {at} in {}", place.netns.name()))
}

fn speak(sockets: &[UdpSocket]) -> Result<()> {
    let mut answer = [0; 4];
    for round in 0..ROUNDS {
        for (index, socket) in (0_u32..).zip(sockets) {
            let word = index.to_be_bytes();
            let answered = (0..TRIES).any(|_| {
                socket.send(&word).is_ok() && socket.recv(&mut answer).is_ok() && answer == word
            });
            if !answered {
                bail!("flow {index} got no answer in round {round}");
            }
        }
    }
    Ok(())
}

fn answer(socket: &UdpSocket, stop: &AtomicBool, flows: usize) -> Vec<Option<SocketAddrV4>> {
    let mut seen = vec![None; flows];
    let mut word = [0; 4];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut word) {
            Ok((4, SocketAddr::V4(from))) => {
                if let Some(slot) = seen.get_mut(u32::from_be_bytes(word) as usize) {
                    *slot = Some(from);
                }
                // A lost answer is asked for again.
                let _ = socket.send_to(&word, from);
            }
            Ok(_) => {}
            Err(error) if is_idle(&error) => {}
            Err(_) => break,
        }
    }
    seen
}

/// Address of a place with a port.
#[must_use]
pub fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}
