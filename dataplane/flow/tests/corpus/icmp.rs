//! P55 to P62 and N10: ICMP through translation, echoes and errors.

use std::net::Ipv4Addr;

use penstock_flow::{OutIf, UplinkId};
use penstock_packet::DropReason::*;
use penstock_packet::build::{Base, Frame};

use crate::node::*;
use crate::row::Fate::{Drop, Forward, Kernel};
use crate::row::{Row, run};

const OUT: OutIf = OutIf::Uplink(UplinkId(0));
const IN: OutIf = OutIf::Endpoint;
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ONE_SNAT: &[(&str, i64)] = &[
    ("flows", 1),
    ("flows_created", 1),
    ("snat_ports", 1),
    ("translated", 1),
];

fn question() -> Frame {
    from_pod(0, OUTSIDE).udp(1000, 53, b"question")
}

/// An error of the router about a frame as it was on the wire.
fn error(kind: u8, code: u8, word: u32, about: &Frame) -> Frame {
    from_eni(0, ROUTER, NODE).icmp(kind, code, word, &about.bytes[14..])
}

/// A row that begins with a translated question.
fn asked(name: &str) -> Row {
    Row::new(name).packet(question(), TRUNK, Forward(OUT))
}

#[test]
fn p55_echoes_get_identifiers_of_their_own() {
    let echo = |pod| from_pod(pod, OUTSIDE).echo(true, 7, b"ping");
    let reply = |out: &Frame| from_eni(0, OUTSIDE, NODE).echo(false, echo_id(out), b"ping");
    run(vec![
        Row::new("P55 two pods, one identifier")
            .packet(echo(0), TRUNK, Forward(OUT))
            .packet(echo(1), TRUNK, Forward(OUT))
            .check(|_, outs| assert_ne!(echo_id(&outs[0]), echo_id(&outs[1])))
            .then(move |outs| reply(&outs[1]), ETH0, Forward(IN))
            .check(|_, outs| assert_eq!((names(&outs[2]).1, echo_id(&outs[2])), (PODS[1], 7)))
            .wait(59)
            .then(move |outs| reply(&outs[0]), ETH0, Forward(IN))
            .check(|_, outs| assert_eq!((names(&outs[3]).1, echo_id(&outs[3])), (PODS[0], 7)))
            .moves(&[
                ("flows", 2),
                ("flows_created", 2),
                ("snat_ports", 2),
                ("translated", 4),
            ]),
    ]);
}

#[test]
fn p57_p62_errors_reach_the_pod_translated() {
    let mut rows = Vec::new();
    for (kind, code) in [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0), (12, 0)] {
        rows.push((format!("P57 error {kind}/{code}"), kind, code, 0));
    }
    for mtu in [0, 67, 576, 1400, 9001, 65_535] {
        rows.push((format!("P62 error 3/4, MTU {mtu}"), 3, 4, mtu));
    }
    let rows = rows.into_iter().map(|(name, kind, code, word)| {
        // The quote is what the pod sent, one hop on; the router's word goes through as it is.
        let quoted = hop(&question(), [0; 6], [0; 6]);
        let to_pod = Base::new(ROUTER, PODS[0])
            .macs(host_mac(0), pod_mac(0))
            .ttl(63);
        asked(&name)
            .wait(5)
            .then(
                move |outs| error(kind, code, word, &outs[0]),
                ETH0,
                Forward(IN),
            )
            .out(to_pod.icmp(kind, code, word, &quoted.bytes[14..]))
            .check(|node, _| {
                let flow = node.flows()[0];
                assert_eq!(
                    (flow.packets_in, flow.idle_ms),
                    (0, 5_000),
                    "N10: not a sign of life"
                );
            })
            .wait(294)
            .then(
                move |outs| error(kind, code, word, &outs[0]),
                ETH0,
                Forward(IN),
            )
            .wait(2)
            .check(|node, _| assert_eq!(node.flows(), [], "N10: nor of death"))
            .then(
                move |outs| error(kind, code, word, &outs[0]),
                ETH0,
                Drop(NatNosession),
            )
            .moves(&[
                ("flows_created", 1),
                ("flows_expired", 1),
                ("snat_ports", 1),
                ("translated", 3),
            ])
    });
    run(rows.collect());
}

#[test]
fn errors_nobody_may_believe() {
    let unasked = || Base::new(NODE, OUTSIDE).udp(12_345, 53, b"question");
    let own = || Base::new(NODE, OUTSIDE).udp(40_000, 53, b"question");
    let from_pod_about = |frame: Frame| from_pod(0, OUTSIDE).icmp(3, 3, 0, &frame.bytes[14..]);
    let answer = |pod, port| from_eni(0, OUTSIDE, PODS[pod]).udp(53, port, b"answer");
    let mut rows = vec![
        asked("P56 bad checksum").then(
            |outs| error(3, 3, 0, &outs[0]).with(36, [9, 9]),
            ETH0,
            Drop(IcmpCsum),
        ),
        asked("P58 about nobody's packet").packet(
            error(3, 3, 0, &unasked()),
            ETH0,
            Drop(NatNosession),
        ),
        asked("P59 quote of 7 bytes of L4").then(
            |outs| from_eni(0, ROUTER, NODE).icmp(3, 3, 0, &outs[0].bytes[14..41]),
            ETH0,
            Drop(IcmpInner),
        ),
        asked("P59 quote of half a header").then(
            |outs| from_eni(0, ROUTER, NODE).icmp(3, 3, 0, &outs[0].bytes[14..30]),
            ETH0,
            Drop(IcmpInner),
        ),
        asked("P60 about a packet that was not from here").packet(
            error(3, 3, 0, &question()),
            ETH0,
            Drop(IcmpInner),
        ),
        asked("P61 redirect, from the wire").then(
            |outs| error(5, 1, 0, &outs[0]),
            ETH0,
            Drop(IcmpRedirect),
        ),
        asked("P60 a pod about another pod's packet").packet(
            from_pod_about(answer(1, 1000)),
            TRUNK,
            Drop(IcmpInner),
        ),
        asked("P58 a pod about a packet it did not get").packet(
            from_pod_about(answer(0, 1001)),
            TRUNK,
            Drop(NatNosession),
        ),
        asked("P61 redirect, from a pod").packet(
            from_pod(0, OUTSIDE).icmp(5, 1, 0, &answer(0, 1000).bytes[14..]),
            TRUNK,
            Drop(IcmpRedirect),
        ),
        asked("the node's own errors are its own").packet(error(3, 3, 0, &own()), ETH0, Kernel),
    ];
    rows = rows.into_iter().map(|row| row.moves(ONE_SNAT)).collect();
    run(rows);
}

#[test]
fn p57_a_pods_own_error_goes_out_translated() {
    let answer = |outs: &[Frame]| from_eni(0, OUTSIDE, NODE).udp(53, names(&outs[0]).2, b"answer");
    run(vec![
        asked("P57 from the pod")
            .then(answer, ETH0, Forward(IN))
            .then(
                |outs| from_pod(0, OUTSIDE).icmp(3, 3, 0, &outs[1].bytes[14..]),
                TRUNK,
                Forward(OUT),
            )
            .out_as(move |outs| {
                let quoted = hop(&answer(outs), [0; 6], [0; 6]);
                Base::new(NODE, OUTSIDE)
                    .macs(eni_mac(0), gateway_mac(0))
                    .ttl(63)
                    .icmp(3, 3, 0, &quoted.bytes[14..])
            })
            .moves(&[
                ("flows", 1),
                ("flows_created", 1),
                ("snat_ports", 1),
                ("translated", 3),
            ]),
    ]);
}

#[test]
fn errors_about_untranslated_packets_go_along() {
    let sent = from_pod(0, PEER).udp(1000, 53, b"q");
    let sent6 = from_pod6(0, PEER6).udp(1000, 53, b"q");
    let error = from_eni(0, PEER, PODS[0]).icmp(3, 3, 0, &sent.bytes[14..]);
    let error6 = from_eni6(0, PEER6, PODS6[0]).icmp(1, 4, 0, &sent6.bytes[14..]);
    let between = from_pod(0, PODS[1]).udp(5, 6, b"q");
    let back = from_pod(1, PODS[0]).icmp(3, 3, 0, &between.bytes[14..]);
    let client = from_eni(1, OUTSIDE, PODS[2]).udp(5000, 80, b"q");
    let complaint = from_pod(2, OUTSIDE).icmp(3, 3, 0, &client.bytes[14..]);
    let one = &[("flows", 1), ("flows_created", 1)];
    run(vec![
        Row::new("about a packet into the VPC")
            .packet(error.clone(), ETH0, Forward(IN))
            .out(hop(&error, pod_mac(0), host_mac(0))),
        Row::new("the same over IPv6")
            .packet(error6.clone(), ETH0, Forward(IN))
            .out(hop(&error6, pod_mac(0), host_mac(0))),
        Row::new("between pods")
            .packet(between, TRUNK, Forward(IN))
            .packet(back, TRUNK, Forward(IN))
            .moves(one),
        Row::new("to a client, by the ENI it came by")
            .packet(client, ETH1, Forward(IN))
            .packet(complaint, TRUNK, Forward(OutIf::Uplink(UplinkId(1))))
            .moves(one),
    ]);
}
