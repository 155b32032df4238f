//! What happens to good packets: each path's verdict, bytes and counts.

mod node;

use std::net::Ipv4Addr;
use std::time::Duration;

use node::*;
use penstock_flow::{
    Access, EngineStats, OutIf, PortChoice, PortRange, Snat, TcpState, UplinkId, Verdict,
};
use penstock_packet::{DropReason, TcpFlags};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
const SYN_ACK: TcpFlags = TcpFlags(0x12);
const FIN_ACK: TcpFlags = TcpFlags(0x11);

#[test]
fn pod_to_pod_on_the_node_and_back() {
    let mut node = Node::new();
    let there = from_pod(0, PODS[1]).udp(1000, 53, b"question");
    let (verdict, out) = node.send(&there, TRUNK);
    assert_eq!(verdict, Verdict::Forward(OutIf::Endpoint));
    assert_eq!(out, hop(&there, pod_mac(1), host_mac(1)));
    let back = from_pod(1, PODS[0]).udp(53, 1000, b"answer");
    let (verdict, out) = node.send(&back, TRUNK);
    assert_eq!(verdict, Verdict::Forward(OutIf::Endpoint));
    assert_eq!(out, hop(&back, pod_mac(0), host_mac(0)));
    let expected = EngineStats {
        flows: 1,
        flows_created: 1,
        ..EngineStats::default()
    };
    assert_eq!(node.engines[0].stats(), expected);
    let flow = node.engines[0].flows(node.now).next().unwrap();
    assert_eq!(
        (flow.pod, flow.pod_port, flow.remote, flow.remote_port),
        (PODS[0].into(), 1000, PODS[1].into(), 53)
    );
    assert_eq!((flow.packets_out, flow.packets_in, flow.snat), (1, 1, None));
}

#[test]
fn pod_to_the_vpc_leaves_by_its_own_eni_untranslated() {
    let mut node = Node::new();
    for (pod, eni) in [(0, 0), (1, 0), (2, 1)] {
        let there = from_pod(pod, PEER).tcp(4000, 80, SYN, &[]);
        let (verdict, out) = node.send(&there, TRUNK);
        assert_eq!(verdict, Verdict::Forward(OutIf::Uplink(UplinkId(eni))));
        assert_eq!(out, hop(&there, gateway_mac(eni), eni_mac(eni)));
        let back = from_eni(eni, PEER, PODS[pod]).tcp(80, 4000, SYN_ACK, &[]);
        let (verdict, out) = node.send(&back, penstock_flow::Ingress::Uplink(UplinkId(eni)));
        assert_eq!(verdict, Verdict::Forward(OutIf::Endpoint));
        assert_eq!(out, hop(&back, pod_mac(pod), host_mac(pod)));
    }
    // Excluded prefixes are treated as the VPC's.
    let there = from_pod(2, Ipv4Addr::new(192, 168, 3, 4)).udp(1, 2, b"x");
    assert_eq!(
        node.send(&there, TRUNK),
        (
            Verdict::Forward(OutIf::Uplink(UplinkId(1))),
            hop(&there, gateway_mac(1), eni_mac(1)),
        )
    );
    assert_eq!(node.engines[0].stats().translated, 0);
}

#[test]
fn pod_to_outside_is_translated_on_the_primary_eni() {
    let mut node = Node::new();
    // Pod 3's address is on the second ENI; translated, it leaves by the first.
    let there = from_pod(2, OUTSIDE).tcp(4000, 443, SYN, &[]);
    let (verdict, out) = node.send(&there, TRUNK);
    assert_eq!(verdict, Verdict::Forward(OutIf::Uplink(UplinkId(0))));
    let (source, destination, port, remote_port) = names(&out);
    assert_eq!((source, destination, remote_port), (NODE, OUTSIDE, 443));
    assert!((11000..=29999).contains(&port));
    // Back to what the pod sent, but for the hop.
    let expected = hop(&there, gateway_mac(0), eni_mac(0))
        .with(26, NODE.octets())
        .with(34, port.to_be_bytes())
        .seal();
    assert_eq!(out, expected);

    let back = from_eni(0, OUTSIDE, NODE).tcp(443, port, SYN_ACK, &[]);
    let (verdict, out) = node.send(&back, ETH0);
    assert_eq!(verdict, Verdict::Forward(OutIf::Endpoint));
    assert_eq!(names(&out), (OUTSIDE, PODS[2], 443, 4000));
    assert!(out.is_sealed());
    assert_eq!(out.bytes[..12], [pod_mac(2), host_mac(2)].concat());

    // The same flow keeps its port; another one gets another.
    assert_eq!(names(&node.forwarded(&there, TRUNK)).2, port);
    let expected = EngineStats {
        flows: 1,
        flows_created: 1,
        snat_ports: 1,
        translated: 3,
        ..EngineStats::default()
    };
    assert_eq!(node.engines[0].stats(), expected);
    let flow = node.engines[0].flows(node.now).next().unwrap();
    let end = flow.snat.unwrap();
    assert_eq!((end.address, end.port), (NODE, port));
    assert_eq!(flow.state, Some(TcpState::SynRecv));
    assert_eq!((flow.packets_out, flow.packets_in), (2, 1));
}

#[test]
fn echo_is_translated_by_its_identifier() {
    let mut node = Node::new();
    // Two pods ask with the same identifier: P55.
    let outs: Vec<u16> = [0, 1]
        .map(|pod| echo_id(&node.forwarded(&from_pod(pod, OUTSIDE).echo(true, 7, b"ping"), TRUNK)))
        .to_vec();
    assert_ne!(outs[0], outs[1]);
    for (pod, id) in [0, 1].into_iter().zip(outs) {
        let back = from_eni(0, OUTSIDE, NODE).echo(false, id, b"ping");
        let out = node.forwarded(&back, ETH0);
        assert_eq!((names(&out).1, echo_id(&out)), (PODS[pod], 7));
    }
    // An answer nobody asked for may be to the node itself.
    let stray = from_eni(0, OUTSIDE, NODE).echo(false, 10_999, b"ping");
    assert_eq!(node.send(&stray, ETH0).0, Verdict::ToKernel);
    let stray = from_eni(0, Ipv4Addr::new(198, 51, 100, 8), NODE).echo(false, 12_000, b"ping");
    assert_eq!(node.send(&stray, ETH0).0, Verdict::ToKernel);
    // A request to the node is its own to answer.
    let ask = from_eni(0, OUTSIDE, NODE).echo(true, 12_000, b"ping");
    assert_eq!(node.send(&ask, ETH0).0, Verdict::ToKernel);
    // Un-NATed echoes, both ways round.
    let out = node.forwarded(&from_pod(0, PEER).echo(true, 9, b"x"), TRUNK);
    assert_eq!((names(&out).0, echo_id(&out)), (PODS[0], 9));
    node.forwarded(&from_eni(0, PEER, PODS[0]).echo(false, 9, b"x"), ETH0);
    node.forwarded(&from_eni(0, PEER, PODS[0]).echo(true, 9, b"x"), ETH0);
    node.forwarded(&from_pod(0, PEER).echo(false, 9, b"x"), TRUNK);
}

#[test]
fn external_snat_leaves_by_the_pods_own_eni() {
    let mut node = Node::with(
        penstock_flow::Config {
            snat: Snat::External,
            ..config()
        },
        1,
        64,
    );
    let there = from_pod(2, OUTSIDE).udp(1000, 53, b"x");
    assert_eq!(
        node.send(&there, TRUNK),
        (
            Verdict::Forward(OutIf::Uplink(UplinkId(1))),
            hop(&there, gateway_mac(1), eni_mac(1)),
        )
    );
    assert_eq!(node.engines[0].stats().snat_ports, 0);
}

#[test]
fn answers_to_an_outside_client_return_untranslated_by_the_same_eni() {
    let mut node = Node::new();
    let ask = from_eni(1, OUTSIDE, PODS[2]).tcp(5000, 80, SYN, &[]);
    let (verdict, out) = node.send(&ask, ETH1);
    assert_eq!(verdict, Verdict::Forward(OutIf::Endpoint));
    assert_eq!(out, hop(&ask, pod_mac(2), host_mac(2)));
    let answer = from_pod(2, OUTSIDE).tcp(80, 5000, SYN_ACK, &[]);
    assert_eq!(
        node.send(&answer, TRUNK),
        (
            Verdict::Forward(OutIf::Uplink(UplinkId(1))),
            hop(&answer, gateway_mac(1), eni_mac(1)),
        )
    );
    let flow = node.engines[0].flows(node.now).next().unwrap();
    assert_eq!(
        (flow.pod, flow.pod_port, flow.state),
        (PODS[2].into(), 80, Some(TcpState::SynRecv))
    );
}

#[test]
fn what_is_the_kernels_goes_there_with_its_ttl() {
    let mut node = Node::with(
        penstock_flow::Config {
            imds: Access::Allow,
            ..config()
        },
        1,
        64,
    );
    let eni1 = Ipv4Addr::new(10, 0, 1, 10);
    let from_pods = [
        NODE,
        eni1,
        Ipv4Addr::new(172, 20, 0, 1),
        Ipv4Addr::new(169, 254, 169, 253),
        Ipv4Addr::new(169, 254, 169, 254),
    ];
    for destination in from_pods {
        let frame = from_pod(0, destination).ttl(1).tcp(1, 2, SYN, &[]);
        let (verdict, out) = node.send(&frame, TRUNK);
        assert_eq!(verdict, Verdict::ToKernel, "{destination}");
        assert_eq!(out, frame.with(0, TRUNK_MAC));
    }
    for destination in [NODE, eni1, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::BROADCAST] {
        let frame = from_eni(0, PEER, destination).tcp(1, 22, SYN, &[]);
        assert_eq!(
            node.send(&frame, ETH0).0,
            Verdict::ToKernel,
            "{destination}"
        );
    }
    assert_eq!(node.engines[0].stats(), EngineStats::default());
}

#[test]
fn an_unresolved_router_is_the_kernels_to_resolve() {
    let mut unresolved = config();
    unresolved.uplinks[0].gateway_mac = None;
    let mut node = Node::with(unresolved.clone(), 1, 64);
    let frame = from_pod(0, PEER).udp(1, 2, b"x");
    assert_eq!(node.send(&frame, TRUNK).0, Verdict::ToKernel);
    node.publish(config());
    node.forwarded(&frame, TRUNK);
    // So are the packets of a flow that is up; it goes on when the router is known again.
    node.publish(unresolved);
    assert_eq!(node.send(&frame, TRUNK).0, Verdict::ToKernel);
    node.publish(config());
    assert_eq!(node.forwarded(&frame, TRUNK).bytes[..6], gateway_mac(0));
    assert_eq!(node.engines[0].stats().flows_created, 1);
}

#[test]
fn other_protocols_travel_untranslated_only() {
    let mut node = Node::new();
    let there = from_pod(0, PEER).ip(47, &[0; 12]);
    node.forwarded(&there, TRUNK);
    node.forwarded(&from_eni(0, PEER, PODS[0]).ip(47, &[0; 12]), ETH0);
    let (verdict, _) = node.send(&from_pod(0, OUTSIDE).ip(47, &[0; 12]), TRUNK);
    assert_eq!(verdict, Verdict::Drop(DropReason::NatProto));
    let (verdict, _) = node.send(&from_pod(0, OUTSIDE).icmp(13, 0, 0, &[0; 12]), TRUNK);
    assert_eq!(verdict, Verdict::Drop(DropReason::NatProto));
    node.forwarded(&from_pod(0, PEER).icmp(13, 0, 0, &[0; 12]), TRUNK);
}

#[test]
fn ttl_and_size() {
    let mut node = Node::new();
    for ttl in [0, 1] {
        for (frame, ingress) in [
            (from_pod(0, PODS[1]).ttl(ttl).udp(1, 2, b"x"), TRUNK),
            (from_pod(0, OUTSIDE).ttl(ttl).udp(1, 2, b"x"), TRUNK),
            (from_eni(0, PEER, PODS[0]).ttl(ttl).udp(1, 2, b"x"), ETH0),
        ] {
            let (verdict, _) = node.send(&frame, ingress);
            let Verdict::Reject(rejection) = verdict else {
                panic!("{verdict:?}")
            };
            assert_eq!(rejection.reason, DropReason::Ttl);
            let answer = node.answer(&frame, verdict).unwrap();
            assert!(answer.is_sealed());
            assert_eq!((answer.bytes[34], answer.bytes[35]), (11, 0));
            assert_eq!(
                (names(&answer).0, names(&answer).1),
                (NODE, names(&frame).0)
            );
            assert_eq!(answer.bytes[..6], frame.bytes[6..12]);
            node.wait(Duration::from_secs(1));
        }
    }
    assert_eq!(
        node.engines[0].stats().flows_created,
        0,
        "nothing is remembered of them"
    );
    node.forwarded(&from_pod(0, PEER).ttl(2).udp(1, 2, b"x"), TRUNK);

    let long = from_pod(0, OUTSIDE).udp(3, 4, &[0; 1473]);
    assert_eq!(node.send(&long, TRUNK).0, Verdict::ToKernel);
    let long = long.dont_fragment();
    let (verdict, _) = node.send(&long, TRUNK);
    let Verdict::Reject(rejection) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(rejection.reason, DropReason::Mtu);
    let answer = node.answer(&long, verdict).unwrap();
    assert_eq!(answer.bytes[34..42][..2], [3, 4]);
    assert_eq!(answer.bytes[40..42], 1500u16.to_be_bytes());
    node.forwarded(
        &from_pod(0, OUTSIDE).udp(3, 4, &[0; 1472]).dont_fragment(),
        TRUNK,
    );
}

#[test]
fn icmp_errors_are_rationed_and_never_about_errors() {
    let mut node = Node::new();
    let frame = from_pod(0, PEER).ttl(1).udp(1, 2, b"x");
    let other = from_pod(1, PEER).ttl(1).udp(1, 2, b"x");
    let mut answers = 0;
    for _ in 0..50_000 {
        // 50,000 in one second.
        node.now = node.now.after(Duration::from_micros(20));
        let (verdict, _) = node.send(&frame, TRUNK);
        answers += u32::from(node.answer(&frame, verdict).is_some());
    }
    assert!((90..=100).contains(&answers), "{answers}");
    let (verdict, _) = node.send(&other, TRUNK);
    assert!(
        node.answer(&other, verdict).is_some(),
        "another pod is not held to it"
    );

    let quoted = from_eni(0, PEER, PODS[0]).udp(2, 1, b"x");
    let error = from_pod(0, PEER)
        .ttl(1)
        .icmp(3, 3, 0, &quoted.bytes[14..42]);
    node.wait(Duration::from_secs(1));
    let (verdict, _) = node.send(&error, TRUNK);
    assert!(matches!(verdict, Verdict::Reject(_)));
    assert!(node.answer(&error, verdict).is_none());
}

#[test]
fn tcp_closes_and_its_port_is_free_at_once() {
    let mut config = config();
    if let Snat::Node(snat) = &mut config.snat {
        snat.ports = PortRange {
            first: 11000,
            last: 11000,
        };
    }
    let mut node = Node::with(config, 1, 64);
    let out = |flags| from_pod(0, OUTSIDE).tcp(4000, 443, flags, &[]);
    let back = |flags| from_eni(0, OUTSIDE, NODE).tcp(443, 11000, flags, &[]);
    let state = |node: &Node| {
        node.engines[0]
            .flows(node.now)
            .next()
            .and_then(|flow| flow.state)
    };
    for (frame, ingress, expected) in [
        (out(SYN), TRUNK, TcpState::SynSent),
        (back(SYN_ACK), ETH0, TcpState::SynRecv),
        (out(ACK), TRUNK, TcpState::Established),
        (back(FIN_ACK), ETH0, TcpState::FinWait),
        (out(ACK), TRUNK, TcpState::CloseWait),
        (out(FIN_ACK), TRUNK, TcpState::LastAck),
        (back(ACK), ETH0, TcpState::TimeWait),
    ] {
        node.forwarded(&frame, ingress);
        assert_eq!(state(&node), Some(expected));
    }
    let other = from_pod(1, OUTSIDE).tcp(4000, 443, SYN, &[]);
    assert!(
        matches!(node.send(&other, TRUNK).0, Verdict::Reject(_)),
        "still held"
    );
    node.wait(Duration::from_secs(242));
    assert_eq!(node.engines[0].stats().snat_ports, 0);
    node.forwarded(&other, TRUNK);
}

#[test]
fn timers_hold_and_quarantine_keeps_a_port_from_others() {
    let mut config = config();
    if let Snat::Node(snat) = &mut config.snat {
        snat.ports = PortRange {
            first: 11000,
            last: 11000,
        };
    }
    let mut node = Node::with(config, 1, 64);
    let mine = from_pod(0, OUTSIDE).udp(1000, 53, b"x");
    let other = from_pod(1, OUTSIDE).udp(1000, 53, b"x");
    let elsewhere = from_pod(1, Ipv4Addr::new(198, 51, 100, 10)).udp(1000, 53, b"x");
    let answer = from_eni(0, OUTSIDE, NODE).udp(53, 11000, b"y");
    node.forwarded(&mine, TRUNK);
    node.forwarded(&elsewhere, TRUNK);
    node.wait(Duration::from_secs(299));
    node.forwarded(&answer, ETH0);
    node.wait(Duration::from_secs(299));
    node.forwarded(&mine, TRUNK);
    // Idle: the flow ends, its port is quarantined.
    node.wait(Duration::from_secs(302));
    assert_eq!(
        node.send(&answer, ETH0).0,
        Verdict::Drop(DropReason::NatNosession)
    );
    assert!(matches!(node.send(&other, TRUNK).0, Verdict::Reject(_)));
    assert_eq!(
        (
            node.engines[0].stats().flows,
            node.engines[0].stats().snat_ports
        ),
        (0, 1)
    );
    // The pod that had it may go on with it.
    assert_eq!(names(&node.forwarded(&mine, TRUNK)).2, 11000);
    node.forwarded(&answer, ETH0);
    node.wait(Duration::from_secs(302));
    assert!(matches!(node.send(&other, TRUNK).0, Verdict::Reject(_)));
    node.wait(Duration::from_secs(121));
    assert_eq!(names(&node.forwarded(&other, TRUNK)).0, NODE);
    let stats = node.engines[0].stats();
    assert_eq!(
        (stats.flows, stats.snat_ports, stats.flows_expired),
        (1, 1, 3)
    );
}

#[test]
fn exhaustion_refuses_the_new_and_spares_the_old() {
    for choice in [PortChoice::Prng, PortChoice::Hashrandom, PortChoice::None] {
        let mut config = config();
        if let Snat::Node(snat) = &mut config.snat {
            snat.ports = PortRange {
                first: 11000,
                last: 11255,
            };
            snat.choice = choice;
        }
        let mut node = Node::with(config, 1, 1024);
        let frame = |port| from_pod(0, OUTSIDE).udp(port, 53, b"x");
        let mut given = std::collections::HashMap::new();
        let mut refused = 0;
        for port in 1000..1300 {
            match node.send(&frame(port), TRUNK) {
                (Verdict::Forward(_), out) => {
                    assert!(given.insert(names(&out).2, port).is_none(), "leased twice");
                }
                (Verdict::Reject(rejection), _) => {
                    assert_eq!(rejection.reason, DropReason::NatNoPort);
                    refused += 1;
                }
                (other, _) => panic!("{other:?}"),
            }
        }
        assert_eq!((given.len(), refused), (256, 44), "{choice:?}");
        if choice == PortChoice::None {
            assert_eq!(given[&11000], 1000);
            assert_eq!(given[&11255], 1255);
        }
        for (outside, inside) in given {
            let back = from_eni(0, OUTSIDE, NODE).udp(53, outside, b"y");
            assert_eq!(names(&node.forwarded(&back, ETH0)).3, inside);
        }
        // Towards another remote endpoint the same ports are free.
        node.forwarded(&from_pod(0, OUTSIDE).udp(1000, 54, b"x"), TRUNK);
    }
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_old_ones() {
    let mut node = Node::with(config(), 1, 16);
    let frame = |port| from_pod(0, PEER).udp(port, 53, b"x");
    for port in 1..=16 {
        node.forwarded(&frame(port), TRUNK);
    }
    for port in 17..100 {
        assert_eq!(
            node.send(&frame(port), TRUNK).0,
            Verdict::Drop(DropReason::FlowTableFull)
        );
    }
    for port in 1..=16 {
        node.forwarded(&frame(port), TRUNK);
    }
    assert_eq!(node.engines[0].stats().flows, 16);
    node.wait(Duration::from_secs(302));
    assert_eq!(node.engines[0].stats().flows, 0);
    node.forwarded(&frame(50), TRUNK);
}

#[test]
fn a_new_snapshot_moves_flows_without_remapping_them() {
    let mut node = Node::new();
    let out = from_pod(0, OUTSIDE).tcp(4000, 443, SYN, &[]);
    let port = names(&node.forwarded(&out, TRUNK)).2;
    let vpc = from_pod(0, PEER).udp(1, 2, b"x");
    node.forwarded(&vpc, TRUNK);

    // Another router MAC; the destination is excluded from translation now.
    let mut changed = config();
    changed.uplinks[0].gateway_mac = Some([2, 0xee, 9, 9, 9, 9]);
    if let Snat::Node(snat) = &mut changed.snat {
        snat.exclude_cidrs.push(penstock_flow::Cidr {
            address: OUTSIDE.into(),
            prefix: 32,
        });
    }
    node.publish(changed);
    let frame = node.forwarded(&from_pod(0, OUTSIDE).tcp(4000, 443, ACK, &[]), TRUNK);
    assert_eq!((names(&frame).0, names(&frame).2), (NODE, port));
    assert_eq!(frame.bytes[..6], [2, 0xee, 9, 9, 9, 9]);
    assert_eq!(
        node.forwarded(&vpc, TRUNK).bytes[..6],
        [2, 0xee, 9, 9, 9, 9]
    );
    // New flows go by the new rules.
    let fresh = node.forwarded(&from_pod(0, OUTSIDE).tcp(4001, 443, SYN, &[]), TRUNK);
    assert_eq!(names(&fresh).0, PODS[0]);

    // The pod is replaced by another with its address: nothing of its flows is inherited.
    let mut replaced = config();
    replaced.endpoints[0].pod_mac = [2, 0xcc, 9, 9, 9, 9];
    node.publish(replaced.clone());
    let back = from_eni(0, OUTSIDE, NODE).tcp(443, port, ACK, &[]);
    assert_eq!(
        node.send(&back, ETH0).0,
        Verdict::Drop(DropReason::NatNosession)
    );
    // The pod is gone.
    replaced.endpoints.remove(0);
    node.publish(replaced);
    let back = from_eni(0, PEER, PODS[0]).udp(2, 1, b"x");
    assert_eq!(node.send(&back, ETH0).0, Verdict::Drop(DropReason::NoLocal));
    assert_eq!(node.send(&vpc, TRUNK).0, Verdict::Drop(DropReason::SpoofIp));
}

#[test]
fn every_packet_of_a_flow_finds_its_worker() {
    for workers in [2, 3, 7] {
        let mut node = Node::with(config(), workers, 1024);
        let mut seen = vec![false; usize::from(workers)];
        for port in 2000..2100 {
            let out = from_pod(0, OUTSIDE).udp(port, 53, b"x");
            let (verdict, frame, owner) = node.send_to(port % workers, &out, TRUNK);
            assert_eq!(verdict, Verdict::Forward(OutIf::Uplink(UplinkId(0))));
            let hash = penstock_packet::hash::flow_hash(
                PODS[0].to_bits(),
                OUTSIDE.to_bits(),
                port,
                53,
                17,
            );
            assert_eq!(
                owner,
                penstock_packet::hash::queue(hash, workers),
                "the hook's choice"
            );
            seen[usize::from(owner)] = true;
            let back = from_eni(0, OUTSIDE, NODE).udp(53, names(&frame).2, b"y");
            for start in 0..workers {
                let (verdict, frame, worker) = node.send_to(start, &back, ETH0);
                assert_eq!(
                    (verdict, worker),
                    (Verdict::Forward(OutIf::Endpoint), owner)
                );
                assert_eq!(names(&frame).3, port);
            }
            // A router's error about it comes home too.
            let error = from_eni(0, PEER, NODE).icmp(11, 0, 0, &frame.bytes[14..42]);
            let (verdict, frame, worker) = node.send_to((owner + 1) % workers, &error, ETH0);
            assert_eq!(
                (verdict, worker),
                (Verdict::Forward(OutIf::Endpoint), owner)
            );
            assert_eq!(names(&frame).1, PODS[0]);
            // Untranslated, both ways.
            let out = from_pod(0, PEER).udp(port, 53, b"x");
            let (_, _, owner) = node.send_to(0, &out, TRUNK);
            let back = from_eni(0, PEER, PODS[0]).udp(53, port, b"x");
            assert_eq!(node.send_to(0, &back, ETH0).2, owner);
        }
        assert!(seen.iter().all(|seen| *seen), "{seen:?}");
    }
}

#[test]
fn a_reset_is_forwarded_and_the_session_lives_on() {
    let mut node = Node::new();
    let out = |flags| from_pod(0, OUTSIDE).tcp(4000, 443, flags, &[]);
    let port = names(&node.forwarded(&out(SYN), TRUNK)).2;
    let back = |flags| from_eni(0, OUTSIDE, NODE).tcp(443, port, flags, &[]);
    node.forwarded(&back(SYN_ACK), ETH0);
    node.forwarded(&out(ACK), TRUNK);
    node.forwarded(&back(RST), ETH0);
    for _ in 0..10 {
        node.wait(Duration::from_secs(200));
        assert_eq!(names(&node.forwarded(&out(ACK), TRUNK)).2, port);
    }
}
