//! The daemon: everything started in order, looked after, and taken down in reverse.
//!
//! The calling thread's network namespace is the node's. What a dead predecessor left (its trunk,
//! its socket) is replaced; a live one is refused.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use crossbeam::queue::ArrayQueue;
use penstock_dataplane_api::{Request, Response};
use penstock_flow::fragments::Waiting;
use penstock_flow::{Engine, EngineConfig, Snapshot};
use penstock_hooks::limits::{MAX_QUEUES, TRUNK_SLOT};
use penstock_hooks::{Hooks, Pins};
use penstock_xsk::stamp::StampArray;
use penstock_xsk::{Batch, Port, PortConfig, Umem, UmemConfig};

use crate::args::{Args, HugePages};
use crate::bench::Bench;
use crate::clerk::{Clerk, Client};
use crate::compile;
use crate::cpu::{self, CoreList};
use crate::crew::{COMMANDS, Hand};
use crate::errand::Errands;
use crate::exchange::Exchange;
use crate::handoff;
use crate::inherit::Inheritance;
use crate::line::{Line, Queues};
use crate::live::Live;
use crate::logging;
use crate::node::{Node, Parts};
use crate::ports::{NewPort, Ports};
use crate::pulse::Pulse;
use crate::rest::Rest;
use crate::rounds::Rounds;
use crate::server::{Listener, Server, Service};
use crate::stats::{Cells, PortCells, Tally};
use crate::trunk::{self, Trunk};
use crate::wake::Wake;
use crate::worker::Worker;

/// How often interfaces and threads are looked after.
const ROUND: Duration = Duration::from_millis(100);

/// A running dataplane.
#[derive(Debug)]
pub struct Daemon {
    pins: PathBuf,
    server: Server,
    office: Arc<Office>,
    caretaker: JoinHandle<()>,
    rounds: Rounds,
}

/// What connections and the caretaker share; workers never see it.
#[derive(Debug)]
struct Office {
    node: Mutex<Option<Node>>,
    closing: AtomicBool,
}

impl Daemon {
    /// Starts everything. `fatal` is called, once, when the dataplane cannot go on.
    ///
    /// # Errors
    /// What failed; nothing is left behind.
    pub fn start(args: &Args, fatal: impl FnOnce(String) + Send + 'static) -> anyhow::Result<Self> {
        let listener = Listener::bind(&args.run_dir)?;
        let node = build(args)?;
        let rounds = Rounds::start(node.hooks.kernel_ends()?)
            .context("start listing the kernel's conversations")?;
        tracing::info!(workers = args.workers, run_dir = %args.run_dir.display(), "started");
        let office = Arc::new(Office {
            node: Mutex::new(Some(node)),
            closing: AtomicBool::new(false),
        });
        let server = listener
            .serve(Arc::clone(&office) as Arc<dyn Service>)
            .context("start the server")?;
        let caretaker = thread::Builder::new()
            .name("caretaker".to_owned())
            .spawn({
                let office = Arc::clone(&office);
                move || office.look_after(fatal)
            })
            .context("start the caretaker")?;
        Ok(Self {
            pins: args.pin_dir(),
            server,
            office,
            caretaker,
            rounds,
        })
    }

    /// Detaches the hooks, stops the workers, deletes the trunk, removes the socket.
    pub fn stop(self) {
        self.office.closing.store(true, Ordering::Release);
        self.caretaker.thread().unpark();
        let node = self.office.node().take();
        if let Some(Err(error)) = node.map(Node::shut_down) {
            tracing::warn!(%error, "not everything was detached in order");
        }
        if self.caretaker.join().is_err() {
            tracing::error!("the caretaker had panicked");
        }
        drop(self.rounds);
        if let Err(error) = Pins::remove(&self.pins) {
            // Without the right to unmount, an empty file system stays.
            tracing::warn!(%error, "the directory of pins stays");
        }
        drop(self.server);
        tracing::info!("stopped");
    }
}

impl Office {
    fn node(&self) -> MutexGuard<'_, Option<Node>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_after(&self, fatal: impl FnOnce(String)) {
        while !self.closing.load(Ordering::Acquire) {
            thread::park_timeout(ROUND);
            if let Some(Err(problem)) = self.node().as_mut().map(Node::tend) {
                fatal(problem);
                return;
            }
        }
    }
}

impl Service for Office {
    fn answer(&self, request: Request) -> Response {
        let mut node = self.node();
        let Some(node) = node.as_mut() else {
            return Response::Error {
                message: "the dataplane is stopping".to_owned(),
            };
        };
        let answer = match request {
            Request::Publish(snapshot) => return node.publish(*snapshot),
            Request::Status => node
                .status()
                .map(|status| Response::Status(Box::new(status))),
            Request::Counters => node
                .counters()
                .map(|counters| Response::Counters(Box::new(counters))),
            Request::Flows { limit } => Ok(Response::Flows(node.flows(limit))),
            Request::Explain(question) => {
                return match node.explain(&question) {
                    Ok(explanation) => Response::Explanation(Box::new(explanation)),
                    Err(message) => Response::Error { message },
                };
            }
            Request::LogFilter(filter) => {
                return match logging::set(&filter) {
                    Ok(()) => Response::Done,
                    Err(message) => Response::Error { message },
                };
            }
            Request::Offload(setting) => {
                return match node.set_offload(setting) {
                    Ok(generation) => Response::Applied { generation },
                    Err(message) => Response::Error { message },
                };
            }
        };
        answer.unwrap_or_else(|error| Response::Error {
            message: error.to_string(),
        })
    }
}

fn build(args: &Args) -> anyhow::Result<Node> {
    let trunk = Trunk::create(args.workers)?;
    let hooks = load(args)?;
    let inherited = Inheritance::read(&hooks.flow_map()?)?;
    let number = inherited.first_number();
    let stamps = StampArray::map(hooks.heartbeat(), MAX_QUEUES)?;
    let nothing = compile::nothing(trunk.kernel_side.mac.unwrap_or_default());
    let live = Arc::new(Live::new(
        nothing.map_err(|problems| {
            anyhow::anyhow!("no snapshot to start with: {}", problems.join("; "))
        })?,
        number,
    ));
    let mut start = Start {
        args,
        stamps: Arc::new(stamps),
        live: Arc::clone(&live),
        wakes: wakes(args.workers)?,
        cores: args.cores.clone().or_else(CoreList::allowed),
        trunk_ports: Vec::new(),
        clerk_wake: Arc::new(Wake::new().context("create an eventfd")?),
        clients: Vec::new(),
    };
    let mut crew = Vec::new();
    let lanes = handoff::mesh(args.workers as usize);
    for (index, ends) in (0..args.workers).zip(lanes) {
        let exchange = Exchange::new(ends, start.wakes.clone());
        crew.push(start.worker(index, exchange, &trunk, &hooks)?);
    }
    let clerk = Clerk::start(hooks.flow_map()?, start.clients, start.clerk_wake, number);
    // The end packets arrive at first: what is sent into trunk0 must find its way.
    let trunk_links = vec![
        hooks.attach_trunk_rx(trunk.worker_side.index)?,
        hooks.attach_trunk(trunk.kernel_side.index)?,
    ];
    Ok(Node::new(Parts {
        trunk_links,
        hooks,
        crew,
        clerk: clerk.context("start the clerk")?,
        offload: args.offload.into(),
        trunk,
        trunk_ports: start.trunk_ports,
        inherited,
        live,
        umem_frames: args.umem_frames,
    }))
}

/// Loads the hooks, with a place where they stay should we die, if the system has one.
fn load(args: &Args) -> anyhow::Result<Hooks> {
    let flows = args.flows.saturating_mul(args.workers);
    match Pins::open(&args.pin_dir()) {
        Ok(pins) => Ok(Hooks::load_pinned(flows, pins)?),
        Err(error) => {
            tracing::warn!(%error, "hooks and flows end with this process");
            Ok(Hooks::load(flows)?)
        }
    }
}

/// Removes what a dead dataplane left, in the calling thread's network namespace.
///
/// # Errors
/// When a live one is there, or something cannot be removed.
pub fn remove(args: &Args) -> anyhow::Result<()> {
    // Refuses a live one, and removes the socket of a dead one when it is dropped.
    let _listener = Listener::bind(&args.run_dir)?;
    Pins::remove(&args.pin_dir())?;
    Trunk::remove()?;
    Ok(())
}

fn wakes(workers: u32) -> anyhow::Result<Vec<Arc<Wake>>> {
    (0..workers)
        .map(|_| Ok(Arc::new(Wake::new().context("create an eventfd")?)))
        .collect()
}

/// What starting workers needs.
struct Start<'a> {
    args: &'a Args,
    stamps: Arc<StampArray>,
    live: Arc<Live<Snapshot>>,
    wakes: Vec<Arc<Wake>>,
    cores: Option<CoreList>,
    trunk_ports: Vec<Arc<PortCells>>,
    clerk_wake: Arc<Wake>,
    clients: Vec<Client>,
}

impl Start<'_> {
    fn worker(
        &mut self,
        index: u32,
        exchange: Exchange,
        trunk: &Trunk,
        hooks: &Hooks,
    ) -> anyhow::Result<Hand> {
        let umem = Umem::new(UmemConfig {
            huge_pages: match self.args.huge_pages {
                HugePages::Try => penstock_xsk::HugePages::Try,
                HugePages::Never => penstock_xsk::HugePages::Never,
                HugePages::Require => penstock_xsk::HugePages::Require,
            },
            ..UmemConfig::new(self.args.umem_frames)
        })?;
        let config = PortConfig::new(trunk.worker_side.index, index);
        let handle = umem.handle();
        let port = Port::bind(&config, &handle, None)?;
        hooks.set_socket(TRUNK_SLOT, index, port.as_fd())?;
        let port_cells = Arc::new(PortCells::new(index, trunk::WORKER_SIDE, index));
        self.trunk_ports.push(Arc::clone(&port_cells));
        let trunk_port = NewPort {
            uplink: None,
            port,
            cells: port_cells,
        };
        let engine = Engine::new(EngineConfig {
            capacity: self.args.flows as usize,
            capacity6: self.args.flows6 as usize,
            seed: rand::random(),
            worker: u16::try_from(index)?,
            workers: u16::try_from(self.args.workers)?,
        })
        .context("memory for the flow tables")?;
        let wake = Arc::clone(&self.wakes[index as usize]);
        let queues = Arc::new(Queues::new());
        self.clients.push(Client {
            queues: Arc::clone(&queues),
            wake: Arc::clone(&wake),
            places: engine.places(),
        });
        let cells = Arc::new(Cells::default());
        let commands = Arc::new(ArrayQueue::new(COMMANDS));
        let seed = Seed {
            ports: Ports::new(umem, trunk_port),
            engine,
            exchange,
            line: Line::new(queues, Arc::clone(&self.clerk_wake)),
            pulse: Pulse::new(Arc::clone(&self.stamps), index),
            live: Arc::clone(&self.live),
            errands: Errands::new(Arc::clone(&commands), Arc::clone(&wake), Arc::clone(&cells)),
            rest: Rest::new(self.args.idle),
        };
        let core = self.cores.as_ref().map(|cores| cores.core(index as usize));
        let (thread, pinned) = spawn(index, core, seed).context("start a worker")?;
        Ok(Hand {
            core: core
                .filter(|_| pinned)
                .and_then(|core| u32::try_from(core).ok()),
            umem: handle,
            promised_frames: config.fill.get(),
            cells,
            commands,
            wake,
            thread,
        })
    }
}

/// A worker before it is on its own thread: without the parts that must not change threads.
struct Seed {
    ports: Ports,
    engine: Engine,
    exchange: Exchange,
    line: Line,
    pulse: Pulse,
    live: Arc<Live<Snapshot>>,
    errands: Errands,
    rest: Rest,
}

/// Starts a worker's thread and waits until it has tried to pin itself.
fn spawn(index: u32, core: Option<usize>, seed: Seed) -> io::Result<(JoinHandle<()>, bool)> {
    let (pinned, is_pinned) = crossbeam::channel::bounded(1);
    let thread = thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let done = core.is_some_and(cpu::pin);
            if !done {
                tracing::warn!(worker = index, ?core, "not pinned to a core");
            }
            if !cpu::take_precedence() {
                tracing::warn!(
                    worker = index,
                    "no precedence on its core; CAP_SYS_NICE is missing"
                );
            }
            // The starter waits for exactly this.
            let _ = pinned.send(done);
            let worker = Worker {
                snapshot: seed.live.load(),
                passed: 0,
                live: seed.live,
                pulse: seed.pulse,
                batch: Batch::new(),
                looks: Vec::with_capacity(Batch::CAPACITY),
                bench: Bench {
                    ports: seed.ports,
                    engine: seed.engine,
                    exchange: seed.exchange,
                    line: seed.line,
                    tally: Tally::default(),
                    held: Waiting::new(),
                },
                errands: seed.errands,
                rest: seed.rest,
            };
            worker.run();
        })?;
    Ok((thread, is_pinned.recv().unwrap_or(false)))
}
