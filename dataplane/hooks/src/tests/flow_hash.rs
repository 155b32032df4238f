//! The hooks' flow hash against the workers'.

use libbpf_rs::{ObjectBuilder, ProgramInput};
use penstock_packet::hash::{flow_hash, queue};
use penstock_packet::{TcpFlags, build::Base};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Outcome, POD, Rig, from_pod};
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
