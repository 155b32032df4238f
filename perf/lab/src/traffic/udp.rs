//! UDP request and response with sequence numbers and a checked payload.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::Duration;

use socket2::Protocol;

use super::observe::Observer;
use super::{ANSWER_DEADLINE, EchoReport, End, pattern};
use crate::error::{Context as _, Error, Result};
use crate::netns::NetNs;

/// How often a waiting server looks whether the client has finished.
const SERVER_POLL: Duration = Duration::from_millis(20);

/// Sends `count` datagrams of `length` payload bytes (at least 4), one at a time, each answered by
/// an echo server; a lost one is not sent again.
///
/// # Errors
/// When sockets cannot be made; losses are in the report.
pub fn udp(client: End<'_>, server: End<'_>, count: u32, length: usize) -> Result<EchoReport> {
    if length < 4 {
        return Err(Error::Traffic(
            "a UDP probe needs 4 bytes for its sequence number".to_owned(),
        ));
    }
    let server_socket = bind(server.netns, SocketAddrV4::new(server.address, 0))?;
    server_socket
        .set_read_timeout(Some(SERVER_POLL))
        .context(|| "server deadline")?;
    let client_socket = bind(client.netns, SocketAddrV4::new(client.address, 0))?;
    client_socket
        .set_read_timeout(Some(ANSWER_DEADLINE))
        .context(|| "client deadline")?;
    let server_at = local(&server_socket)?;
    let client_at = local(&client_socket)?;
    let at_server = Observer::open(server.netns, Protocol::UDP, server_at)?;
    let at_client = Observer::open(client.netns, Protocol::UDP, client_at)?;

    let received = thread::scope(|scope| {
        let client = scope.spawn(|| exchange(&client_socket, server_at, count, length));
        while !client.is_finished() {
            echo_one(&server_socket);
        }
        client.join().unwrap_or_default()
    });
    let arrived = received > 0;
    Ok(EchoReport {
        sent: count,
        received,
        at_server: at_server.first(std::net::Ipv4Addr::UNSPECIFIED),
        at_client: arrived.then(|| at_client.first(server.address)).flatten(),
    })
}

fn bind(netns: &NetNs, address: SocketAddrV4) -> Result<UdpSocket> {
    netns
        .run(|| UdpSocket::bind(address))?
        .context(|| format!("bind UDP {address} in {}", netns.name()))
}

fn local(socket: &UdpSocket) -> Result<SocketAddrV4> {
    match socket.local_addr().context(|| "local address")? {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => Err(Error::Traffic(format!("{address} is not IPv4"))),
    }
}

fn echo_one(socket: &UdpSocket) {
    let mut buffer = [0; 1 << 16];
    if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        // A lost answer shows at the client, which counts.
        let _ = socket.send_to(&buffer[..length], peer);
    }
}

/// Requests in turn; returns how many came back intact.
fn exchange(socket: &UdpSocket, server: SocketAddrV4, count: u32, length: usize) -> u32 {
    let mut answer = vec![0; length + 1];
    let mut intact = 0;
    for sequence in 0..count {
        let mut request: Vec<u8> = (0..length as u64).map(|at| pattern(sequence, at)).collect();
        request[..4].copy_from_slice(&sequence.to_be_bytes());
        if socket.send_to(&request, server).is_err() {
            continue;
        }
        if let Ok((got, from)) = socket.recv_from(&mut answer)
            && got == length
            && from == SocketAddr::V4(server)
            && answer[..length] == request
        {
            intact += 1;
        }
    }
    intact
}
