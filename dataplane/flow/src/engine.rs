//! One worker's flows and everything around them: table, timers, SNAT ports, counts.
//!
//! [`crate::forward`] is the only way packets get in. Workers share nothing: each flow has one
//! owner, found by [`Engine::owner`] from the packet alone.

use std::net::Ipv4Addr;

use penstock_packet::DropReason;
use penstock_packet::hash::queue;

use crate::config::NodeSnat;
use crate::decide::renew;
use crate::entry::Flow;
use crate::key::{Direction, FlowKey, Zone};
use crate::ports::{self, PortPicker};
use crate::reject::Limiter;
use crate::seeded::Seed;
use crate::table::{FlowId, FlowTable};
use crate::tcp_state::TcpState;
use crate::timeout::Timeouts;
use crate::wheel::Wheel;
use crate::{OutIf, Snapshot, Timestamp};

/// What an engine is made with.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Which worker this is, from 0.
    pub worker: u16,
    /// How many there are; at least 1.
    pub workers: u16,
    /// Most flows this worker holds; all memory for them is taken at the start.
    pub capacity: usize,
    /// Secret from the operating system's random source; different for every start.
    pub seed: Seed,
    /// Idle times.
    pub timeouts: Timeouts,
}

/// Counts of an engine; those without "now" only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Flows now, without those that only keep their port in quarantine.
    pub flows: u64,
    /// Flows created.
    pub flows_created: u64,
    /// Flows ended by time.
    pub flows_expired: u64,
    /// SNAT ports in use or in quarantine now; one per translated flow.
    pub snat_ports: u64,
    /// Packets translated, either direction.
    pub translated: u64,
}

/// A flow as people want to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowView {
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's address; of two pods, the one that began.
    pub pod: Ipv4Addr,
    /// The pod's L4 port; the identifier when the pod sends the echo requests.
    pub pod_port: u16,
    /// The other side's address.
    pub remote: Ipv4Addr,
    /// The other side's L4 port; the identifier when it sends the echo requests.
    pub remote_port: u16,
    /// Address and port that replace the pod's.
    pub snat: Option<(Ipv4Addr, u16)>,
    /// Where the pod's packets leave.
    pub out: OutIf,
    /// TCP state.
    pub state: Option<TcpState>,
    /// Packets from the pod.
    pub packets_out: u64,
    /// Packets to the pod.
    pub packets_in: u64,
    /// Last packet of either direction.
    pub last_seen: Timestamp,
}

/// Flow state of one worker.
#[derive(Debug)]
pub struct Engine {
    pub(crate) worker: u16,
    pub(crate) workers: u16,
    pub(crate) limiter: Limiter,
    table: FlowTable,
    wheel: Wheel,
    timeouts: Timeouts,
    picker: PortPicker,
    pub(crate) stats: EngineStats,
}

impl Engine {
    /// An engine without flows.
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        let table = FlowTable::new(config.capacity, config.seed);
        let [k0, k1] = config.seed;
        Self {
            worker: config.worker,
            workers: config.workers.max(1),
            limiter: Limiter::new(config.workers, config.seed),
            wheel: Wheel::new(table.capacity(), Timestamp::default()),
            table,
            timeouts: config.timeouts,
            // Ports are seen outside: their secret must tell nothing of the table's.
            picker: PortPicker::new([k1.rotate_left(32), !k0]),
            stats: EngineStats::default(),
        }
    }

    /// Counts now.
    #[must_use]
    pub const fn stats(&self) -> EngineStats {
        self.stats
    }

    /// Flows that carry packets, in no order.
    pub fn flows(&self) -> impl Iterator<Item = FlowView> {
        self.table
            .iter()
            .filter(|flow| !flow.quarantined)
            .map(|flow| FlowView {
                protocol: flow.egress.key.protocol,
                pod: flow.egress.key.source,
                pod_port: flow.egress.key.source_port,
                remote: flow.egress.key.destination,
                remote_port: flow.egress.key.destination_port,
                snat: flow.snat().map(|end| (end.address, end.port)),
                out: flow.egress.hop.out,
                state: flow.tcp_state(),
                packets_out: flow.egress.packets,
                packets_in: flow.ingress.packets,
                last_seen: flow.last_seen,
            })
    }

    /// Looks at up to `budget` flows whose time may have come and ends those that were idle too
    /// long. Returns how many were looked at; less than `budget` means none are left for now.
    pub fn expire(&mut self, now: Timestamp, budget: usize) -> usize {
        for looked in 0..budget {
            let Some(id) = self.wheel.pop_due(now) else {
                return looked;
            };
            self.look_at(id, now);
        }
        budget
    }

    /// Worker that owns the packets with this key. Answers to translated flows belong to the
    /// worker whose slice their port is in, everything else to its flow hash's.
    #[inline]
    pub(crate) fn owner(&self, snapshot: &Snapshot, key: FlowKey) -> u16 {
        if self.workers == 1 {
            return self.worker;
        }
        let by_port = match key.zone {
            Zone::Uplinks => snapshot.snat_ports(key.destination),
            Zone::Pods => None,
        };
        by_port
            .and_then(|range| ports::owner(range, key.destination_port, self.workers))
            .unwrap_or_else(|| queue(key.hash(), self.workers))
    }

    /// The living flow of this key, brought up to the snapshot.
    #[inline]
    pub(crate) fn lookup(
        &mut self,
        key: FlowKey,
        snapshot: &Snapshot,
    ) -> Option<(FlowId, Direction)> {
        let (id, direction) = self.table.find(key)?;
        let flow = self.table.get(id)?;
        if flow.quarantined {
            return None;
        }
        if flow.epoch != snapshot.epoch {
            return self.renew(id, snapshot).then_some((id, direction));
        }
        Some((id, direction))
    }

    /// Decides a flow again under a new snapshot; removes it when that ends it.
    #[cold]
    fn renew(&mut self, id: FlowId, snapshot: &Snapshot) -> bool {
        let Some(flow) = self.table.get_mut(id) else {
            return false;
        };
        match renew(flow, snapshot) {
            Some(renewed) => {
                *flow = renewed;
                true
            }
            None => {
                self.remove(id);
                false
            }
        }
    }

    /// The flow in this place, to change.
    #[inline]
    pub(crate) fn flow_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.table.get_mut(id)
    }

    /// The flow in this place.
    #[inline]
    pub(crate) fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.table.get(id)
    }

    /// Puts a new flow in. Whatever still sits under its keys, such as a quarantined flow whose
    /// destination is no longer translated, goes.
    pub(crate) fn install(&mut self, flow: Flow, now: Timestamp) -> Result<FlowId, DropReason> {
        for key in [flow.egress.key, flow.ingress.key] {
            if let Some((id, _)) = self.table.find(key) {
                self.remove(id);
            }
        }
        let id = self
            .table
            .insert(flow)
            .map_err(|_full| DropReason::FlowTableFull)?;
        self.stats.flows += 1;
        self.stats.flows_created += 1;
        self.stats.snat_ports += u64::from(flow.snat().is_some());
        self.rearm(id, now);
        Ok(id)
    }

    /// A port for a new translated flow with this egress key, from this worker's slice. The port
    /// a quarantined flow of the same key holds is given back to it.
    pub(crate) fn lease(&mut self, snat: &NodeSnat, egress: FlowKey) -> Option<u16> {
        let slice = ports::slice(snat.ports, self.worker, self.workers);
        if let Some((id, Direction::Egress)) = self.table.find(egress) {
            let end = self.remove(id).and_then(|flow| flow.snat());
            let ours = end.filter(|end| {
                end.address == snat.address
                    && (snat.ports.first..=snat.ports.last).contains(&end.port)
            });
            if let Some(end) = ours {
                return Some(end.port);
            }
        }
        let table = &self.table;
        self.picker.pick(slice, snat.choice, egress, |port| {
            let mut answers = egress.reverse(Zone::Uplinks);
            answers.destination = snat.address;
            answers.destination_port = port;
            table.find(answers).is_some()
        })
    }

    /// Sets a flow's timer by its present state.
    pub(crate) fn rearm(&mut self, id: FlowId, now: Timestamp) {
        if let Some(flow) = self.table.get(id) {
            let idle = self
                .timeouts
                .idle(flow.egress.key.protocol, flow.tcp_state());
            self.wheel.arm(id, now.after(idle));
        }
    }

    /// Ends, quarantines or spares a flow whose timer fired.
    fn look_at(&mut self, id: FlowId, now: Timestamp) {
        let timeouts = self.timeouts;
        let Some(flow) = self.table.get_mut(id) else {
            return;
        };
        let idle = match flow.quarantined {
            true => timeouts.quarantine,
            false => timeouts.idle(flow.egress.key.protocol, flow.tcp_state()),
        };
        let deadline = flow.last_seen.after(idle);
        if deadline > now {
            self.wheel.arm(id, deadline);
            return;
        }
        let closed = flow.tcp_state().is_some_and(TcpState::is_over);
        if flow.quarantined {
            self.remove(id);
        } else if flow.snat().is_some() && !closed {
            flow.quarantined = true;
            flow.last_seen = now;
            self.wheel.arm(id, now.after(timeouts.quarantine));
            self.stats.flows -= 1;
            self.stats.flows_expired += 1;
        } else {
            self.remove(id);
            self.stats.flows_expired += 1;
        }
    }

    /// Takes a flow out at once.
    fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.wheel.disarm(id);
        let flow = self.table.remove(id)?;
        if flow.snat().is_some() {
            self.stats.snat_ports -= 1;
            self.picker.released(flow.egress.key);
        }
        if !flow.quarantined {
            self.stats.flows -= 1;
        }
        Some(flow)
    }
}
