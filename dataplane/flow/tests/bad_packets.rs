//! What happens to bad packets: each row of the reliability table that reaches the engine.
#![expect(clippy::panic, reason = "a failed test panics")]

mod node;

use std::net::{Ipv4Addr, Ipv6Addr};

use node::*;
use penstock_flow::{EngineStats, Ingress, OutIf, UplinkId, Verdict};
use penstock_packet::build::{Base, Base6, Frame};
use penstock_packet::{DropReason, TcpFlags};
use proptest::prelude::*;

#[track_caller]
fn dropped(frame: &Frame, ingress: Ingress, reason: DropReason) {
    let mut node = Node::new();
    assert_eq!(node.send(frame, ingress).0, Verdict::Drop(reason));
    assert_eq!(
        node.engines[0].stats(),
        EngineStats::default(),
        "and leaves nothing behind"
    );
}

#[track_caller]
fn to_kernel(frame: &Frame, ingress: Ingress) {
    let mut node = Node::new();
    assert_eq!(node.send(frame, ingress).0, Verdict::ToKernel);
    assert_eq!(node.engines[0].stats(), EngineStats::default());
}

fn pod() -> Frame {
    from_pod(0, PEER).udp(1, 2, b"x")
}

fn eni() -> Frame {
    from_eni(0, PEER, PODS[0]).udp(1, 2, b"x")
}

#[test]
fn p04_p05_macs() {
    dropped(&pod().with(6, pod_mac(1)), TRUNK, DropReason::SpoofMac);
    dropped(&eni().with(0, eni_mac(1)), ETH0, DropReason::L2NotOurs);
    to_kernel(&eni().with(0, [0xff; 6]), ETH0);
}

#[test]
fn p06_p07_foreign_frames_are_the_kernels_on_an_eni_only() {
    for (ethertype, reason) in [
        ([0x88, 0xcc], DropReason::L2Ethertype),
        ([0x81, 0x00], DropReason::L2Vlan),
        ([0x00, 0x26], DropReason::L2Ethertype),
    ] {
        dropped(&pod().with(12, ethertype), TRUNK, reason);
        to_kernel(&eni().with(12, ethertype), ETH0);
    }
    let v6 = Base6::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST).udp(1, 2, b"x");
    let ip6 = |like: Frame| Frame {
        bytes: [&like.bytes[..12], &v6.bytes[12..]].concat(),
    };
    // P73: loopback is nobody's on the wire.
    dropped(&ip6(pod()), TRUNK, DropReason::MartianSrc);
    dropped(&ip6(eni()), ETH0, DropReason::MartianSrc);
}

#[test]
fn p11_to_p16_p19_p20_p23_p24_on_both_sides() {
    let tcp = |base: Base| base.tcp(1, 2, TcpFlags::SYN, &[]);
    type Bend = fn(Frame) -> Frame;
    let rows: [(Bend, DropReason); 9] = [
        (|frame| frame.with(14, [0x55]), DropReason::IpVersion),
        (|frame| frame.with(14, [0x44]), DropReason::Ip4Ihl),
        (|frame| frame.with(16, [0xff, 0]), DropReason::Ip4Len),
        (
            |frame| {
                let low = frame.bytes[25] ^ 1;
                frame.with(25, [low])
            },
            DropReason::Ip4Csum,
        ),
        (
            |frame| frame.options(&[131, 3, 4, 0]),
            DropReason::Ip4Srcroute,
        ),
        (|frame| frame.options(&[7, 1, 0, 0]), DropReason::Ip4Opt),
        (
            |frame| frame.with(20, [0x20, 1]).seal(),
            DropReason::FragOffset1,
        ),
        (
            |frame| {
                Frame {
                    bytes: frame.bytes[..50].to_vec(),
                }
                .fit()
                .with(20, [0x20, 0])
                .seal()
            },
            DropReason::FragTiny,
        ),
        (
            |frame| Frame {
                bytes: frame.bytes[..33].to_vec(),
            },
            DropReason::Ip4Short,
        ),
    ];
    for (bend, reason) in rows {
        dropped(&bend(tcp(from_pod(0, PEER))), TRUNK, reason);
        dropped(&bend(tcp(from_eni(0, PEER, PODS[0]))), ETH0, reason);
    }
}

#[test]
fn p15_a_trailer_is_cut() {
    let mut node = Node::new();
    let mut padded = pod();
    padded.bytes.extend([0xee; 17]);
    let out = node.forwarded(&padded, TRUNK);
    assert_eq!(out.bytes.len(), pod().bytes.len());
}

#[test]
fn p18_p21_p22_options_and_fragments_are_the_kernels() {
    to_kernel(&pod().options(&[7, 7, 4, 0, 0, 0, 0]), TRUNK);
    to_kernel(&eni().options(&[1, 1, 1, 1]), ETH0);
    for flags in [[0x20, 0], [0x20, 9], [0, 9]] {
        to_kernel(&pod().with(20, flags).seal(), TRUNK);
        to_kernel(&eni().with(20, flags).seal(), ETH0);
    }
    // The source guard comes first all the same.
    let spoofed = Base::new(PODS[1], PEER).macs(pod_mac(0), host_mac(0));
    dropped(
        &spoofed.udp(1, 2, b"x").options(&[1, 1, 1, 1]),
        TRUNK,
        DropReason::SpoofMac,
    );
}

#[test]
fn p31_p32_p33_impossible_addresses() {
    for source in [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255; 4],
    ] {
        let source = Ipv4Addr::from(source);
        let frame = |base: Base| Base { source, ..base }.udp(1, 2, b"x");
        dropped(&frame(from_pod(0, PEER)), TRUNK, DropReason::MartianSrc);
        dropped(
            &frame(from_eni(0, PEER, PODS[0])),
            ETH0,
            DropReason::MartianSrc,
        );
    }
    for destination in [[127, 0, 0, 1], [0, 0, 0, 0], [0, 9, 9, 9]] {
        let destination = Ipv4Addr::from(destination);
        let frame = |base: Base| {
            Base {
                destination,
                ..base
            }
            .udp(1, 2, b"x")
        };
        dropped(&frame(from_pod(0, PEER)), TRUNK, DropReason::MartianDst);
        dropped(
            &frame(from_eni(0, PEER, PODS[0])),
            ETH0,
            DropReason::MartianDst,
        );
    }
    dropped(
        &from_pod(0, PODS[0]).udp(1, 1, b"x"),
        TRUNK,
        DropReason::Land,
    );
    dropped(
        &from_eni(0, PODS[0], PODS[0]).udp(1, 1, b"x"),
        ETH0,
        DropReason::Land,
    );
}

#[test]
fn p34_p35_p36_addresses_on_the_wrong_side() {
    for source in [NODE, PEER, OUTSIDE] {
        let frame = Base {
            source,
            ..from_pod(0, PODS[1])
        }
        .udp(1, 2, b"x");
        dropped(&frame, TRUNK, DropReason::SpoofIp);
    }
    dropped(
        &from_eni(0, PODS[1], PODS[0]).udp(1, 2, b"x"),
        ETH0,
        DropReason::SpoofSelf,
    );
    for destination in [PEER, OUTSIDE, Ipv4Addr::new(10, 0, 0, 200)] {
        let frame = from_eni(0, Ipv4Addr::new(10, 0, 9, 9), destination).udp(1, 2, b"x");
        dropped(&frame, ETH0, DropReason::NoLocal);
    }
}

#[test]
fn p35_a_flow_is_not_open_to_forgers_on_the_other_side() {
    let mut node = Node::new();
    node.forwarded(&from_pod(0, PODS[1]).udp(1, 2, b"x"), TRUNK);
    node.forwarded(&from_pod(0, PEER).udp(1, 2, b"x"), TRUNK);
    let forged = from_eni(0, PODS[0], PODS[1]).udp(1, 2, b"x");
    assert_eq!(
        node.send(&forged, ETH0).0,
        Verdict::Drop(DropReason::SpoofSelf)
    );
    let forged = Base {
        source: PEER,
        ..from_pod(1, PODS[0])
    }
    .udp(2, 1, b"x");
    assert_eq!(
        node.send(&forged, TRUNK).0,
        Verdict::Drop(DropReason::SpoofIp)
    );
}

#[test]
fn p37_p38_p39_groups_and_metadata() {
    dropped(
        &from_pod(0, Ipv4Addr::BROADCAST).udp(1, 2, b"x"),
        TRUNK,
        DropReason::Bcast,
    );
    dropped(
        &from_pod(0, Ipv4Addr::new(239, 1, 2, 3)).udp(1, 2, b"x"),
        TRUNK,
        DropReason::Mcast,
    );
    dropped(
        &from_pod(0, Ipv4Addr::new(169, 254, 169, 254)).tcp(1, 80, TcpFlags::SYN, &[]),
        TRUNK,
        DropReason::Imds,
    );
}

#[test]
fn p43_p44_p45_p49_p52_are_judged_on_the_translated_path_only() {
    type Build = Box<dyn Fn(Base) -> Frame>;
    let syn = TcpFlags::SYN;
    let rows: [(Build, DropReason); 10] = [
        (Box::new(|base| base.ip(6, &[0; 19])), DropReason::TcpBad),
        (
            Box::new(move |base| base.tcp(1, 2, syn, &[]).with(46, [0x40])),
            DropReason::TcpBad,
        ),
        (
            Box::new(|base| base.tcp(1, 2, TcpFlags(0), &[])),
            DropReason::TcpFlags,
        ),
        (
            Box::new(|base| base.tcp(1, 2, TcpFlags(0x29), &[])),
            DropReason::TcpFlags,
        ),
        (
            Box::new(|base| base.tcp(1, 2, TcpFlags(0x03), &[])),
            DropReason::TcpFlags,
        ),
        (
            Box::new(|base| base.tcp(1, 2, TcpFlags(0x06), &[])),
            DropReason::TcpFlags,
        ),
        (
            Box::new(|base| base.tcp(1, 2, TcpFlags::ACK, b"x")),
            DropReason::NatNonsyn,
        ),
        (
            Box::new(|base| base.udp(1, 2, b"x").with(38, [0, 7])),
            DropReason::UdpLen,
        ),
        (Box::new(|base| base.udp(0, 2, b"x")), DropReason::NatPort0),
        (
            Box::new(move |base| base.tcp(1, 0, syn, b"x")),
            DropReason::NatPort0,
        ),
    ];
    for (frame, reason) in rows {
        dropped(&frame(from_pod(0, OUTSIDE)), TRUNK, reason);
        let mut node = Node::new();
        let (verdict, _) = node.send(&frame(from_pod(0, PEER)), TRUNK);
        assert_eq!(
            verdict,
            Verdict::Forward(OutIf::Uplink(UplinkId(0))),
            "{reason}"
        );
        let (verdict, _) = node.send(&frame(from_eni(0, PEER, PODS[1])), ETH0);
        assert_eq!(verdict, Verdict::Forward(OutIf::Endpoint), "{reason}");
    }
    // Nonsense never creates a session, and is not let through an open one.
    let mut node = Node::new();
    node.send(&from_pod(0, PEER).tcp(1, 2, TcpFlags(0), &[]), TRUNK);
    assert_eq!(node.engines[0].stats().flows_created, 0);
    node.forwarded(&from_pod(0, OUTSIDE).tcp(1, 2, syn, &[]), TRUNK);
    let (verdict, _) = node.send(&from_pod(0, OUTSIDE).tcp(1, 2, TcpFlags(0x3f), &[]), TRUNK);
    assert_eq!(verdict, Verdict::Drop(DropReason::TcpFlags));
}

#[test]
fn n11_unsolicited_to_the_snat_range() {
    let syn = TcpFlags::SYN;
    dropped(
        &from_eni(0, OUTSIDE, NODE).tcp(9, 11000, syn, &[]),
        ETH0,
        DropReason::NatNosession,
    );
    dropped(
        &from_eni(0, OUTSIDE, NODE).udp(9, 29999, &[]),
        ETH0,
        DropReason::NatNosession,
    );
    to_kernel(&from_eni(0, OUTSIDE, NODE).tcp(9, 10999, syn, &[]), ETH0);
    to_kernel(&from_eni(0, OUTSIDE, NODE).udp(9, 30000, &[]), ETH0);
    // Nor may anyone but the remote endpoint answer.
    let mut node = Node::new();
    let port = names(&node.forwarded(&from_pod(0, OUTSIDE).udp(1, 53, b"x"), TRUNK)).2;
    let other = from_eni(0, Ipv4Addr::new(198, 51, 100, 8), NODE).udp(53, port, b"x");
    assert_eq!(
        node.send(&other, ETH0).0,
        Verdict::Drop(DropReason::NatNosession)
    );
    let other = from_eni(0, OUTSIDE, NODE).udp(54, port, b"x");
    assert_eq!(
        node.send(&other, ETH0).0,
        Verdict::Drop(DropReason::NatNosession)
    );
}

#[test]
fn p56_to_p61_icmp_errors() {
    let router = Ipv4Addr::new(203, 0, 113, 1);
    let mut node = Node::new();
    let sent = from_pod(0, OUTSIDE).udp(1000, 53, b"question");
    let seen = node.forwarded(&sent, TRUNK);
    let before = node.engines[0].flows(node.now).next().unwrap();
    let error = |kind, code, body: &[u8]| from_eni(0, router, NODE).icmp(kind, code, 1400, body);

    node.now = node.now.after(std::time::Duration::from_secs(5));
    for (kind, code) in [(3, 3), (3, 4), (11, 0), (12, 0)] {
        let out = node.forwarded(&error(kind, code, &seen.bytes[14..]), ETH0);
        assert_eq!((names(&out).0, names(&out).1), (router, PODS[0]));
        assert_eq!(
            out.bytes[38..42],
            1400u32.to_be_bytes(),
            "P62: the MTU goes through"
        );
        // The quote is what the pod sent, one hop on.
        assert_eq!(
            out.bytes[42..],
            sent.clone().with(22, [63]).seal().bytes[14..]
        );
    }
    let after = node.engines[0].flows(node.now).next().unwrap();
    assert_eq!(
        (after.idle_ms, after.packets_in),
        (before.idle_ms + 5_000, 0),
        "N10"
    );

    let mut expect = |frame: Frame, ingress, reason| {
        assert_eq!(node.send(&frame, ingress).0, Verdict::Drop(reason));
    };
    let about = |frame: Frame| error(3, 3, &frame.bytes[14..]);
    let none = Base::new(NODE, OUTSIDE).udp(12_345, 53, b"question");
    expect(
        error(3, 3, &seen.bytes[14..]).with(36, [9, 9]),
        ETH0,
        DropReason::IcmpCsum,
    );
    expect(about(none), ETH0, DropReason::NatNosession);
    expect(
        error(3, 3, &seen.bytes[14..41]),
        ETH0,
        DropReason::IcmpInner,
    );
    expect(about(sent.clone()), ETH0, DropReason::IcmpInner);
    expect(
        error(5, 1, &seen.bytes[14..]),
        ETH0,
        DropReason::IcmpRedirect,
    );
    let pods = |body: &[u8]| from_pod(0, OUTSIDE).icmp(3, 3, 0, body);
    expect(
        pods(&from_eni(0, OUTSIDE, PODS[1]).udp(53, 1000, b"a").bytes[14..]),
        TRUNK,
        DropReason::IcmpInner,
    );
    expect(
        pods(&from_eni(0, OUTSIDE, PODS[0]).udp(53, 1001, b"a").bytes[14..]),
        TRUNK,
        DropReason::NatNosession,
    );
    // About a packet of the node's own: the kernel's.
    let own = Base::new(NODE, OUTSIDE).udp(40_000, 53, b"question");
    assert_eq!(node.send(&about(own), ETH0).0, Verdict::ToKernel);

    // A pod's own complaint about an answer goes out translated.
    let port = names(&seen).2;
    let answer = node.forwarded(&from_eni(0, OUTSIDE, NODE).udp(53, port, b"answer"), ETH0);
    let out = node.forwarded(&pods(&answer.bytes[14..]), TRUNK);
    assert_eq!((names(&out).0, names(&out).1), (NODE, OUTSIDE));
    let quoted = from_eni(0, OUTSIDE, NODE).ttl(63).udp(53, port, b"answer");
    assert_eq!(out.bytes[42..], quoted.bytes[14..]);
}

#[test]
fn errors_about_untranslated_packets_go_along() {
    let mut node = Node::new();
    let sent = from_pod(2, PEER).udp(1000, 53, b"q");
    let error = from_eni(1, PEER, PODS[2]).icmp(3, 3, 0, &sent.bytes[14..]);
    let out = node.forwarded(&error, ETH1);
    assert_eq!(out.bytes[26..], error.bytes[26..]);
    // Between pods, and to an outside client by the ENI it came in on.
    node.forwarded(&from_pod(0, PODS[1]).udp(5, 6, b"q"), TRUNK);
    let got = from_pod(0, PODS[1]).udp(5, 6, b"q");
    let back = from_pod(1, PODS[0]).icmp(3, 3, 0, &got.bytes[14..]);
    assert_eq!(node.send(&back, TRUNK).0, Verdict::Forward(OutIf::Endpoint));
    let client = from_eni(1, OUTSIDE, PODS[2]).udp(5000, 80, b"q");
    node.forwarded(&client, ETH1);
    let back = from_pod(2, OUTSIDE).icmp(3, 3, 0, &client.bytes[14..]);
    assert_eq!(
        node.send(&back, TRUNK).0,
        Verdict::Forward(OutIf::Uplink(UplinkId(1)))
    );
}

fn base_frames() -> Vec<(Frame, Ingress)> {
    let quoted = from_pod(0, OUTSIDE).udp(1, 2, b"abc");
    vec![
        (from_pod(0, PODS[1]).udp(1, 2, b"abc"), TRUNK),
        (from_pod(0, OUTSIDE).tcp(1, 2, TcpFlags::SYN, b"abc"), TRUNK),
        (from_pod(0, OUTSIDE).echo(true, 3, b"abc"), TRUNK),
        (
            from_pod(0, PEER).udp(1, 2, b"abc").options(&[7, 3, 4, 0]),
            TRUNK,
        ),
        (from_eni(0, PEER, PODS[0]).udp(1, 2, b"abc"), ETH0),
        (from_eni(0, OUTSIDE, NODE).udp(2, 12000, b"abc"), ETH0),
        (
            from_eni(0, OUTSIDE, NODE).icmp(3, 4, 1000, &quoted.bytes[14..]),
            ETH0,
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    /// Bent packets, sealed so that they get far: a verdict every time, nothing touched unless
    /// forwarded, no more flows than packets, and answers that are valid packets.
    #[test]
    fn bent_packets(
        shots in proptest::collection::vec(
            (0usize..7, proptest::collection::vec((0usize..70, any::<u8>()), 0..4), any::<bool>()),
            1..20,
        ),
    ) {
        let mut node = Node::with(config(), 2, 64);
        let frames = base_frames();
        let count = shots.len() as u64;
        for (index, bends, seal) in shots {
            let (frame, ingress) = &frames[index];
            let bent = bends.into_iter().fold(frame.clone(), |frame, (at, byte)| frame.with(at, [byte]));
            let bent = if seal { bent.seal() } else { bent };
            let good = bent.is_sealed();
            let (verdict, out) = node.send(&bent, *ingress);
            match verdict {
                Verdict::Forward(_) => prop_assert!(!good || seal_holds(&bent, &out)),
                Verdict::Reject(_) => {
                    if let Some(answer) = node.answer(&bent, verdict) {
                        prop_assert!(answer.is_sealed());
                    }
                }
                Verdict::HandOff(_) | Verdict::ToKernel | Verdict::Drop(_) => {}
            }
        }
        let created: u64 = node.engines.iter().map(|engine| engine.stats().flows_created).sum();
        prop_assert!(created <= count);
    }
}

/// A sealed packet comes out sealed, unless its L4 header lies about what its checksum covers.
fn seal_holds(before: &Frame, after: &Frame) -> bool {
    let trailer = penstock_packet::frame_length(&before.bytes) < before.bytes.len();
    after.is_sealed() || trailer
}
