//! The real daemon in a node's namespace, and what one asks of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_dataplane_api::{
    Counters, HookReport, Request, Response, SOCKET_NAME, Snapshot, Status, WorkerReport, client,
};

use super::{Stage, ip, wait_for};

const DEADLINE: Duration = Duration::from_secs(10);

/// A running dataplane; killed on drop.
pub(crate) struct Dataplane {
    process: Child,
    socket: PathBuf,
    _run_dir: tempfile::TempDir,
}

impl Dataplane {
    /// One whose workers see every packet.
    pub(crate) fn start(stage: &Stage, workers: u32) -> Self {
        Self::start_with(stage, workers, &["--offload", "off"])
    }

    pub(crate) fn start_with(stage: &Stage, workers: u32, arguments: &[&str]) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let mut command = command(stage, run_dir.path(), workers);
        let process = command.args(arguments).spawn().unwrap();
        let mut dataplane = Self {
            process,
            socket: run_dir.path().join(SOCKET_NAME),
            _run_dir: run_dir,
        };
        wait_for("the daemon's socket", || {
            let exited = dataplane.process.try_wait().unwrap();
            assert!(exited.is_none(), "the daemon exited: {exited:?}");
            dataplane.socket.exists()
        });
        dataplane
    }

    pub(crate) fn run_dir(&self) -> &Path {
        self.socket.parent().unwrap()
    }

    pub(crate) fn ask(&self, request: &Request) -> Response {
        client::call(&self.socket, request, DEADLINE).unwrap()
    }

    pub(crate) fn publish(&self, snapshot: &Snapshot) {
        let answer = self.ask(&Request::Publish(Box::new(snapshot.clone())));
        let generation = snapshot.generation;
        assert_eq!(answer, Response::Applied { generation });
    }

    pub(crate) fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        match self.ask(&Request::Counters) {
            Response::Counters(counters) => *counters,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    /// Stops every thread of it, and returns when they have stopped.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.process.id());
        wait_for("all threads to stop", || {
            std::fs::read_dir(&tasks).unwrap().all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
                stat.rsplit(')').next().unwrap().starts_with(" T")
            })
        });
    }

    /// Ends it as a supervisor would, and says whether it left cleanly.
    pub(crate) fn stop(mut self) -> bool {
        self.signal(Signal::SIGTERM);
        let mut exit = None;
        wait_for("the daemon's exit", || {
            exit = self.process.try_wait().unwrap();
            exit.is_some()
        });
        exit.is_some_and(|status| status.success()) && !self.socket.exists()
    }

    /// Waits until every packet is accounted for, and returns the counters that say so.
    pub(crate) fn settled(&self) -> Counters {
        let mut counters = self.counters();
        wait_for("the conservation law", || {
            let balanced = counters.hooks.iter().all(hook_balances)
                && counters.workers.iter().all(worker_balances);
            if !balanced {
                eprintln!("not settled: {:?} {:?}", counters.hooks, counters.workers);
                counters = self.counters();
            }
            balanced
        });
        counters
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The daemon's command line in the node's namespace.
pub(crate) fn command(stage: &Stage, run_dir: &Path, workers: u32) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &stage.node.0])
        .arg(env!("CARGO_BIN_EXE_penstock-dataplane"))
        .args(["--workers", &workers.to_string(), "--run-dir"])
        .arg(run_dir);
    command
}

fn hook_balances(hook: &HookReport) -> bool {
    let drops: u64 = hook.drops.iter().map(|row| row.packets).sum();
    hook.seen == hook.to_worker + hook.to_kernel + hook.to_pod + hook.offloaded + drops
}

fn worker_balances(worker: &WorkerReport) -> bool {
    let drops: u64 = worker.drops.iter().map(|row| row.packets).sum();
    let frames = worker.frames;
    worker.rx + worker.originated + worker.handed_in
        == worker.tx + worker.to_kernel + worker.handed_off + drops
        && frames.free + frames.receiving + frames.sending == frames.total
}

/// Puts a program that is not ours on an interface, as another tool would.
pub(crate) fn attach_foreign_xdp(stage: &Stage, link: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (source, object) = (directory.path().join("x.c"), directory.path().join("x.o"));
    let program = "__attribute__((section(\"xdp\"), used)) int pass(void *c) { return 2; }\n\
                   char l[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";
    std::fs::write(&source, program).unwrap();
    let compiled = Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-c"])
        .arg(&source)
        .arg("-o")
        .arg(&object)
        .status()
        .unwrap();
    assert!(compiled.success());
    let object = object.to_str().unwrap();
    stage.node.ip(&[
        "link", "set", "dev", link, "xdpdrv", "obj", object, "sec", "xdp",
    ]);
    assert!(ip(&["-n", &stage.node.0, "link", "show", link]).contains("xdp"));
}
