//! The workers as the control side sees them: who to tell, who to wake, whose counters to read.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Sender};
use crossbeam::queue::ArrayQueue;
use penstock_flow::offload::Session;
use penstock_flow::{FlowView, UplinkId};
use penstock_xsk::UmemHandle;

use crate::ports::NewPort;
use crate::stats::Cells;
use crate::wake::Wake;

/// Commands a worker has not come to yet.
pub const COMMANDS: usize = 256;

/// How long the control side waits for a worker before it goes on without.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it waits for workers to take up a predecessor's conversations: a million take a second.
const RESUME_PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks.
const GLANCE: Duration = Duration::from_micros(100);

/// What a worker can be told; it looks once a loop.
#[derive(Debug)]
pub enum Command {
    /// Take over a socket.
    Add(Box<NewPort>),
    /// Close the sockets of an uplink.
    Remove(UplinkId),
    /// Count frames, ask the kernel for statistics, publish everything, answer.
    Survey(Sender<()>),
    /// Take up the conversations among these that are this worker's, and say how many those are.
    Resume(Arc<[Session]>, Sender<usize>),
    /// List up to so many flows.
    Flows(usize, Sender<Vec<FlowView>>),
    /// Leave the loop.
    Stop,
}

/// One worker thread.
#[derive(Debug)]
pub struct Hand {
    /// Core it is pinned to.
    pub core: Option<u32>,
    /// Its packet memory, to bind sockets for it.
    pub umem: UmemHandle,
    /// Frames promised to its sockets' fill rings.
    pub promised_frames: u32,
    /// Its counters.
    pub cells: Arc<Cells>,
    /// Its commands.
    pub commands: Arc<ArrayQueue<Command>>,
    /// Its alarm clock.
    pub wake: Arc<Wake>,
    /// The thread.
    pub thread: JoinHandle<()>,
}

impl Hand {
    /// Tells the worker something; `false` when it has not listened for a long time.
    pub fn tell(&self, command: Command) -> bool {
        let mut command = command;
        let deadline = Instant::now() + PATIENCE;
        while let Err(refused) = self.commands.push(command) {
            if Instant::now() > deadline {
                return false;
            }
            command = refused;
            std::thread::sleep(GLANCE);
        }
        self.wake.notify();
        true
    }

    /// Flows of this worker; none when it does not answer.
    #[must_use]
    pub fn flows(&self, limit: usize) -> Vec<FlowView> {
        let (reply, flows) = channel::bounded(1);
        self.tell(Command::Flows(limit, reply));
        flows.recv_timeout(PATIENCE).unwrap_or_default()
    }
}

/// Waits until all have passed snapshot `number`; names those that have not.
#[must_use]
pub fn laggards(crew: &[Hand], number: u64) -> Vec<usize> {
    let deadline = Instant::now() + PATIENCE;
    crew.iter().for_each(|hand| hand.wake.notify());
    let mut waiting: Vec<usize> = (0..crew.len()).collect();
    loop {
        waiting.retain(|&worker| crew[worker].cells.passed() < number);
        if waiting.is_empty() || Instant::now() > deadline {
            return waiting;
        }
        std::thread::sleep(GLANCE);
    }
}

/// Lets every worker take up its share of the conversations a predecessor had; how many were.
#[must_use]
pub fn resume(crew: &[Hand], sessions: &Arc<[Session]>) -> usize {
    let (reply, done) = channel::bounded(crew.len());
    let tell = |hand: &&Hand| hand.tell(Command::Resume(Arc::clone(sessions), reply.clone()));
    let told = crew.iter().filter(tell).count();
    let deadline = Instant::now() + RESUME_PATIENCE;
    (0..told)
        .map_while(|_| done.recv_deadline(deadline).ok())
        .sum()
}

/// Brings every worker's counters up to date, as far as they answer.
pub fn survey(crew: &[Hand]) {
    let (reply, done) = channel::bounded(crew.len());
    let told = crew
        .iter()
        .filter(|hand| hand.tell(Command::Survey(reply.clone())))
        .count();
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..told {
        if done.recv_deadline(deadline).is_err() {
            return;
        }
    }
}
