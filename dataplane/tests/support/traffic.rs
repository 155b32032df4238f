//! Real sockets in other namespaces: UDP and TCP echo, ping.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

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

/// Pings; every echo must be answered. Returns the TTL the replies arrived with.
pub(crate) fn ping(client: &Namespace, to: impl Into<IpAddr>, arguments: &[&str]) -> u8 {
    let to = to.into().to_string();
    let command: Vec<&str> = ["ping", "-n", "-i", "0.02", "-c", "5", "-W", "2"]
        .iter()
        .chain(arguments)
        .copied()
        .chain([to.as_str()])
        .collect();
    let output = client.exec(&command);
    assert!(output.contains(" 0% packet loss"), "{output}");
    let ttl = output.split("ttl=").nth(1).unwrap();
    ttl.split_whitespace().next().unwrap().parse().unwrap()
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|index| ((index * 31 + seed * 7) % 251) as u8)
        .collect()
}
