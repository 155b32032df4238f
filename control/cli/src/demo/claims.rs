//! What the demo claims, each with the counter or the observation that proves it.

use std::net::Ipv4Addr;
use std::time::Duration;

use penstock_dataplane_api::Counters;
use penstock_lab::traffic::{End, StreamReport, ping, tcp, udp};
use penstock_lab::{Node, OUTSIDE_ADDRESSES, Verdict};

use super::load::end;
use super::{Stage, eni_of};
use crate::failure::Failure;

/// One claim and its proof.
pub(super) struct Claim {
    pub(super) title: String,
    pub(super) holds: bool,
    pub(super) proof: String,
}

const STREAM: Duration = Duration::from_secs(1);
const ECHOES: u32 = 10;

/// Checks every claim, with the background traffic over.
pub(super) fn prove(stage: &Stage) -> Result<Vec<Claim>, Failure> {
    let node = &stage.lab.nodes()[0];
    let (here, there) = (&stage.pods[0], &stage.pods[1]);
    let outside = End {
        netns: stage.lab.outside(),
        address: OUTSIDE_ADDRESSES[0],
    };
    let last = &here[here.len() - 1];
    let mut claims = vec![
        path(
            "Pods of one node talk",
            node,
            end(&here[0]),
            end(&here[1]),
            here[0].address(),
        )?,
        path(
            "Pods of two nodes talk",
            node,
            end(&here[0]),
            end(&there[0]),
            here[0].address(),
        )?,
        path(
            "The outside sees the node's address",
            node,
            end(&here[0]),
            outside,
            node.primary_address(),
        )?,
        second_eni(stage, node, end(last), end(&there[0]))?,
    ];
    for node in stage.lab.nodes() {
        claims.push(conserved(node)?);
    }
    Ok(claims)
}

/// ICMP, UDP and TCP between two ends, carried by workers, with the source the server must see.
fn path(
    title: &str,
    node: &Node,
    client: End<'_>,
    server: End<'_>,
    source: Ipv4Addr,
) -> Result<Claim, Failure> {
    let before = node.settled_counters()?;
    let echoes =
        ping(client, server, ECHOES, 56)?.received + udp(client, server, ECHOES, 512)?.received;
    let stream = tcp(client, server, STREAM)?;
    let after = node.settled_counters()?;
    let carried = after.carried() - before.carried();
    let seen = stream.at_server.map(|seen| *seen.source.ip());
    let holds = echoes == 2 * ECHOES
        && stream.corrupt == 0
        && seen == Some(source)
        && carried >= u64::from(4 * ECHOES);
    let proof = format!(
        "{echoes}/{} echoes, {}, seen as {}; {carried} packets through workers and hooks, {} translated by workers",
        2 * ECHOES,
        rate(&stream),
        seen.map_or_else(|| "nobody".to_owned(), |address| address.to_string()),
        translated(&after) - translated(&before),
    );
    Ok(Claim {
        title: title.to_owned(),
        holds,
        proof,
    })
}

/// The source-IP rule: an address of the second ENI leaves by the second ENI.
fn second_eni(
    stage: &Stage,
    node: &Node,
    client: End<'_>,
    server: End<'_>,
) -> Result<Claim, Failure> {
    let last = stage.pods[0]
        .last()
        .ok_or_else(|| Failure::Lab("no pods".to_owned()))?;
    let (eni, device) = eni_of(node, last)?;
    let fabric = stage.lab.fabric();
    let before = fabric.counters()?;
    let claim = path(
        "A pod of the second ENI leaves by it",
        node,
        client,
        server,
        last.address(),
    )?;
    let after = fabric.counters()?;
    let left = after.port(&eni).rx_packets - before.port(&eni).rx_packets;
    let refused = after.verdict(Verdict::SourceCheck);
    Ok(Claim {
        holds: claim.holds && device == 1 && left >= u64::from(2 * ECHOES) && refused == 0,
        proof: format!(
            "{left} packets left by eth{device} ({eni}); the source check refused {refused}"
        ),
        ..claim
    })
}

/// Nothing is lost without a name.
fn conserved(node: &Node) -> Result<Claim, Failure> {
    let counters = node.settled_counters()?;
    let sum = |value: fn(&penstock_dataplane_api::WorkerReport) -> u64| -> u64 {
        counters.workers.iter().map(value).sum()
    };
    Ok(Claim {
        title: format!("{}: every packet is accounted for", node.name()),
        holds: counters.violations().is_empty(),
        proof: format!(
            "workers: rx {} + made {} = tx {} + kernel {} + drops {}; drops by name: {}",
            sum(|worker| worker.rx),
            sum(|worker| worker.originated),
            sum(|worker| worker.tx),
            sum(|worker| worker.to_kernel),
            sum(|worker| worker.drops.iter().map(|drop| drop.packets).sum()),
            by_name(&counters),
        ),
    })
}

/// Hooks' and workers' drops together.
fn by_name(counters: &Counters) -> String {
    let drops: Vec<String> = counters
        .drops()
        .into_iter()
        .map(|(reason, packets)| format!("{reason} {packets}"))
        .collect();
    if drops.is_empty() {
        "none".to_owned()
    } else {
        drops.join(", ")
    }
}

fn translated(counters: &Counters) -> u64 {
    counters.workers.iter().map(|worker| worker.snat).sum()
}

fn rate(stream: &StreamReport) -> String {
    let gigabits = stream.bytes as f64 * 8e-9 / stream.elapsed.as_secs_f64();
    format!(
        "TCP {gigabits:.1} Gbit/s with {} corrupt bytes",
        stream.corrupt
    )
}
