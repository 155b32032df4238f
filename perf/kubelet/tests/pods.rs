//! Pods by real containerd on nodes of the lab: many at once, talking, and nothing left of them.

#![expect(
    clippy::expect_used,
    reason = "a test fails by panicking, with what it was doing"
)]

mod rig;

use std::thread;

use penstock_kubelet::{GREETING, Kubelet, PodSpec};
use rig::{Baseline, Rig, SETTINGS, fetch, in_parallel};

/// Pods of the acceptance test, and how many come and go at a time.
const PODS: usize = 110;
const AT_ONCE: usize = 20;

#[test]
#[ignore = "needs root, network namespaces and containerd"]
fn a_hundred_and_ten_pods_come_serve_and_go() {
    let rig = Rig::start("kube");
    let kubelet = Kubelet::start(&rig.lab, rig.node(), "portmap").expect("containerd");
    let client = rig.client();
    let before = Baseline::take(&rig, &kubelet);

    let started = std::time::Instant::now();
    let pods = in_parallel(AT_ONCE, 0..PODS, |n| {
        let pod = kubelet.run(&rig.spec(n));
        pod.unwrap_or_else(|error| panic!("pod {n}: {error:#}\n{}", kubelet.log_tail()))
    });
    eprintln!("{PODS} pods in {:?}", started.elapsed());
    assert_eq!(rig.pods().len(), PODS);

    for (n, pod) in pods.iter().enumerate() {
        rig.assert_serves(&client, pod.address, n);
    }

    let started = std::time::Instant::now();
    in_parallel(AT_ONCE, pods.iter(), |pod| {
        kubelet.remove(&pod.sandbox).expect("remove");
    });
    eprintln!("{PODS} pods gone in {:?}", started.elapsed());
    before.assert_back(&rig, &kubelet);
    assert!(fetch(client.netns(), pods[0].address, "/").is_err());
}

/// Pods of the churn, per round, and rounds.
const CHURN: usize = 10;
const ROUNDS: usize = 4;

#[test]
#[ignore = "needs root, network namespaces and containerd"]
fn daemons_die_while_pods_come_and_go_and_nothing_is_left() {
    let rig = Rig::start("kill");
    let kubelet = Kubelet::start(&rig.lab, rig.node(), "portmap").expect("containerd");
    let client = rig.client();
    let kept = kubelet.run(&rig.spec(CHURN * ROUNDS)).expect("first pod");
    let before = Baseline::take(&rig, &kubelet);

    for round in 0..ROUNDS {
        thread::scope(|scope| {
            scope.spawn(|| {
                in_parallel(CHURN / 2, 0..CHURN, |n| {
                    // A pod that fails is the kubelet's to try again, under a new sandbox.
                    let spec = rig.spec(round * CHURN + n);
                    while kubelet.run(&spec).is_err() {}
                });
            });
            scope.spawn(|| kill_one(&rig, &kubelet, round));
        });
        for row in rig.pods() {
            let attached = row.confirmed || row.pod.is_empty();
            assert!(attached, "round {round}: {row:?}");
        }
        rig.assert_serves(&client, kept.address, round);
        let all = kubelet.sandboxes().expect("containerd");
        let done = all.iter().filter(|id| **id != kept.sandbox);
        in_parallel(CHURN / 2, done, |id| kubelet.remove(id).expect("remove"));
    }
    before.assert_back(&rig, &kubelet);
    rig.assert_serves(&client, kept.address, ROUNDS);
}

/// SIGKILL for one of them, then a new one, while pods come.
fn kill_one(rig: &Rig, kubelet: &Kubelet, round: usize) {
    let node = rig.node();
    match round % 3 {
        0 => {
            node.kill_control();
            node.start_control(SETTINGS).expect("agent");
        }
        1 => {
            node.kill_dataplane();
            node.start_dataplane(&[]).expect("dataplane");
        }
        _ => {
            kubelet.kill_containerd().expect("kill containerd");
            kubelet.start_containerd().expect("containerd");
        }
    }
}

#[test]
#[ignore = "needs root, network namespaces and containerd"]
fn a_chain_of_plugins_works_and_host_ports_lead_to_pods() {
    let rig = Rig::start("chain");
    let kubelet = Kubelet::start(&rig.lab, rig.node(), "portmap,tuning").expect("containerd");
    let client = rig.client();
    let spec = PodSpec {
        host_ports: vec![(80, 80)],
        ..rig.spec(0)
    };
    let pod = kubelet.run(&spec).expect("pod with a host port");
    rig.assert_serves(&client, pod.address, 0);
    // What the kernel has translated is still the kernel's alone.
    rig.node().stop_dataplane().expect("dataplane");
    let node = rig.node().primary_address();
    assert_eq!(
        fetch(client.netns(), node, "/").expect("host port"),
        GREETING
    );
    kubelet.remove(&pod.sandbox).expect("remove");
    assert!(rig.pods().is_empty());
}
