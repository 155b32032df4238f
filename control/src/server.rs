//! Lets the shim and the CLI in: the socket, who may use it, and how much of it.
//!
//! Guarantees: only root and the agent's own user are served; a peer that sends nothing, too much or nonsense costs one
//! connection for a few seconds; a request that was read is carried through even if the peer hangs up.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use penstock_control_api::{
    Failure, MAX_REQUEST_BYTES, PoolReport, Request, Response, SOCKET_NAME, Status, code,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::agent::Agent;
use crate::wire;

/// Connections served at a time; more wait to be let in.
const MAX_CONNECTIONS: usize = 64;
/// Longest silence of a peer.
const PEER_PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait of a caller for the agent to start; the shim must answer the runtime within 2 s.
const START_PATIENCE: Duration = Duration::from_millis(1500);

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

    /// Serves until the future is dropped. Until there is an agent, callers are told to try again.
    pub async fn run(&self, agent: watch::Receiver<Option<Arc<Agent>>>) {
        let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let agent = agent.clone();
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, agent).await {
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

async fn converse(
    mut stream: UnixStream,
    agent: watch::Receiver<Option<Arc<Agent>>>,
) -> io::Result<()> {
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
            Ok(Some(request)) => answer(agent.clone(), request).await,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let refusal = Response::Error(refusal(&error));
                return timeout(PEER_PATIENCE, wire::write(&mut stream, &refusal)).await?;
            }
            Err(error) => return Err(error),
        };
        timeout(PEER_PATIENCE, wire::write(&mut stream, &response)).await??;
    }
}

async fn answer(mut agent: watch::Receiver<Option<Arc<Agent>>>, request: Request) -> Response {
    if matches!(request, Request::Status) && agent.borrow().is_none() {
        return Response::Status(Box::new(starting()));
    }
    let ready = timeout(START_PATIENCE, agent.wait_for(Option::is_some)).await;
    let ready = ready
        .ok()
        .and_then(Result::ok)
        .and_then(|agent| agent.clone());
    match ready {
        Some(agent) => agent.answer(request).await,
        None => Response::Error(Failure {
            code: code::TRY_AGAIN,
            message: "the agent is starting".to_owned(),
            details: "it waits for EC2 or the instance metadata service; see its log".to_owned(),
        }),
    }
}

fn starting() -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: 0,
        instance_id: String::new(),
        instance_type: String::new(),
        ready: false,
        problem: "starting: EC2 or the instance metadata service has not answered yet".to_owned(),
        generation: 0,
        dataplane_generation: 0,
        pool: PoolReport::default(),
        repairs: 0,
        last_repair: String::new(),
    }
}

fn refusal(error: &io::Error) -> Failure {
    Failure {
        code: code::MISMATCH,
        message: "the request was not understood".to_owned(),
        details: format!("{error}; install the same version of the plugin and the agent"),
    }
}
