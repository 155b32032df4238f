//! Established flows carried by the hooks, end to end: the real daemon, real sockets (see
//! `support`). What a flow's life is made of otherwise is tested in `flow/tests/offload.rs`.
//!
//! Run as root: `cargo test -p penstock-dataplane --test offload -- --ignored --test-threads=1`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]
#![allow(dead_code, reason = "each test binary uses its part of the support")]

mod support;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use penstock_dataplane_api::{Counters, FlowRow, Offload, OffloadReport, Request, Response};
use support::daemon::Dataplane;
use support::traffic::{tcp_echo, udp_echo};
use support::{NODE, OUTSIDE, POD_1, POD_2, Plan, Stage, wait_for};

/// Datagrams of a long flow; a hook has it after a dozen or, on a busy machine, somewhat later.
const LONG: usize = 2_000;

fn stage(tag: &'static str) -> Stage {
    Stage::new(&Plan {
        tag,
        queues: 1,
        mtu: 1_500,
    })
}

fn offloading(stage: &Stage, workers: u32) -> Dataplane {
    let dataplane = Dataplane::start_with(stage, workers, &["--offload", "established"]);
    dataplane.publish(&stage.snapshot(1));
    dataplane
}

fn worker_rx(counters: &Counters) -> u64 {
    counters.workers.iter().map(|worker| worker.rx).sum()
}

fn offloaded(counters: &Counters, hook: &str) -> u64 {
    let hooks = counters.hooks.iter().filter(|row| row.hook == hook);
    hooks.map(|row| row.offloaded).sum()
}

fn offload(dataplane: &Dataplane) -> OffloadReport {
    dataplane.status().offload
}

fn flows(dataplane: &Dataplane) -> Vec<FlowRow> {
    match dataplane.ask(&Request::Flows { limit: 100 }) {
        Response::Flows(flows) => flows,
        other => panic!("{other:?}"),
    }
}

/// One datagram at a time between a pod and the outside, for as long as a test wants.
struct Talk {
    pod: UdpSocket,
    outside: UdpSocket,
}

impl Talk {
    fn begin(stage: &Stage, pod: usize) -> Self {
        let outside = stage.out.run(|| UdpSocket::bind((OUTSIDE, 0)).unwrap());
        let inside = stage.pods[pod].run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
        inside.connect(outside.local_addr().unwrap()).unwrap();
        for socket in [&inside, &outside] {
            let patience = Some(Duration::from_secs(5));
            socket.set_read_timeout(patience).unwrap();
        }
        Self {
            pod: inside,
            outside,
        }
    }

    /// There and back; both ends keep their names.
    fn exchange(&self) {
        let mut buffer = [0; 16];
        self.pod.send(b"question").unwrap();
        let (_, from) = self.outside.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip(), IpAddr::from(NODE));
        self.outside.send_to(b"answer", from).unwrap();
        assert_eq!(self.pod.recv(&mut buffer).unwrap(), 6);
    }

    /// Goes on until no worker sees it any more.
    fn until_carried(&self, dataplane: &Dataplane) {
        wait_for("the hooks to carry the flow", || {
            let before = worker_rx(&dataplane.counters());
            self.exchange();
            worker_rx(&dataplane.counters()) == before
        });
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn long_flows_are_the_hooks() {
    let stage = stage("long");
    for workers in [1, 2] {
        let dataplane = offloading(&stage, workers);
        let [one, two] = &stage.pods;
        let seen = udp_echo(one, (&stage.out, OUTSIDE), LONG, 64);
        assert_eq!(seen.ip(), IpAddr::from(NODE));
        udp_echo(one, (two, POD_2), LONG, 1_472);
        let counters = dataplane.settled();
        let by_pods = offloaded(&counters, "pod");
        assert!(by_pods > 2 * LONG as u64, "{counters:?}");
        assert!(offloaded(&counters, "uplink-tcx") > LONG as u64 / 2);
        assert!(worker_rx(&counters) < LONG as u64, "{counters:?}");
        let long = flows(&dataplane);
        assert_eq!(long.len(), 2);
        for flow in long {
            let counts = (flow.packets_out, flow.packets_in);
            assert_eq!(counts, (LONG as u64, LONG as u64), "{flow:?}");
        }

        let before = worker_rx(&dataplane.settled());
        let bytes = 8 << 20;
        assert_eq!(
            tcp_echo(one, (&stage.out, OUTSIDE), bytes).ip(),
            IpAddr::from(NODE)
        );
        tcp_echo(two, (one, POD_1), bytes);
        let after = dataplane.settled();
        // Each stream is some 12,000 segments.
        assert!(worker_rx(&after) - before < 6_000, "{before} {after:?}");
        wait_for("connections that are over to leave the hooks", || {
            offload(&dataplane).flows == 2
        });
        assert!(dataplane.stop());
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn new_rules_pull_flows_back_and_a_pod_that_goes_takes_its_flows_along() {
    let stage = stage("rules");
    let dataplane = offloading(&stage, 1);
    let talks = [Talk::begin(&stage, 0), Talk::begin(&stage, 1)];
    for talk in &talks {
        talk.until_carried(&dataplane);
    }
    assert_eq!(offload(&dataplane).flows, 2);
    let before = worker_rx(&dataplane.counters());
    dataplane.publish(&stage.snapshot(2));
    talks[0].exchange();
    assert!(worker_rx(&dataplane.counters()) > before, "decided anew");
    for talk in &talks {
        talk.until_carried(&dataplane);
    }
    assert_eq!(offload(&dataplane).installed, 4);

    dataplane.publish(&stage.snapshot_of(3, &[0]));
    wait_for("the flow of the pod that went to leave the hooks", || {
        offload(&dataplane).flows == 1 && flows(&dataplane).len() == 1
    });
    assert_eq!(flows(&dataplane)[0].pod, IpAddr::from(POD_1));
    talks[0].until_carried(&dataplane);
    dataplane.settled();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_switch_works_while_packets_go() {
    let stage = stage("switch");
    let dataplane = offloading(&stage, 1);
    let talk = Talk::begin(&stage, 0);
    for _ in 0..3 {
        talk.until_carried(&dataplane);
        assert_eq!(offload(&dataplane).setting, Offload::Established);
        let answer = dataplane.ask(&Request::Offload(Offload::Off));
        assert_eq!(answer, Response::Applied { generation: 1 });
        let before = worker_rx(&dataplane.counters());
        for _ in 0..20 {
            talk.exchange();
        }
        assert_eq!(worker_rx(&dataplane.counters()), before + 40);
        wait_for("the hooks to forget", || offload(&dataplane).flows == 0);
        assert_eq!(offload(&dataplane).setting, Offload::Off);
        dataplane.ask(&Request::Offload(Offload::Established));
    }
    dataplane.settled();
}
