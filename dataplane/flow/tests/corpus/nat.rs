//! N1 to N14 and P46: how translation behaves over time and between ends.

use std::net::Ipv4Addr;

use penstock_flow::{Config, OutIf, Snat, TcpState, UplinkId};
use penstock_packet::DropReason::*;
use penstock_packet::TcpFlags;
use penstock_packet::build::Frame;

use crate::l4::{open, reply};
use crate::node::*;
use crate::row::Fate::{Answered, Drop, Forward, Kernel};
use crate::row::{Row, run};

const OUT: OutIf = OutIf::Uplink(UplinkId(0));
const IN: OutIf = OutIf::Endpoint;
const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
const SYN_ACK: TcpFlags = TcpFlags(0x12);
const FIN_ACK: TcpFlags = TcpFlags(0x11);

fn ask(pod: usize) -> Frame {
    from_pod(pod, OUTSIDE).udp(1000, 53, b"question")
}

fn answer(outs: &[Frame]) -> Frame {
    from_eni(0, OUTSIDE, NODE).udp(53, names(&outs[0]).2, b"answer")
}

fn segment(pod: usize, flags: TcpFlags) -> Frame {
    from_pod(pod, OUTSIDE).tcp(1, 2, flags, b"")
}

/// One port for everybody.
fn one_port(config: &mut Config) {
    if let Snat::Node(snat) = &mut config.snat {
        snat.ports.first = 12_000;
        snat.ports.last = 12_000;
    }
}

/// Ended, with its port still kept back.
const GONE: &[(&str, i64)] = &[
    ("flows_created", 1),
    ("flows_expired", 1),
    ("snat_ports", 1),
];

#[test]
fn n1_to_n5_idle_times() {
    let echo = from_pod(0, OUTSIDE).echo(true, 7, b"ping");
    let pong = |outs: &[Frame]| from_eni(0, OUTSIDE, NODE).echo(false, echo_id(&outs[0]), b"ping");
    run(vec![
        Row::new("N1 UDP, 300 s from the last packet of either side")
            .packet(ask(0), TRUNK, Forward(OUT))
            .wait(299)
            .then(answer, ETH0, Forward(IN))
            .wait(299)
            .then(answer, ETH0, Forward(IN))
            .wait(301)
            .then(answer, ETH0, Drop(NatNosession))
            .moves(GONE)
            .moves(&[("translated", 3)]),
        Row::new("N2 TCP established, 7,440 s")
            .on(|_| ())
            .packet(segment(0, SYN), TRUNK, Forward(OUT))
            .then(|outs| reply(outs, SYN_ACK), ETH0, Forward(IN))
            .packet(segment(0, ACK), TRUNK, Forward(OUT))
            .wait(7_439)
            .then(|outs| reply(outs, ACK), ETH0, Forward(IN))
            .wait(7_441)
            .then(|outs| reply(outs, ACK), ETH0, Drop(NatNosession))
            .moves(GONE)
            .moves(&[("translated", 4)]),
        Row::new("N3 TCP opening, 240 s")
            .packet(segment(0, SYN), TRUNK, Forward(OUT))
            .wait(239)
            .then(|outs| reply(outs, SYN_ACK), ETH0, Forward(IN))
            .wait(241)
            .then(|outs| reply(outs, SYN_ACK), ETH0, Drop(NatNosession))
            .moves(GONE)
            .moves(&[("translated", 2)]),
        open("N3 TCP closing, 240 s")
            .packet(segment(0, FIN_ACK), TRUNK, Forward(OUT))
            .wait(239)
            .then(|outs| reply(outs, ACK), ETH0, Forward(IN))
            .wait(241)
            .then(|outs| reply(outs, ACK), ETH0, Drop(NatNosession))
            .moves(GONE)
            .moves(&[("translated", 5)]),
        Row::new("N4 ICMP query, 60 s")
            .packet(echo.clone(), TRUNK, Forward(OUT))
            .wait(59)
            .then(pong, ETH0, Forward(IN))
            .wait(61)
            // The node answers pings itself, so what matches no session may be to it.
            .then(pong, ETH0, Kernel)
            .moves(GONE)
            .moves(&[("translated", 2)]),
        Row::new("N5 the pod's packets refresh")
            .packet(ask(0), TRUNK, Forward(OUT))
            .wait(200)
            .packet(ask(0), TRUNK, Forward(OUT))
            .wait(200)
            .then(answer, ETH0, Forward(IN))
            .moves(&[
                ("flows", 1),
                ("flows_created", 1),
                ("snat_ports", 1),
                ("translated", 3),
            ]),
    ]);
}

#[test]
fn n6_n11_mappings_are_of_one_endpoint_and_nobody_elses() {
    let other = Ipv4Addr::new(198, 51, 100, 8);
    let elsewhere = |pod| from_pod(pod, other).udp(1000, 53, b"question");
    let stranger = move |outs: &[Frame]| from_eni(0, other, NODE).udp(53, names(&outs[0]).2, b"x");
    let other_port = |outs: &[Frame]| from_eni(0, OUTSIDE, NODE).udp(54, names(&outs[0]).2, b"x");
    let to_port = |from, port, syn: bool| {
        let base = from_eni(0, from, NODE);
        match syn {
            true => base.tcp(9, port, SYN, b""),
            false => base.udp(9, port, b""),
        }
    };
    let mut rows = vec![
        Row::new("N6 one port towards two endpoints, not for two pods towards one")
            .on(one_port)
            .packet(ask(0), TRUNK, Forward(OUT))
            .packet(elsewhere(1), TRUNK, Forward(OUT))
            .check(|_, outs| assert_eq!((names(&outs[0]).2, names(&outs[1]).2), (12_000, 12_000)))
            .packet(ask(1), TRUNK, Answered(NatNoPort, [3, 13]))
            .packet(ask(0), TRUNK, Forward(OUT))
            .then(answer, ETH0, Forward(IN))
            .check(|_, outs| assert_eq!(names(&outs[4]).1, PODS[0]))
            .moves(&[
                ("flows", 2),
                ("flows_created", 2),
                ("snat_ports", 2),
                ("translated", 4),
            ]),
    ];
    for (name, frame) in [
        (
            "N11 another address to a mapping",
            Box::new(stranger) as Box<dyn Fn(&[Frame]) -> Frame>,
        ),
        ("N11 another port to a mapping", Box::new(other_port)),
    ] {
        rows.push(
            Row::new(name)
                .packet(ask(0), TRUNK, Forward(OUT))
                .then(frame, ETH0, Drop(NatNosession))
                .moves(&[
                    ("flows", 1),
                    ("flows_created", 1),
                    ("snat_ports", 1),
                    ("translated", 1),
                ]),
        );
    }
    for syn in [true, false] {
        for port in [11_000, 20_000, 29_999] {
            rows.push(Row::new("N11 unasked into the range").packet(
                to_port(OUTSIDE, port, syn),
                ETH0,
                Drop(NatNosession),
            ));
            // The kernel may have put a Service's client there; no worker translates to the VPC.
            rows.push(Row::new("N11 from the VPC into the range").packet(
                to_port(PEER, port, syn),
                ETH0,
                Kernel,
            ));
        }
        for port in [10_999, 30_000, 22] {
            rows.push(Row::new("beside the range it is the node's").packet(
                to_port(OUTSIDE, port, syn),
                ETH0,
                Kernel,
            ));
        }
    }
    run(rows);
}

#[test]
fn n9_ports_rest_before_they_are_used_again() {
    let syn = || segment(1, SYN);
    run(vec![
        Row::new("N9 120 s after a flow that was not seen to close")
            .on(one_port)
            .packet(ask(0), TRUNK, Forward(OUT))
            .wait(301)
            .packet(ask(1), TRUNK, Answered(NatNoPort, [3, 13]))
            .wait(119)
            .packet(ask(1), TRUNK, Answered(NatNoPort, [3, 13]))
            .wait(2)
            .packet(ask(1), TRUNK, Forward(OUT))
            .moves(&[
                ("flows", 1),
                ("flows_created", 2),
                ("flows_expired", 1),
                ("snat_ports", 1),
                ("translated", 2),
            ]),
        Row::new("N9 the same pod gets its port back meanwhile")
            .on(one_port)
            .packet(ask(0), TRUNK, Forward(OUT))
            .wait(301)
            .packet(ask(0), TRUNK, Forward(OUT))
            .moves(&[
                ("flows", 1),
                ("flows_created", 2),
                ("flows_expired", 1),
                ("snat_ports", 1),
                ("translated", 2),
            ]),
        Row::new("N9 at once after a conversation that was seen to close")
            .on(one_port)
            .packet(segment(0, SYN), TRUNK, Forward(OUT))
            .then(|outs| reply(outs, SYN_ACK), ETH0, Forward(IN))
            .packet(segment(0, ACK), TRUNK, Forward(OUT))
            .packet(segment(0, FIN_ACK), TRUNK, Forward(OUT))
            .then(|outs| reply(outs, FIN_ACK), ETH0, Forward(IN))
            .packet(segment(0, ACK), TRUNK, Forward(OUT))
            .state(TcpState::TimeWait)
            .packet(syn(), TRUNK, Answered(NatNoPort, [3, 13]))
            .wait(241)
            .packet(syn(), TRUNK, Forward(OUT))
            .moves(&[
                ("flows", 1),
                ("flows_created", 2),
                ("flows_expired", 1),
                ("snat_ports", 1),
                ("translated", 7),
            ]),
    ]);
}

/// P46 and RFC 7857 2.2: a RST is believed where its receiver would believe it.
#[test]
fn p46_resets() {
    let open_flow = &[("flows", 1), ("flows_created", 1), ("snat_ports", 1)];
    // The pod has acknowledged up to 512; the builder's segments say so.
    let reset = |sequence: u32| {
        move |outs: &[Frame]| {
            let frame = reply(outs, RST);
            frame.with(38, sequence.to_be_bytes()).seal()
        }
    };
    run(vec![
        open("P46 before the window")
            .then(reset(511), ETH0, Forward(IN))
            .state(TcpState::Established)
            .moves(open_flow)
            .moves(&[("translated", 4)]),
        open("P46 far ahead of it")
            .then(reset(512 + (1 << 24)), ETH0, Forward(IN))
            .state(TcpState::Established)
            .moves(open_flow)
            .moves(&[("translated", 4)]),
        open("in the window")
            .then(reset(512), ETH0, Forward(IN))
            .state(TcpState::Close)
            .then(|outs| reply(outs, ACK), ETH0, Forward(IN))
            .state(TcpState::Established)
            .moves(open_flow)
            .moves(&[("translated", 5)]),
        open("in the window, and silence after it")
            .then(reset(512), ETH0, Forward(IN))
            .wait(239)
            .packet(segment(0, ACK), TRUNK, Forward(OUT))
            .state(TcpState::Close)
            .wait(241)
            .then(|outs| reply(outs, ACK), ETH0, Drop(NatNosession))
            .moves(&[
                ("flows_created", 1),
                ("flows_expired", 1),
                ("translated", 5),
            ]),
    ]);
}

#[test]
fn n14_opened_again_by_both_ends_only() {
    let closed = |name: &str| {
        open(name)
            .packet(segment(0, FIN_ACK), TRUNK, Forward(OUT))
            .then(|outs| reply(outs, FIN_ACK), ETH0, Forward(IN))
            .packet(segment(0, ACK), TRUNK, Forward(OUT))
            .state(TcpState::TimeWait)
    };
    let moves = |translated| {
        [
            ("flows", 1),
            ("flows_created", 1),
            ("snat_ports", 1),
            ("translated", translated),
        ]
    };
    run(vec![
        closed("N14 SYN of one end only")
            .packet(segment(0, SYN), TRUNK, Forward(OUT))
            .packet(segment(0, ACK), TRUNK, Forward(OUT))
            .then(|outs| reply(outs, ACK), ETH0, Forward(IN))
            .state(TcpState::SynSent)
            .moves(&moves(9)),
        closed("N14 SYN of both, the pod's first")
            .packet(segment(0, SYN), TRUNK, Forward(OUT))
            .then(|outs| reply(outs, SYN_ACK), ETH0, Forward(IN))
            .packet(segment(0, ACK), TRUNK, Forward(OUT))
            .state(TcpState::Established)
            .moves(&moves(9)),
        closed("N14 SYN of both, the other's first")
            .then(|outs| reply(outs, SYN), ETH0, Forward(IN))
            .packet(segment(0, SYN_ACK), TRUNK, Forward(OUT))
            .then(|outs| reply(outs, ACK), ETH0, Forward(IN))
            .state(TcpState::Established)
            .moves(&moves(9)),
    ]);
}

/// A rule change ends a pod's flows with the pod, and keeps every other translation as it was.
#[test]
fn a_new_snapshot_keeps_what_still_holds() {
    let without_pod_0 = |config: &mut Config| {
        config.endpoints.retain(|endpoint| {
            ![PODS[0].into(), std::net::IpAddr::from(PODS6[0])].contains(&endpoint.address)
        });
    };
    run(vec![
        Row::new("no rules of translation any more")
            .packet(ask(0), TRUNK, Forward(OUT))
            .publish(|config| {
                config.vpc_cidrs.push(penstock_flow::Cidr {
                    address: OUTSIDE.into(),
                    prefix: 24,
                });
            })
            .packet(ask(0), TRUNK, Forward(OUT))
            .out_as(|outs| outs[0].clone())
            .then(answer, ETH0, Forward(IN))
            .moves(&[
                ("flows", 1),
                ("flows_created", 1),
                ("snat_ports", 1),
                ("translated", 3),
            ]),
        Row::new("the pod is gone")
            .packet(ask(0), TRUNK, Forward(OUT))
            .publish(without_pod_0)
            .then(answer, ETH0, Drop(NatNosession))
            .packet(ask(0), TRUNK, Drop(SpoofIp))
            .moves(&[("flows_created", 1), ("translated", 1)]),
    ]);
}
