//! Offloaded flows on veth pairs: real connections, translated, super-packets and all.
//!
//! ```text
//!  pod A ── veth-a ┐ TCX pod            XDP uplink, TCX uplink-tcx
//!                  ├─ host: ip_forward, nft SNAT ─ eth0 ════ wire   (a wire: no offloads)
//!  pod B ── veth-b ┘
//! ```
//!
//! There are no workers: what takes no shortcut is the kernel's, which translates the same flow to
//! the same port. Conntrack sees a connection open and close and nothing in between, so it is told
//! to be liberal about windows.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;
use super::netns::{add_pod, silent_up, text};
use super::{FLOWS, NODE, OUTSIDE, SNAT, config};
use crate::flows::{Ends, Exit, FlowEntry, FlowKey, FlowUsage, Translation, Via, Zone};
use crate::{FlowMap, HookConfig, HookCounters, HookKind, HookLink, Hooks, Offload, PodEntry};

const POD_A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
const POD_B: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 11);
const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const HOST_A: [u8; 6] = [2, 0, 0, 0, 1, 0x0a];
const HOST_B: [u8; 6] = [2, 0, 0, 0, 1, 0x0b];
const ENI: [u8; 6] = [2, 0, 0, 0, 2, 1];
const WIRE: [u8; 6] = [2, 0, 0, 0, 2, 2];
const EPOCH: u32 = 3;
const CLIENT_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 5_001;
const DEADLINE: Duration = Duration::from_secs(20);

/// Bytes sent each way: some hundred super-packets.
const BULK: usize = 16 << 20;

struct Node {
    hooks: Arc<Hooks>,
    flows: FlowMap,
    _links: Vec<HookLink>,
    pod_a: Namespace,
    pod_b: Namespace,
    wire: Namespace,
    host: Namespace,
}

fn add_wire(host: &Namespace) -> Namespace {
    let wire = Namespace::new();
    let (tid, eni, far) = (wire.tid(), text(ENI), text(WIRE));
    host.command(&format!(
        "ip link add eth0 address {eni} type veth peer name wire0 address {far} netns {tid}"
    ));
    silent_up(host, "eth0");
    silent_up(&wire, "wire0");
    // A wire carries finished packets.
    wire.command("ethtool -K wire0 tx off tso off gso off");
    host.command(&format!("ip addr add {NODE}/32 dev eth0"));
    host.command(&format!("ip route add {OUTSIDE}/32 dev eth0"));
    host.command(&format!(
        "ip neigh replace {OUTSIDE} lladdr {far} dev eth0 nud permanent"
    ));
    wire.command(&format!("ip addr add {OUTSIDE}/32 dev wire0"));
    for address in [NODE, POD_A] {
        wire.command(&format!("ip route add {address}/32 dev wire0"));
        wire.command(&format!(
            "ip neigh replace {address} lladdr {eni} dev wire0 nud permanent"
        ));
    }
    wire
}

/// Makes the host carry what takes no shortcut, with the same translation.
fn carry_in_kernel(host: &Namespace) {
    for (pod, veth, mac) in [(POD_A, "veth-a", MAC_A), (POD_B, "veth-b", MAC_B)] {
        host.command(&format!("ip route add {pod}/32 dev {veth}"));
        let mac = text(mac);
        host.command(&format!(
            "ip neigh replace {pod} lladdr {mac} dev {veth} nud permanent"
        ));
    }
    host.command("sysctl -qw net.ipv4.ip_forward=1");
    host.command("nft add table ip t");
    host.command("nft add chain ip t c { type nat hook postrouting priority 100 ; }");
    let port = SNAT.first;
    for protocol in ["tcp", "udp"] {
        host.command(&format!(
            "nft add rule ip t c oifname eth0 {protocol} sport {CLIENT_PORT} snat to {NODE}:{port}"
        ));
    }
    host.command("sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1");
}

impl Node {
    fn new() -> Self {
        let host = Namespace::new();
        let pod_a = add_pod(&host, "veth-a", POD_A, [MAC_A, HOST_A]);
        let pod_b = add_pod(&host, "veth-b", POD_B, [MAC_B, HOST_B]);
        // NAPI in the pods, so that they take XDP frames.
        for pod in [&pod_a, &pod_b] {
            pod.command("ethtool -K eth0 gro on");
        }
        let wire = add_wire(&host);
        carry_in_kernel(&host);
        let mut hooks = Hooks::load(FLOWS).unwrap();
        let config = HookConfig {
            offload: Offload::Established,
            epoch: EPOCH,
            // Nobody ever stamps a heartbeat: fallback is the rule here.
            ..config(1)
        };
        hooks.configure(&config).unwrap();
        let veths = [
            ("veth-a", POD_A, MAC_A, HOST_A),
            ("veth-b", POD_B, MAC_B, HOST_B),
        ];
        let pods = veths.map(|(name, address, pod_mac, host_mac)| {
            let ifindex = host.ifindex(name);
            let entry = PodEntry {
                ifindex,
                address: Some(address),
                address6: None,
                pod_mac,
                host_mac,
            };
            hooks.set_pod(&entry).unwrap();
            ifindex
        });
        let flows = hooks.flow_map().unwrap();
        let hooks = Arc::new(hooks);
        let (attacher, eth0) = (hooks.clone(), host.ifindex("eth0"));
        let links = host.run(move || {
            let mut links = vec![
                attacher.attach_uplink(eth0, 1, ENI).unwrap(),
                attacher.attach_uplink_tcx(eth0).unwrap(),
            ];
            for pod in pods {
                attacher.set_pod_device(pod).unwrap();
                links.push(attacher.attach_pod(pod).unwrap());
            }
            links
        });
        Self {
            hooks,
            flows,
            _links: links,
            pod_a,
            pod_b,
            wire,
            host,
        }
    }

    fn counters(&self, kind: HookKind) -> HookCounters {
        self.hooks.counters().unwrap()[kind.row() as usize].clone()
    }

    /// A translated flow of pod A to the outside.
    fn translated(&self, protocol: u8, via: Via) -> [(FlowKey, FlowEntry); 2] {
        let ends = |source, destination| Ends::V4 {
            source,
            destination,
        };
        let key = |ends, source_port, destination_port, zone| FlowKey {
            ends,
            source_port,
            destination_port,
            protocol,
            zone,
        };
        let snat = SocketAddrV4::new(NODE, SNAT.first);
        let out = FlowEntry {
            owner: 0,
            translation: Translation::Source(snat),
            destination_mac: WIRE,
            source_mac: ENI,
            exit: Exit::Uplink(self.host.ifindex("eth0")),
            mtu: 1_500,
            epoch: EPOCH,
            via,
        };
        let back = FlowEntry {
            owner: 0,
            translation: Translation::Destination(SocketAddrV4::new(POD_A, CLIENT_PORT)),
            destination_mac: MAC_A,
            source_mac: HOST_A,
            exit: Exit::Pod(self.host.ifindex("veth-a")),
            ..out
        };
        [
            (
                key(ends(POD_A, OUTSIDE), CLIENT_PORT, SERVER_PORT, Zone::Pods),
                out,
            ),
            (
                key(ends(OUTSIDE, NODE), SERVER_PORT, SNAT.first, Zone::Uplinks),
                back,
            ),
        ]
    }

    /// A flow between the pods.
    fn local(&self, protocol: u8) -> [(FlowKey, FlowEntry); 2] {
        let entry = |pod, destination_mac, source_mac| FlowEntry {
            owner: 0,
            translation: Translation::None,
            destination_mac,
            source_mac,
            exit: Exit::Pod(self.host.ifindex(pod)),
            mtu: 1_500,
            epoch: EPOCH,
            via: Via::Tcx,
        };
        let key = |source, destination, source_port, destination_port| FlowKey {
            ends: Ends::V4 {
                source,
                destination,
            },
            source_port,
            destination_port,
            protocol,
            zone: Zone::Pods,
        };
        [
            (
                key(POD_A, POD_B, CLIENT_PORT, SERVER_PORT),
                entry("veth-b", MAC_B, HOST_B),
            ),
            (
                key(POD_B, POD_A, SERVER_PORT, CLIENT_PORT),
                entry("veth-a", MAC_A, HOST_A),
            ),
        ]
    }

    /// Entries and counters that agree: a closing connection may still move them for a moment.
    #[track_caller]
    fn settled(&self, pair: &[(FlowKey, FlowEntry); 2], kinds: &[HookKind]) -> [FlowUsage; 2] {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let counted: u64 = kinds
                .iter()
                .map(|kind| self.counters(*kind).offloaded)
                .sum();
            let usage = self.usage(pair);
            if counted == usage[0].packets + usage[1].packets {
                return usage;
            }
            assert!(Instant::now() < deadline, "{counted} {usage:?}");
        }
    }

    fn usage(&self, pair: &[(FlowKey, FlowEntry); 2]) -> [FlowUsage; 2] {
        pair.each_ref()
            .map(|(key, _)| self.flows.usage(key).unwrap().unwrap())
    }
}

/// Sends [`BULK`] bytes to the server, which sends them back; every byte is checked.
fn bulk(client: &Namespace, server: &Namespace, address: Ipv4Addr, peer: Ipv4Addr) -> Duration {
    let (ready, listening) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.run(move || {
                let listener = TcpListener::bind((address, SERVER_PORT)).unwrap();
                ready.send(()).unwrap();
                let (mut stream, from) = listener.accept().unwrap();
                assert_eq!(from.ip(), peer);
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                let mut bytes = vec![0; BULK];
                stream.read_exact(&mut bytes).unwrap();
                stream.write_all(&bytes).unwrap();
                // Closed at once, the FIN would ride with the last of it, and a FIN is a worker's.
                assert_eq!(
                    stream.read(&mut bytes).unwrap(),
                    0,
                    "nothing but the end comes"
                );
            });
        });
        listening.recv().unwrap();
        client.run(move || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_reuse_address(true).unwrap();
            let local = SocketAddr::from((POD_A, CLIENT_PORT));
            socket.bind(&local.into()).unwrap();
            let remote = SocketAddr::from((address, SERVER_PORT));
            socket.connect_timeout(&remote.into(), DEADLINE).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let sent: Vec<u8> = (0..BULK).map(|at| (at / 7) as u8).collect();
            let begin = Instant::now();
            stream.write_all(&sent).unwrap();
            let mut echoed = vec![0; BULK];
            stream.read_exact(&mut echoed).unwrap();
            assert!(sent == echoed, "the bytes changed on the way");
            begin.elapsed()
        })
    })
}

/// A counter of the namespace's `/proc/net/snmp`.
fn snmp(namespace: &Namespace, protocol: &'static str, counter: &'static str) -> u64 {
    namespace.run(move || {
        let table = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut rows = table.lines().filter(|row| row.starts_with(protocol));
        let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
        let at = names.split(' ').position(|name| name == counter).unwrap();
        values.split(' ').nth(at).unwrap().parse().unwrap()
    })
}

#[track_caller]
fn assert_clean(namespaces: &[&Namespace]) {
    for namespace in namespaces {
        assert_eq!(snmp(namespace, "Tcp:", "InCsumErrors"), 0);
        assert_eq!(snmp(namespace, "Udp:", "InCsumErrors"), 0);
    }
}

fn translated_stream(via: Via) {
    let node = Node::new();
    let pair = node.translated(6, via);
    node.flows.install(&pair).unwrap();
    let took = bulk(&node.pod_a, &node.wire, OUTSIDE, NODE);
    let kinds = [HookKind::Pod, HookKind::Uplink, HookKind::UplinkTcx];
    let [out, back] = node.settled(&pair, &kinds);
    let pod = node.counters(HookKind::Pod);
    // All but SYN, FIN and their like.
    assert!(
        out.bytes > BULK as u64 && back.bytes > BULK as u64,
        "{out:?} {back:?}"
    );
    assert!(pod.to_kernel < 10, "{pod:?}");
    // Super-packets: far fewer headers than segments.
    assert!(out.bytes < BULK as u64 + 54 * out.packets, "{out:?}");
    let other = match via {
        Via::Xdp => HookKind::UplinkTcx,
        Via::Tcx => HookKind::Uplink,
    };
    assert_eq!(node.counters(other).offloaded, 0);
    assert_clean(&[&node.pod_a, &node.wire]);
    let rate = (16 * BULK) as f64 / took.as_secs_f64() / 1e9;
    eprintln!("{via:?}: {rate:.1} Gbit/s, both ways one after the other");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_translated_stream_by_xdp() {
    translated_stream(Via::Xdp);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_translated_stream_by_tcx() {
    translated_stream(Via::Tcx);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_stream_between_pods_of_the_node() {
    let node = Node::new();
    let pair = node.local(6);
    node.flows.install(&pair).unwrap();
    bulk(&node.pod_a, &node.pod_b, POD_B, POD_A);
    let [out, back] = node.settled(&pair, &[HookKind::Pod]);
    assert!(
        out.bytes > BULK as u64 && back.bytes > BULK as u64,
        "{out:?} {back:?}"
    );
    assert_clean(&[&node.pod_a, &node.pod_b]);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn datagrams_one_for_one_without_and_with_super_packets() {
    let node = Node::new();
    let pair = node.translated(17, Via::Xdp);
    node.flows.install(&pair).unwrap();
    let far = node.wire.run(|| {
        let far = UdpSocket::bind((OUTSIDE, SERVER_PORT)).unwrap();
        far.set_read_timeout(Some(DEADLINE)).unwrap();
        far
    });
    let near = node.pod_a.run(|| {
        let near = UdpSocket::bind((POD_A, CLIENT_PORT)).unwrap();
        near.connect((OUTSIDE, SERVER_PORT)).unwrap();
        near.set_read_timeout(Some(DEADLINE)).unwrap();
        near
    });
    let mut buffer = [0; 2_048];
    for number in 0..100_u8 {
        near.send(&[number; 64]).unwrap();
        let (length, from) = far.recv_from(&mut buffer).unwrap();
        assert_eq!(from, SocketAddr::from((NODE, SNAT.first)));
        assert_eq!(buffer[..length], [number; 64]);
        far.send_to(&buffer[..length], from).unwrap();
        assert_eq!(near.recv(&mut buffer).unwrap(), 64);
    }
    // Five segments of one super-packet.
    nix::sys::socket::setsockopt(&near, nix::sys::socket::sockopt::UdpGsoSegment, &100).unwrap();
    near.send(&[9; 450]).unwrap();
    let lengths: Vec<usize> = (0..5).map(|_| far.recv(&mut buffer).unwrap()).collect();
    assert_eq!(lengths, [100, 100, 100, 100, 50]);
    let [out, back] = node.usage(&pair);
    assert_eq!((out.packets, back.packets), (105, 100));
    assert_clean(&[&node.pod_a, &node.wire]);
}
