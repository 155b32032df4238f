//! The Unix socket control and the CLI talk to.
//!
//! One thread a connection, at most [`MAX_CONNECTIONS`]. A peer must run as our own user or as
//! root. Whatever a peer sends, the worst it can do is lose its own connection: lengths are
//! bounded, silence is bounded, requests are paced. Workers are never involved in reading.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;
use penstock_dataplane_api::{Request, Response, SOCKET_NAME, frame};

/// Connections served at one time.
pub const MAX_CONNECTIONS: usize = 16;

/// How long a peer may be silent, also in the middle of a message.
const SILENCE: Duration = Duration::from_secs(30);

/// Least time between two requests of one connection: 1,000 a second.
const PACE: Duration = Duration::from_millis(1);

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one request; may block, must not panic.
    fn answer(&self, request: Request) -> Response;
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody answers on the socket.
    #[error("another dataplane serves {0}; stop it first, or choose another --run-dir")]
    InUse(PathBuf),
    /// A system call failed.
    #[error("{op} {path}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A listening socket; removed from the file system on drop.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

/// A running server; stops accepting on drop.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    path: PathBuf,
    acceptor: Option<JoinHandle<()>>,
}

impl Listener {
    /// Opens the socket in `run_dir`, replacing one that nobody serves.
    ///
    /// # Errors
    /// [`ServerError::InUse`] when a live dataplane has it.
    pub fn bind(run_dir: &Path) -> Result<Self, ServerError> {
        let path = run_dir.join(SOCKET_NAME);
        let io_error = |op, path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::Io { op, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir)
            .map_err(io_error("create", run_dir))?;
        if UnixStream::connect(&path).is_ok() {
            return Err(ServerError::InUse(path));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove stale", &path)(error));
            }
            _ => {}
        }
        let socket = UnixListener::bind(&path).map_err(io_error("listen on", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .map_err(io_error("restrict", &path))?;
        Ok(Self { socket, path })
    }

    /// Serves from a thread of its own until the result is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn serve(self, service: Arc<dyn Service>) -> io::Result<Server> {
        let stop = Arc::new(AtomicBool::new(false));
        let path = self.path.clone();
        let acceptor = thread::Builder::new().name("accept".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || accept(&self, &service, &stop)
        })?;
        Ok(Server {
            stop,
            path,
            acceptor: Some(acceptor),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Already gone is as good as removed.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A connection is what wakes accept(2).
        let _ = UnixStream::connect(&self.path);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &Listener, service: &Arc<dyn Service>, stop: &AtomicBool) {
    let served = Arc::new(AtomicUsize::new(0));
    for stream in listener.socket.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                thread::sleep(PACE);
                continue;
            }
        };
        if served.load(Ordering::Acquire) >= MAX_CONNECTIONS {
            tracing::warn!(limit = MAX_CONNECTIONS, "too many connections, one refused");
            continue;
        }
        served.fetch_add(1, Ordering::AcqRel);
        let seat = Seat(Arc::clone(&served));
        let service = Arc::clone(service);
        let spawned = thread::Builder::new()
            .name("connection".to_owned())
            .spawn(move || {
                let _seat = seat;
                if let Err(error) = converse(stream, service.as_ref()) {
                    tracing::info!(%error, "connection closed");
                }
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a connection");
        }
    }
}

/// One of the places for connections; given back on drop.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn converse(mut stream: UnixStream, service: &dyn Service) -> io::Result<()> {
    let peer = getsockopt(&stream, PeerCredentials)?;
    let ours = Uid::effective().as_raw();
    if peer.uid() != ours && peer.uid() != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {} may not talk to the dataplane", peer.uid()),
        ));
    }
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    loop {
        let begun = Instant::now();
        let request = match frame::read(&mut stream, frame::MAX_MESSAGE_BYTES) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let message = format!("not a request: {error}");
                frame::write(&mut stream, &Response::Error { message })?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        frame::write(&mut stream, &service.answer(request))?;
        thread::sleep(PACE.saturating_sub(begun.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use penstock_dataplane_api::client;

    use super::*;

    struct Parrot;

    impl Service for Parrot {
        fn answer(&self, request: Request) -> Response {
            Response::Error {
                message: format!("{request:?}"),
            }
        }
    }

    fn start(directory: &Path) -> Server {
        let listener = Listener::bind(directory).unwrap();
        listener.serve(Arc::new(Parrot)).unwrap()
    }

    fn ask(directory: &Path) -> io::Result<Response> {
        let path = directory.join(SOCKET_NAME);
        client::call(&path, &Request::Status, Duration::from_secs(10))
    }

    #[test]
    fn answers_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let server = start(directory.path());
        let mode = fs::metadata(directory.path().join(SOCKET_NAME)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let answer = ask(directory.path()).unwrap();
        assert!(matches!(answer, Response::Error { message } if message == "Status"));
        drop(server);
        assert!(!directory.path().join(SOCKET_NAME).exists());
    }

    #[test]
    fn a_live_socket_is_refused_and_a_dead_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SOCKET_NAME);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a crashed predecessor leaves its socket");
        let _server = start(directory.path());
        let second = Listener::bind(directory.path());
        assert!(matches!(second, Err(ServerError::InUse(_))));
        ask(directory.path()).unwrap();
    }

    #[test]
    fn garbage_costs_only_its_own_connection() {
        let directory = tempfile::tempdir().unwrap();
        let _server = start(directory.path());
        let path = directory.path().join(SOCKET_NAME);
        for garbage in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\x04nope",
            b"\0\0\0\x0b{\"nothing\":",
            b"\0\0\0\x11{\"unknown_op\": 1}",
        ] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(garbage).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            // Returns only because the server closed the connection.
            stream.read_to_end(&mut answer).unwrap();
            ask(directory.path()).unwrap();
        }
    }

    #[test]
    fn connections_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let _server = start(directory.path());
        let path = directory.path().join(SOCKET_NAME);
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = UnixStream::connect(&path).unwrap();
            frame::write(&mut stream, &Request::Status).unwrap();
            let _: Option<Response> = frame::read(&mut stream, 1 << 16).unwrap();
            held.push(stream);
        }
        assert!(
            ask(directory.path()).is_err(),
            "one too many is turned away"
        );
        held.clear();
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(directory.path()).is_err() {
            assert!(Instant::now() < deadline, "places are not given back");
            thread::yield_now();
        }
    }
}
