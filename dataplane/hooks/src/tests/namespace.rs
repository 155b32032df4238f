//! A network namespace that lives as long as one thread.
//!
//! It has no name, so it cannot collide with anything or be left behind: the kernel removes it,
//! and the veth pairs in it, when the thread and the last socket in it are gone.

use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

type Job = Box<dyn FnOnce() + Send>;

/// Runs closures inside its namespace, one at a time.
pub(super) struct Namespace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Namespace {
    pub(super) fn new() -> Self {
        let (jobs, queue): (Sender<Job>, Receiver<Job>) = channel();
        let (ready, tid) = channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root is needed");
            ready.send(gettid().as_raw()).unwrap();
            for job in queue {
                job();
            }
        });
        let tid = tid.recv().expect("no network namespace");
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid,
        }
    }

    /// Number by which `ip link ... netns` finds this namespace.
    pub(super) fn tid(&self) -> i32 {
        self.tid
    }

    /// Runs `work` inside and returns what it returns; panics if it does.
    pub(super) fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let (answer, result) = channel();
        let job = Box::new(move || {
            let _ = answer.send(work());
        });
        self.jobs
            .as_ref()
            .unwrap()
            .send(job)
            .expect("the namespace's thread is gone");
        result.recv().expect("the work panicked")
    }

    /// Runs a command line inside; it must succeed.
    pub(super) fn command(&self, line: &str) {
        let line = line.to_owned();
        self.run(move || {
            let mut words = line.split_whitespace();
            let output = Command::new(words.next().unwrap())
                .args(words)
                .output()
                .unwrap();
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "`{line}`: {complaint}");
        });
    }

    /// Index of an interface inside.
    pub(super) fn ifindex(&self, name: &'static str) -> u32 {
        self.run(move || nix::net::if_::if_nametoindex(name).unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended
            && !thread::panicking()
        {
            panic!("the namespace's thread panicked");
        }
    }
}
