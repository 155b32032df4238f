//! Daemons that are not there, die, or meet somebody else's program.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use penstock_dataplane_api::{Request, Response, Status, UplinkMode};
use penstock_lab::traffic::{End, udp};
use penstock_lab::{Error, Lab, LabConfig, Node, OUTSIDE_ADDRESSES, Pod};
use penstock_perf::foreign::Foreign;

const CONVERGES_WITHIN: Duration = Duration::from_secs(5);

fn lab(id: &str) -> Lab {
    Lab::up(LabConfig {
        nodes: 1,
        ..LabConfig::unique(id)
    })
    .expect("lab")
}

fn status(node: &Node) -> Status {
    match node.dataplane_call(&Request::Status).expect("dataplane") {
        Response::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Waits until `condition` holds; panics with `what` when it does not in time.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + CONVERGES_WITHIN;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "{what} within {CONVERGES_WITHIN:?}"
        );
        std::thread::yield_now();
    }
}

/// What iproute2 says of the XDP program on eth0, its id included.
fn xdp_program(node: &Node) -> String {
    let link = node.netns().ip(&["link", "show", "eth0"]).expect("ip");
    link.lines()
        .filter(|line| line.contains("xdp id"))
        .collect()
}

/// Ten datagrams to the outside, all answered, seen as the node.
fn reaches_outside(lab: &Lab, pod: &Pod) -> bool {
    let client = End {
        netns: pod.netns(),
        address: pod.address(),
    };
    let server = End {
        netns: lab.outside(),
        address: OUTSIDE_ADDRESSES[0],
    };
    let report = udp(client, server, 10, 256).expect("sockets");
    let source = report.at_server.map(|seen| *seen.source.ip());
    report.received == 10 && source == Some(lab.nodes()[0].primary_address())
}

#[test]
#[ignore = "needs root and network namespaces"]
fn pods_attach_and_talk_without_a_dataplane() {
    let lab = lab("nodp");
    let node = &lab.nodes()[0];
    node.start_control(&[]).expect("control");
    let pod = node
        .add_pod("f", "early")
        .expect("ADD works without the dataplane");
    assert!(reaches_outside(&lab, &pod));

    node.start_dataplane(&[]).expect("dataplane");
    eventually("the pod is taken over", || status(node).endpoints == 1);
    // A worker that is kept from a processor for long is passed by for that long.
    eventually("the dataplane carries all of a conversation", || {
        let before = node.settled_counters().expect("counters").carried();
        assert!(reaches_outside(&lab, &pod));
        node.settled_counters().expect("counters").carried() - before >= 20
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn without_control_add_asks_to_come_back_and_del_succeeds() {
    let lab = lab("noctl");
    let node = &lab.nodes()[0];
    node.start_control(&[]).expect("control");
    let pod = node.add_pod("f", "a").expect("ADD");
    node.kill_control();

    let started = Instant::now();
    match node.add_pod("f", "b") {
        Err(Error::Cni { code, .. }) => assert_eq!(code, 11, "try again later"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("ADD without control must fail"),
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    pod.del().expect("DEL succeeds");

    node.start_control(&[]).expect("control again");
    let pod = node.add_pod("f", "b").expect("ADD works again");
    assert!(reaches_outside(&lab, &pod));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_killed_dataplane_leaves_the_kernel_path() {
    let lab = lab("kill");
    let node = &lab.nodes()[0];
    node.start_dataplane(&[]).expect("dataplane");
    node.start_control(&[]).expect("control");
    let pod = node.add_pod("f", "a").expect("ADD");
    assert!(reaches_outside(&lab, &pod));

    node.kill_dataplane();
    assert!(reaches_outside(&lab, &pod), "the kernel carries it");

    node.start_dataplane(&[]).expect("dataplane again");
    eventually("the pod is taken over", || status(node).endpoints == 1);
    assert!(reaches_outside(&lab, &pod));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_stopped_dataplane_is_passed_by() {
    let lab = lab("stop");
    let node = &lab.nodes()[0];
    node.start_dataplane(&[]).expect("dataplane");
    node.start_control(&[]).expect("control");
    let pod = node.add_pod("f", "a").expect("ADD");

    node.signal_dataplane(Signal::SIGSTOP);
    // The first datagrams may meet hooks that do not know yet; the heartbeat tells them.
    eventually("hooks pass to the kernel", || reaches_outside(&lab, &pod));
    node.signal_dataplane(Signal::SIGCONT);
    eventually("workers take over again", || {
        status(node).fallback_queues == 0
    });
    assert!(reaches_outside(&lab, &pod));
    node.settled_counters().expect("every packet accounted for");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_foreign_program_on_an_uplink_stays_and_is_named() {
    let lab = lab("xdp");
    let node = &lab.nodes()[0];
    let _foreign = node
        .netns()
        .run(|| Foreign::attach("eth0"))
        .expect("enter")
        .expect("attach");
    let theirs = xdp_program(node);
    assert!(theirs.contains("xdp"), "{theirs}");
    node.start_dataplane(&[]).expect("dataplane");
    node.start_control(&[]).expect("control");
    let pod = node.add_pod("f", "a").expect("ADD works");

    let uplink = status(node)
        .uplinks
        .into_iter()
        .find(|row| row.ifname == "eth0")
        .expect("eth0");
    assert_eq!(uplink.mode, UplinkMode::Kernel);
    assert!(uplink.problem.contains("eth0"), "{}", uplink.problem);
    assert_eq!(xdp_program(node), theirs, "nothing of others is detached");
    assert!(reaches_outside(&lab, &pod), "the kernel path carries it");
}
