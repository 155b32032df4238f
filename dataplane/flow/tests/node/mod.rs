//! A node for scenario tests: two ENIs, three pods, one engine per worker, a clock that only the
//! test moves. Every packet is accounted for: [`Node::send`] follows hand-offs itself.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test binary uses its part; a failed test panics"
)]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use penstock_flow::{
    Access, Cidr, Config, Endpoint, Engine, EngineConfig, FlowView, Ingress, NodeSnat, Packet,
    PortChoice, PortRange, Snapshot, Snat, Timestamp, Tuning, Uplink, UplinkId, Verdict, forward,
};
use penstock_packet::build::{Base, Base6, Frame};
use penstock_packet::frame_length;
use penstock_packet::icmp::MAX_ERROR;

pub(crate) const TRUNK_MAC: [u8; 6] = [2, 0xaa, 0, 0, 0, 0];
pub(crate) const TRUNK: Ingress = Ingress::Trunk;
pub(crate) const ETH0: Ingress = Ingress::Uplink(UplinkId(0));
pub(crate) const ETH1: Ingress = Ingress::Uplink(UplinkId(1));
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
/// Pods 1 and 2 live on the first ENI's addresses, pod 3 on the second's.
pub(crate) const PODS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 0, 0, 101),
    Ipv4Addr::new(10, 0, 0, 102),
    Ipv4Addr::new(10, 0, 1, 103),
];
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 7, 7);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// The same pods' IPv6 addresses, and what else there is.
pub(crate) const PODS6: [Ipv6Addr; 3] = [v6(0x101), v6(0x102), v6(0x1_0103)];
pub(crate) const NODE6: Ipv6Addr = v6(0x10);
pub(crate) const PEER6: Ipv6Addr = v6(0x7_0007);
pub(crate) const OUTSIDE6: Ipv6Addr = Ipv6Addr::from_bits(0x2001_0db8 << 96 | 9);

const fn v6(host: u128) -> Ipv6Addr {
    Ipv6Addr::from_bits(0x2600_1f18 << 96 | host)
}

pub(crate) fn pod_mac(pod: usize) -> [u8; 6] {
    [2, 0xcc, 0, 0, 0, pod as u8]
}
pub(crate) fn host_mac(pod: usize) -> [u8; 6] {
    [2, 0xbb, 0, 0, 0, pod as u8]
}
pub(crate) fn eni_mac(eni: u8) -> [u8; 6] {
    [2, 0xdd, 0, 0, 0, eni]
}
pub(crate) fn gateway_mac(eni: u8) -> [u8; 6] {
    [2, 0xee, 0, 0, 0, eni]
}

pub(crate) fn config() -> Config {
    let uplink = |id: u8| Uplink {
        id: UplinkId(id),
        mac: eni_mac(id),
        gateway_mac: Some(gateway_mac(id)),
        gateway_mac6: Some(gateway_mac(id)),
        mtu: 1500,
        address: Ipv4Addr::new(10, 0, id, 10),
        address6: Some(v6(u128::from(id) << 16 | 0x10)),
        primary: id == 0,
    };
    let endpoint = |pod: usize, address| Endpoint {
        address,
        uplink: UplinkId(u8::from(pod == 2)),
        host_mac: host_mac(pod),
        pod_mac: pod_mac(pod),
        mtu: 1500,
    };
    let cidr = |a, b, c, prefix| Cidr {
        address: Ipv4Addr::new(a, b, c, 0).into(),
        prefix,
    };
    Config {
        epoch: 1,
        primary_address: NODE,
        primary_address6: Some(NODE6),
        trunk_mac: TRUNK_MAC,
        vpc_cidrs: vec![cidr(10, 0, 0, 16)],
        kernel_cidrs: vec![cidr(172, 20, 0, 16)],
        snat: Snat::Node(NodeSnat {
            address: NODE,
            ports: PortRange {
                first: 11000,
                last: 29999,
            },
            reserved: Vec::new(),
            choice: PortChoice::Prng,
            exclude_cidrs: vec![cidr(192, 168, 0, 16)],
        }),
        imds: Access::Deny,
        tuning: Tuning {
            flows_per_pod: NonZeroU32::new(4_096),
            ..Tuning::default()
        },
        uplinks: vec![uplink(0), uplink(1)],
        endpoints: (0..3)
            .flat_map(|pod| {
                [
                    endpoint(pod, PODS[pod].into()),
                    endpoint(pod, PODS6[pod].into()),
                ]
            })
            .collect(),
    }
}

/// Cases of a random test: what the ordinary test command has time for, times what
/// `PENSTOCK_FUZZ_RUNS` says.
pub(crate) fn runs(ordinary: u32) -> u32 {
    let factor = std::env::var("PENSTOCK_FUZZ_RUNS").ok();
    factor.map_or(ordinary, |factor| ordinary * factor.parse::<u32>().unwrap())
}

pub(crate) struct Node {
    pub(crate) engines: Vec<Engine>,
    pub(crate) snapshot: Snapshot,
    pub(crate) now: Timestamp,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(config(), 1, 1024)
    }

    pub(crate) fn with(config: Config, workers: u16, capacity: usize) -> Self {
        let engine = |worker| {
            let seed = [0x1357_9bdf_0246_8ace, 0xfdb9_7531_eca8_6420];
            Engine::new(EngineConfig {
                worker,
                workers,
                capacity,
                capacity6: capacity,
                seed,
            })
            .unwrap()
        };
        let mut node = Self {
            engines: (0..workers).map(engine).collect(),
            snapshot: Snapshot::compile(config).unwrap(),
            now: Timestamp::from_nanos(1_000_000_000_000),
        };
        node.adopt();
        node
    }

    fn adopt(&mut self) {
        for engine in &mut self.engines {
            engine.adopt(&self.snapshot);
        }
    }

    pub(crate) fn publish(&mut self, mut config: Config) {
        config.epoch = self.snapshot.epoch() + 1;
        self.snapshot = Snapshot::compile(config).unwrap();
        self.adopt();
    }

    /// Flows that carry packets, of all workers.
    pub(crate) fn flows(&self) -> Vec<FlowView> {
        let of = |engine: &Engine| engine.flows(self.now).collect::<Vec<_>>();
        self.engines.iter().flat_map(of).collect()
    }

    /// Lets time pass and every due timer fire.
    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
        for engine in &mut self.engines {
            while engine.expire(self.now, 64) == 64 {}
        }
    }

    /// One packet, from the given worker on; returns the verdict, the frame, and who gave it.
    pub(crate) fn send_to(
        &mut self,
        worker: u16,
        frame: &Frame,
        ingress: Ingress,
    ) -> (Verdict, Frame, u16) {
        let mut bytes = frame.bytes.clone();
        let mut worker = worker;
        for hop in 0..3 {
            let length = bytes.len();
            let packet = Packet {
                head: &mut bytes,
                length,
                ingress,
                handed: hop > 0,
            };
            let engine = &mut self.engines[usize::from(worker)];
            let verdict = forward(engine, &self.snapshot, packet, self.now);
            match verdict {
                Verdict::HandOff(owner) => {
                    assert_eq!(bytes, frame.bytes, "a packet handed off is untouched");
                    assert_ne!(owner, worker);
                    worker = owner;
                }
                Verdict::Forward(_) => {
                    bytes.truncate(frame_length(&bytes));
                    return (verdict, Frame { bytes }, worker);
                }
                Verdict::Drop(_) | Verdict::Reject(_) | Verdict::Hold(_) => {
                    assert_eq!(bytes, frame.bytes, "a dropped packet is untouched");
                    return (verdict, Frame { bytes }, worker);
                }
                Verdict::ToKernel => return (verdict, Frame { bytes }, worker),
            }
        }
        panic!("handed off three times");
    }

    pub(crate) fn send(&mut self, frame: &Frame, ingress: Ingress) -> (Verdict, Frame) {
        let (verdict, frame, _) = self.send_to(0, frame, ingress);
        (verdict, frame)
    }

    /// Sends what must be forwarded; returns the frame, which must be sealed.
    #[track_caller]
    pub(crate) fn forwarded(&mut self, frame: &Frame, ingress: Ingress) -> Frame {
        let (verdict, out) = self.send(frame, ingress);
        assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
        assert!(out.is_sealed());
        out
    }

    pub(crate) fn answer(&mut self, frame: &Frame, verdict: Verdict) -> Option<Frame> {
        let Verdict::Reject(rejection) = verdict else {
            panic!("not rejected: {verdict:?}");
        };
        let mut out = [0; MAX_ERROR];
        let (length, _) =
            self.engines[0].reject(&frame.bytes, &rejection, &self.snapshot, self.now, &mut out)?;
        Some(Frame {
            bytes: out[..length].to_vec(),
        })
    }
}

/// From a pod to anywhere, as it arrives on the trunk.
pub(crate) fn from_pod(pod: usize, destination: Ipv4Addr) -> Base {
    Base::new(PODS[pod], destination).macs(pod_mac(pod), host_mac(pod))
}

/// From anywhere, as it arrives on an ENI.
pub(crate) fn from_eni(eni: u8, source: Ipv4Addr, destination: Ipv4Addr) -> Base {
    Base::new(source, destination).macs(gateway_mac(eni), eni_mac(eni))
}

/// The same over IPv6.
pub(crate) fn from_pod6(pod: usize, destination: Ipv6Addr) -> Base6 {
    Base6::new(PODS6[pod], destination).macs(pod_mac(pod), host_mac(pod))
}

/// The same over IPv6.
pub(crate) fn from_eni6(eni: u8, source: Ipv6Addr, destination: Ipv6Addr) -> Base6 {
    Base6::new(source, destination).macs(gateway_mac(eni), eni_mac(eni))
}

/// A packet one routed hop on, without translation.
pub(crate) fn hop(frame: &Frame, destination: [u8; 6], source: [u8; 6]) -> Frame {
    let at = if frame.bytes[12] == 0x86 { 21 } else { 22 };
    let ttl = frame.bytes[at] - 1;
    frame
        .clone()
        .with(0, destination)
        .with(6, source)
        .with(at, [ttl])
        .seal()
}

/// Source address, destination address, and the L4 words where ports are.
pub(crate) fn names(frame: &Frame) -> (Ipv4Addr, Ipv4Addr, u16, u16) {
    let bytes = &frame.bytes;
    let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    (address(26), address(30), word(34), word(36))
}

/// Identifier of an echo.
pub(crate) fn echo_id(frame: &Frame) -> u16 {
    u16::from_be_bytes([frame.bytes[38], frame.bytes[39]])
}
