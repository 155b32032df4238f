//! Prints how many packets per second the lab's fabric carries, so that nobody mistakes its limit
//! for Penstock's. Needs root; builds a lab of its own and removes it.
//!
//! Finished 64-byte frames enter node1's ENI port from the live-frame generator. *sunk*: judged by
//! every check, counted and dropped there. *delivered*: handed to node2's ENI and dropped by a TCX
//! program in it. Generator, fabric and receiver share one core, as they do in every scenario.

#![expect(clippy::print_stdout, reason = "printing a figure is what it is for")]

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use penstock_lab::fabric::ROUTER_MAC;
use penstock_lab::{Lab, LabConfig, Node, Sink, Verdict};
use penstock_netlink::Netlink;
use penstock_perf::drop_at_hook::DropAtHook;
use penstock_perf::generator::{Generator, Stream};

const RUN: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    let lab = Lab::up(LabConfig::unique("ceil"))?;
    let (sender, receiver) = (&lab.nodes()[0], &lab.nodes()[1]);
    let fabric = lab.fabric();
    // The generator's frames reach a veth only when its NAPI runs.
    let near = fabric
        .interface_of(sender.primary_eni())
        .context("the node has no port")?;
    fabric
        .netns()
        .tool("ethtool", &["-K", &near, "gro", "on"])?;
    let stream = stream(sender, receiver)?;

    fabric.set_sink(sender.primary_eni(), Sink::Protocol(17))?;
    let sunk = rate(&lab, Verdict::Sunk, &stream)?;
    println!("sunk       {sunk:.2} Mpps");

    fabric.set_sink(sender.primary_eni(), Sink::Off)?;
    let _drop = receiver.netns().run(|| -> Result<DropAtHook> {
        let ifindex = Netlink::open()?.link_by_name("eth0")?.index;
        DropAtHook::attach(ifindex)
    })??;
    let delivered = rate(&lab, Verdict::Delivered, &stream)?;
    println!("delivered  {delivered:.2} Mpps");
    lab.down()?;
    Ok(())
}

fn stream(sender: &Node, receiver: &Node) -> Result<Stream> {
    let link = sender
        .netns()
        .run(|| Netlink::open()?.link_by_name("eth0"))??;
    Ok(Stream {
        ifindex: link.index,
        source_mac: link.mac.context("eth0 without an address")?,
        destination_mac: ROUTER_MAC.0,
        source: sender.primary_address(),
        destinations: vec![SocketAddrV4::new(receiver.primary_address(), 9)],
        ..Stream::default()
    })
}

/// Millions of packets per second that got `verdict` while the generator ran.
fn rate(lab: &Lab, verdict: Verdict, stream: &Stream) -> Result<f64> {
    let before = lab.fabric().counters()?.verdict(verdict);
    let started = Instant::now();
    lab.nodes()[0]
        .netns()
        .run(|| Generator::load(stream)?.run(RUN))??;
    let count = lab.fabric().counters()?.verdict(verdict) - before;
    Ok(count as f64 / started.elapsed().as_secs_f64() / 1e6)
}
