//! `penstock get`: one view per resource, rows in an order that does not change between calls.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use penstock_control_api::{EniRow, PodRow};
use penstock_dataplane_api::{Counters, FlowRow, HookReport, PortReport, WorkerReport};
use penstock_packet::DropReason;
use serde::Serialize;
use serde_json::{Value, json};

use crate::arguments::{GetArguments, Resource};
use crate::daemons::Daemons;
use crate::failure::Failure;
use crate::table::{Column, View, number, text};

/// Asks, and prints the answer.
pub(crate) fn show(
    daemons: &Daemons,
    request: &GetArguments,
    output: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let view = match request.resource {
        Resource::Pods => pods(daemons.pods()?),
        Resource::Enis => enis(daemons.enis()?),
        Resource::Flows => flows(daemons.flows(request.limit)?),
        Resource::Drops => drops(&daemons.counters()?),
        Resource::Workers => workers(daemons.counters()?.workers),
        Resource::Ports => ports(daemons.counters()?.ports),
        Resource::Hooks => hooks(&daemons.counters()?.hooks),
    };
    view.write(request.format, !request.no_headers, output)?;
    Ok(ExitCode::SUCCESS)
}

fn pods(mut pods: Vec<PodRow>) -> View {
    const COLUMNS: &[Column] = &[
        text("NAMESPACE"),
        text("POD"),
        text("ADDRESS"),
        text("ENI"),
        number("DEVICE"),
        text("HOST INTERFACE"),
        text("STATE"),
        text("NETWORK").wide(),
        text("INTERFACE").wide(),
        text("CONTAINER").wide(),
    ];
    pods.sort_by(|a, b| {
        let key = |pod: &PodRow| (pod.namespace.clone(), pod.pod.clone(), pod.ifname.clone());
        key(a).cmp(&key(b)).then(a.address.cmp(&b.address))
    });
    let row = |pod: &PodRow| {
        vec![
            pod.namespace.clone(),
            pod.pod.clone(),
            pod.address.to_string(),
            pod.eni_id.clone(),
            pod.device_number.to_string(),
            pod.host_ifname.clone(),
            if pod.confirmed { "live" } else { "attaching" }.to_owned(),
            pod.network.clone(),
            pod.ifname.clone(),
            pod.container_id.clone(),
        ]
    };
    view(COLUMNS, &pods, row)
}

fn enis(mut enis: Vec<EniRow>) -> View {
    const COLUMNS: &[Column] = &[
        text("ENI"),
        text("INTERFACE"),
        number("DEVICE"),
        text("ADDRESS"),
        number("ASSIGNED"),
        number("ADDRESSES"),
        number("MTU"),
        text("SUBNET").wide(),
        number("TABLE").wide(),
    ];
    enis.sort_by(|a, b| (a.device_number, &a.eni_id).cmp(&(b.device_number, &b.eni_id)));
    let row = |eni: &EniRow| {
        vec![
            eni.eni_id.clone(),
            eni.ifname.clone(),
            eni.device_number.to_string(),
            eni.address.to_string(),
            eni.assigned.to_string(),
            eni.addresses.to_string(),
            eni.mtu.to_string(),
            eni.subnet_id.clone(),
            eni.table.to_string(),
        ]
    };
    view(COLUMNS, &enis, row)
}

fn flows(mut flows: Vec<FlowRow>) -> View {
    const COLUMNS: &[Column] = &[
        text("PROTOCOL"),
        text("POD"),
        text("REMOTE"),
        text("SNAT"),
        text("OUT"),
        text("STATE"),
        number("PACKETS OUT"),
        number("PACKETS IN"),
        number("IDLE MS"),
        number("WORKER").wide(),
    ];
    flows.sort_by_key(|flow| {
        let remote = (flow.remote, flow.remote_port);
        (flow.pod, flow.pod_port, remote, flow.protocol, flow.worker)
    });
    let row = |flow: &FlowRow| {
        vec![
            protocol(flow.protocol),
            SocketAddr::new(flow.pod, flow.pod_port).to_string(),
            SocketAddr::new(flow.remote, flow.remote_port).to_string(),
            flow.snat.map_or_else(
                || "-".to_owned(),
                |address| SocketAddr::new(address, flow.snat_port).to_string(),
            ),
            flow.out.clone(),
            flow.state.clone(),
            flow.packets_out.to_string(),
            flow.packets_in.to_string(),
            flow.idle_ms.to_string(),
            flow.worker.to_string(),
        ]
    };
    view(COLUMNS, &flows, row)
}

/// IANA's names of the protocols the dataplane tracks.
fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

/// All drops of one reason.
#[derive(Default, Serialize)]
struct Dropped {
    packets: u64,
    hooks: BTreeMap<String, u64>,
    workers: BTreeMap<u32, u64>,
}

impl Dropped {
    fn places(&self) -> String {
        let hooks = self.hooks.iter().map(|(hook, n)| format!("{hook}={n}"));
        let workers = self.workers.iter().map(|(w, n)| format!("worker{w}={n}"));
        hooks.chain(workers).collect::<Vec<_>>().join(" ")
    }
}

fn drops(counters: &Counters) -> View {
    const COLUMNS: &[Column] = &[
        text("REASON"),
        number("PACKETS"),
        number("AT HOOKS"),
        number("AT WORKERS"),
        text("WHERE").wide(),
        text("MEANING"),
    ];
    let mut merged: BTreeMap<(usize, &str), Dropped> = BTreeMap::new();
    for hook in &counters.hooks {
        for drop in &hook.drops {
            let entry = merged.entry(rank(&drop.reason)).or_default();
            entry.packets += drop.packets;
            *entry.hooks.entry(hook.hook.clone()).or_default() += drop.packets;
        }
    }
    for worker in &counters.workers {
        for drop in &worker.drops {
            let entry = merged.entry(rank(&drop.reason)).or_default();
            entry.packets += drop.packets;
            *entry.workers.entry(worker.worker).or_default() += drop.packets;
        }
    }
    View {
        json: merged.iter().map(drop_object).collect(),
        columns: COLUMNS,
        rows: merged.iter().map(drop_row).collect(),
    }
}

/// Orders reasons as the dataplane declares them; reasons of a newer dataplane come last.
fn rank(reason: &str) -> (usize, &str) {
    let known = DropReason::ALL.iter().position(|r| r.label() == reason);
    (known.unwrap_or(DropReason::COUNT), reason)
}

fn meaning(index: usize) -> &'static str {
    DropReason::from_index(index).map_or("(a newer dataplane's reason)", DropReason::when)
}

fn drop_object((&(index, reason), dropped): (&(usize, &str), &Dropped)) -> Value {
    json!({
        "reason": reason,
        "packets": dropped.packets,
        "hooks": dropped.hooks,
        "workers": dropped.workers,
        "meaning": meaning(index),
    })
}

fn drop_row((&(index, reason), dropped): (&(usize, &str), &Dropped)) -> Vec<String> {
    vec![
        reason.to_owned(),
        dropped.packets.to_string(),
        dropped.hooks.values().sum::<u64>().to_string(),
        dropped.workers.values().sum::<u64>().to_string(),
        dropped.places(),
        meaning(index).to_owned(),
    ]
}

fn workers(mut workers: Vec<WorkerReport>) -> View {
    const COLUMNS: &[Column] = &[
        number("WORKER"),
        number("CORE"),
        number("RX"),
        number("TX"),
        number("TO KERNEL"),
        number("SNAT"),
        number("HANDED OFF"),
        number("HANDED IN"),
        number("DROPS"),
        number("FLOWS"),
        number("BUSY %"),
        number("ORIGINATED").wide(),
        number("CREATED").wide(),
        number("EXPIRED").wide(),
        number("SNAT PORTS").wide(),
        number("OFFLOADED").wide(),
        number("DEFERRED").wide(),
        number("FRAMES FREE").wide(),
        number("FRAMES").wide(),
    ];
    workers.sort_by_key(|worker| worker.worker);
    let row = |worker: &WorkerReport| {
        let drops: u64 = worker.drops.iter().map(|drop| drop.packets).sum();
        let core = worker.core.map(|core| core.to_string());
        vec![
            worker.worker.to_string(),
            core.unwrap_or_else(|| "-".to_owned()),
            worker.rx.to_string(),
            worker.tx.to_string(),
            worker.to_kernel.to_string(),
            worker.snat.to_string(),
            worker.handed_off.to_string(),
            worker.handed_in.to_string(),
            drops.to_string(),
            worker.flows.to_string(),
            percent(worker.busy_polls, worker.polls),
            worker.originated.to_string(),
            worker.flows_created.to_string(),
            worker.flows_expired.to_string(),
            worker.snat_ports.to_string(),
            worker.offloaded.to_string(),
            worker.offload_deferred.to_string(),
            worker.frames.free.to_string(),
            worker.frames.total.to_string(),
        ]
    };
    view(COLUMNS, &workers, row)
}

/// `part` of `whole` in whole percent; `-` of nothing.
fn percent(part: u64, whole: u64) -> String {
    (u128::from(part) * 100)
        .checked_div(u128::from(whole))
        .map_or_else(|| "-".to_owned(), |percent| percent.to_string())
}

fn ports(mut ports: Vec<PortReport>) -> View {
    const COLUMNS: &[Column] = &[
        text("INTERFACE"),
        number("QUEUE"),
        number("WORKER"),
        number("RX PACKETS"),
        number("TX PACKETS"),
        number("RING FULL"),
        number("FILL EMPTY"),
        number("KERNEL DROPS"),
        number("RX BYTES").wide(),
        number("TX BYTES").wide(),
        number("TX INVALID").wide(),
    ];
    ports.sort_by(|a, b| (&a.ifname, a.queue, a.worker).cmp(&(&b.ifname, b.queue, b.worker)));
    let row = |port: &PortReport| {
        let mut row = vec![port.ifname.clone()];
        let numbers = [
            port.queue.into(),
            port.worker.into(),
            port.rx_packets,
            port.tx_packets,
            port.kernel_rx_ring_full,
            port.kernel_rx_fill_empty,
            port.kernel_rx_dropped,
            port.rx_bytes,
            port.tx_bytes,
            port.kernel_tx_invalid,
        ];
        row.extend(numbers.map(|number: u64| number.to_string()));
        row
    };
    view(COLUMNS, &ports, row)
}

fn hooks(hooks: &[HookReport]) -> View {
    const COLUMNS: &[Column] = &[
        text("HOOK"),
        number("SEEN"),
        number("TO WORKER"),
        number("TO KERNEL"),
        number("TO POD"),
        number("OFFLOADED"),
        number("DROPS"),
        number("FALLBACK"),
    ];
    let row = |hook: &HookReport| {
        let drops = hook.drops.iter().map(|drop| drop.packets).sum();
        let mut row = vec![hook.hook.clone()];
        let numbers = [
            hook.seen,
            hook.to_worker,
            hook.to_kernel,
            hook.to_pod,
            hook.offloaded,
            drops,
            hook.fallback,
        ];
        row.extend(numbers.map(|number: u64| number.to_string()));
        row
    };
    view(COLUMNS, hooks, row)
}

fn view<T: Serialize>(
    columns: &'static [Column],
    items: &[T],
    row: impl Fn(&T) -> Vec<String>,
) -> View {
    View {
        json: json!(items),
        columns,
        rows: items.iter().map(row).collect(),
    }
}

#[cfg(test)]
#[path = "get_tests.rs"]
mod tests;
