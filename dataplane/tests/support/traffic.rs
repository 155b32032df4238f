//! Real sockets in other namespaces: UDP and TCP echo, ping.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::Namespace;

const SILENCE: Duration = Duration::from_secs(5);

/// Sends `count` datagrams of `bytes` bytes from one namespace to an echo server in another;
/// every one must come back unharmed. Returns the address the server saw.
pub(crate) fn udp_echo(
    client: &Namespace,
    (server, address): (&Namespace, Ipv4Addr),
    count: usize,
    bytes: usize,
) -> SocketAddr {
    let socket = server.run(move || UdpSocket::bind((address, 0)).unwrap());
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let to = socket.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let mut seen = None;
        for _ in 0..count {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], from).unwrap();
            seen = Some(from);
        }
        seen.unwrap()
    });
    client.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket.connect(to).unwrap();
        let mut buffer = vec![0; 65_536];
        for round in 0..count {
            let sent = pattern(bytes, round);
            socket.send(&sent).unwrap();
            let length = socket.recv(&mut buffer).unwrap();
            assert!(
                buffer[..length] == sent,
                "datagram {round} came back changed"
            );
        }
    });
    echo.join().unwrap()
}

/// Sends `count` datagrams as fast as the socket takes them to somebody who does not listen.
pub(crate) fn udp_flood(client: &Namespace, to: Ipv4Addr, count: usize) {
    client.run(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        for _ in 0..count {
            // Not connected, so the answers "port unreachable" do not end the flood.
            let _ = socket.send_to(&[0; 64], (to, 9));
        }
    });
}

/// Sends `bytes` bytes by TCP to a server that returns them; returns the address the server saw.
pub(crate) fn tcp_echo(
    client: &Namespace,
    (server, address): (&Namespace, Ipv4Addr),
    bytes: usize,
) -> SocketAddr {
    let listener = server.run(move || TcpListener::bind((address, 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let mut buffer = vec![0; bytes];
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(&buffer).unwrap();
        from
    });
    client.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, SILENCE).unwrap();
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let sent = pattern(bytes, 1);
        stream.write_all(&sent).unwrap();
        let mut received = vec![0; bytes];
        stream.read_exact(&mut received).unwrap();
        assert!(received == sent, "the stream came back changed");
    });
    echo.join().unwrap()
}

/// Pings five times; every echo must be answered. Returns the TTL the replies arrived with.
pub(crate) fn ping(client: &Namespace, to: Ipv4Addr) -> u8 {
    client.run(move || {
        let answers = (0..5).filter_map(|sequence| echo_once(to, sequence, SILENCE));
        let ttls: Vec<u8> = answers.collect();
        assert_eq!(ttls.len(), 5, "echoes to {to} lost");
        ttls[0]
    })
}

/// Pings once and waits a moment; says whether an answer came.
pub(crate) fn answers(client: &Namespace, to: Ipv4Addr) -> bool {
    client.run(move || echo_once(to, 0, Duration::from_millis(100)).is_some())
}

/// Sends an ICMP echo request (RFC 792); the TTL of its reply.
fn echo_once(to: Ipv4Addr, sequence: u16, patience: Duration) -> Option<u8> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    let to = SocketAddr::from((to, 0));
    socket.connect(&to.into()).unwrap();
    let id = std::process::id() as u16 ^ sequence.rotate_left(8);
    let mut request = [8, 0, 0, 0, 0, 0, 0, 0];
    request[4..6].copy_from_slice(&id.to_be_bytes());
    request[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum = 0x0800 + u32::from(id) + u32::from(sequence);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send(&request).ok()?;
    let deadline = Instant::now() + patience;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        socket
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .unwrap();
        let mut packet = [0; 128];
        let Ok(length) = (&socket).read(&mut packet) else {
            continue;
        };
        let reply = &packet[20..length];
        if reply[0] == 0 && reply[4..8] == request[4..8] {
            return Some(packet[8]);
        }
    }
    None
}

/// Sends a datagram with TTL 1; the address that answers "time exceeded" (RFC 792).
pub(crate) fn expires_at(client: &Namespace, to: Ipv4Addr) -> Ipv4Addr {
    client.run(move || {
        let errors = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        errors.set_read_timeout(Some(SILENCE)).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_ttl(1).unwrap();
        let port = socket.local_addr().unwrap().port();
        socket.send_to(b"short of breath", (to, 33_434)).unwrap();
        loop {
            let mut packet = [0; 256];
            let length = (&errors).read(&mut packet).unwrap();
            let quoted = &packet[..length][28..];
            if packet[20..22] == [11, 0] && quoted[20..22] == port.to_be_bytes() {
                return Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
            }
        }
    })
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|index| ((index * 31 + seed * 7) % 251) as u8)
        .collect()
}
