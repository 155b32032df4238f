//! The main job, end to end: real sockets over every path a pod has, with the workers carrying the
//! traffic, with the hooks carrying what is established, and again with the dataplane stopped. All
//! must give the same verdicts, source addresses and TTLs, because all are held to the same
//! expectations.
//!
//! ```text
//!   outside ── fabric ──┬── eth0 node1: pods a, b (eth0's addresses), s (eth1's)
//!                       ├── eth1 node1
//!                       └── eth0 node2: pod c
//! ```

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

use std::time::Duration;

use penstock_lab::traffic::{EchoReport, End, Seen, ping, tcp, udp};
use penstock_lab::{Lab, LabConfig, Node, OUTSIDE_ADDRESSES, Pod, Verdict};

const STREAM: Duration = Duration::from_secs(3);
const ECHOES: u32 = 10;
/// TTL every sender starts with (net.ipv4.ip_default_ttl).
const FRESH: u8 = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Path {
    Workers,
    TwoWorkers,
    Hooks,
    Kernel,
}

/// Who must have carried a case's packets when the workers are up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Carrier {
    /// Workers of the node, or its hooks for them, in both directions.
    Dataplane,
    /// The node's own traffic: the hooks pass it to the kernel by design.
    Kernel,
}

struct Case<'a> {
    name: &'a str,
    client: End<'a>,
    server: End<'a>,
    /// Source address the server must see.
    source: std::net::Ipv4Addr,
    /// Nodes between the two ends, each of which takes one off the TTL.
    hops: u8,
    node: &'a Node,
    carrier: Carrier,
}

#[test]
#[ignore = "needs root and network namespaces"]
fn workers_carry_every_path_at_mtu_1500() {
    matrix("mw15", Path::Workers, 1500);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn two_workers_hand_flows_to_their_owners() {
    matrix("mw2", Path::TwoWorkers, 1500);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn workers_carry_every_path_at_mtu_9001() {
    matrix("mw90", Path::Workers, 9001);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn hooks_carry_every_path_at_mtu_1500() {
    matrix("mh15", Path::Hooks, 1500);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn hooks_carry_every_path_at_mtu_9001() {
    matrix("mh90", Path::Hooks, 9001);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_kernel_path_agrees_at_mtu_1500() {
    matrix("mk15", Path::Kernel, 1500);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_kernel_path_agrees_at_mtu_9001() {
    matrix("mk90", Path::Kernel, 9001);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn external_snat_keeps_pod_addresses_both_ways_through_workers() {
    external("xw", Path::Workers);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn external_snat_keeps_pod_addresses_both_ways_through_the_hooks() {
    external("xh", Path::Hooks);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn external_snat_keeps_pod_addresses_both_ways_through_the_kernel() {
    external("xk", Path::Kernel);
}

fn matrix(id: &str, path: Path, mtu: u32) {
    let lab = Lab::up(LabConfig {
        mtu,
        ..LabConfig::unique(id)
    })
    .expect("lab");
    let (node1, node2) = (&lab.nodes()[0], &lab.nodes()[1]);
    start(node1, path, mtu, &[]);
    start(node2, path, mtu, &[]);
    let pods = pods_up_to_the_second_eni(node1);
    let remote = node2.add_pod("demo", "c").expect("ADD");
    let (a, b) = (&pods[0], &pods[1]);
    let second = pods.last().expect("pods");

    let outside = End {
        netns: lab.outside(),
        address: OUTSIDE_ADDRESSES[0],
    };
    let host = End {
        netns: node1.netns(),
        address: node1.primary_address(),
    };
    let primary = node1.primary_address();
    let cases = [
        case("pod to pod, one node", node1, of(a), of(b)),
        case("pod to pod, two nodes", node1, of(a), of(&remote)).hops(2),
        case("pod to outside", node1, of(a), outside).seen_as(primary),
        case("second ENI to pod", node1, of(second), of(&remote)).hops(2),
        case("pod to second ENI", node1, of(&remote), of(second)).hops(2),
        case("second ENI to outside", node1, of(second), outside).seen_as(primary),
        case("node to pod", node1, host, of(a)).by_the_kernel(),
        case("pod to node", node1, of(a), host).by_the_kernel(),
    ];
    for case in &cases {
        run(case, path, mtu);
    }
    let lost = lab
        .fabric()
        .counters()
        .expect("fabric")
        .verdict(Verdict::SourceCheck);
    assert_eq!(
        lost, 0,
        "packets that left by an ENI that does not own their source"
    );
}

fn external(id: &str, path: Path) {
    let lab = Lab::up(LabConfig {
        outside_accepts_any: true,
        ..LabConfig::unique(id)
    })
    .expect("lab");
    let node = &lab.nodes()[0];
    start(
        node,
        path,
        1500,
        &[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")],
    );
    let pods = pods_up_to_the_second_eni(node);
    let outside = End {
        netns: lab.outside(),
        address: OUTSIDE_ADDRESSES[0],
    };
    for pod in [&pods[0], pods.last().expect("pods")] {
        run(&case("outside to pod", node, outside, of(pod)), path, 1500);
        run(&case("pod to outside", node, of(pod), outside), path, 1500);
    }
    let lost = lab
        .fabric()
        .counters()
        .expect("fabric")
        .verdict(Verdict::SourceCheck);
    assert_eq!(
        lost, 0,
        "packets that left by an ENI that does not own their source"
    );
}

fn start(node: &Node, path: Path, mtu: u32, environment: &[(&str, &str)]) {
    let mtu = mtu.to_string();
    let mut overrides = vec![("AWS_VPC_ENI_MTU", mtu.as_str())];
    overrides.extend(environment);
    match path {
        Path::Workers => {
            node.start_dataplane(&["--offload", "off"])
                .expect("dataplane");
        }
        Path::TwoWorkers => {
            node.start_dataplane(&["--workers", "2", "--offload", "off"])
                .expect("dataplane");
        }
        Path::Hooks => {
            node.start_dataplane(&["--workers", "2", "--offload", "established"])
                .expect("dataplane");
        }
        Path::Kernel => {}
    }
    node.start_control(&overrides).expect("control");
}

/// Adds pods until one has an address of the second ENI; that one is the last.
fn pods_up_to_the_second_eni(node: &Node) -> Vec<Pod> {
    let mut pods = Vec::new();
    loop {
        let pod = node
            .add_pod("demo", &format!("p{}", pods.len()))
            .expect("ADD");
        let device = device_of(node, &pod);
        pods.push(pod);
        if device == 1 {
            return pods;
        }
        assert!(pods.len() < 64, "the primary ENI never fills");
    }
}

fn device_of(node: &Node, pod: &Pod) -> u32 {
    use penstock_control_api::{Request, Response};
    match node.control_call(&Request::Pods).expect("control") {
        Response::Pods(rows) => {
            rows.iter()
                .find(|row| row.address == pod.address())
                .expect("row")
                .device_number
        }
        other => panic!("{other:?}"),
    }
}

fn of(pod: &Pod) -> End<'_> {
    End {
        netns: pod.netns(),
        address: pod.address(),
    }
}

/// A case whose sender is an address of its own and whose packets cross one node, by workers.
fn case<'a>(name: &'a str, node: &'a Node, client: End<'a>, server: End<'a>) -> Case<'a> {
    Case {
        name,
        client,
        server,
        source: client.address,
        hops: 1,
        node,
        carrier: Carrier::Dataplane,
    }
}

impl Case<'_> {
    fn seen_as(self, source: std::net::Ipv4Addr) -> Self {
        Self { source, ..self }
    }

    fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    fn by_the_kernel(self) -> Self {
        Self {
            carrier: Carrier::Kernel,
            hops: 0,
            ..self
        }
    }
}

fn run(case: &Case<'_>, path: Path, mtu: u32) {
    let before = (path != Path::Kernel).then(|| case.node.settled_counters().expect("before"));
    // A small payload, and the largest that fits one packet.
    for length in [56, mtu as usize - 28] {
        let report = ping(case.client, case.server, ECHOES, length).expect("ping");
        check_echoes(case, "ICMP", &report);
        let report = udp(case.client, case.server, ECHOES, length).expect("UDP");
        check_echoes(case, "UDP", &report);
    }
    let report = tcp(case.client, case.server, STREAM).expect(case.name);
    assert_eq!(
        report.corrupt, 0,
        "{}: corrupt bytes of {}",
        case.name, report.bytes
    );
    assert!(report.bytes > 0, "{}: nothing received", case.name);
    check_seen(case, "TCP", report.at_server, report.at_client);
    eprintln!(
        "{path:?} mtu {mtu}: {:<24} {:>8.0} Mbit/s TCP",
        case.name,
        report.bytes as f64 * 8e-6 / report.elapsed.as_secs_f64()
    );
    if let Some(before) = before {
        let after = case.node.settled_counters().expect(case.name);
        match case.carrier {
            Carrier::Dataplane => {
                let carried = after.carried() - before.carried();
                let offloaded = after.offloaded() - before.offloaded();
                match path {
                    Path::Hooks => assert!(offloaded > carried / 2, "{}: {offloaded}", case.name),
                    _ => assert_eq!(offloaded, 0, "{}", case.name),
                }
                // Requests and replies of both protocols and sizes, and at least a handshake.
                assert!(
                    carried >= u64::from(8 * ECHOES) + 4,
                    "{}: {carried}",
                    case.name
                );
            }
            Carrier::Kernel => {
                let passed = after.to_kernel("pod") - before.to_kernel("pod");
                assert!(passed >= u64::from(4 * ECHOES), "{}: {passed}", case.name);
            }
        }
    }
}

fn check_echoes(case: &Case<'_>, protocol: &str, report: &EchoReport) {
    assert_eq!(
        report.received, report.sent,
        "{}: {protocol} replies",
        case.name
    );
    check_seen(case, protocol, report.at_server, report.at_client);
}

fn check_seen(case: &Case<'_>, protocol: &str, at_server: Option<Seen>, at_client: Option<Seen>) {
    let Case { name, hops, .. } = case;
    let at_server = at_server.unwrap_or_else(|| panic!("{name}: {protocol} unseen at the server"));
    assert_eq!(
        *at_server.source.ip(),
        case.source,
        "{name}: {protocol} source"
    );
    assert_eq!(
        at_server.ttl,
        FRESH - hops,
        "{name}: {protocol} TTL at the server"
    );
    let at_client = at_client.unwrap_or_else(|| panic!("{name}: {protocol} unseen at the client"));
    assert_eq!(
        *at_client.source.ip(),
        case.server.address,
        "{name}: {protocol} reply source"
    );
    assert_eq!(
        at_client.ttl,
        FRESH - hops,
        "{name}: {protocol} TTL at the client"
    );
}
