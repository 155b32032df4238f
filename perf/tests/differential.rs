//! The same random packets through the workers and through the kernel, compared byte for byte.
//!
//! ```text
//!   outside ── fabric ──┬── eth0 node1: pods a, b      node1: the kernel, then the workers
//!                       └── eth0 node2: pod c          node2: the kernel, always
//! ```
//!
//! Frames are injected at one end of a route and captured at the other. What may differ between
//! the two paths, and nothing else:
//!
//! - the SNAT port or echo identifier, which either path chooses as it likes, with the L4 checksum
//!   that covers it; both must be right if what was sent was.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

mod through;

use std::net::Ipv4Addr;

use penstock_lab::fabric::ROUTER_MAC;
use penstock_lab::{IFNAME, Lab, LabConfig, NetNs, Node, OUTSIDE_ADDRESSES, Pod};
use penstock_packet::TcpFlags;
use penstock_packet::build::{Base, Frame};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use through::{MTU, Place, SEED, carried, payload, wait_for_workers};

const OUTSIDE: Ipv4Addr = OUTSIDE_ADDRESSES[0];

/// Where frames go in, what they look like there, and where they come out.
struct Route<'a> {
    name: &'static str,
    from: &'a NetNs,
    to: &'a NetNs,
    base: Base,
    /// Addresses of what comes out.
    seen: (Ipv4Addr, Ipv4Addr),
    /// Whether the source is translated.
    translated: bool,
    frames: usize,
}

/// Frames by their number, as they came out.
type Arrived = Vec<Frame>;

#[test]
#[ignore = "needs root and network namespaces"]
fn workers_and_kernel_send_the_same_bytes() {
    let lab = Lab::up(LabConfig {
        mtu: u32::from(MTU),
        ..LabConfig::unique("diff")
    })
    .expect("lab");
    let (node, other) = (&lab.nodes()[0], &lab.nodes()[1]);
    let mtu = MTU.to_string();
    for node in [node, other] {
        node.start_control(&[("AWS_VPC_ENI_MTU", &mtu)])
            .expect("control");
    }
    let [a, b] = ["a", "b"].map(|name| node.add_pod("diff", name).expect("ADD"));
    let c = other.add_pod("diff", "c").expect("ADD");
    let between = |from: &Pod, node: &Node, to: Ipv4Addr| {
        let gateway = Place {
            netns: node.netns(),
            ifname: from.host_ifname().expect("host interface"),
        };
        Base::new(from.address(), to).macs(eth0(from.netns()).mac(), gateway.mac())
    };
    let plain = |name, from: &'static str, to: &'static str, frames| {
        let pod = |name| match name {
            "a" => (&a, node),
            "b" => (&b, node),
            _ => (&c, other),
        };
        let ((from, home), (to, _)) = (pod(from), pod(to));
        Route {
            name,
            from: from.netns(),
            to: to.netns(),
            base: between(from, home, to.address()),
            seen: (from.address(), to.address()),
            translated: false,
            frames,
        }
    };
    let outwards = Route {
        name: "pod to outside",
        to: lab.outside(),
        base: between(&a, node, OUTSIDE),
        seen: (node.primary_address(), OUTSIDE),
        translated: true,
        ..plain("", "a", "b", 23_000)
    };
    let routes = [
        plain("pod to pod, one node", "a", "b", 26_000),
        plain("pod to pod, two nodes", "a", "c", 18_000),
        plain("from the wire to a pod", "c", "a", 18_000),
    ];
    let back = Route {
        name: "outside to pod",
        from: lab.outside(),
        to: a.netns(),
        base: Base::new(OUTSIDE, node.primary_address())
            .macs(eth0(lab.outside()).mac(), ROUTER_MAC.0),
        seen: (OUTSIDE, a.address()),
        translated: false,
        frames: 0,
    };

    let all = || -> Vec<Arrived> {
        let mut arrived: Vec<Arrived> = routes
            .iter()
            .map(|route| send(route, &sent(route)))
            .collect();
        let requests = send(&outwards, &sent(&outwards));
        let answers = answers(&back, &requests);
        arrived.push(requests);
        arrived.push(send(&back, &answers));
        arrived
    };
    let by_kernel = all();
    node.start_dataplane(&[]).expect("dataplane");
    wait_for_workers(node, 2);
    let before = carried(node);
    let by_workers = all();
    let carried = carried(node) - before;

    let all = routes.iter().chain([&outwards, &back]);
    let compared: usize = all
        .zip(by_kernel.iter().zip(&by_workers))
        .map(|(route, (kernel, workers))| compare(route, kernel, workers))
        .sum();
    eprintln!("{compared} frames alike, {carried} packets not by the kernel");
    assert!(compared >= 100_000);
    assert!(carried >= compared as u64, "the kernel had no part");
}

/// Compares what came out of a route on both paths; returns how many frames that were.
fn compare(route: &Route<'_>, kernel: &Arrived, workers: &Arrived) -> usize {
    assert_eq!(kernel.len(), workers.len(), "{}", route.name);
    for (index, (kernel, workers)) in kernel.iter().zip(workers).enumerate() {
        let pair = (comparable(kernel, route), comparable(workers, route));
        assert_eq!(pair.0, pair.1, "{} frame {index}", route.name);
    }
    kernel.len()
}

/// The frames of a route: what a well-behaved stack might send, in every shape.
fn sent(route: &Route<'_>) -> Vec<Frame> {
    let mut random = StdRng::seed_from_u64(SEED);
    (0..route.frames)
        .map(|index| {
            let frame = segment(&mut random, route);
            dress(&mut random, frame, index)
        })
        .collect()
}

/// A UDP, TCP or ICMP packet. There are few ports, so that most packets meet a flow that is known.
fn segment(random: &mut StdRng, route: &Route<'_>) -> Frame {
    let base = route.base.ttl(random.random_range(3..=255));
    let ports = [40_000, 5_000].map(|first| first + random.random_range(0..20_u16));
    let payload = payload(random, 40);
    match random.random_range(0..4) {
        0 => base.echo(route.translated || random.random(), ports[0], &payload),
        1 if route.translated => base.tcp(ports[0], ports[1], TcpFlags::SYN, &[]),
        1 => {
            let flags = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x30];
            let flags = TcpFlags(flags[random.random_range(0..flags.len())]);
            let numbers: [u8; 8] = random.random();
            let frame = base.tcp(ports[0], ports[1], flags, &payload);
            frame.with(38, numbers).seal()
        }
        _ => {
            let frame = base.udp(ports[0], ports[1], &payload);
            match random.random_range(0..8) {
                0 => frame.with(40, [0, 0]),
                // Wrong, and to stay so; conntrack does not translate what is wrong.
                1 if !route.translated => frame.with(40, random.random::<[u8; 2]>()),
                _ => frame,
            }
        }
    }
}

/// Type of service, identification and DF at random, the L4 checksum as it is; now and then a trailer.
/// The identification is the frame's number.
fn dress(random: &mut StdRng, frame: Frame, index: usize) -> Frame {
    let dont_fragment = if random.random() { 0x40 } else { 0 };
    let mut frame = frame
        .with(15, [random.random()])
        .with(18, (index as u16).to_be_bytes())
        .with(20, [dont_fragment])
        .seal_header();
    if random.random_range(0..16) == 0 && frame.bytes.len() < usize::from(MTU) {
        frame.bytes.extend([0xee; 6]);
    }
    frame
}

/// Answers to what arrived at the outside: UDP and echoes, from whom it was sent to.
fn answers(back: &Route<'_>, requests: &Arrived) -> Vec<Frame> {
    let mut random = StdRng::seed_from_u64(SEED + 1);
    let word =
        |frame: &Frame, at: usize| u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]);
    let answer = |request: &Frame, random: &mut StdRng| {
        let base = back.base.ttl(random.random_range(3..=255));
        let payload = payload(random, 40);
        match request.bytes[23] {
            1 => Some(base.echo(false, word(request, 38), &payload)),
            17 => Some(base.udp(word(request, 36), word(request, 34), &payload)),
            _ => None,
        }
    };
    let mut answers = Vec::new();
    for request in requests {
        if let Some(frame) = answer(request, &mut random) {
            answers.push(dress(&mut random, frame, answers.len()));
        }
    }
    answers
}

/// Sends the frames and returns what came out, in their order.
fn send(route: &Route<'_>, frames: &[Frame]) -> Arrived {
    let ends = (eth0(route.from), eth0(route.to));
    through::send(route.name, ends, frames, |frame| number_of(frame, route))
}

fn eth0(netns: &NetNs) -> Place<'_> {
    Place {
        netns,
        ifname: IFNAME,
    }
}

/// The frame's number, if it is one of the route's.
fn number_of(frame: &[u8], route: &Route<'_>) -> Option<u16> {
    let address = |at: usize| -> Option<Ipv4Addr> {
        Some(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?.into())
    };
    let ours = (address(26)?, address(30)?) == route.seen && frame.get(12..14)? == [0x08, 0x00];
    let id = u16::from_be_bytes([*frame.get(18)?, *frame.get(19)?]);
    ours.then_some(id)
}

/// The frame without what the two paths may choose.
fn comparable(frame: &Frame, route: &Route<'_>) -> Frame {
    if !route.translated {
        return frame.clone();
    }
    assert!(frame.is_sealed(), "{}: {frame:?}", route.name);
    let (chosen, checksum) = match frame.bytes[23] {
        1 => (38, 36),
        6 => (34, 50),
        _ => (34, 40),
    };
    let blank = frame.clone().with(chosen, [0, 0]);
    match (frame.bytes[23], &frame.bytes[checksum..checksum + 2]) {
        // None over UDP: none it must stay. Elsewhere 0 is a sum like any other, one of two zeros.
        (17, [0, 0]) => blank,
        _ => blank.with(checksum, [0xff, 0xff]),
    }
}
