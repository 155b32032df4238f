//! Offloaded flows by BPF_PROG_TEST_RUN: every byte of what comes out, against penstock-packet;
//! and what must not take the shortcut.

use std::net::{Ipv4Addr, SocketAddrV4};

use libbpf_rs::ProgramInput;
use penstock_packet::build::{Base, Frame};
use penstock_packet::rewrite::{self, End, Macs, Rewrite, Side};
use penstock_packet::{Parsed, TcpFlags, parse};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{
    ENI_MAC, FLOWS, HOST_MAC, LOOPBACK, NODE, OTHER_POD6, OUTSIDE, OUTSIDE6, Outcome, POD, POD_MAC,
    POD6, Rig, SNAT, WIRE_MAC, as_fragment, config, ip6, with_options,
};
use crate::flows::{Ends, Exit, FlowEntry, FlowKey, Found, Translation, Via, Zone};
use crate::{FlowMap, HookConfig, HookError, HookKind, Offload};

const EPOCH: u32 = 7;
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 9, 1];
const OUT_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// A rig that carries flows of [`EPOCH`], and the flows.
struct Carrier {
    rig: Rig,
    flows: FlowMap,
}

impl Carrier {
    fn new() -> Self {
        let rig = Rig::new(1);
        let carrier = Self {
            flows: rig.hooks.flow_map().unwrap(),
            rig,
        };
        carrier.offload(Offload::Established, EPOCH);
        carrier.rig.hooks.set_pod_device(LOOPBACK).unwrap();
        carrier
    }

    fn offload(&self, offload: Offload, epoch: u32) {
        let config = HookConfig {
            offload,
            epoch,
            ..config(1)
        };
        self.rig.hooks.configure(&config).unwrap();
    }

    fn install(&self, flow: &Flow) {
        self.flows.install(&flow.pair()).unwrap();
    }

    /// Runs `kind` over a frame it must carry; what comes out.
    #[track_caller]
    fn carried(&self, kind: HookKind, frame: &[u8]) -> Vec<u8> {
        let mut out = vec![0; frame.len()];
        let input = ProgramInput {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..ProgramInput::default()
        };
        let bytes = frame.len() as u64;
        self.rig
            .expect_input(kind, input, Outcome::Offloaded(bytes), 1);
        out
    }

    #[track_caller]
    fn expect(&self, kind: HookKind, frame: &[u8], outcome: Outcome) {
        self.rig.expect(kind, frame, outcome);
    }
}

/// A pod's flow to a remote end, translated or not.
#[derive(Debug, Clone, Copy)]
struct Flow {
    protocol: u8,
    pod: End,
    remote: End,
    snat: Option<End>,
    via: Via,
    mtu: u16,
}

impl Flow {
    fn new(protocol: u8) -> Self {
        Self {
            protocol,
            pod: End {
                address: POD,
                port: 40_000,
            },
            remote: End {
                address: OUTSIDE,
                port: if protocol == ICMP { 0 } else { 443 },
            },
            snat: Some(End {
                address: NODE,
                port: SNAT.first,
            }),
            via: Via::Xdp,
            mtu: 9_001,
        }
    }

    fn random(protocol: u8, random: &mut StdRng) -> Self {
        let remote = End {
            address: Ipv4Addr::from(random.random_range(0x0b00_0000..0x7f00_0000_u32)),
            port: if protocol == ICMP {
                0
            } else {
                random.random_range(1..=u16::MAX)
            },
        };
        let snat = End {
            address: NODE,
            port: random.random_range(SNAT.first..=SNAT.last),
        };
        Self {
            pod: End {
                address: POD,
                port: random.random_range(1..=u16::MAX),
            },
            remote,
            snat: random.random_bool(0.8).then_some(snat),
            ..Self::new(protocol)
        }
    }

    fn keys(&self) -> [FlowKey; 2] {
        let key = |from: End, to: End, zone| FlowKey {
            ends: Ends::V4 {
                source: from.address,
                destination: to.address,
            },
            source_port: from.port,
            destination_port: to.port,
            protocol: self.protocol,
            zone,
        };
        let seen = self.snat.unwrap_or(self.pod);
        [
            key(self.pod, self.remote, Zone::Pods),
            key(self.remote, seen, Zone::Uplinks),
        ]
    }

    fn pair(&self) -> [(FlowKey, FlowEntry); 2] {
        let [out, back] = self.keys();
        let address = |end: End| SocketAddrV4::new(end.address, end.port);
        let entry = |translation, exit| FlowEntry {
            owner: u64::from(self.pod.port) << 32,
            translation,
            destination_mac: NEXT_HOP,
            source_mac: OUT_MAC,
            exit,
            mtu: self.mtu,
            epoch: EPOCH,
            via: self.via,
        };
        let [source, destination] = match self.snat {
            Some(snat) => [
                Translation::Source(address(snat)),
                Translation::Destination(address(self.pod)),
            ],
            None => [Translation::None; 2],
        };
        [
            (out, entry(source, Exit::Uplink(LOOPBACK))),
            (back, entry(destination, Exit::Pod(LOOPBACK))),
        ]
    }

    /// A packet from the pod.
    fn out(&self, flags: TcpFlags, payload: &[u8]) -> Frame {
        let base = Base::new(POD, self.remote.address).macs(POD_MAC, HOST_MAC);
        self.packet(base, (self.pod.port, self.remote.port), flags, payload)
    }

    /// The answer from the wire.
    fn back(&self, flags: TcpFlags, payload: &[u8]) -> Frame {
        let seen = self.snat.unwrap_or(self.pod);
        let base = Base::new(self.remote.address, seen.address).macs(WIRE_MAC, ENI_MAC);
        self.packet(base, (self.remote.port, seen.port), flags, payload)
    }

    fn packet(&self, base: Base, ports: (u16, u16), flags: TcpFlags, payload: &[u8]) -> Frame {
        match self.protocol {
            TCP => base.tcp(ports.0, ports.1, flags, payload),
            UDP => base.udp(ports.0, ports.1, payload),
            _ if ports.1 == 0 => base.echo(true, ports.0, payload),
            _ => base.echo(false, ports.1, payload),
        }
    }

    /// What penstock-packet makes of a packet of one direction.
    fn rewritten(&self, frame: &Frame, side: Side) -> Vec<u8> {
        let change = |snat| match side {
            Side::Source => (self.pod, snat),
            Side::Destination => (snat, self.pod),
        };
        let rewrite = Rewrite {
            macs: Macs::new(NEXT_HOP, OUT_MAC),
            translation: self.snat.map_or(rewrite::Translation::NONE, |snat| {
                let (old, new) = change(snat);
                rewrite::Translation::new(side, self.protocol, old, new)
            }),
        };
        let mut bytes = frame.bytes.clone();
        let Ok(Parsed::Ip(packet)) = parse(&bytes, bytes.len()) else {
            panic!("{bytes:02x?}");
        };
        rewrite.apply(&mut bytes, &packet);
        bytes
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn every_byte_is_as_the_workers_would_write_it() {
    let carrier = Carrier::new();
    let mut random = StdRng::seed_from_u64(0x0ff1_0ad5);
    for round in 0..300 {
        let protocol = [TCP, UDP, ICMP][round % 3];
        let flow = Flow::random(protocol, &mut random);
        carrier.install(&flow);
        let payload: Vec<u8> = (0..random.random_range(0..200))
            .map(|_| random.random())
            .collect();
        let (mut out, mut back) = (
            flow.out(TcpFlags::ACK, &payload),
            flow.back(TcpFlags::ACK, &payload),
        );
        match random.random_range(0..4) {
            // P51: no checksum. P47: a wrong one stays wrong.
            0 if protocol == UDP => {
                out = out.with(40, [0, 0]);
                back = back.with(40, [0, 0]);
            }
            1 => {
                let at = if protocol == TCP { 50 } else { 40 };
                let wrong: [u8; 2] = [random.random_range(1..=255), random.random()];
                let at = if protocol == ICMP { 36 } else { at };
                out = out.with(at, wrong);
                back = back.with(at, wrong);
            }
            _ => {}
        }
        let expected = flow.rewritten(&out, Side::Source);
        assert_eq!(
            carrier.carried(HookKind::Pod, &out.bytes),
            expected,
            "{flow:?}"
        );
        let expected = flow.rewritten(&back, Side::Destination);
        let by_xdp = carrier.carried(HookKind::Uplink, &back.bytes);
        assert_eq!(by_xdp, expected, "{flow:?}");
        let by_tcx = carrier.carried(HookKind::UplinkTcx, &back.bytes);
        assert_eq!(by_tcx, expected, "{flow:?}");
        let counts = carrier.flows.remove(&flow.keys()).unwrap();
        let packets = counts.map(|usage| usage.unwrap().packets);
        assert_eq!(packets, [1, 2]);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_checksum_that_becomes_zero_is_not_none() {
    let carrier = Carrier::new();
    let flow = Flow::new(UDP);
    carrier.install(&flow);
    let mut zeros = 0;
    for word in 0..=u16::MAX {
        let back = flow.back(TcpFlags::ACK, &word.to_be_bytes());
        let expected = flow.rewritten(&back, Side::Destination);
        // The interesting ones only: the sum is 0xffff after the change.
        if expected[40..42] != [0xff, 0xff] {
            continue;
        }
        zeros += 1;
        for kind in [HookKind::Uplink, HookKind::UplinkTcx] {
            assert_eq!(carrier.carried(kind, &back.bytes), expected);
        }
        let out = flow.out(TcpFlags::ACK, &word.to_be_bytes());
        let expected = flow.rewritten(&out, Side::Source);
        assert_eq!(carrier.carried(HookKind::Pod, &out.bytes), expected);
    }
    assert!(zeros > 0);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_the_worker_must_see_takes_no_shortcut() {
    let carrier = Carrier::new();
    let (tcp, udp) = (
        Flow {
            mtu: 100,
            ..Flow::new(TCP)
        },
        Flow::new(UDP),
    );
    carrier.install(&tcp);
    carrier.install(&udp);
    let ack = || tcp.out(TcpFlags::ACK, b"data");
    carrier.carried(HookKind::Pod, &ack().bytes);
    let mut trailer = ack().bytes;
    trailer.push(0);
    let base = Base::new(POD, OUTSIDE).macs(POD_MAC, HOST_MAC);
    let whole = udp.out(TcpFlags::ACK, b"12345678");
    let worker = [
        tcp.out(TcpFlags::SYN, b"").bytes,
        tcp.out(TcpFlags::FIN, b"").bytes,
        tcp.out(TcpFlags::RST, b"").bytes,
        trailer,
        // P17, P16, P43, P49.
        base.ttl(1).tcp(40_000, 443, TcpFlags::ACK, b"").bytes,
        ack().with(24, [0xde, 0xad]).bytes,
        ack().with(46, [0x40]).bytes,
        ack().with(46, [0x70]).bytes,
        whole.clone().with(38, [0, 7]).bytes,
        whole.clone().with(38, [0, 99]).bytes,
        // Too big by one.
        tcp.out(TcpFlags::ACK, &[0; 61]).bytes,
        // P21, P22.
        as_fragment(&whole, 0x2000),
        as_fragment(&whole, 0x0001),
        // Another flow's, and an error about this one.
        base.tcp(40_001, 443, TcpFlags::ACK, b"").bytes,
        base.icmp(3, 4, 0, &[0; 28]).bytes,
    ];
    for frame in &worker {
        carrier.expect(HookKind::Pod, frame, Outcome::Worker);
    }
    carrier.carried(HookKind::Pod, &tcp.out(TcpFlags::ACK, &[0; 60]).bytes);
    let options = with_options(&ack(), &[1, 1, 1, 1]);
    carrier.expect(HookKind::Pod, &options, Outcome::Kernel);
    // The guard comes first.
    use penstock_packet::DropReason::{L2NotOurs, SpoofMac};
    let spoofed = ack().with(6, HOST_MAC).bytes;
    carrier.expect(HookKind::Pod, &spoofed, Outcome::Drop(SpoofMac));
    let elsewhere = ack().with(0, WIRE_MAC).bytes;
    carrier.expect(HookKind::Pod, &elsewhere, Outcome::Drop(L2NotOurs));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p02_p15_trailers_are_cut_by_xdp_and_left_to_others_elsewhere() {
    let carrier = Carrier::new();
    let flow = Flow::new(TCP);
    carrier.install(&flow);
    let back = flow.back(TcpFlags::ACK, b"");
    let mut padded = back.bytes.clone();
    // The least Ethernet carries, and what comes from somewhere else.
    for length in [60, 100] {
        padded.resize(length, 0x5a);
        let mut out = vec![0; length];
        let input = ProgramInput {
            data_in: Some(&padded),
            data_out: Some(&mut out),
            ..ProgramInput::default()
        };
        let outcome = Outcome::Offloaded(length as u64);
        let left = carrier
            .rig
            .expect_input(HookKind::Uplink, input, outcome, 1);
        assert_eq!(left, 54);
        assert_eq!(out[..left], flow.rewritten(&back, Side::Destination));
        carrier.expect(HookKind::UplinkTcx, &padded, Outcome::Kernel);
    }
    let (pair, [_, back]) = flow6();
    carrier.flows.install(&pair).unwrap();
    let padded = [back.clone(), vec![0x5a; 9]].concat();
    let mut out = vec![0; padded.len()];
    let input = ProgramInput {
        data_in: Some(&padded),
        data_out: Some(&mut out),
        ..ProgramInput::default()
    };
    let outcome = Outcome::Offloaded(padded.len() as u64);
    let left = carrier
        .rig
        .expect_input(HookKind::Uplink, input, outcome, 1);
    assert_eq!(left, back.len());
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_stale_epoch_or_the_switch_stops_it() {
    let carrier = Carrier::new();
    let flow = Flow::new(UDP);
    carrier.install(&flow);
    let (out, back) = (
        flow.out(TcpFlags::ACK, b"x"),
        flow.back(TcpFlags::ACK, b"x"),
    );
    for (offload, epoch) in [
        (Offload::Off, EPOCH),
        (Offload::Established, EPOCH - 1),
        (Offload::Established, EPOCH + 1),
        (Offload::Established, EPOCH + 2),
    ] {
        carrier.offload(offload, epoch);
        carrier.expect(HookKind::Pod, &out.bytes, Outcome::Worker);
        // There is no socket on the uplink.
        carrier.expect(HookKind::Uplink, &back.bytes, Outcome::Fallback);
        // What the hook before let pass a moment ago still arrives.
        if epoch == EPOCH || epoch == EPOCH + 1 {
            carrier.carried(HookKind::UplinkTcx, &back.bytes);
        } else {
            carrier.expect(HookKind::UplinkTcx, &back.bytes, Outcome::Kernel);
        }
    }
    carrier.offload(Offload::Established, EPOCH);
    // A worker that is away is not asked.
    carrier.rig.beat(0, 0);
    carrier.carried(HookKind::Pod, &out.bytes);
    carrier.carried(HookKind::Uplink, &back.bytes);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_came_from_a_wire_never_matches_a_pods_packet() {
    let carrier = Carrier::new();
    let flow = Flow {
        snat: None,
        ..Flow::new(UDP)
    };
    carrier.install(&flow);
    // The same addresses and ports, from the other side.
    let forged = flow
        .out(TcpFlags::ACK, b"x")
        .with(6, WIRE_MAC)
        .with(0, ENI_MAC);
    carrier.expect(HookKind::Uplink, &forged.bytes, Outcome::Fallback);
    carrier.expect(HookKind::UplinkTcx, &forged.bytes, Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn each_flow_takes_the_hook_it_is_marked_for() {
    let carrier = Carrier::new();
    let flow = Flow {
        via: Via::Tcx,
        ..Flow::new(TCP)
    };
    carrier.install(&flow);
    let back = flow.back(TcpFlags::ACK, b"answer");
    carrier.expect(HookKind::Uplink, &back.bytes, Outcome::Kernel);
    carrier.carried(HookKind::UplinkTcx, &back.bytes);
    // It cuts no trailer, so what has one is not left to it. There is no socket for the worker.
    let padded = [back.bytes.as_slice(), &[0]].concat();
    carrier.expect(HookKind::Uplink, &padded, Outcome::Fallback);
    let foreign = back.with(0, [2, 9, 9, 9, 9, 9]);
    carrier.expect(HookKind::UplinkTcx, &foreign.bytes, Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn super_packets_pass_whole_when_their_segments_fit() {
    /// Offsets in `struct __sk_buff` and its size, kernel 6.18.
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;
    const SK_BUFF: usize = 192;
    let carrier = Carrier::new();
    let flow = Flow {
        mtu: 1_500,
        ..Flow::new(TCP)
    };
    carrier.install(&flow);
    let frame = flow.out(TcpFlags::ACK, &[7; 3_000]);
    for (size, outcome) in [
        (1_460_u32, Outcome::Offloaded(3_054)),
        (1_461, Outcome::Worker),
    ] {
        let mut context = [0; SK_BUFF];
        context[GSO_SEGS..GSO_SEGS + 4].copy_from_slice(&3_u32.to_ne_bytes());
        context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&size.to_ne_bytes());
        let input = ProgramInput {
            data_in: Some(&frame.bytes),
            context_in: Some(&mut context),
            ..ProgramInput::default()
        };
        carrier.rig.expect_input(HookKind::Pod, input, outcome, 3);
    }
    let [usage, _] = carrier.flows.remove(&flow.keys()).unwrap();
    let usage = usage.unwrap();
    assert_eq!((usage.packets, usage.bytes), (3, 3_054));
    assert!(usage.last_seen_ns > 0);
}

/// A flow between a pod and the outside, and a frame of each direction.
fn flow6() -> ([(FlowKey, FlowEntry); 2], [Vec<u8>; 2]) {
    let key = |source, destination, ports: (u16, u16), zone| FlowKey {
        ends: Ends::V6 {
            source,
            destination,
        },
        source_port: ports.0,
        destination_port: ports.1,
        protocol: UDP,
        zone,
    };
    let entry = |exit| FlowEntry {
        owner: 0,
        translation: Translation::None,
        destination_mac: NEXT_HOP,
        source_mac: OUT_MAC,
        exit,
        mtu: 1_500,
        epoch: EPOCH,
        via: Via::Xdp,
    };
    let pair = [
        (
            key(POD6, OUTSIDE6, (40_000, 53), Zone::Pods),
            entry(Exit::Uplink(LOOPBACK)),
        ),
        (
            key(OUTSIDE6, POD6, (53, 40_000), Zone::Uplinks),
            entry(Exit::Pod(LOOPBACK)),
        ),
    ];
    let frames = [
        ip6::from_pod(OUTSIDE6, ip6::UDP, &ip6::udp(40_000, 53)),
        ip6::from_wire(POD6, ip6::UDP, &ip6::udp(53, 40_000)),
    ];
    (pair, frames)
}

#[test]
#[ignore = "needs root and network namespaces"]
fn ip6_flows_change_hands_and_hop_limit_only() {
    let carrier = Carrier::new();
    let (pair, [out, back]) = flow6();
    carrier.expect(HookKind::Pod, &out, Outcome::Worker);
    carrier.flows.install(&pair).unwrap();
    let expected = |frame: &[u8]| {
        let mut bytes = frame.to_vec();
        bytes[..6].copy_from_slice(&NEXT_HOP);
        bytes[6..12].copy_from_slice(&OUT_MAC);
        bytes[21] -= 1;
        bytes
    };
    assert_eq!(carrier.carried(HookKind::Pod, &out), expected(&out));
    assert_eq!(carrier.carried(HookKind::Uplink, &back), expected(&back));
    assert_eq!(carrier.carried(HookKind::UplinkTcx, &back), expected(&back));
    // Hop limit, length, extension headers and fragments are the worker's to see.
    let long = ip6::from_pod(
        OUTSIDE6,
        ip6::UDP,
        &[ip6::udp(40_000, 53), vec![0; 4]].concat(),
    );
    let behind = [ip6::extension(ip6::UDP, 1), ip6::udp(40_000, 53)].concat();
    let worker = [
        ip6::with_hops(out.clone(), 1),
        long,
        ip6::from_pod(OUTSIDE6, ip6::DESTINATION, &behind),
        ip6::from_pod(
            OUTSIDE6,
            ip6::FRAGMENT,
            &[ip6::fragment(UDP, 1), ip6::udp(40_000, 53)].concat(),
        ),
    ];
    for frame in &worker {
        carrier.expect(HookKind::Pod, frame, Outcome::Worker);
    }
    use penstock_packet::DropReason::SpoofIp;
    let spoofed = ip6::with_source(out, OTHER_POD6);
    carrier.expect(HookKind::Pod, &spoofed, Outcome::Drop(SpoofIp));
    let packets = carrier.flows.remove(&pair.map(|(key, _)| key)).unwrap();
    assert_eq!(packets.map(|usage| usage.unwrap().packets), [1, 2]);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn ip6_is_never_translated() {
    let carrier = Carrier::new();
    let (mut pair, [out, _]) = flow6();
    pair[1].1.translation = Translation::Source(SocketAddrV4::new(NODE, 1));
    let refused = carrier.flows.install(&pair);
    assert!(
        matches!(refused, Err(HookError::Translation)),
        "{refused:?}"
    );
    carrier.expect(HookKind::Pod, &out, Outcome::Worker);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn flows_come_and_go_in_pairs_and_are_walked_in_batches() {
    let carrier = Carrier::new();
    let numbered = |number: u16| Flow {
        pod: End {
            address: POD,
            port: 1_000 + number,
        },
        snat: Some(End {
            address: NODE,
            port: 20_000 + number,
        }),
        ..Flow::new(UDP)
    };
    let room = u16::try_from(FLOWS).unwrap();
    for number in 0..room {
        carrier.install(&numbered(number));
    }
    let (pair6, _) = flow6();
    carrier.flows.install(&pair6).unwrap();
    // Full: refused, and no half of it stays.
    let refused = carrier.flows.install(&numbered(room).pair());
    assert!(matches!(refused, Err(HookError::Map { .. })), "{refused:?}");
    let nothing = carrier.flows.remove(&numbered(room).keys()).unwrap();
    assert_eq!(nothing, [None; 2]);
    // In place of one that is in, there is room.
    carrier.install(&numbered(0));
    carrier.carried(HookKind::Pod, &numbered(5).out(TcpFlags::ACK, b"x").bytes);

    let mut walk = carrier.flows.walk(64).unwrap();
    let (mut found, mut calls) = (Vec::new(), 0);
    while walk.next_batch(&mut found).unwrap() {
        calls += 1;
    }
    assert!(calls > 30, "{calls} calls");
    let mut expected: Vec<FlowKey> = (0..room)
        .flat_map(|number| numbered(number).keys())
        .collect();
    expected.extend(pair6.map(|(key, _)| key));
    let used: Vec<_> = found
        .iter()
        .filter(|found| found.usage.packets > 0)
        .collect();
    assert_eq!(used.len(), 1);
    assert_eq!((used[0].key, used[0].entry), numbered(5).pair()[0]);
    let usage = carrier.flows.usage(&used[0].key).unwrap();
    assert_eq!(usage, Some(used[0].usage));
    let mut keys: Vec<FlowKey> = found.into_iter().map(|found| found.key).collect();
    let order = |key: &FlowKey| {
        (
            key.source_port,
            key.destination_port,
            key.zone == Zone::Pods,
        )
    };
    keys.sort_by_key(order);
    expected.sort_by_key(order);
    assert_eq!(keys, expected);

    carrier.flows.clear().unwrap();
    let mut left = Vec::new();
    let mut walk = carrier.flows.walk(64).unwrap();
    while walk.next_batch(&mut left).unwrap() {}
    assert_eq!(left, Vec::<Found>::new());
}

/// Prints what carrying a packet costs at each hook, in nanoseconds, test run included. TTL is the
/// only thing that changes for good: two flows rewrite the packet to and fro.
#[test]
#[ignore = "needs root and network namespaces"]
fn cost_of_a_packet() {
    const RUNS: u32 = 250;
    const ROUNDS: u32 = 400;
    let carrier = Carrier::new();
    let ends = |destination| Ends::V4 {
        source: OUTSIDE,
        destination,
    };
    let key = |destination, destination_port| FlowKey {
        ends: ends(destination),
        source_port: 443,
        destination_port,
        protocol: TCP,
        zone: Zone::Uplinks,
    };
    let entry = |address, port| FlowEntry {
        owner: 0,
        translation: Translation::Destination(SocketAddrV4::new(address, port)),
        destination_mac: ENI_MAC,
        source_mac: WIRE_MAC,
        exit: Exit::Pod(LOOPBACK),
        mtu: 1_500,
        epoch: EPOCH,
        via: Via::Xdp,
    };
    let pair = [
        (key(NODE, 20_000), entry(POD, 40_000)),
        (key(POD, 40_000), entry(NODE, 20_000)),
    ];
    carrier.flows.install(&pair).unwrap();
    let base = Base::new(OUTSIDE, NODE).macs(WIRE_MAC, ENI_MAC).ttl(255);
    let frame = base.tcp(443, 20_000, TcpFlags::ACK, &[0; 10]);
    for kind in [HookKind::Uplink, HookKind::UplinkTcx] {
        let mut costs: Vec<u128> = (0..ROUNDS)
            .map(|_| {
                let input = ProgramInput {
                    data_in: Some(&frame.bytes),
                    repeat: RUNS,
                    ..ProgramInput::default()
                };
                carrier
                    .rig
                    .output(kind, input, |output| output.duration.as_nanos())
            })
            .collect();
        costs.sort_unstable();
        let median = costs[costs.len() / 2];
        eprintln!("{}: {median} ns, best {}", kind.label(), costs[0]);
        assert!(median < 10_000, "{median} ns");
    }
    let counts = carrier.flows.remove(&pair.map(|(key, _)| key)).unwrap();
    let packets: u64 = counts.iter().map(|usage| usage.unwrap().packets).sum();
    assert_eq!(packets, u64::from(2 * RUNS * ROUNDS));
}
