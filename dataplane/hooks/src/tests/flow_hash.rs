//! The hooks' flow hash against the workers'.

use libbpf_rs::{ObjectBuilder, ProgramInput};
use penstock_packet::hash::{flow_hash, flow_hash6, queue};
use penstock_packet::{TcpFlags, build::Base};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{OUTSIDE6, Outcome, POD, POD6, Rig, as_fragment, from_pod, ip6};
use crate::HookKind;

static PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flow_hash_probe.bpf.o"));

#[test]
#[ignore = "needs root and network namespaces"]
fn c_and_rust_agree_on_random_tuples() {
    let mut builder = ObjectBuilder::default();
    let object = builder.open_memory(PROBE).unwrap().load().unwrap();
    let program = object.progs_mut().next().unwrap();
    let mut random = StdRng::seed_from_u64(0x5eed);
    for _ in 0..1_000 {
        let (source, destination): (u32, u32) = random.random();
        let (sport, dport): (u16, u16) = random.random();
        let base = Base::new(source.into(), destination.into());
        let (frame, ports) = match random.random_range(0..5) {
            0 => (base.udp(sport, dport, b"payload"), (sport, dport)),
            1 => (base.tcp(sport, dport, TcpFlags::SYN, b""), (sport, dport)),
            2 => (base.echo(true, sport, b"ping"), (sport, 0)),
            3 => (base.echo(false, sport, b"pong"), (sport, 0)),
            _ => (base.ip(47, b"some GRE"), (0, 0)),
        };
        let protocol = frame.bytes[23];
        let input = ProgramInput {
            data_in: Some(&frame.bytes),
            ..ProgramInput::default()
        };
        let hash = program.test_run(input).unwrap().return_value;
        let expected = flow_hash(source, destination, ports.0, ports.1, protocol);
        assert_eq!(
            hash, expected,
            "{source:08x} {destination:08x} {ports:?} {protocol}"
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c_and_rust_agree_on_random_ip6_tuples() {
    let mut builder = ObjectBuilder::default();
    let object = builder.open_memory(PROBE).unwrap().load().unwrap();
    let program = object.progs_mut().next().unwrap();
    let mut random = StdRng::seed_from_u64(0x5eed6);
    for _ in 0..1_000 {
        let (source, destination): (u128, u128) = random.random();
        let (sport, dport): (u16, u16) = random.random();
        let ports = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
        let (protocol, l4, ports) = match random.random_range(0..4) {
            0 => (ip6::UDP, [ports, vec![0; 4]].concat(), (sport, dport)),
            1 => (ip6::TCP, [ports, vec![0; 16]].concat(), (sport, dport)),
            2 => (ip6::ICMP6, ip6::icmp6(128, &ports), (sport, 0)),
            _ => (47, ports, (0, 0)),
        };
        // The same hash behind an extension header.
        let (next, l4) = match random.random() {
            true => (protocol, l4),
            false => (ip6::DESTINATION, [ip6::extension(protocol, 2), l4].concat()),
        };
        let frame = ip6::frame([[2; 6]; 2], [source.into(), destination.into()], next, &l4);
        let input = ProgramInput {
            data_in: Some(&frame),
            ..ProgramInput::default()
        };
        let hash = program.test_run(input).unwrap().return_value;
        let expected = flow_hash6(source, destination, ports.0, ports.1, protocol);
        assert_eq!(hash, expected, "{frame:02x?}");
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn all_fragments_of_a_datagram_meet() {
    const WORKERS: u32 = 4;
    let rig = Rig::new(WORKERS);
    let (pod, remote) = (POD6.to_bits(), OUTSIDE6.to_bits());
    let piece = |next, word: u16| {
        let rest = [ip6::fragment(next, word), ip6::udp(1, 2)].concat();
        ip6::from_pod(OUTSIDE6, ip6::FRAGMENT, &rest)
    };
    let whole = from_pod(super::OUTSIDE).udp(40_000, 53, b"12345678");
    let four = flow_hash(POD.to_bits(), super::OUTSIDE.to_bits(), 0, 0, 17);
    let cases = [
        (four, as_fragment(&whole, 0x2000)),
        (four, as_fragment(&whole, 0x2002)),
        (four, as_fragment(&whole, 0x0004)),
        (flow_hash6(pod, remote, 0, 0, 17), piece(17, 1)),
        (flow_hash6(pod, remote, 0, 0, 17), piece(17, 17)),
        (flow_hash6(pod, remote, 0, 0, 17), piece(17, 16)),
    ];
    for (hash, frame) in cases {
        for worker in 0..WORKERS {
            rig.beat(worker, u64::MAX >> 2);
        }
        rig.forget_lapses(WORKERS);
        rig.beat(u32::from(queue(hash, 4)), 0);
        rig.expect(HookKind::Pod, &frame, Outcome::Fallback);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn pod_hook_chooses_the_queue_of_the_hash() {
    const WORKERS: u32 = 4;
    let rig = Rig::new(WORKERS);
    let mut used = [0; WORKERS as usize];
    for port in 0..64_u16 {
        let remote = super::OUTSIDE;
        let hash = flow_hash(POD.to_bits(), remote.to_bits(), 40_000 + port, 53, 17);
        let owner = queue(hash, 4);
        used[usize::from(owner)] += 1;
        // Only the owner is away, so only a packet that was steered to it falls back.
        rig.beat(u32::from(owner), 0);
        let frame = from_pod(remote).udp(40_000 + port, 53, b"");
        rig.expect(HookKind::Pod, &frame.bytes, Outcome::Fallback);
        for other in (0..WORKERS).filter(|worker| *worker != u32::from(owner)) {
            rig.beat(other, 0);
        }
        rig.beat(u32::from(owner), u64::MAX >> 2);
        rig.forget_lapses(WORKERS);
        rig.expect(HookKind::Pod, &frame.bytes, Outcome::Worker);
        for worker in 0..WORKERS {
            rig.beat(worker, u64::MAX >> 2);
        }
    }
    assert!(used.iter().all(|flows| *flows > 0), "{used:?}");
}
