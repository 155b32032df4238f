//! The same random IPv6 packets through the workers and through the kernel, compared byte for byte.
//!
//! ```text
//!   wire ── eth0 node: pods a, b      the node: the kernel first, then the workers
//! ```
//!
//! IPv6 is not translated, so nothing may differ. The test itself plays control: it makes the pods'
//! interfaces and routes and publishes what the dataplane forwards by.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

mod through;

use std::net::{Ipv4Addr, Ipv6Addr};

use penstock_dataplane_api::{
    Access, Endpoint, FlowSettings, MacAddr, Node as NodeEntry, PortChoice, PortRange, Request,
    Response, Snapshot, Snat, SnatMode, Uplink,
};
use penstock_lab::fabric::ROUTER_MAC;
use penstock_lab::{IFNAME, Lab, LabConfig, NetNs, Node};
use penstock_netlink::Netlink;
use penstock_packet::TcpFlags;
use penstock_packet::build::{Base6, Frame};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use through::{MTU, Place, SEED, carried, payload, send, wait_for_workers};

const NODE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, 0x10);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9);
const UPLINK: &str = "eth0";

/// One of the two pods, its interfaces made by hand.
struct Pod {
    netns: NetNs,
    host_ifname: &'static str,
    address: Ipv6Addr,
    address4: Ipv4Addr,
}

impl Pod {
    /// Makes the pod and the node's route to it.
    fn attach(lab: &Lab, node: &Node, index: u16) -> Self {
        let name = format!("{}six{index}", lab.id());
        let pod = Self {
            netns: NetNs::create(&name).expect("namespace"),
            host_ifname: ["six0", "six1"][usize::from(index)],
            address: Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, 0x100 + index),
            address4: Ipv4Addr::new(10, 0, 200, 1 + index as u8),
        };
        let (host, mtu) = (pod.host_ifname, MTU.to_string());
        let address = pod.address.to_string();
        let command = format!(
            "link add {host} mtu {mtu} type veth peer name {IFNAME} mtu {mtu} netns {name}"
        );
        ip(node.netns(), &command);
        enable_ip6(&pod.netns);
        ip(&pod.netns, &format!("link set {IFNAME} up"));
        ip(
            &pod.netns,
            &format!("-6 address add {address}/128 dev {IFNAME} nodad"),
        );
        ip(node.netns(), &format!("link set {host} up"));
        ip(
            node.netns(),
            &format!("-6 route add {address}/128 dev {host}"),
        );
        let mac = MacAddr(pod.inside().mac());
        ip(
            node.netns(),
            &format!("-6 neighbor add {address} lladdr {mac} dev {host}"),
        );
        pod
    }

    fn inside(&self) -> Place<'_> {
        Place {
            netns: &self.netns,
            ifname: IFNAME,
        }
    }

    fn endpoint(&self, node: &Node) -> Endpoint {
        Endpoint {
            addresses: vec![self.address4.into(), self.address.into()],
            eni_id: node.primary_eni().to_owned(),
            ifname: self.host_ifname.to_owned(),
            ifindex: ifindex(node.netns(), self.host_ifname),
            host_mac: MacAddr(on(node, self.host_ifname).mac()),
            pod_mac: MacAddr(self.inside().mac()),
            mtu: u32::from(MTU),
            namespace: "six".to_owned(),
            pod: self.host_ifname.to_owned(),
            container_id: self.host_ifname.to_owned(),
        }
    }
}

/// Where frames go in and come out, and what they look like where they go in.
struct Route<'a> {
    name: &'static str,
    ends: (Place<'a>, Place<'a>),
    base: Base6,
    frames: usize,
}

#[test]
#[ignore = "needs root and network namespaces"]
fn workers_and_kernel_send_the_same_ip6_bytes() {
    let lab = Lab::up(LabConfig {
        mtu: u32::from(MTU),
        nodes: 1,
        ..LabConfig::unique("six")
    })
    .expect("lab");
    let node = &lab.nodes()[0];
    lay_routes(node);
    let pods = [0, 1].map(|index| Pod::attach(&lab, node, index));
    let [a, b] = &pods;
    let cable = lab
        .fabric()
        .interface_of(node.primary_eni())
        .expect("cable");
    let wire = Place {
        netns: lab.fabric().netns(),
        ifname: &cable,
    };
    let from = |pod: &Pod, to| {
        let gateway = on(node, pod.host_ifname).mac();
        Base6::new(pod.address, to).macs(pod.inside().mac(), gateway)
    };
    let routes = [
        Route {
            name: "pod to pod",
            ends: (a.inside(), b.inside()),
            base: from(a, b.address),
            frames: 40_000,
        },
        Route {
            name: "pod to the wire",
            ends: (a.inside(), wire),
            base: from(a, OUTSIDE),
            frames: 30_000,
        },
        Route {
            name: "from the wire to a pod",
            ends: (wire, b.inside()),
            base: Base6::new(OUTSIDE, b.address).macs(ROUTER_MAC.0, on(node, UPLINK).mac()),
            frames: 30_000,
        },
    ];

    let all = || {
        routes
            .each_ref()
            .map(|route| through(route, &frames(route)))
    };
    let by_kernel = all();
    node.start_dataplane(&[]).expect("dataplane");
    publish(node, &pods);
    wait_for_workers(node, 2);
    let before = carried(node);
    let by_workers = all();
    let carried = carried(node) - before;

    let mut compared = 0;
    for ((route, kernel), workers) in routes.iter().zip(&by_kernel).zip(&by_workers) {
        assert_eq!(kernel.len(), route.frames, "{}", route.name);
        for (index, (kernel, workers)) in kernel.iter().zip(workers).enumerate() {
            assert_eq!(kernel, workers, "{} frame {index}", route.name);
        }
        compared += kernel.len();
    }
    eprintln!("{compared} frames alike, {carried} packets not by the kernel");
    assert!(carried >= compared as u64, "the kernel had no part");
}

/// Forwarding and the way out; the router has no address the node could ask for.
fn lay_routes(node: &Node) {
    enable_ip6(node.netns());
    let forwarding = node.netns().sysctl("ipv6/conf/all/forwarding", "1");
    forwarding.expect("forwarding");
    let mac = ROUTER_MAC;
    ip(
        node.netns(),
        &format!("-6 address add {NODE}/64 dev {UPLINK} nodad"),
    );
    ip(
        node.netns(),
        &format!("-6 neighbor add {ROUTER} lladdr {mac} dev {UPLINK}"),
    );
    ip(
        node.netns(),
        &format!("-6 route add default via {ROUTER} dev {UPLINK}"),
    );
}

fn enable_ip6(netns: &NetNs) {
    for scope in ["all", "default"] {
        let key = format!("ipv6/conf/{scope}/disable_ipv6");
        netns.sysctl(&key, "0").expect("IPv6");
    }
}

fn ip(netns: &NetNs, command: &str) {
    let arguments: Vec<&str> = command.split_whitespace().collect();
    netns.ip(&arguments).expect(command);
}

fn on<'a>(node: &'a Node, ifname: &'a str) -> Place<'a> {
    Place {
        netns: node.netns(),
        ifname,
    }
}

fn ifindex(netns: &NetNs, ifname: &str) -> u32 {
    netns
        .run(|| Netlink::open().and_then(|mut netlink| netlink.link_by_name(ifname)))
        .expect("enter")
        .expect("link")
        .index
}

/// What control would publish.
fn publish(node: &Node, pods: &[Pod]) {
    let snapshot = Snapshot {
        generation: 1,
        node: NodeEntry {
            name: node.name().to_owned(),
            primary_address: node.primary_address(),
            primary_address6: Some(NODE),
        },
        vpc_cidrs: vec![penstock_lab::VPC_CIDR.into()],
        kernel_cidrs: Vec::new(),
        snat: Snat {
            mode: SnatMode::Node,
            exclude_cidrs: Vec::new(),
            address: node.primary_address(),
            ports: PortRange {
                first: 11_000,
                last: 29_999,
            },
            port_choice: PortChoice::Prng,
        },
        imds: Access::Deny,
        flow: FlowSettings::default(),
        uplinks: vec![Uplink {
            eni_id: node.primary_eni().to_owned(),
            ifname: UPLINK.to_owned(),
            ifindex: ifindex(node.netns(), UPLINK),
            mac: MacAddr(on(node, UPLINK).mac()),
            mtu: u32::from(MTU),
            primary: true,
            address: node.primary_address(),
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            address6: Some(NODE),
            gateway6: Some(ROUTER),
            gateway_mac: Some(ROUTER_MAC),
        }],
        endpoints: pods.iter().map(|pod| pod.endpoint(node)).collect(),
    };
    let answer = node.dataplane_call(&Request::Publish(Box::new(snapshot)));
    match answer.expect("dataplane") {
        Response::Applied { .. } => {}
        other => panic!("{other:?}"),
    }
}

/// The frames of a route: what a well-behaved stack might send, in every shape.
fn frames(route: &Route<'_>) -> Vec<Frame> {
    let mut random = StdRng::seed_from_u64(SEED);
    (0..route.frames)
        .map(|index| {
            let frame = segment(&mut random, route.base);
            dress(&mut random, frame, index)
        })
        .collect()
}

/// A UDP, TCP or echo packet. There are few ports, so that most packets meet a flow that is known.
fn segment(random: &mut StdRng, base: Base6) -> Frame {
    let base = base.hop_limit(random.random_range(3..=255));
    let ports = [40_000, 5_000].map(|first| first + random.random_range(0..20_u16));
    let payload = payload(random, 60);
    match random.random_range(0..4) {
        0 => base.echo(random.random(), ports[0], &payload),
        1 => {
            let flags = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x30];
            let flags = TcpFlags(flags[random.random_range(0..flags.len())]);
            let numbers: [u8; 8] = random.random();
            let frame = base.tcp(ports[0], ports[1], flags, &payload);
            frame.with(58, numbers).seal()
        }
        _ => {
            let frame = base.udp(ports[0], ports[1], &payload);
            match random.random_range(0..8) {
                // None (P78) or wrong, and to stay so.
                0 => frame.with(60, [0, 0]),
                1 => frame.with(60, random.random::<[u8; 2]>()),
                _ => frame,
            }
        }
    }
}

/// Traffic class and flow label at random, now and then a trailer. The low bits of the flow label
/// are the frame's number.
fn dress(random: &mut StdRng, frame: Frame, index: usize) -> Frame {
    let [class, label]: [u8; 2] = random.random();
    let [high, low] = (index as u16).to_be_bytes();
    let mut frame = frame.with(
        14,
        [0x60 | class >> 4, class << 4 | label & 0x0f, high, low],
    );
    if random.random_range(0..16) == 0 && frame.bytes.len() < usize::from(MTU) {
        frame.bytes.extend([0xee; 6]);
    }
    frame
}

fn through(route: &Route<'_>, frames: &[Frame]) -> Vec<Frame> {
    let ends = [route.base.source, route.base.destination].map(|end| end.octets());
    let ours = move |frame: &[u8]| {
        let ip6 = frame.get(12..14)? == [0x86, 0xdd];
        let number = u16::from_be_bytes([*frame.get(16)?, *frame.get(17)?]);
        (ip6 && frame.get(22..54)? == ends.concat()).then_some(number)
    };
    send(route.name, route.ends, frames, ours)
}
