//! The steps of the packet path, each by itself: `cargo bench --package penstock-perf`.
//!
//! For comparing two versions of one step on one machine; `penstock-perf run pipeline` measures
//! the whole.
#![expect(missing_docs, reason = "criterion makes a public function of its own")]

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use penstock_packet::build::{Base, Base6, Frame};
use penstock_packet::checksum::{Delta, Sum};
use penstock_packet::rewrite::{End, Macs, Side, Translation, apply4, apply6};
use penstock_packet::{TcpFlags, glance4, parse};
use penstock_perf::pipeline::{Family, Load, Meter, Order, Rig};

const BATCH: usize = 32;
const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

fn frames() -> [(&'static str, Frame); 3] {
    let [pod6, outside6] = [POD, OUTSIDE].map(|address| address.to_ipv6_compatible());
    [
        ("udp4", Base::new(POD, OUTSIDE).udp(4000, 53, &[0; 18])),
        (
            "tcp4",
            Base::new(POD, OUTSIDE).tcp(4000, 443, TcpFlags::ACK, &[]),
        ),
        ("udp6", Base6::new(pod6, outside6).udp(4000, 53, &[0; 18])),
    ]
}

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (name, frame) in frames() {
        let bytes = frame.bytes;
        group.bench_function(name, |bench| {
            bench.iter(|| parse(black_box(&bytes), bytes.len()));
        });
        group.bench_function(format!("{name}_glance"), |bench| {
            bench.iter(|| glance4(black_box(&bytes), bytes.len()));
        });
    }
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [20usize, 1500] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("whole_{length}"), |bench| {
            bench.iter(|| Sum::ZERO.bytes(black_box(&bytes)).checksum());
        });
    }
    let delta = Delta::ZERO.address(0x0a00_0005, 0x0a00_000a);
    group.throughput(Throughput::Elements(1));
    group.bench_function("by_difference", |bench| {
        bench.iter(|| delta.apply(black_box(0x1234)));
    });
    group.finish();
}

fn rewriting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rewrite");
    group.throughput(Throughput::Elements(1));
    let macs = Macs::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let end = |address, port| End { address, port };
    let snat = Translation::new(Side::Source, 17, end(POD, 4000), end(OUTSIDE, 12_000));
    let [(_, udp4), _, (_, udp6)] = frames();
    group.bench_function("snat4", |bench| {
        let mut bytes = udp4.bytes.clone();
        bench.iter(|| apply4(black_box(&mut bytes), &macs, black_box(&snat), 34));
    });
    group.bench_function("forward6", |bench| {
        let mut bytes = udp6.bytes.clone();
        bench.iter(|| apply6(black_box(&mut bytes), &macs));
    });
    group.finish();
}

/// A batch of known flows: looked up only, and from frame to rewritten frame.
fn known_flows(criterion: &mut Criterion) {
    let Ok(mut meter) = Meter::new() else {
        return;
    };
    for (name, family) in [("snat4", Family::Ip4), ("forward6", Family::Ip6)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(BATCH as u64));
        for flows in [64, 4_096, 65_536] {
            let Ok(mut rig) = Rig::new(flows) else {
                return;
            };
            let mut order = Order::new(flows);
            let mut batch = || {
                let mut load = Load::new(family, BATCH);
                load.write(std::iter::from_fn(|| Some(order.step())));
                load
            };
            for _ in 0..flows.div_ceil(BATCH as u32) {
                // The first packet of each flow; a refused one would show in the figures.
                let _ = rig.send(&mut batch(), &mut meter);
            }
            group.bench_function(format!("look_up_{flows}"), |bench| {
                bench.iter_batched(&mut batch, |load| rig.look_up(&load), BatchSize::SmallInput);
            });
            group.bench_function(format!("whole_{flows}"), |bench| {
                bench.iter_batched(
                    &mut batch,
                    |mut load| rig.send(&mut load, &mut meter),
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, parsing, checksums, rewriting, known_flows);
criterion_main!(benches);
