//! Makes the state durable: callers wait until what they changed is on disk; one write serves all who wait.
//!
//! A failed write is reported to everyone who waited for it and tried again every second, so that what was done in
//! memory only (a DEL on a full disk) becomes durable as soon as it can.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::ipam::checkpoint::{self, Checkpoint};

const RETRY: Duration = Duration::from_secs(1);

/// Most callers that may wait at a time; more wait to be let in.
const QUEUE: usize = 256;

type Waiter = oneshot::Sender<Result<(), String>>;

/// Asks for writes; clones ask the same writer.
#[derive(Debug, Clone)]
pub struct Journal {
    waiters: mpsc::Sender<Waiter>,
}

impl Journal {
    /// Starts the writer; `current` is called for each write and must include everything done before.
    pub fn start(
        state_dir: PathBuf,
        current: impl Fn() -> Checkpoint + Send + Sync + 'static,
    ) -> Self {
        let (waiters, queue) = mpsc::channel(QUEUE);
        tokio::spawn(write_on_demand(state_dir, Arc::new(current), queue));
        Self { waiters }
    }

    /// Returns when the state as of now is on disk.
    ///
    /// # Errors
    /// Text for people when it could not be written.
    pub async fn persist(&self) -> Result<(), String> {
        let (waiter, written) = oneshot::channel();
        let gone = || "the state writer has ended".to_owned();
        self.waiters.send(waiter).await.map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }
}

async fn write_on_demand(
    state_dir: PathBuf,
    current: Arc<dyn Fn() -> Checkpoint + Send + Sync>,
    mut queue: mpsc::Receiver<Waiter>,
) {
    let mut behind = false;
    loop {
        let first = match behind {
            false => queue.recv().await.map(Some),
            true => tokio::select! {
                waiter = queue.recv() => waiter.map(Some),
                () = tokio::time::sleep(RETRY) => Some(None),
            },
        };
        let Some(first) = first else {
            return;
        };
        let mut waiters: Vec<Waiter> = first.into_iter().collect();
        while let Ok(waiter) = queue.try_recv() {
            waiters.push(waiter);
        }
        let result = write(&state_dir, current()).await;
        if let Err(error) = &result {
            tracing::error!(%error, dir = %state_dir.display(), "state not written, trying again");
        }
        behind = result.is_err();
        for waiter in waiters {
            // A caller that no longer waits needs no answer.
            let _ = waiter.send(result.clone());
        }
    }
}

async fn write(state_dir: &std::path::Path, checkpoint: Checkpoint) -> Result<(), String> {
    let state_dir = state_dir.to_owned();
    let written = tokio::task::spawn_blocking(move || checkpoint::store(&state_dir, &checkpoint));
    match written.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::ipam::checkpoint::{FILE_NAME, Loaded};

    fn journal(dir: &std::path::Path) -> (Journal, Arc<AtomicU32>) {
        let writes = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&writes);
        let journal = Journal::start(dir.to_owned(), move || {
            counter.fetch_add(1, Ordering::SeqCst);
            Checkpoint {
                boot_id: "b".into(),
                ..Checkpoint::default()
            }
        });
        (journal, writes)
    }

    #[tokio::test]
    async fn one_write_serves_many_callers() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, writes) = journal(dir.path());
        let calls = (0..50).map(|_| journal.persist());
        for result in futures::future::join_all(calls).await {
            result.unwrap();
        }
        assert!(writes.load(Ordering::SeqCst) < 50);
        assert!(matches!(
            checkpoint::load(dir.path()).unwrap(),
            Loaded::Good(_)
        ));
    }

    #[tokio::test]
    async fn a_failure_reaches_the_caller_and_is_made_good_later() {
        let dir = tempfile::tempdir().unwrap();
        let obstacle = dir.path().join(format!("{FILE_NAME}.new"));
        fs::create_dir(&obstacle).unwrap();
        let (journal, _) = journal(dir.path());
        journal.persist().await.unwrap_err();
        fs::remove_dir(&obstacle).unwrap();
        let written = async {
            while !dir.path().join(FILE_NAME).exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), written)
            .await
            .expect("written after a while");
    }
}
