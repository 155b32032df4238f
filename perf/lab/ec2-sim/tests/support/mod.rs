//! A served cloud and a client that speaks just enough HTTP to send anything at all.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use ec2_sim::{Cloud, CloudConfig, http};
use tokio::runtime::Runtime;

/// Longest wait for a reply before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) struct Server {
    pub(crate) cloud: Arc<Cloud>,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    pub(crate) fn start(config: CloudConfig, router: impl FnOnce(Arc<Cloud>) -> Router) -> Self {
        let cloud = Cloud::new(config).unwrap();
        let runtime = Runtime::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        http::serve(runtime.handle(), listener, router(Arc::clone(&cloud))).unwrap();
        Self {
            cloud,
            address,
            _runtime: runtime,
        }
    }

    /// Sends `head` (request line and header lines, without the length) and `body`.
    pub(crate) fn send(&self, head: &str, body: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head =
            format!("{head}\r\nHost: sim\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses by length may close before it has read everything.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply {
            status,
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }
}
