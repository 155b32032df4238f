//! What the dataplane says about itself: status, counters, flows.

use std::sync::atomic::Ordering;

use penstock_dataplane_api::{
    Counters, DropCount, FlowRow, HookReport, OffloadReport, Status, UplinkMode, UplinkReport,
};
use penstock_flow::{FlowView, OutIf};
use penstock_hooks::{HookCounters, HookError, limits};

use crate::clock;
use crate::crew;
use crate::node::Node;

/// Most flows in one answer, so that it fits a message.
const MAX_FLOWS: usize = 20_000;

impl Node {
    /// One page of health.
    ///
    /// # Errors
    /// When the hooks' maps cannot be read.
    pub fn status(&mut self) -> Result<Status, HookError> {
        let now = clock::monotonic_ns();
        let lapses = self.hooks.lapses(self.workers())?;
        let away = lapses
            .iter()
            .filter(|lapse| lapse.last_ns > 0)
            .filter(|lapse| now.saturating_sub(lapse.last_ns) <= limits::RETURN_AFTER_NS)
            .count();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self
                .current
                .as_ref()
                .map_or(0, |current| current.generation),
            endpoints: u32::try_from(self.attached_pods()).unwrap_or(u32::MAX),
            workers: self.workers(),
            fallback_queues: u32::try_from(away).unwrap_or(u32::MAX),
            offload: self.offload_report(),
            uplinks: self.uplink_reports(),
        })
    }

    fn offload_report(&self) -> OffloadReport {
        let cells = &self.clerk.cells;
        OffloadReport {
            setting: self.offload,
            flows: cells.flows.load(Ordering::Relaxed),
            installed: cells.installed.load(Ordering::Relaxed),
            removed: cells.removed.load(Ordering::Relaxed),
            refused: cells.refused.load(Ordering::Relaxed),
        }
    }

    fn uplink_reports(&mut self) -> Vec<UplinkReport> {
        let Some(current) = &self.current else {
            return Vec::new();
        };
        let mut reports = Vec::new();
        for uplink in &current.uplinks {
            let id = self.slots.id(&uplink.eni_id);
            let bound = id.and_then(|id| self.uplinks.get(&id));
            let problem = id.and_then(|id| self.problems.get(&id)).cloned();
            reports.push(UplinkReport {
                eni_id: uplink.eni_id.clone(),
                ifname: uplink.ifname.clone(),
                mode: bound.map_or(UplinkMode::Kernel, |bound| bound.mode),
                queues: bound.map_or(0, |bound| u32::try_from(bound.ports.len()).unwrap_or(0)),
                problem: problem.unwrap_or_default(),
            });
        }
        reports
    }

    /// All counters, as fresh as the workers answer.
    ///
    /// # Errors
    /// When the hooks' maps cannot be read.
    pub fn counters(&self) -> Result<Counters, HookError> {
        crew::survey(&self.crew);
        let ports = self
            .uplinks
            .values()
            .flat_map(|bound| &bound.ports)
            .chain(&self.trunk_ports);
        Ok(Counters {
            hooks: self.hooks.counters()?.iter().map(hook_report).collect(),
            workers: (0..)
                .zip(&self.crew)
                .map(|(worker, hand)| hand.cells.report(worker, hand.core))
                .collect(),
            ports: ports.map(|cells| cells.report()).collect(),
        })
    }

    /// Up to `limit` flows of all workers, with what hooks carried of them.
    #[must_use]
    pub fn flows(&self, limit: u32) -> Vec<FlowRow> {
        self.clerk.look_now();
        let limit = usize::try_from(limit).unwrap_or(MAX_FLOWS).min(MAX_FLOWS);
        let mut rows = Vec::new();
        for (worker, hand) in (0..).zip(&self.crew) {
            for flow in hand.flows(limit - rows.len()) {
                rows.push(self.flow_row(worker, &flow));
            }
        }
        rows
    }

    fn flow_row(&self, worker: u32, flow: &FlowView) -> FlowRow {
        let out = match flow.out {
            OutIf::Uplink(id) => self.slots.eni_id(id).unwrap_or("?").to_owned(),
            OutIf::Endpoint => self.pod_ifname(flow.remote),
        };
        FlowRow {
            worker,
            protocol: flow.protocol,
            pod: flow.pod,
            pod_port: flow.pod_port,
            remote: flow.remote,
            remote_port: flow.remote_port,
            snat: flow.snat.map(|end| end.address.into()),
            snat_port: flow.snat.map_or(0, |end| end.port),
            out,
            state: flow
                .state
                .map_or_else(|| "-".to_owned(), |state| state.label().to_owned()),
            packets_out: flow.packets_out,
            packets_in: flow.packets_in,
            idle_ms: flow.idle_ms,
        }
    }

    pub(crate) fn pod_ifname(&self, address: std::net::IpAddr) -> String {
        self.current
            .iter()
            .flat_map(|current| &current.endpoints)
            .find(|endpoint| endpoint.addresses.contains(&address))
            .map_or_else(|| "?".to_owned(), |endpoint| endpoint.ifname.clone())
    }
}

fn hook_report(counters: &HookCounters) -> HookReport {
    HookReport {
        hook: counters.hook.label().to_owned(),
        seen: counters.seen,
        to_worker: counters.to_worker,
        to_kernel: counters.to_kernel,
        fallback: counters.fallback,
        to_pod: counters.to_pod,
        offloaded: counters.offloaded,
        offloaded_bytes: counters.offloaded_bytes,
        drops: counters
            .drops()
            .map(|(reason, packets)| DropCount {
                reason: reason.label().to_owned(),
                packets,
            })
            .collect(),
    }
}
