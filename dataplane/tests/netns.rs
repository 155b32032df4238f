//! The daemon end to end: real namespaces, real sockets, real traffic (see `support`).
//!
//! Run as root: `cargo test -p penstock-dataplane --test netns -- --ignored --test-threads=1`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ipnet::Ipv4Net;
use nix::sys::signal::Signal;
use penstock_dataplane_api::{Counters, Request, Response, UplinkMode};
use support::daemon::{Dataplane, attach_foreign_xdp, command};
use support::traffic::{answers, expires_at, ping, tcp_echo, udp_echo, udp_flood};
use support::{NODE, OUTSIDE, POD_1, POD_2, Plan, Stage, UPLINK, host_side, wait_for};

fn stage(tag: &'static str, queues: u32, mtu: u32) -> Stage {
    Stage::new(&Plan { tag, queues, mtu })
}

fn worker_rx(counters: &Counters) -> u64 {
    counters.workers.iter().map(|worker| worker.rx).sum()
}

fn every_path(stage: &Stage) {
    let [one, two] = &stage.pods;
    let size = stage.mtu as usize - 28;
    udp_echo(one, (two, POD_2), 100, 64);
    udp_echo(two, (one, POD_1), 10, size);
    tcp_echo(one, (two, POD_2), 1 << 20);
    assert_eq!(ping(one, POD_2), 63, "one hop between two pods");
    for client in [one, two] {
        let seen = udp_echo(client, (&stage.out, OUTSIDE), 100, 64);
        assert_eq!(seen.ip(), IpAddr::from(NODE));
        assert!((11_000..=29_999).contains(&seen.port()), "{seen}");
        udp_echo(client, (&stage.out, OUTSIDE), 10, size);
        let seen = tcp_echo(client, (&stage.out, OUTSIDE), 1 << 20);
        assert_eq!(seen.ip(), IpAddr::from(NODE));
        assert_eq!(ping(client, OUTSIDE), 63);
        assert_eq!(expires_at(client, OUTSIDE), NODE, "TTL 1 ends at the node");
    }
}

fn all_paths_work(tag: &'static str, workers: u32, queues: u32, mtu: u32) {
    let stage = stage(tag, queues, mtu);
    let dataplane = Dataplane::start(&stage, workers);
    dataplane.publish(&stage.snapshot(1));
    let status = dataplane.status();
    assert_eq!((status.generation, status.endpoints), (1, 2));
    assert_eq!(
        status.uplinks[0].mode,
        UplinkMode::Copy,
        "{:?}",
        status.uplinks
    );
    assert_eq!(status.uplinks[0].queues, queues);
    every_path(&stage);
    let counters = dataplane.settled();
    assert!(worker_rx(&counters) > 2 * 230, "{counters:?}");
    let snat: u64 = counters.workers.iter().map(|worker| worker.snat).sum();
    let originated: u64 = counters
        .workers
        .iter()
        .map(|worker| worker.originated)
        .sum();
    assert_eq!(originated, 2, "one ICMP error for each pod: {counters:?}");
    assert!(snat > 2 * 220, "{counters:?}");
    let crossed: u64 = counters
        .workers
        .iter()
        .map(|worker| worker.handed_off)
        .sum();
    let taken: u64 = counters.workers.iter().map(|worker| worker.handed_in).sum();
    assert_eq!(crossed, taken, "lanes are empty");
    assert_eq!(
        crossed > 0,
        workers > 1,
        "flows have one owner: {counters:?}"
    );
    let Response::Flows(flows) = dataplane.ask(&Request::Flows { limit: 100 }) else {
        panic!("no flows");
    };
    assert!(
        flows
            .iter()
            .any(|flow| flow.pod == POD_1 && flow.snat == Some(NODE.into()))
    );
    assert!(dataplane.stop(), "the daemon left something behind");
    every_path_in_kernel(&stage);
}

/// Without the dataplane the kernel connects the pods: nothing of ours is in its way.
fn every_path_in_kernel(stage: &Stage) {
    let [one, two] = &stage.pods;
    udp_echo(one, (two, POD_2), 10, 64);
    assert_eq!(ping(two, POD_1), 63);
    assert!(!stage.node.exec(&["ip", "link"]).contains("trunk0"));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn pods_reach_each_other_and_the_outside() {
    all_paths_work("one", 1, 1, 1_500);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn jumbo_packets_and_two_workers() {
    all_paths_work("jumbo", 2, 2, 9_001);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn fewer_queues_than_workers() {
    all_paths_work("narrow", 2, 1, 1_500);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn more_queues_than_workers() {
    all_paths_work("wide", 1, 3, 9_001);
}

/// T38: a snapshot of ten thousand rules is in force at once, and not a packet is lost meanwhile.
#[test]
#[ignore = "needs root and network namespaces"]
fn ten_thousand_rules_go_live_under_traffic() {
    const RULES: u32 = 10_000;
    let stage = stage("rules", 1, 1_500);
    let dataplane = Dataplane::start(&stage, 1);
    dataplane.publish(&stage.snapshot(1));
    let mut times = std::thread::scope(|scope| {
        // Every datagram must come back, or the echo panics.
        let traffic = scope.spawn(|| udp_echo(&stage.pods[0], (&stage.out, OUTSIDE), 20_000, 64));
        let mut times = Vec::new();
        for generation in 2.. {
            if traffic.is_finished() {
                break;
            }
            let mut snapshot = stage.snapshot(generation);
            let rule = |n| Ipv4Net::from(Ipv4Addr::from_bits(0x6440_0000 + n * 3));
            snapshot.snat.exclude_cidrs = (0..RULES).map(|n| rule(n + generation as u32)).collect();
            let began = Instant::now();
            dataplane.publish(&snapshot);
            times.push(began.elapsed());
        }
        let seen = traffic.join().unwrap();
        assert_eq!(seen.ip(), IpAddr::from(NODE));
        times
    });
    assert!(times.len() >= 2, "no rule changed under traffic");
    times.sort_unstable();
    eprintln!(
        "{RULES} rules in force after {:?} (median of {}, worst {:?})",
        times[times.len() / 2],
        times.len(),
        times.last().unwrap()
    );
    let counters = dataplane.settled();
    let dropped: u64 = counters
        .workers
        .iter()
        .flat_map(|worker| &worker.drops)
        .map(|drop| drop.packets)
        .sum();
    assert_eq!(dropped, 0, "{counters:?}");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_foreign_xdp_program_is_left_alone() {
    let stage = stage("foreign", 1, 1_500);
    attach_foreign_xdp(&stage, UPLINK);
    let dataplane = Dataplane::start(&stage, 1);
    dataplane.publish(&stage.snapshot(1));
    let uplink = dataplane.status().uplinks.remove(0);
    assert_eq!(uplink.mode, UplinkMode::Kernel);
    assert!(
        uplink.problem.contains("another program"),
        "{}",
        uplink.problem
    );
    let [one, two] = &stage.pods;
    udp_echo(one, (two, POD_2), 10, 64);
    assert!(
        worker_rx(&dataplane.settled()) >= 20,
        "pods still talk through the worker"
    );
    assert!(
        stage
            .node
            .exec(&["ip", "link", "show", UPLINK])
            .contains("xdp")
    );
    assert!(dataplane.stop());
    assert!(
        stage
            .node
            .exec(&["ip", "link", "show", UPLINK])
            .contains("xdp")
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_frozen_worker_is_passed_by() {
    let stage = stage("frozen", 1, 1_500);
    let dataplane = Dataplane::start(&stage, 1);
    dataplane.publish(&stage.snapshot(1));
    let [one, two] = &stage.pods;
    udp_echo(one, (two, POD_2), 10, 64);
    let before = dataplane.settled();
    dataplane.freeze();
    // The first echoes may be lost to the frozen socket; within the stale limit that ends.
    wait_for("the kernel to take over", || answers(one, POD_2));
    assert_eq!(ping(one, POD_2), 63, "the kernel forwards at the same TTL");
    dataplane.signal(Signal::SIGCONT);
    let after = dataplane.settled();
    let fallback =
        |counters: &Counters| -> u64 { counters.hooks.iter().map(|hook| hook.fallback).sum() };
    assert!(fallback(&after) > fallback(&before), "{after:?}");
    wait_for("the worker to be trusted again", || {
        let before = worker_rx(&dataplane.counters());
        udp_echo(one, (two, POD_2), 1, 64);
        worker_rx(&dataplane.counters()) >= before + 2
    });
}

/// What the hooks gave to the workers is what the sockets received, but for what the kernel says
/// it dropped in between.
fn nothing_is_lost_in_between(counters: &Counters) {
    for (hooks, interface) in [("trunk-rx", "trunk1"), ("uplink", UPLINK)] {
        let hook = counters
            .hooks
            .iter()
            .find(|hook| hook.hook == hooks)
            .unwrap();
        let ports = counters
            .ports
            .iter()
            .filter(|port| port.ifname == interface);
        let (received, dropped) = ports.fold((0, 0), |(received, dropped), port| {
            let lost = port.kernel_rx_dropped + port.kernel_rx_ring_full;
            (received + port.rx_packets, dropped + lost)
        });
        assert_eq!(
            hook.to_worker,
            received + dropped,
            "{interface}: {counters:?}"
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_flood_is_accounted_for() {
    let stage = stage("flood", 2, 1_500);
    let dataplane = Dataplane::start(&stage, 2);
    dataplane.publish(&stage.snapshot(1));
    let [one, two] = &stage.pods;
    for _ in 0..4 {
        udp_flood(one, OUTSIDE, 10_000);
        udp_flood(two, POD_1, 10_000);
    }
    let counters = dataplane.settled();
    assert!(worker_rx(&counters) > 10_000, "{counters:?}");
    nothing_is_lost_in_between(&counters);
    udp_echo(one, (&stage.out, OUTSIDE), 10, 64);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn publications_are_transactions() {
    let stage = stage("publish", 1, 1_500);
    let dataplane = Dataplane::start(&stage, 1);
    let [one, two] = &stage.pods;
    let mut snapshot = stage.snapshot(5);
    dataplane.publish(&snapshot);
    snapshot.generation = 6;
    snapshot.endpoints[0].eni_id = "eni-none".to_owned();
    let answer = dataplane.ask(&Request::Publish(Box::new(snapshot)));
    assert!(matches!(answer, Response::Rejected { problems } if problems.len() == 1));
    let mut older = stage.snapshot(4);
    older.endpoints.clear();
    let answer = dataplane.ask(&Request::Publish(Box::new(older)));
    assert_eq!(
        answer,
        Response::Applied { generation: 5 },
        "older is ignored"
    );
    udp_echo(one, (two, POD_2), 10, 64);
    dataplane.publish(&stage.snapshot_of(7, &[0]));
    assert_eq!(dataplane.status().endpoints, 1);
    dataplane.publish(&stage.snapshot(8));
    udp_echo(one, (two, POD_2), 10, 64);
    // A pod that dies takes its interface along; the rest goes on.
    stage.node.ip(&["link", "del", &host_side(1)]);
    dataplane.publish(&stage.snapshot_of(9, &[0]));
    udp_echo(one, (&stage.out, OUTSIDE), 10, 64);
    dataplane.settled();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_uplink_that_vanishes_is_let_go() {
    let stage = stage("vanish", 1, 1_500);
    let dataplane = Dataplane::start(&stage, 1);
    dataplane.publish(&stage.snapshot(1));
    stage.node.ip(&["link", "del", UPLINK]);
    wait_for("the uplink to be let go", || {
        dataplane.status().uplinks[0].mode == UplinkMode::Kernel
    });
    let [one, two] = &stage.pods;
    udp_echo(one, (two, POD_2), 10, 64);
    dataplane.settled();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_second_dataplane_is_refused_and_a_dead_one_replaced() {
    let stage = stage("second", 1, 1_500);
    let first = Dataplane::start(&stage, 1);
    let refused = command(&stage, first.run_dir(), 1).status().unwrap();
    assert_eq!(refused.code(), Some(1));
    first.publish(&stage.snapshot(1));
    first.signal(Signal::SIGKILL);
    drop(first);
    let second = Dataplane::start(&stage, 1);
    second.publish(&stage.snapshot(1));
    let [one, two] = &stage.pods;
    udp_echo(one, (two, POD_2), 10, 64);
    assert!(worker_rx(&second.settled()) >= 20);
}
