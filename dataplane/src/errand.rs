//! A worker's side of its dealings with the control side: commands in, counters out.
//!
//! Looked at once per loop. Commands are rare; they may allocate and make system calls.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use penstock_flow::{Snapshot, Timestamp};

use crate::bench::Bench;
use crate::clock;
use crate::crew::Command;
use crate::stats::{Cells, Gauges};
use crate::wake::Wake;

/// Where one worker is told things and where it is read.
#[derive(Debug)]
pub struct Errands {
    commands: Arc<ArrayQueue<Command>>,
    wake: Arc<Wake>,
    cells: Arc<Cells>,
    gauges: Gauges,
}

impl Errands {
    /// The worker's end of what a `Hand` holds.
    #[must_use]
    pub fn new(commands: Arc<ArrayQueue<Command>>, wake: Arc<Wake>, cells: Arc<Cells>) -> Self {
        Self {
            commands,
            wake,
            cells,
            gauges: Gauges::default(),
        }
    }

    /// Does everything asked for; `false` when asked to stop.
    pub(crate) fn run(&mut self, bench: &mut Bench, snapshot: &Snapshot) -> bool {
        while let Some(command) = self.commands.pop() {
            match command {
                Command::Add(port) => bench.ports.add(*port),
                Command::Remove(uplink) => bench.ports.remove(uplink),
                Command::Survey(done) => {
                    bench.ports.survey(&mut self.gauges);
                    self.publish(bench);
                    // The asker may have given up.
                    let _ = done.try_send(());
                }
                Command::Resume(sessions, reply) => {
                    let now = Timestamp::from_nanos(clock::monotonic_ns());
                    let engine = &mut bench.engine;
                    let taken = sessions
                        .iter()
                        .filter(|session| engine.resume(session, snapshot, now));
                    let _ = reply.try_send(taken.count());
                }
                Command::Flows(limit, reply) => {
                    let now = Timestamp::from_nanos(clock::monotonic_ns());
                    let _ = reply.try_send(bench.engine.flows(now).take(limit).collect());
                }
                Command::Stop => return false,
            }
        }
        true
    }

    /// Makes all counts visible.
    pub(crate) fn publish(&mut self, bench: &Bench) {
        let engine = bench.engine.stats();
        self.gauges.snat = engine.translated;
        self.gauges.flows = engine.flows;
        self.gauges.flows_created = engine.flows_created;
        self.gauges.flows_expired = engine.flows_expired;
        self.gauges.snat_ports = engine.snat_ports;
        self.gauges.offloaded = engine.offloaded;
        self.gauges.offload_deferred = engine.offload_deferred;
        self.cells.publish(&bench.tally, &self.gauges);
        bench.ports.publish();
    }

    /// Says that no older snapshot than `number` is used any more.
    pub(crate) fn pass(&self, number: u64) {
        self.cells.pass(number);
    }

    /// Whether a command waits.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.commands.is_empty()
    }

    /// This worker's alarm clock.
    pub(crate) fn wake(&self) -> &Wake {
        &self.wake
    }
}
