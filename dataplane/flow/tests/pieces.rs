//! Datagrams in pieces through SNAT: both directions, in and out of order, with one worker and
//! with several (RFC 4787 REQ-14; P21, P22, P25, N12).

#![expect(clippy::panic, reason = "a failed test panics")]

mod node;

use node::*;
use penstock_flow::{Ingress, Verdict};
use penstock_packet::build::Frame;
use penstock_packet::{DropReason, frame_length};

/// Cuts an IPv4 frame into pieces of at most `size` bytes of payload, a multiple of eight.
fn cut(whole: &Frame, id: u16, size: usize) -> Vec<Frame> {
    let (header, payload) = whole.bytes.split_at(34);
    let count = payload.len().div_ceil(size);
    (0..count)
        .zip(payload.chunks(size))
        .map(|(n, bytes)| {
            let more = if n + 1 < count { 0x2000 } else { 0 };
            let field = (n * size / 8) as u16 | more;
            let total = 20 + bytes.len() as u16;
            Frame {
                bytes: [header, bytes].concat(),
            }
            .with(16, total.to_be_bytes())
            .with(18, id.to_be_bytes())
            .with(20, field.to_be_bytes())
            .seal()
        })
        .collect()
}

/// Puts pieces together again, in whatever order they are.
fn whole(pieces: &[Frame]) -> Frame {
    let offset = |frame: &Frame| {
        usize::from(u16::from_be_bytes([frame.bytes[20], frame.bytes[21]]) & 0x1fff) * 8
    };
    let mut sorted: Vec<&Frame> = pieces.iter().collect();
    sorted.sort_by_key(|frame| offset(frame));
    let mut bytes = sorted[0].bytes[..34].to_vec();
    for piece in sorted {
        assert_eq!(offset(piece), bytes.len() - 34, "a gap");
        bytes.extend(&piece.bytes[34..frame_length(&piece.bytes)]);
    }
    let total = (bytes.len() - 14) as u16;
    let frame = Frame { bytes };
    let frame = frame.with(16, total.to_be_bytes()).with(20, [0, 0]);
    // Only the IP header was made up here: the L4 checksum must be right as it came.
    let sum =
        penstock_packet::checksum::Sum::ZERO.bytes(&frame.clone().with(24, [0, 0]).bytes[14..34]);
    let frame = frame.with(24, sum.checksum().to_be_bytes());
    assert!(frame.is_sealed());
    frame
}

/// A node's worker with what it holds.
struct Holder {
    node: Node,
    held: Vec<(u16, Frame, Ingress)>,
}

impl Holder {
    fn new(workers: u16) -> Self {
        Self {
            node: Node::with(config(), workers, 64),
            held: Vec::new(),
        }
    }

    /// Sends a piece to a worker, and what was held for it after it. Returns what came out.
    fn send(&mut self, worker: u16, frame: &Frame, ingress: Ingress) -> Vec<Frame> {
        let mut out = Vec::new();
        let mut queue = vec![(worker, frame.clone(), ingress)];
        while let Some((worker, frame, ingress)) = queue.pop() {
            let (verdict, sent, last) = self.node.send_to(worker, &frame, ingress);
            match verdict {
                Verdict::Forward(_) => out.push(sent),
                Verdict::Hold(_) => self.held.push((last, frame, ingress)),
                other => panic!("{other:?}"),
            }
            let begun = self
                .node
                .engines
                .iter_mut()
                .any(|engine| engine.begun().is_some());
            if begun {
                queue.append(&mut self.held);
            }
        }
        out
    }
}

/// A question and its answer of 4,000 bytes, both in pieces, each order, each worker first.
#[test]
fn p21_p22_n12_a_long_answer_arrives_whatever_its_order() {
    let question: Vec<u8> = (0..2_000u32).map(|n| n as u8).collect();
    let answer: Vec<u8> = (0..4_000u32).map(|n| (n * 7) as u8).collect();
    for workers in [1, 2, 5] {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]] {
            for first in 0..workers {
                let mut holder = Holder::new(workers);
                let asked = from_pod(0, OUTSIDE).udp(5353, 53, &question);
                let mut out = Vec::new();
                for piece in cut(&asked, 77, 1_480).iter().rev() {
                    out.extend(holder.send(first, piece, TRUNK));
                }
                let seen = whole(&out);
                let (source, destination, port, _) = names(&seen);
                assert_eq!((source, destination), (NODE, OUTSIDE));
                assert_eq!(seen.bytes[42..], question);

                let back = from_eni(0, OUTSIDE, NODE).udp(53, port, &answer);
                let pieces = cut(&back, 99, 1_480);
                let mut out = Vec::new();
                for at in order {
                    out.extend(holder.send(first, &pieces[at], ETH0));
                }
                assert!(holder.held.is_empty());
                let seen = whole(&out);
                assert_eq!(names(&seen), (OUTSIDE, PODS[0], 53, 5353));
                assert_eq!(seen.bytes[42..], answer);
            }
        }
    }
}

#[test]
fn p25_overlapping_pieces_end_their_datagram() {
    let mut node = Node::new();
    let asked = from_pod(0, OUTSIDE).udp(5353, 53, &[7; 3_000]);
    let pieces = cut(&asked, 5, 1_480);
    node.forwarded(&pieces[0], TRUNK);
    node.forwarded(&pieces[1], TRUNK);
    let overlap = Verdict::Drop(DropReason::FragOverlap);
    assert_eq!(node.send(&pieces[1], TRUNK).0, overlap);
    assert_eq!(node.send(&pieces[2], TRUNK).0, overlap, "the rest as well");
    // The next datagram is a new one.
    for piece in cut(&asked, 6, 1_480) {
        node.forwarded(&piece, TRUNK);
    }
    // Untranslated ones are held to the same.
    let local = cut(&from_pod(0, PEER).udp(1, 2, &[7; 2_000]), 9, 1_480);
    node.forwarded(&local[0], TRUNK);
    assert_eq!(node.send(&local[0], TRUNK).0, overlap);
}

#[test]
fn pieces_to_the_node_itself_are_the_kernels() {
    let mut node = Node::new();
    // To a port of the node's own: the first piece tells, the others follow it.
    let pieces = cut(
        &from_eni(0, OUTSIDE, NODE).udp(53, 40_000, &[1; 3_000]),
        3,
        1_480,
    );
    for piece in &pieces {
        assert_eq!(node.send(piece, ETH0).0, Verdict::ToKernel);
    }
    // To a port that no session has: dropped by name, and nothing is kept for the others.
    let pieces = cut(
        &from_eni(0, OUTSIDE, NODE).udp(53, 12_000, &[1; 3_000]),
        4,
        1_480,
    );
    let lost = Verdict::Drop(DropReason::NatNosession);
    assert_eq!(node.send(&pieces[0], ETH0).0, lost);
    assert!(matches!(node.send(&pieces[1], ETH0).0, Verdict::Hold(_)));
}
