//! One conversation that goes on in the background while something happens: requests and answers with sequence numbers,
//! each answered before the next or counted as lost.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use penstock_lab::NetNs;

/// Time between two requests.
const PACE: Duration = Duration::from_millis(2);
/// After which a request counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// What came of a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    pub sent: u32,
    pub lost: u32,
    /// Longest time from a request to its answer.
    pub slowest: Duration,
}

/// The conversation.
pub struct Conversation {
    over: Arc<AtomicBool>,
    client: JoinHandle<Report>,
    server: JoinHandle<()>,
}

fn bind(netns: &NetNs, address: Ipv4Addr, patience: Duration) -> UdpSocket {
    let bound = netns.run(|| UdpSocket::bind(SocketAddrV4::new(address, 0)));
    let socket = bound.expect("namespace").expect("socket");
    socket.set_read_timeout(Some(patience)).expect("timeout");
    socket
}

impl Conversation {
    /// Starts one between two ends: (namespace, its address).
    pub fn start(client: (&NetNs, Ipv4Addr), server: (&NetNs, Ipv4Addr)) -> Self {
        let asks = bind(client.0, client.1, PATIENCE);
        let answers = bind(server.0, server.1, PACE * 10);
        let to = answers.local_addr().expect("address");
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let server = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !until.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = answers.recv_from(&mut buffer) {
                    // A lost answer shows at the client, which counts.
                    let _ = answers.send_to(&buffer[..length], peer);
                }
            }
        });
        let until = Arc::clone(&over);
        let client = thread::spawn(move || {
            let mut report = Report::default();
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                report.sent += 1;
                if !asked(&asks, to, report.sent) {
                    report.lost += 1;
                }
                report.slowest = report.slowest.max(began.elapsed());
                thread::sleep(PACE.saturating_sub(began.elapsed()));
            }
            report
        });
        Self {
            over,
            client,
            server,
        }
    }

    /// Ends it.
    pub fn end(self) -> Report {
        self.over.store(true, Ordering::Relaxed);
        let report = self.client.join().expect("client");
        self.server.join().expect("server");
        report
    }
}

/// Whether a request was answered; answers to earlier ones are passed over.
fn asked(socket: &UdpSocket, to: std::net::SocketAddr, sequence: u32) -> bool {
    let request = sequence.to_be_bytes();
    let mut answer = [0; 64];
    let deadline = Instant::now() + PATIENCE;
    if socket.send_to(&request, to).is_err() {
        return false;
    }
    while Instant::now() < deadline {
        match socket.recv(&mut answer) {
            Ok(length) if answer[..length] == request => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}
