//! Tells the dataplane what to forward by.
//!
//! One task owns the connection. It publishes the whole state whenever something changed, everything that changed
//! meanwhile in one go, and at once when a dataplane (re)appears. A dataplane that is away delays nobody: the kernel
//! carries the same policy.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use penstock_dataplane_api::{Request, Response, Snapshot, frame};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::wire;

/// Longest wait for the dataplane to come back before looking again.
const RECONNECT: Duration = Duration::from_millis(200);

/// Longest wait for an answer: a first snapshot attaches hooks to every interface.
const ANSWER: Duration = Duration::from_secs(10);

/// Where publication stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// A dataplane is there.
    pub connected: bool,
    /// Changes the dataplane has been told of, and has answered for.
    pub changes: u64,
    /// Generation last sent.
    pub generation: u64,
    /// Generation the dataplane has confirmed; 0 when it is away.
    pub confirmed: u64,
    /// What it refused; empty when all is well.
    pub problem: String,
}

/// Notes changes and waits for the dataplane to know them; clones share one publisher.
#[derive(Debug, Clone)]
pub struct Publisher {
    changes: Arc<watch::Sender<u64>>,
    progress: watch::Receiver<Progress>,
}

impl Publisher {
    /// Starts publishing what `current` returns; `None` means nothing to say yet.
    pub fn start(
        socket: PathBuf,
        current: impl Fn() -> Option<Snapshot> + Send + Sync + 'static,
    ) -> Self {
        let (changes, watched) = watch::channel(0);
        let (sender, progress) = watch::channel(Progress::default());
        tokio::spawn(async move {
            let mut courier = Courier {
                changes: watched,
                progress: sender,
                current,
            };
            courier.run(socket).await;
        });
        Self {
            changes: Arc::new(changes),
            progress,
        }
    }

    /// Something the dataplane must know has changed; returns a ticket for [`Self::settled`].
    pub fn changed(&self) -> u64 {
        let mut ticket = 0;
        self.changes.send_modify(|count| {
            *count += 1;
            ticket = *count;
        });
        ticket
    }

    /// Waits until the dataplane has answered for `ticket`, is away, or `deadline` has passed. Whether it knows.
    pub async fn settled(&self, ticket: u64, deadline: Duration) -> bool {
        let mut progress = self.progress.clone();
        let known = progress.wait_for(|at| !at.connected || at.changes >= ticket);
        match timeout(deadline, known).await {
            Ok(Ok(at)) => at.connected && at.problem.is_empty(),
            _ => false,
        }
    }

    /// Where publication stands.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }
}

struct Courier<F> {
    changes: watch::Receiver<u64>,
    progress: watch::Sender<Progress>,
    current: F,
}

impl<F: Fn() -> Option<Snapshot>> Courier<F> {
    async fn run(&mut self, socket: PathBuf) {
        let mut wait = RECONNECT / 8;
        // The sender of changes lives as long as the agent does.
        while self.changes.has_changed().is_ok() {
            if let Ok(stream) = UnixStream::connect(&socket).await {
                wait = RECONNECT / 8;
                tracing::info!(socket = %socket.display(), "dataplane is there");
                self.progress.send_modify(|at| at.connected = true);
                let reason = self.serve(stream).await;
                self.progress.send_modify(|at| {
                    at.connected = false;
                    at.confirmed = 0;
                });
                tracing::warn!(%reason, "dataplane is away; the kernel carries the traffic");
            }
            sleep(wait).await;
            wait = (wait * 2).min(RECONNECT);
        }
    }

    /// Publishes until the connection is of no use; says why.
    async fn serve(&mut self, mut stream: UnixStream) -> String {
        loop {
            let changes = *self.changes.borrow_and_update();
            match self.publish(&mut stream, changes).await {
                Ok(()) => {}
                Err(reason) => return reason,
            }
            let mut unexpected = [0];
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() {
                    return "the agent ends".to_owned();
                },
                _ = stream.read(&mut unexpected) => return "it closed the connection".to_owned(),
            }
        }
    }

    async fn publish(&mut self, stream: &mut UnixStream, changes: u64) -> Result<(), String> {
        let Some(snapshot) = (self.current)() else {
            self.progress.send_modify(|at| at.changes = changes);
            return Ok(());
        };
        let generation = snapshot.generation;
        self.progress.send_modify(|at| at.generation = generation);
        let exchange = async {
            wire::write(stream, &Request::Publish(Box::new(snapshot))).await?;
            wire::read::<Response>(stream, frame::MAX_MESSAGE_BYTES).await
        };
        let (confirmed, problem) = match timeout(ANSWER, exchange).await {
            Err(_) => return Err(format!("no answer within {ANSWER:?}")),
            Ok(Err(error)) => return Err(error.to_string()),
            Ok(Ok(None)) => return Err("it closed the connection".to_owned()),
            Ok(Ok(Some(Response::Applied { generation }))) => (Some(generation), String::new()),
            Ok(Ok(Some(Response::Rejected { problems }))) => (None, problems.join("; ")),
            Ok(Ok(Some(Response::Error { message }))) => (None, message),
            Ok(Ok(Some(_))) => return Err("an answer to another question".to_owned()),
        };
        if !problem.is_empty() {
            tracing::error!(%problem, generation, "the dataplane refused a snapshot");
        }
        self.progress.send_modify(|at| {
            at.changes = changes;
            at.confirmed = confirmed.unwrap_or(at.confirmed);
            at.problem = problem;
        });
        Ok(())
    }
}
