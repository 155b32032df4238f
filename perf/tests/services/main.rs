//! Beside kube-proxy and portmap: Services, node ports and host ports work for pods on any ENI, with
//! backends here and elsewhere, from pods, nodes and outside, by TCP and UDP, whoever carries the rest.
//!
//! ```text
//!   outside ── fabric ──┬── eth0 node1 (rules): pods a, b   ┐ clients and backends
//!                       ├── eth1 node1: pods s, t           ┘
//!                       └── eth0 node2: pods c (backend), d (client)
//! ```

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

mod probe;
mod rules;

use std::net::{Ipv4Addr, SocketAddrV4};

use penstock_control_api::{Request, Response};
use penstock_lab::traffic::{End, udp};
use penstock_lab::{Lab, LabConfig, Node, OUTSIDE_ADDRESSES, Pod, Verdict};

use probe::{Transport, talk};
use rules::{Front, Policy, Tool, Way, install, service};

const BACKEND_PORT: u16 = 8_080;
const SERVICES: &str = "172.20.0.0/16";

#[test]
#[ignore = "needs root and network namespaces"]
fn beside_nft_rules() {
    beside("svcn", Tool::Nft, Some("1"));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn beside_iptables_rules_with_two_workers() {
    beside("svci", Tool::Iptables, Some("2"));
}

/// The rules themselves, without any worker: what the others are held to.
#[test]
#[ignore = "needs root and network namespaces"]
fn the_kernel_alone() {
    beside("svck", Tool::Nft, None);
}

/// Whom a client dials, and what the backend must see of it.
struct Case<'a> {
    name: String,
    client: End<'a>,
    dial: SocketAddrV4,
    backend: End<'a>,
    /// The client's own address reaches the backend.
    kept: bool,
}

/// Everybody who takes part.
struct Stage<'a> {
    lab: &'a Lab,
    /// Pods of node 1: two with addresses of eth0, two of eth1.
    here: &'a [Pod],
    /// Pods of node 2.
    there: &'a [Pod; 2],
}

fn beside(id: &str, tool: Tool, workers: Option<&str>) {
    let lab = Lab::up(LabConfig::unique(id)).expect("lab");
    for node in lab.nodes() {
        if let Some(workers) = workers {
            let arguments = ["--workers", workers];
            node.start_dataplane(&arguments).expect("dataplane");
        }
        let environment = [("PENSTOCK_SERVICE_CIDRS", SERVICES)];
        node.start_control(&environment).expect("control");
    }
    let here = two_of_each_eni(&lab.nodes()[0]);
    let there = ["c", "d"].map(|name| lab.nodes()[1].add_pod("demo", name).expect("ADD"));
    let stage = Stage {
        lab: &lab,
        here: &here,
        there: &there,
    };
    let ways = stage.ways();
    install(&lab.nodes()[0], tool, &ways);
    let mut failures = Vec::new();
    let mut done = 0;
    for case in ways.iter().flat_map(|way| stage.cases(way)) {
        for transport in [Transport::Tcp, Transport::Udp] {
            done += 1;
            if let Err(problem) = case.run(transport) {
                failures.push(format!("{transport:?} {}: {problem}", case.name));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {done}:\n{}",
        failures.len(),
        failures.join("\n")
    );
    stage.finish(workers.is_some());
}

impl Case<'_> {
    fn run(&self, transport: Transport) -> Result<(), String> {
        let server = (self.backend, BACKEND_PORT);
        let seen = talk(transport, self.client, self.dial, server)?;
        match (seen == self.client.address, self.kept) {
            (true, false) => Err("the backend saw the client itself".to_owned()),
            (false, true) => Err(format!("the backend saw {seen}")),
            _ => Ok(()),
        }
    }
}

impl Stage<'_> {
    fn backends(&self) -> [(&'static str, End<'_>); 3] {
        let [a, _, s, _] = self.here else {
            panic!("four pods");
        };
        [
            ("backend on eth0", of(a)),
            ("backend on eth1", of(s)),
            ("remote backend", of(&self.there[0])),
        ]
    }

    /// Every kind of way to every backend it can have.
    fn ways(&self) -> Vec<Way> {
        let mut ways = Vec::new();
        for (number, (_, backend)) in (0_u8..).zip(self.backends()) {
            let port = u16::from(number);
            let local = number < 2;
            let mut fronts = vec![
                Front::ClusterIp(SocketAddrV4::new(service(number + 1), 80)),
                Front::NodePort(30_080 + port, Policy::Cluster),
            ];
            if local {
                fronts.push(Front::NodePort(31_080 + port, Policy::Local));
                fronts.push(Front::HostPort(8_000 + port));
                // Among the ports workers translate to: only the VPC can be told apart there.
                fronts.push(Front::HostPort(12_000 + port));
            }
            let backend = SocketAddrV4::new(backend.address, BACKEND_PORT);
            ways.extend(fronts.into_iter().map(|front| Way { front, backend }));
        }
        ways
    }

    fn cases(&self, way: &Way) -> Vec<Case<'_>> {
        let (backend_name, backend) = self
            .backends()
            .into_iter()
            .find(|(_, end)| end.address == *way.backend.ip())
            .expect("one of them");
        let [_, b, _, t] = self.here else {
            panic!("four pods");
        };
        let [node1, node2] = [0, 1].map(|index| &self.lab.nodes()[index]);
        let inside = [
            ("pod on eth0", of(b)),
            ("pod on eth1", of(t)),
            ("node", host(node1)),
        ];
        let vpc = [
            ("pod of another node", of(&self.there[1])),
            ("another node", host(node2)),
        ];
        let outside = End {
            netns: self.lab.outside(),
            address: OUTSIDE_ADDRESSES[0],
        };
        let outside = [("outside", outside)];
        let at_node = |port| SocketAddrV4::new(node1.primary_address(), port);
        let (dial, clients, kept) = match way.front {
            Front::ClusterIp(at) => (at, inside.to_vec(), true),
            Front::NodePort(port, policy) => (
                at_node(port),
                [&inside[..], &vpc, &outside].concat(),
                policy == Policy::Local,
            ),
            Front::HostPort(port @ 12_000..) => (at_node(port), vpc.to_vec(), true),
            Front::HostPort(port) => (at_node(port), [&inside[..], &vpc, &outside].concat(), true),
        };
        clients
            .into_iter()
            .map(|(client_name, client)| Case {
                name: format!("{client_name} to {:?}, {backend_name}", way.front),
                client,
                dial,
                backend,
                // The node's own address takes the place of the node's own address.
                kept: kept || client_name == "node",
            })
            .collect()
    }

    /// Nothing left by the wrong ENI, every packet is accounted for, and workers carry what they did.
    fn finish(&self, workers: bool) {
        let counters = self.lab.fabric().counters().expect("fabric");
        assert_eq!(
            counters.verdict(Verdict::SourceCheck),
            0,
            "packets by the wrong ENI"
        );
        if !workers {
            return;
        }
        let node = &self.lab.nodes()[0];
        let before = carried(node);
        let outside = End {
            netns: self.lab.outside(),
            address: OUTSIDE_ADDRESSES[0],
        };
        for pod in self.here {
            let report = udp(of(pod), outside, 10, 100).expect("sockets");
            assert_eq!(report.received, 10);
        }
        let carried = carried(node) - before;
        assert!(
            carried >= 80,
            "workers and hooks carry pods' own flows: {carried}"
        );
    }
}

/// Packets the workers have taken and the hooks carried for them, every one accounted for.
fn carried(node: &Node) -> u64 {
    let counters = node.settled_counters().expect("every packet accounted for");
    let offloaded: u64 = counters.hooks.iter().map(|row| row.offloaded).sum();
    counters.worker_rx() + offloaded
}

fn two_of_each_eni(node: &Node) -> Vec<Pod> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    while second.len() < 2 {
        let pod = node
            .add_pod("demo", &format!("p{}", first.len() + second.len()))
            .expect("ADD");
        match device_of(node, pod.address()) {
            0 => first.push(pod),
            _ => second.push(pod),
        }
        assert!(first.len() < 64, "the primary ENI never fills");
    }
    first.truncate(2);
    first.append(&mut second);
    first
}

fn device_of(node: &Node, address: Ipv4Addr) -> u32 {
    match node.control_call(&Request::Pods).expect("control") {
        Response::Pods(rows) => {
            let row = rows.iter().find(|row| row.address == address);
            row.expect("row").device_number
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

fn host(node: &Node) -> End<'_> {
    End {
        netns: node.netns(),
        address: node.primary_address(),
    }
}
