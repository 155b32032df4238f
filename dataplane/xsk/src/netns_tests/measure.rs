//! How fast copy mode sends, by budget and send buffer. Prints ratios; run it on a quiet machine:
//! `cargo test --release -p penstock-xsk measure -- --ignored --nocapture`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::bpf;
use super::rig::{drain, ethernet, in_namespace, small, umem, veth};
use crate::{Port, PortConfig, RingSize, Umem, link};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(300);
const BURST: u32 = 64;

/// Packets a second of one port in bursts, until the time is over.
fn rate(port: &mut Port, umem: &mut Umem) -> f64 {
    let bytes = ethernet(64, 0);
    let mut sent = 0u64;
    let started = Instant::now();
    while started.elapsed() < ROUND {
        for _ in 0..BURST {
            let Some(packet) = umem.packet_from(&bytes) else {
                break;
            };
            match port.send(umem, packet) {
                Ok(()) => sent += 1,
                Err(packet) => {
                    umem.free_packet(packet);
                    break;
                }
            }
        }
        sent -= u64::from(port.flush().busy);
        port.reclaim(umem);
    }
    let elapsed = started.elapsed().as_secs_f64();
    drain(port, umem);
    sent as f64 / elapsed
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
#[ignore = "needs root, network namespaces and a quiet machine"]
fn measure_sending_by_budget_and_buffer() {
    in_namespace(|| {
        let (a, b) = veth(1500);
        let dropper = bpf::xdp_constant(1).expect("XDP_DROP loads");
        let _link = link::attach_xdp_native(dropper.as_fd(), b).expect("attach");
        let mut umem = umem(8192);
        let ring = RingSize::new(2048).expect("a power of two");
        let variants = [
            ("budget 32, default buffer", None, None),
            ("budget 128, default buffer", Some(128), None),
            ("budget 32, 4 MiB buffer", None, Some(4 << 20)),
            ("budget 128, 4 MiB buffer", Some(128), Some(4 << 20)),
        ];
        let mut rates = vec![vec![]; variants.len()];
        let mut kicks = vec![0.0; variants.len()];
        for _ in 0..ROUNDS {
            for (at, (_, skb_budget, send_buffer_bytes)) in variants.into_iter().enumerate() {
                let base = PortConfig {
                    tx: ring,
                    completion: ring,
                    ..small(a, 0)
                };
                let config = PortConfig {
                    skb_budget,
                    send_buffer_bytes,
                    ..base
                };
                let mut port = Port::bind(&config, &umem.handle(), None).expect("bind");
                let pps = rate(&mut port, &mut umem);
                rates[at].push(pps);
                kicks[at] = port.counters().kicks as f64 / (pps * ROUND.as_secs_f64());
                assert_eq!(port.close(&mut umem), 0);
            }
        }
        for (at, (name, ..)) in variants.iter().enumerate() {
            let ratios = rates[at]
                .iter()
                .zip(&rates[0])
                .map(|(this, base)| this / base)
                .collect();
            let pps = median(rates[at].clone());
            let ratio = median(ratios);
            eprintln!(
                "{name}: {ratio:.3} x ({pps:.0} packets/s, {:.3} calls each)",
                kicks[at]
            );
            assert!(pps > 0.0);
        }
    });
}
