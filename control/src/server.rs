//! Lets the shim and the CLI in: the socket, who may use it, and how much of it.
//!
//! Guarantees: only root and the agent's own user are served; a peer that sends nothing, too much or nonsense costs one
//! connection for a few seconds; a request that was read is carried through even if the peer hangs up.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use penstock_control_api::{Failure, MAX_REQUEST_BYTES, Request, Response, SOCKET_NAME, code};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::agent::Agent;
use crate::wire;

/// Connections served at a time; more wait to be let in.
const MAX_CONNECTIONS: usize = 64;
/// Longest silence of a peer.
const PEER_PATIENCE: Duration = Duration::from_secs(5);

/// The agent's socket; the file goes when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Makes the run directory (mode 0700) and the socket (0600) in it.
    ///
    /// # Errors
    /// `AddrInUse` when another agent answers there; whatever the file system reports.
    pub fn bind(run_dir: &Path) -> io::Result<Self> {
        make_private_dir(run_dir)?;
        let path = run_dir.join(SOCKET_NAME);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            let text = format!("another agent serves {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Serves until the future is dropped.
    pub async fn run(&self, agent: &Arc<Agent>) {
        let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let agent = Arc::clone(agent);
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, &agent).await {
                            tracing::debug!(%error, "a peer went away");
                        }
                        drop(seat);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes `dir` if it is missing; its last part is readable by its owner only.
///
/// # Errors
/// Whatever the file system reports.
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

async fn converse(mut stream: UnixStream, agent: &Agent) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
        tracing::warn!(uid = peer, "refused a caller that is not root");
        return Ok(());
    }
    loop {
        let read = timeout(
            PEER_PATIENCE,
            wire::read::<Request>(&mut stream, MAX_REQUEST_BYTES),
        );
        let response = match read.await? {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => agent.answer(request).await,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let refusal = Response::Error(refusal(&error));
                return timeout(PEER_PATIENCE, wire::write(&mut stream, &refusal)).await?;
            }
            Err(error) => return Err(error),
        };
        timeout(PEER_PATIENCE, wire::write(&mut stream, &response)).await??;
    }
}

fn refusal(error: &io::Error) -> Failure {
    Failure {
        code: code::MISMATCH,
        message: "the request was not understood".to_owned(),
        details: format!("{error}; install the same version of the plugin and the agent"),
    }
}
