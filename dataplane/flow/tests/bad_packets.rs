//! Packets that are bent at random: whatever comes in, a verdict comes out. What each bad packet
//! comes to is in the corpus.

mod node;

use node::*;
use penstock_flow::{Ingress, Verdict};
use penstock_packet::TcpFlags;
use penstock_packet::build::Frame;
use proptest::prelude::*;

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
        (from_pod6(0, PEER6).udp(1, 2, b"abc"), TRUNK),
        (
            from_pod6(0, PODS6[1]).tcp(1, 2, TcpFlags::SYN, b"abc"),
            TRUNK,
        ),
        (from_eni6(0, PEER6, PODS6[0]).udp(1, 2, b"abc"), ETH0),
        (
            from_pod6(0, PEER6).udp(1, 2, &[0; 8]).fragment(7, 0, true),
            TRUNK,
        ),
        (
            from_pod6(0, PEER6)
                .udp(1, 2, b"abc")
                .extension(60, &[0; 6])
                .extension(0, &[0; 6]),
            TRUNK,
        ),
        (
            from_pod(0, OUTSIDE)
                .udp(1, 2, &[0; 8])
                .with(20, [0x20, 0])
                .seal(),
            TRUNK,
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(runs(4_000)))]
    /// Bent packets, sealed so that they get far: a verdict every time, nothing touched unless
    /// forwarded, no more flows than packets, and answers that are valid packets.
    #[test]
    fn bent_packets(
        shots in proptest::collection::vec(
            (0usize..13, proptest::collection::vec((0usize..70, any::<u8>()), 0..4), any::<bool>()),
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
                Verdict::HandOff(_) | Verdict::Hold(_) | Verdict::ToKernel | Verdict::Drop(_) => {}
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
