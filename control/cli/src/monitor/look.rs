//! One look at both daemons, and what changed since the one before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use penstock_control_api::PodRow;
use penstock_dataplane_api::{Counters, DropCount, FlowRow, Status as DataplaneStatus};
use serde_json::{Value, json};

use super::Kind;
use crate::daemons::{CONTROL, DATAPLANE, Daemons};

/// Most flows of one look; more are not told apart from those that end.
const MAX_FLOWS: u32 = 20_000;

/// What tells one flow from another.
type FlowName = (u8, IpAddr, u16, IpAddr, u16);

/// What both daemons reported. What was not asked for, or of a daemon that is away, is empty.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Whether they answer.
    pub(super) control: bool,
    pub(super) dataplane: Option<DataplaneStatus>,
    /// By container id and interface.
    pub(super) pods: BTreeMap<(String, String), PodRow>,
    /// Packets by place and reason.
    pub(super) drops: BTreeMap<(String, String), u64>,
    pub(super) flows: BTreeMap<FlowName, FlowRow>,
}

impl Look {
    /// Asks for what the kinds need.
    pub(super) fn take(daemons: &Daemons, kinds: &[Kind]) -> Self {
        let status = daemons.dataplane_status().ok();
        let asked = |kind| status.is_some() && kinds.contains(&kind);
        // Names are needed whatever is watched.
        let pods = daemons.pods();
        let drops = asked(Kind::Drop).then(|| daemons.counters().ok()).flatten();
        let flows = asked(Kind::Flow).then(|| daemons.flows(MAX_FLOWS).ok());
        Self {
            control: pods.is_ok(),
            pods: pods
                .unwrap_or_default()
                .into_iter()
                .filter(|pod| pod.confirmed)
                .map(|pod| ((pod.container_id.clone(), pod.ifname.clone()), pod))
                .collect(),
            drops: drops.as_ref().map(drops_of).unwrap_or_default(),
            flows: flows
                .flatten()
                .unwrap_or_default()
                .into_iter()
                .map(|flow| (name_of(&flow), flow))
                .collect(),
            dataplane: status,
        }
    }

    /// What happened between `before` and this look.
    pub(super) fn since(&self, before: &Self, kinds: &[Kind]) -> Vec<Value> {
        let mut events = Vec::new();
        if kinds.contains(&Kind::Health) {
            self.health_since(before, &mut events);
        }
        if kinds.contains(&Kind::Pod) && self.control && before.control {
            self.pods_since(before, &mut events);
        }
        // A dataplane that was started anew counts from nothing.
        let same = self.pid().is_some() && self.pid() == before.pid();
        if kinds.contains(&Kind::Flow) && same {
            self.flows_since(before, &mut events);
        }
        if kinds.contains(&Kind::Drop) && self.pid().is_some() {
            for ((place, reason), packets) in &self.drops {
                let key = (place.clone(), reason.clone());
                let known = before.drops.get(&key).filter(|_| same);
                let packets = packets.saturating_sub(known.copied().unwrap_or(0));
                if packets > 0 {
                    events.push(json!({
                        "event": "drop", "place": place, "reason": reason, "packets": packets,
                    }));
                }
            }
        }
        events
    }

    fn pid(&self) -> Option<u32> {
        self.dataplane.as_ref().map(|status| status.pid)
    }

    fn health_since(&self, before: &Self, events: &mut Vec<Value>) {
        let answers = [
            (CONTROL, before.control, self.control),
            (DATAPLANE, before.pid().is_some(), self.pid().is_some()),
        ];
        for (daemon, before, now) in answers {
            if before != now {
                let event = if now { "daemon_answers" } else { "daemon_away" };
                events.push(json!({ "event": event, "daemon": daemon }));
            }
        }
        let (Some(before), Some(now)) = (&before.dataplane, &self.dataplane) else {
            return;
        };
        if before.pid != now.pid {
            events
                .push(json!({ "event": "daemon_restarted", "daemon": DATAPLANE, "pid": now.pid }));
        }
        if before.generation != now.generation {
            events.push(json!({ "event": "published", "generation": now.generation }));
        }
        if before.fallback_queues != now.fallback_queues {
            events.push(json!({ "event": "fallback", "queues": now.fallback_queues }));
        }
        for uplink in &now.uplinks {
            if !before.uplinks.contains(uplink) {
                events.push(json!({
                    "event": "uplink", "eni_id": uplink.eni_id, "ifname": uplink.ifname,
                    "mode": uplink.mode, "queues": uplink.queues, "problem": uplink.problem,
                }));
            }
        }
    }

    fn pods_since(&self, before: &Self, events: &mut Vec<Value>) {
        let event = |event: &str, pod: &PodRow| {
            json!({
                "event": event, "pod": pod_name(pod), "address": pod.address,
                "eni_id": pod.eni_id, "ifname": pod.host_ifname,
            })
        };
        let new = self
            .pods
            .iter()
            .filter(|(key, _)| !before.pods.contains_key(*key));
        events.extend(new.map(|(_, pod)| event("pod_attached", pod)));
        let gone = before
            .pods
            .iter()
            .filter(|(key, _)| !self.pods.contains_key(*key));
        events.extend(gone.map(|(_, pod)| event("pod_detached", pod)));
    }

    fn flows_since(&self, before: &Self, events: &mut Vec<Value>) {
        let event = |event: &str, flow: &FlowRow| {
            json!({
                "event": event,
                "pod": self.named(flow.pod).or_else(|| before.named(flow.pod)),
                "remote_pod": self.named(flow.remote).or_else(|| before.named(flow.remote)),
                "protocol": flow.protocol,
                "from": flow.pod, "from_port": flow.pod_port,
                "to": flow.remote, "to_port": flow.remote_port,
                "snat": flow.snat, "snat_port": flow.snat_port,
                "out": flow.out, "state": flow.state, "worker": flow.worker,
                "packets_out": flow.packets_out, "packets_in": flow.packets_in,
            })
        };
        let new = self
            .flows
            .iter()
            .filter(|(name, _)| !before.flows.contains_key(*name));
        events.extend(new.map(|(_, flow)| event("flow_began", flow)));
        let gone = before
            .flows
            .iter()
            .filter(|(name, _)| !self.flows.contains_key(*name));
        events.extend(gone.map(|(_, flow)| event("flow_ended", flow)));
    }

    fn named(&self, address: IpAddr) -> Option<String> {
        let pod = self
            .pods
            .values()
            .find(|pod| IpAddr::from(pod.address) == address)?;
        Some(pod_name(pod))
    }
}

fn pod_name(pod: &PodRow) -> String {
    format!("{}/{}", pod.namespace, pod.pod)
}

fn name_of(flow: &FlowRow) -> FlowName {
    (
        flow.protocol,
        flow.pod,
        flow.pod_port,
        flow.remote,
        flow.remote_port,
    )
}

/// Every drop of hooks and workers.
fn drops_of(counters: &Counters) -> BTreeMap<(String, String), u64> {
    let hooks = counters
        .hooks
        .iter()
        .map(|hook| (format!("hook {}", hook.hook), &hook.drops));
    let workers = counters
        .workers
        .iter()
        .map(|worker| (format!("worker {}", worker.worker), &worker.drops));
    let each = |(place, drops): (String, &Vec<DropCount>)| {
        let named = |drop: &DropCount| ((place.clone(), drop.reason.clone()), drop.packets);
        drops.iter().map(named).collect::<Vec<_>>()
    };
    hooks.chain(workers).flat_map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_dataplane_api::{UplinkMode, UplinkReport};

    const ALL: &[Kind] = &[Kind::Drop, Kind::Pod, Kind::Flow, Kind::Health];

    fn status(pid: u32, generation: u64, mode: UplinkMode) -> DataplaneStatus {
        let text = json!({
            "version": "0.1.0", "pid": pid, "uptime_seconds": 1, "generation": generation,
            "endpoints": 1, "workers": 1,
            "offload": penstock_dataplane_api::OffloadReport::default(), "fallback_queues": 0, "uplinks": [],
        });
        let mut status: DataplaneStatus = serde_json::from_value(text).unwrap();
        status.uplinks = vec![UplinkReport {
            eni_id: "eni-1".to_owned(),
            ifname: "eth0".to_owned(),
            mode,
            queues: 1,
            problem: String::new(),
        }];
        status
    }

    fn pod() -> ((String, String), PodRow) {
        let row = PodRow {
            namespace: "d".to_owned(),
            pod: "a".to_owned(),
            address: "10.0.0.5".parse().unwrap(),
            eni_id: "eni-1".to_owned(),
            device_number: 0,
            host_ifname: "eni0".to_owned(),
            network: "penstock".to_owned(),
            container_id: "c".to_owned(),
            ifname: "eth0".to_owned(),
            confirmed: true,
        };
        (("c".to_owned(), "eth0".to_owned()), row)
    }

    fn look(pid: u32, drops: u64) -> Look {
        let key = ("worker 0".to_owned(), "nat_ports".to_owned());
        Look {
            control: true,
            dataplane: Some(status(pid, 1, UplinkMode::Copy)),
            drops: BTreeMap::from([(key, drops)]),
            ..Look::default()
        }
    }

    fn words(events: &[Value]) -> Vec<&str> {
        let word = |event: &'_ Value| event["event"].as_str().map(str::len).is_some();
        assert!(events.iter().all(word), "{events:?}");
        events
            .iter()
            .filter_map(|event| event["event"].as_str())
            .collect()
    }

    #[test]
    fn nothing_changed_is_no_event() {
        assert!(look(1, 5).since(&look(1, 5), ALL).is_empty());
    }

    #[test]
    fn a_drop_counts_what_came_since() {
        let events = look(1, 9).since(&look(1, 5), ALL);
        assert_eq!(words(&events), ["drop"]);
        assert_eq!(events[0]["packets"], 4);
        assert_eq!(events[0]["reason"], "nat_ports");
        assert!(look(1, 9).since(&look(1, 5), &[Kind::Pod]).is_empty());
    }

    #[test]
    fn a_new_dataplane_counts_from_nothing() {
        let events = look(2, 3).since(&look(1, 5), ALL);
        assert_eq!(words(&events), ["daemon_restarted", "drop"]);
        assert_eq!(events[1]["packets"], 3);
    }

    #[test]
    fn pods_come_and_go_but_not_with_their_agent() {
        let mut with = look(1, 0);
        with.pods.extend([pod()]);
        assert_eq!(words(&with.since(&look(1, 0), ALL)), ["pod_attached"]);
        let gone = look(1, 0).since(&with, ALL);
        assert_eq!(words(&gone), ["pod_detached"]);
        assert_eq!(gone[0]["pod"], "d/a");
        let mut away = look(1, 0);
        away.control = false;
        assert_eq!(words(&away.since(&with, ALL)), ["daemon_away"]);
    }

    #[test]
    fn uplinks_and_publications_are_told() {
        let mut now = look(1, 0);
        now.dataplane = Some(status(1, 2, UplinkMode::Kernel));
        let events = now.since(&look(1, 0), ALL);
        assert_eq!(words(&events), ["published", "uplink"]);
        assert_eq!(events[1]["mode"], "kernel");
    }

    #[test]
    fn flows_are_told_by_their_pods_names() {
        let flow: FlowRow = serde_json::from_value(json!({
            "worker": 0, "protocol": 6, "pod": "10.0.0.5", "pod_port": 4000,
            "remote": "192.0.2.1", "remote_port": 443, "snat": "10.0.0.10", "snat_port": 11_000,
            "out": "eni-1", "state": "established", "packets_out": 2, "packets_in": 1, "idle_ms": 3,
        }))
        .unwrap();
        let mut now = look(1, 0);
        now.pods.extend([pod()]);
        let mut before = look(1, 0);
        before.pods.extend([pod()]);
        now.flows.insert(name_of(&flow), flow);
        let events = now.since(&before, ALL);
        assert_eq!(words(&events), ["flow_began"]);
        assert_eq!(events[0]["pod"], "d/a");
        assert_eq!(events[0]["snat_port"], 11_000);
        assert_eq!(words(&before.since(&now, ALL)), ["flow_ended"]);
    }
}
