//! The hooks on veth pairs, with the kernel's own sockets at both ends.
//!
//! ```text
//!  pod A ── veth-a ┐                         ┌ veth-b ── pod B
//!                  ├─ host: TCX pod ─ trunk0 ┤
//!                  └──────── TCX trunk ──────┘
//!                                 ║ 2 queues
//!                               trunk1   (in a namespace of its own: where the workers would be)
//! ```

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags};
use nix::sys::socket::{setsockopt, sockopt};
use penstock_packet::DropReason;
use penstock_packet::build::{Base, Frame};
use penstock_packet::hash::{flow_hash, queue};
use penstock_xsk::{BindMode, Packet, Port, PortConfig, Umem, UmemConfig};
use socket2::{Domain, Socket, Type};

use super::namespace::Namespace;
use super::{FLOWS, OUTSIDE, OUTSIDE6, POD6, config, ip6, monotonic_ns};
use crate::{HookConfig, HookCounters, HookError, HookKind, HookLink, Hooks, PodEntry};

const POD_A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
const POD_B: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 11);
const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const HOST_A: [u8; 6] = [2, 0, 0, 0, 1, 0x0a];
const HOST_B: [u8; 6] = [2, 0, 0, 0, 1, 0x0b];
const DEADLINE: Duration = Duration::from_secs(5);

struct Node {
    hooks: Arc<Hooks>,
    links: Vec<HookLink>,
    pod_a: Namespace,
    pod_b: Namespace,
    trunk: Namespace,
    host: Namespace,
}

pub(super) fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Up, without the packets IPv6 sends by itself: tests count every packet.
pub(super) fn silent_up(namespace: &Namespace, name: &str) {
    namespace.command(&format!("ip link set {name} addrgenmode none"));
    namespace.command(&format!("ip link set {name} up"));
}

pub(super) fn add_pod(
    host: &Namespace,
    name: &str,
    address: Ipv4Addr,
    macs: [[u8; 6]; 2],
) -> Namespace {
    let pod = Namespace::new();
    let [pod_mac, host_mac] = macs.map(text);
    let tid = pod.tid();
    host.command(&format!(
        "ip link add {name} address {host_mac} type veth \
         peer name eth0 address {pod_mac} netns {tid}"
    ));
    silent_up(host, name);
    silent_up(&pod, "eth0");
    pod.command(&format!("ip addr add {address}/32 dev eth0"));
    pod.command("ip route add 169.254.1.1 dev eth0 scope link");
    pod.command("ip route add default via 169.254.1.1 dev eth0");
    pod.command(&format!(
        "ip neigh replace 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent"
    ));
    pod
}

fn add_trunk(host: &Namespace) -> Namespace {
    let trunk = Namespace::new();
    let tid = trunk.tid();
    host.command(&format!(
        "ip link add trunk0 numtxqueues 2 numrxqueues 2 type veth \
         peer name trunk1 numtxqueues 2 numrxqueues 2 netns {tid}"
    ));
    host.command("ethtool -K trunk0 tx off tso off gso off");
    silent_up(host, "trunk0");
    silent_up(&trunk, "trunk1");
    trunk.command(&format!("ip addr add {OUTSIDE}/32 dev trunk1"));
    trunk.command(&format!("ip route add {POD_B}/32 dev trunk1"));
    trunk.command(&format!(
        "ip neigh replace {POD_B} lladdr {} dev trunk1 nud permanent",
        text(MAC_B)
    ));
    trunk
}

impl Node {
    fn new() -> Self {
        let host = Namespace::new();
        let pod_a = add_pod(&host, "veth-a", POD_A, [MAC_A, HOST_A]);
        let pod_b = add_pod(&host, "veth-b", POD_B, [MAC_B, HOST_B]);
        let trunk = add_trunk(&host);
        let mut hooks = Hooks::load(FLOWS).unwrap();
        let config = HookConfig {
            trunk_ifindex: host.ifindex("trunk0"),
            ..config(2)
        };
        hooks.configure(&config).unwrap();
        for worker in 0..2_u32 {
            let alive = monotonic_ns() + 60_000_000_000;
            let map = libbpf_rs::MapHandle::from_map_id(heartbeat_id(&hooks)).unwrap();
            map.update(&worker.to_ne_bytes(), &alive.to_ne_bytes(), MapFlags::ANY)
                .unwrap();
        }
        let mut pods = Vec::new();
        // Both are given the same IPv6 address; only pod A sends from it.
        for (name, address, pod_mac, host_mac) in [
            ("veth-a", POD_A, MAC_A, HOST_A),
            ("veth-b", POD_B, MAC_B, HOST_B),
        ] {
            let ifindex = host.ifindex(name);
            hooks
                .set_pod(&PodEntry {
                    ifindex,
                    address: Some(address),
                    address6: Some(POD6),
                    pod_mac,
                    host_mac,
                })
                .unwrap();
            pods.push(ifindex);
        }
        let hooks = Arc::new(hooks);
        let (attacher, trunk0) = (hooks.clone(), host.ifindex("trunk0"));
        let links = host.run(move || {
            let mut links = vec![attacher.attach_trunk(trunk0).unwrap()];
            links.extend(
                pods.into_iter()
                    .map(|pod| attacher.attach_pod(pod).unwrap()),
            );
            links
        });
        Self {
            hooks,
            links,
            pod_a,
            pod_b,
            trunk,
            host,
        }
    }

    fn counters(&self, kind: HookKind) -> HookCounters {
        self.hooks.counters().unwrap()[kind.row() as usize].clone()
    }

    /// Polls until the counters of `kind` satisfy `done`.
    #[track_caller]
    fn wait(&self, kind: HookKind, done: impl Fn(&HookCounters) -> bool) -> HookCounters {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let counters = self.counters(kind);
            if done(&counters) {
                return counters;
            }
            assert!(Instant::now() < deadline, "{counters:?}");
        }
    }

    /// Sends one datagram from pod A's address to the outside, from `port`.
    fn send_from_a(&self, port: u16, payload: &'static [u8]) {
        self.pod_a.run(move || {
            let socket = UdpSocket::bind((POD_A, port)).unwrap();
            assert_eq!(
                socket.send_to(payload, (OUTSIDE, 7)).unwrap(),
                payload.len()
            );
        });
    }

    /// Packets the host side of pod A's veth received.
    fn received_from_a(&self) -> u64 {
        self.host.run(|| {
            let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let row = table
                .lines()
                .find_map(|row| row.trim().strip_prefix("veth-a:"));
            let packets = row.unwrap().split_whitespace().nth(1).unwrap();
            packets.parse().unwrap()
        })
    }

    /// Sends a frame as it is from pod A's interface; the host gets each piece in a buffer of its
    /// own.
    fn send_raw_from_a(&self, pieces: Vec<Vec<u8>>) {
        let eth0 = self.pod_a.ifindex("eth0");
        self.pod_a.run(move || {
            let mut umem = Umem::new(UmemConfig::new(64)).unwrap();
            let mut ring = PortConfig::new(eth0, 0);
            ring.mode = BindMode::Copy;
            let mut port = Port::bind(&ring, &umem.handle(), None).unwrap();
            let mut frames = pieces.iter().map(|piece| {
                let mut frame = umem.alloc().unwrap();
                umem.room_mut(&mut frame)[..piece.len()].copy_from_slice(piece);
                assert!(frame.set_len(piece.len()));
                frame
            });
            let mut packet = Packet::from(frames.next().unwrap());
            frames.for_each(|frame| packet.push(frame).unwrap());
            port.send(&mut umem, packet).unwrap();
            let deadline = Instant::now() + DEADLINE;
            while umem.audit().sending > 0 {
                assert!(Instant::now() < deadline, "the frame was not sent");
                port.flush();
                port.reclaim(&mut umem);
            }
        });
    }

    fn attach_trunk_rx(&self, hooks: &Arc<Hooks>) -> Result<HookLink, HookError> {
        let (hooks, trunk1) = (hooks.clone(), self.trunk.ifindex("trunk1"));
        self.trunk.run(move || hooks.attach_trunk_rx(trunk1))
    }
}

fn heartbeat_id(hooks: &Hooks) -> u32 {
    libbpf_rs::MapInfo::new(hooks.heartbeat()).unwrap().info.id
}

fn assert_conserved(counters: &HookCounters) {
    let fates = counters.to_worker + counters.to_kernel + counters.to_pod + counters.offloaded;
    assert_eq!(
        counters.seen,
        fates + counters.dropped_total(),
        "{counters:?}"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_pods_packet_reaches_trunk1_whole() {
    let node = Node::new();
    let tap = node.trunk.run(|| {
        // ETH_P_IP, network order.
        let protocol = i32::from(0x0800_u16.to_be());
        let tap = Socket::new(Domain::PACKET, Type::RAW, Some(protocol.into())).unwrap();
        tap.set_read_timeout(Some(DEADLINE)).unwrap();
        tap
    });
    node.send_from_a(40_000, b"through the trunk");
    let mut frame = [0; 2_048];
    let length = (&tap).read(&mut frame).expect("nothing arrived on trunk1");
    let frame = &frame[..length];
    assert_eq!(frame[0..6], HOST_A);
    assert_eq!(frame[6..12], MAC_A);
    assert_eq!(frame[26..30], POD_A.octets());
    assert_eq!(&frame[42..], b"through the trunk");
    let bytes = Frame {
        bytes: frame.to_vec(),
    };
    assert!(
        bytes.is_sealed(),
        "trunk0 must complete checksums: {frame:02x?}"
    );
    let counters = node.wait(HookKind::Pod, |counters| counters.to_worker == 1);
    assert_conserved(&counters);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn every_packet_is_accounted_for_from_pod_to_trunk1() {
    let node = Node::new();
    let _link = node.attach_trunk_rx(&node.hooks).unwrap();
    let quiet = node.counters(HookKind::Pod);
    for port in 40_000..40_050 {
        node.send_from_a(port, b"one of fifty");
    }
    // Five segments of one super-packet, cut apart by trunk0.
    node.pod_a.run(|| {
        let socket = UdpSocket::bind((POD_A, 41_000)).unwrap();
        setsockopt(&socket, sockopt::UdpGsoSegment, &100).unwrap();
        assert_eq!(socket.send_to(&[7; 450], (OUTSIDE, 7)).unwrap(), 450);
    });
    let pod = node.wait(HookKind::Pod, |counters| {
        counters.to_worker == quiet.to_worker + 55
    });
    assert_conserved(&pod);
    let received = node.wait(HookKind::TrunkRx, |counters| counters.seen == 55);
    // There is no socket: dropped, by name, and nothing else.
    assert_eq!(received.dropped(DropReason::HookRedirect), 55);
    assert_conserved(&received);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_trunks_queue_is_the_one_the_hash_names() {
    let node = Node::new();
    let mut link = Some(node.attach_trunk_rx(&node.hooks).unwrap());
    let queue_of = |port| {
        queue(
            flow_hash(POD_A.to_bits(), OUTSIDE.to_bits(), port, 7, 17),
            2,
        )
    };
    for port in (40_000..).filter(|port| queue_of(*port) == 1).take(20) {
        node.send_from_a(port, b"queue 1");
    }
    for port in (50_000..).filter(|port| queue_of(*port) == 0).take(5) {
        node.send_from_a(port, b"queue 0");
    }
    node.wait(HookKind::TrunkRx, |counters| counters.seen == 25);
    let received = node.trunk.run(|| {
        let output = std::process::Command::new("ethtool")
            .args(["-S", "trunk1"])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    });
    let per_queue = |queue: u32| {
        let name = format!("rx_queue_{queue}_xdp_packets:");
        let line = received
            .lines()
            .find_map(|line| line.trim().strip_prefix(name.as_str()));
        line.unwrap_or_else(|| panic!("{received}"))
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    assert_eq!((per_queue(0), per_queue(1)), (5, 20));
    drop(link.take());
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_spoofing_pod_is_stopped_at_its_veth() {
    let node = Node::new();
    node.pod_a.command("ip addr add 10.1.0.11/32 dev eth0");
    node.pod_a.run(|| {
        let socket = UdpSocket::bind((POD_B, 40_000)).unwrap();
        socket.send_to(b"I am B", (OUTSIDE, 7)).unwrap();
    });
    let counters = node.wait(HookKind::Pod, |counters| {
        counters.dropped(DropReason::SpoofIp) == 1
    });
    assert_eq!(counters.to_worker, 0);
    assert_conserved(&counters);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn frames_a_test_run_cannot_make_are_judged_at_the_veth() {
    let node = Node::new();
    let whole = Base::new(POD_A, OUTSIDE)
        .macs(MAC_A, HOST_A)
        .udp(40_000, 7, b"raw")
        .bytes;
    let tag = |id: u8| [0x81, 0, 0, id];
    let mut tagged = whole.clone();
    tagged.splice(12..12, tag(5));
    let mut twice = tagged.clone();
    twice.splice(12..12, tag(6));
    // P07: the kernel takes the outer tag out of the bytes before the hook runs.
    node.send_raw_from_a(vec![tagged]);
    node.wait(HookKind::Pod, |seen| seen.dropped(DropReason::L2Vlan) == 1);
    node.send_raw_from_a(vec![twice]);
    node.wait(HookKind::Pod, |seen| seen.dropped(DropReason::L2Vlan) == 2);
    // P12: an IPv4 header that is cut; the worker names it.
    node.send_raw_from_a(vec![whole[..14 + 19].to_vec()]);
    node.wait(HookKind::Pod, |seen| seen.to_worker == 1);
    node.send_raw_from_a(vec![whole[..14].to_vec()]);
    node.wait(HookKind::Pod, |seen| seen.to_worker == 2);
    // P63: the same of IPv6.
    let six = ip6::frame([MAC_A, HOST_A], [POD6, OUTSIDE6], ip6::UDP, &[]);
    node.send_raw_from_a(vec![six[..14 + 39].to_vec()]);
    let counters = node.wait(HookKind::Pod, |seen| seen.to_worker == 3);
    assert_eq!(counters.dropped(DropReason::L2Vlan), 2);
    assert_conserved(&counters);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn headers_that_lie_apart_are_read_all_the_same() {
    let node = Node::new();
    let frame = |source| {
        let base = Base::new(source, OUTSIDE).macs(MAC_A, HOST_A);
        base.udp(40_000, 7, b"in pieces").bytes
    };
    for cut in [14, 20, 34, 36] {
        let before = node.counters(HookKind::Pod);
        for source in [POD_A, POD_B] {
            let mut head = frame(source);
            let tail = head.split_off(cut);
            node.send_raw_from_a(vec![head, tail]);
        }
        let spoofed = before.dropped(DropReason::SpoofIp) + 1;
        let after = node.wait(HookKind::Pod, |seen| seen.seen == before.seen + 2);
        assert_eq!(after.to_worker, before.to_worker + 1, "cut at {cut}");
        assert_eq!(after.dropped(DropReason::SpoofIp), spoofed, "cut at {cut}");
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_trunk_delivers_into_the_pod() {
    let node = Node::new();
    let inbox = node.pod_b.run(|| {
        let inbox = UdpSocket::bind((POD_B, 9_000)).unwrap();
        inbox.set_read_timeout(Some(DEADLINE)).unwrap();
        inbox
    });
    node.trunk.run(|| {
        let worker = UdpSocket::bind((OUTSIDE, 53)).unwrap();
        worker.send_to(b"for B", (POD_B, 9_000)).unwrap();
    });
    let mut buffer = [0; 64];
    let (length, from) = match inbox.recv_from(&mut buffer) {
        Ok(received) => received,
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            panic!(
                "nothing reached the pod: {:?}",
                node.counters(HookKind::Trunk)
            )
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(&buffer[..length], b"for B");
    assert_eq!(from, SocketAddr::from((OUTSIDE, 53)));
    let counters = node.counters(HookKind::Trunk);
    assert_eq!(counters.to_pod, 1);
    assert_conserved(&counters);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_a_worker_punts_reaches_the_hosts_stack() {
    let node = Node::new();
    node.host.command("ip addr add 10.1.0.4/32 dev trunk0");
    // A punted packet keeps its link addresses: here those of a pod's gateway.
    let gateway = text(HOST_A);
    node.trunk.command("ip route add 10.1.0.4/32 dev trunk1");
    node.trunk.command(&format!(
        "ip neigh replace 10.1.0.4 lladdr {gateway} dev trunk1"
    ));
    node.host
        .command(&format!("ip route add {OUTSIDE}/32 dev trunk0"));
    let inbox = node.host.run(|| {
        let inbox = UdpSocket::bind((super::NODE, 9_001)).unwrap();
        inbox.set_read_timeout(Some(DEADLINE)).unwrap();
        inbox
    });
    node.trunk.run(|| {
        let worker = UdpSocket::bind((OUTSIDE, 53)).unwrap();
        worker
            .send_to(b"for the node", (super::NODE, 9_001))
            .unwrap();
    });
    let mut buffer = [0; 64];
    let length = inbox
        .recv(&mut buffer)
        .expect("the host's stack did not take it");
    assert_eq!(&buffer[..length], b"for the node");
    assert_conserved(&node.counters(HookKind::Trunk));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn somebody_elses_xdp_program_stays() {
    let node = Node::new();
    let theirs = Arc::new(Hooks::load(FLOWS).unwrap());
    let foreign = node.attach_trunk_rx(&theirs).unwrap();
    let error = node.attach_trunk_rx(&node.hooks).unwrap_err();
    let message = std::error::Error::source(&error).unwrap().to_string();
    assert!(matches!(error, HookError::Attach { .. }), "{error:?}");
    assert!(error.to_string().contains("trunk1"), "{error}");
    assert!(message.contains("left alone"), "{message}");

    node.send_from_a(40_000, b"still theirs");
    let deadline = Instant::now() + DEADLINE;
    while theirs.counters().unwrap()[HookKind::TrunkRx.row() as usize].seen < 1 {
        assert!(Instant::now() < deadline, "their program was detached");
    }
    drop(foreign);
    node.attach_trunk_rx(&node.hooks).map(drop).unwrap();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_dropped_link_detaches_its_hook() {
    let mut node = Node::new();
    node.send_from_a(40_000, b"seen");
    let before = node.wait(HookKind::Pod, |counters| counters.to_worker == 1);
    let kinds: Vec<_> = node.links.iter().map(HookLink::kind).collect();
    assert_eq!(kinds, [HookKind::Trunk, HookKind::Pod, HookKind::Pod]);
    node.links.clear();
    let arrived = node.received_from_a();
    node.send_from_a(40_001, b"not seen");
    let deadline = Instant::now() + DEADLINE;
    while node.received_from_a() == arrived {
        assert!(Instant::now() < deadline, "the host never received it");
    }
    assert_eq!(node.counters(HookKind::Pod).seen, before.seen);
}
