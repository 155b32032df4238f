//! Deleting links, all that are asked for at a time in one go.
//!
//! The kernel waits several times for the readers of a link before it is gone, under the lock that every other change
//! of the network waits for; for a group of links it does so once. Guarantees: an answer comes after the link is gone;
//! one that was gone already is success. Must not delay a lone deletion.

use futures::future::join_all;
use nix::errno::Errno;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};
use tokio::sync::{mpsc, oneshot};

use super::{errno, unless};

/// Most links deleted at a time, and most that may wait; more wait to be let in.
const BATCH: usize = 256;

type Outcome = Result<(), rtnetlink::Error>;

struct Job {
    index: u32,
    done: oneshot::Sender<Outcome>,
}

/// Asks for deletions; clones ask the same task.
#[derive(Debug, Clone)]
pub(super) struct Deleter {
    jobs: mpsc::Sender<Job>,
}

impl Deleter {
    /// Starts the task; must be called inside a tokio runtime.
    pub(super) fn start(netlink: Handle) -> Self {
        let (jobs, queue) = mpsc::channel(BATCH);
        tokio::spawn(work(netlink, queue));
        Self { jobs }
    }

    /// Returns when the link is gone.
    pub(super) async fn delete(&self, index: u32) -> Outcome {
        let (done, answer) = oneshot::channel();
        let ended = || rtnetlink::Error::RequestFailed;
        let job = Job { index, done };
        self.jobs.send(job).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

async fn work(netlink: Handle, mut queue: mpsc::Receiver<Job>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        match batch.as_slice() {
            [alone] => {
                let outcome = netlink.link().del(alone.index).execute().await;
                answer(batch.drain(..), &unless(Errno::ENODEV, outcome));
            }
            _ => delete_group(&netlink, std::mem::take(&mut batch)).await,
        }
    }
}

async fn delete_group(netlink: &Handle, jobs: Vec<Job>) {
    let group = group();
    let join = |job: Job| async move {
        let change = LinkUnspec::new_with_index(job.index);
        let change = change.append_extra_attribute(LinkAttribute::Group(group));
        (netlink.link().set(change.build()).execute().await, job)
    };
    let mut joined = Vec::new();
    for (outcome, job) in join_all(jobs.into_iter().map(join)).await {
        match outcome {
            Ok(()) => joined.push(job),
            refused => answer([job], &unless(Errno::ENODEV, refused)),
        }
    }
    if joined.is_empty() {
        return;
    }
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    let request = rtnetlink::LinkDelRequest::new_with_message(netlink.clone(), message);
    let outcome = match request.execute().await {
        // All of them were deleted by somebody else meanwhile.
        Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(()),
        outcome => outcome,
    };
    answer(joined, &outcome);
}

fn answer(jobs: impl IntoIterator<Item = Job>, outcome: &Outcome) {
    for job in jobs {
        // A caller that no longer waits needs no answer.
        let _ = job.done.send(outcome.clone());
    }
}

/// A link group nobody else uses: the middle of the range, made unlikely by our process id. Groups mean nothing to the
/// kernel; by default every link is in group 0.
fn group() -> u32 {
    0x5045_0000 | (std::process::id() & 0xffff)
}
