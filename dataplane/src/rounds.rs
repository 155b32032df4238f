//! Tells the hooks which conversations kernel conntrack translates, round after round.
//!
//! Hooks note by themselves who begins a conversation with the kernel; this thread notes those that
//! go on, so that what ended is forgotten and hooks ask conntrack about little else
//! ([`penstock_hooks::KernelEnds`]). A list that cannot be read begins no further round: nothing is
//! forgotten then, and the hooks only ask more often.
//!
//! Must not hold anything the packet path waits for: a list of a large table takes its time.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, RecvTimeoutError, Sender};
use penstock_hooks::{HookError, KernelEnds};
use penstock_netlink::conntrack::{Conversation, conversations};

/// Between rounds. What has ended is asked about for up to two of them.
const PERIOD: Duration = Duration::from_secs(30);
/// Before each of the first two rounds, until which the hooks ask about everything.
const FIRST: Duration = Duration::from_secs(1);
/// A round takes this share of the time at most: long lists are read less often.
const SHARE: u32 = 20;

/// The thread; dropping it ends it.
#[derive(Debug)]
pub struct Rounds {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Why a round was not completed.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Hooks(#[from] HookError),
    #[error(transparent)]
    List(#[from] penstock_netlink::Error),
}

impl Rounds {
    /// Begins, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(ends: KernelEnds) -> io::Result<Self> {
        let (stop, stopped) = channel::bounded(0);
        let thread = thread::Builder::new()
            .name("conversations".to_owned())
            .spawn(move || {
                let mut pause = FIRST;
                let (mut rounds, mut complete) = (0_u64, true);
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    let began = Instant::now();
                    let outcome = round(&ends, complete);
                    complete = outcome.is_ok();
                    rounds += 1;
                    let least = if rounds < 2 { FIRST } else { PERIOD };
                    pause = began.elapsed().saturating_mul(SHARE).max(least);
                    if let Err(error) = outcome {
                        tracing::warn!(%error, "conversations of the kernel are not listed");
                    }
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that lists conversations had panicked");
        }
    }
}

/// One round. After a list that failed the round goes on, `complete` is false, and nothing is forgotten.
fn round(ends: &KernelEnds, complete: bool) -> Result<(), RoundError> {
    if complete {
        ends.begin_round()?;
    }
    let mut noted = Ok(());
    conversations(|conversation| {
        if noted.is_ok() && is_kernels(conversation) {
            noted = note(ends, conversation);
        }
    })?;
    Ok(noted?)
}

/// As bpf/conntrack.h has it: UDP of which the kernel replaces only the source is the workers'.
fn is_kernels(conversation: &Conversation) -> bool {
    conversation.destination_translated()
        || (conversation.protocol == TCP && conversation.source_translated())
}

const TCP: u8 = 6;

/// The end that began, as both directions may show it to a hook.
fn note(ends: &KernelEnds, conversation: &Conversation) -> Result<(), HookError> {
    ends.note(conversation.original.source, conversation.protocol)?;
    ends.note(conversation.reply.destination, conversation.protocol)
}
