//! A client that dials one address and a server that answers at another.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use penstock_lab::traffic::End;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Longest anything is waited for.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often a waiting server looks whether the client has given up.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes each way: several windows of segments, so that a connection is more than its opening.
const STREAM_BYTES: usize = 300_000;
const DATAGRAMS: u8 = 3;

/// What a conversation is carried by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// Talks from `client` to `dial`; whoever answers at `server` echoes. The source the server saw.
pub(crate) fn talk(
    transport: Transport,
    client: End<'_>,
    dial: SocketAddrV4,
    (server, port): (End<'_>, u16),
) -> Result<Ipv4Addr, String> {
    let at = SocketAddrV4::new(server.address, port);
    match transport {
        Transport::Tcp => talk_tcp(client, dial, server, at),
        Transport::Udp => talk_udp(client, dial, server, at),
    }
}

fn talk_tcp(
    client: End<'_>,
    dial: SocketAddrV4,
    server: End<'_>,
    at: SocketAddrV4,
) -> Result<Ipv4Addr, String> {
    let listener = server.netns.run(|| TcpListener::bind(at));
    let listener = listener.expect("enter").expect("listen");
    listener.set_nonblocking(true).expect("nonblocking");
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask_tcp(client, dial));
        let mut seen = None;
        while seen.is_none() && !asking.is_finished() {
            match listener.accept() {
                Ok((stream, peer)) => {
                    echo(stream).map_err(|error| format!("echo: {error}"))?;
                    seen = Some(peer);
                }
                Err(_) => thread::park_timeout(LOOK),
            }
        }
        asking.join().expect("client")?;
        address(seen)
    })
}

fn ask_tcp(client: End<'_>, dial: SocketAddrV4) -> Result<(), String> {
    let socket = client
        .netns
        .run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))
        .expect("enter")
        .expect("socket");
    let local = SockAddr::from(SocketAddrV4::new(client.address, 0));
    socket
        .bind(&local)
        .map_err(|error| format!("bind: {error}"))?;
    socket
        .connect_timeout(&dial.into(), PATIENCE)
        .map_err(|error| format!("connect: {error}"))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("deadline");
    stream.set_write_timeout(Some(PATIENCE)).expect("deadline");
    let sent: Vec<u8> = (0..STREAM_BYTES).map(|at| (at % 251) as u8).collect();
    let mut writing = stream.try_clone().expect("clone");
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            writing.write_all(&sent)?;
            writing.shutdown(Shutdown::Write)
        });
        let mut back = Vec::new();
        let read = stream.read_to_end(&mut back);
        let wrote = writer.join().expect("writer");
        match (read, wrote) {
            (Ok(_), Ok(())) if back == sent => Ok(()),
            (read, wrote) => Err(format!("{} bytes back, {read:?}, {wrote:?}", back.len())),
        }
    })
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn talk_udp(
    client: End<'_>,
    dial: SocketAddrV4,
    server: End<'_>,
    at: SocketAddrV4,
) -> Result<Ipv4Addr, String> {
    let bind = |end: End<'_>, at: SocketAddrV4, deadline| {
        let socket = end
            .netns
            .run(|| UdpSocket::bind(at))
            .expect("enter")
            .expect("bind");
        socket.set_read_timeout(Some(deadline)).expect("deadline");
        socket
    };
    let answering = bind(server, at, LOOK);
    let asking = bind(client, SocketAddrV4::new(client.address, 0), PATIENCE);
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask_udp(&asking, dial));
        let mut seen = None;
        while !asking.is_finished() {
            let mut buffer = [0; 2048];
            if let Ok((length, peer)) = answering.recv_from(&mut buffer) {
                answering
                    .send_to(&buffer[..length], peer)
                    .map_err(|error| error.to_string())?;
                seen = Some(peer);
            }
        }
        asking.join().expect("client")?;
        address(seen)
    })
}

fn ask_udp(socket: &UdpSocket, dial: SocketAddrV4) -> Result<(), String> {
    for number in 0..DATAGRAMS {
        socket
            .send_to(&[number; 700], dial)
            .map_err(|error| format!("send: {error}"))?;
        let mut answer = [0; 2048];
        let got = socket.recv_from(&mut answer);
        let (length, from) = got.map_err(|error| format!("answer {number}: {error}"))?;
        if from != SocketAddr::V4(dial) || answer[..length] != [number; 700] {
            return Err(format!("answer {number}: {length} bytes from {from}"));
        }
    }
    Ok(())
}

fn address(seen: Option<SocketAddr>) -> Result<Ipv4Addr, String> {
    match seen {
        Some(SocketAddr::V4(peer)) => Ok(*peer.ip()),
        other => Err(format!("the server saw {other:?}")),
    }
}
