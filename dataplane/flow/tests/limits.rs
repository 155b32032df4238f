//! Floods at engine level: ports, table, quotas (T30, T31). Whoever was there before does not
//! notice, and every refusal is told.
#![expect(clippy::panic, reason = "a failed test panics")]

mod node;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::time::Duration;

use node::*;
use penstock_flow::{Config, PortChoice, Snat, Verdict};
use penstock_packet::build::Frame;
use penstock_packet::{DropReason, TcpFlags};

fn with_ports(first: u16, last: u16, choice: PortChoice) -> Config {
    let mut config = config();
    if let Snat::Node(snat) = &mut config.snat {
        snat.ports.first = first;
        snat.ports.last = last;
        snat.choice = choice;
    }
    config
}

fn refused(verdict: Verdict) -> Option<DropReason> {
    match verdict {
        Verdict::Forward(_) => None,
        Verdict::Drop(reason) => Some(reason),
        Verdict::Reject(rejection) => Some(rejection.reason),
        other => panic!("{other:?}"),
    }
}

/// The far end's answer to a translated frame.
fn answer_to(out: &Frame) -> Frame {
    let (_, remote, port, remote_port) = names(out);
    match out.bytes[23] {
        6 => from_eni(0, remote, NODE).tcp(remote_port, port, TcpFlags(0x12), b""),
        _ => from_eni(0, remote, NODE).udp(remote_port, port, b"answer"),
    }
}

/// T30: 256 ports, 300 flows to one endpoint, however ports are chosen.
#[test]
fn t30_port_exhaustion() {
    let choices = [PortChoice::Prng, PortChoice::Hashrandom, PortChoice::None];
    for choice in choices {
        let mut node = Node::with(with_ports(20_000, 20_255, choice), 1, 1_024);
        let ask = |pod: usize, port| from_pod(pod, OUTSIDE).udp(port, 443, b"question");
        let mut outs = Vec::new();
        let mut told = 0;
        for flow in 0..300 {
            let frame = ask(flow % 2, 5_000 + flow as u16);
            let (verdict, out) = node.send(&frame, TRUNK);
            match refused(verdict) {
                None => outs.push((flow, out)),
                Some(reason) => {
                    assert_eq!(reason, DropReason::NatNoPort);
                    if let Some(error) = node.answer(&frame, verdict) {
                        assert_eq!(error.bytes[34..36], [3, 13]);
                        told += 1;
                    }
                }
            }
        }
        assert_eq!(outs.len(), 256, "{choice:?}");
        assert!((1..=44).contains(&told), "rate limited: {told}");
        let ports: HashSet<u16> = outs.iter().map(|(_, out)| names(out).2).collect();
        assert_eq!(ports.len(), 256, "no port twice");
        assert!(ports.iter().all(|port| (20_000..=20_255).contains(port)));
        // The old ones lose nothing, either way.
        for (flow, out) in &outs {
            let back = node.forwarded(&answer_to(out), ETH0);
            assert_eq!(
                (names(&back).1, names(&back).3),
                (PODS[flow % 2], 5_000 + *flow as u16)
            );
            node.forwarded(&ask(flow % 2, 5_000 + *flow as u16), TRUNK);
        }
        assert_eq!(node.engines[0].stats().snat_ports, 256);
        // Another endpoint has ports of its own.
        node.forwarded(&from_pod(0, OUTSIDE).udp(5_000, 444, b"question"), TRUNK);
    }
}

/// N8 at engine level: the ports a host socket listens on are nobody's.
#[test]
fn n8_reserved_ports_are_never_leased() {
    let mut config = with_ports(20_000, 20_255, PortChoice::Prng);
    if let Snat::Node(snat) = &mut config.snat {
        snat.reserved = (20_000..20_256).filter(|port| port % 4 != 0).collect();
    }
    let mut node = Node::with(config, 1, 1_024);
    let mut ports = HashSet::new();
    for flow in 1..100 {
        let (verdict, out) = node.send(&from_pod(0, OUTSIDE).udp(flow, 443, b"x"), TRUNK);
        if refused(verdict).is_none() {
            ports.insert(names(&out).2);
        }
    }
    let expected: HashSet<u16> = (20_000..20_256).filter(|port| port % 4 == 0).collect();
    assert!(ports.is_subset(&expected));
    assert_eq!(ports.len(), 64, "each of them");
}

/// T31: room for 4,096 flows, 100,000 more wanted. Those that are there lose nothing, both
/// directions or neither, and every other one is refused by name.
#[test]
fn t31_a_full_table() {
    for family in [4, 6] {
        let mut node = Node::with(config(), 1, 4_096);
        let remote = |n: u32| Ipv4Addr::from_bits(0x0a00_8000 + n / 60_000);
        let frame = |n: u32| {
            let port = (n % 60_000) as u16 + 1;
            match family {
                4 => from_pod((n % 2) as usize, remote(n)).udp(port, 9, b"x"),
                _ => from_pod6((n % 2) as usize, PEER6).udp(port, (n / 60_000) as u16 + 9, b"x"),
            }
        };
        let mut living = Vec::new();
        let mut refusals = 0u64;
        for n in 0..100_000 {
            let (verdict, _) = node.send(&frame(n), TRUNK);
            match refused(verdict) {
                None => living.push(n),
                Some(DropReason::FlowTableFull) => refusals += 1,
                Some(other) => panic!("{other}"),
            }
        }
        let stats = node.engines[0].stats();
        assert_eq!(stats.flows, living.len() as u64);
        assert_eq!(stats.flows_created + refusals, 100_000);
        assert!(
            living.len() <= 4_096 && living.len() > 4_096 * 9 / 10,
            "{}",
            living.len()
        );
        for n in living {
            node.forwarded(&frame(n), TRUNK);
        }
        assert_eq!(node.engines[0].stats().flows_created, stats.flows_created);
    }
}

/// T32, N13: one pod sends SYNs without end, each from another port. It is held at its quota by
/// name; every new conversation of another pod gets through.
#[test]
fn t32_n13_a_syn_flood_is_the_floods_own_trouble() {
    let quota = 1_000;
    let mut config = config();
    config.tuning.flows_per_pod = NonZeroU32::new(quota);
    let mut node = Node::with(config, 1, 4_096);
    let mut held = 0;
    for n in 0..60_000u32 {
        // 50,000 a second.
        node.now = node.now.after(Duration::from_micros(20));
        let flood = from_pod(0, OUTSIDE).tcp(n as u16 + 1, 443, TcpFlags::SYN, b"");
        let (verdict, _) = node.send(&flood, TRUNK);
        held += u32::from(refused(verdict) == Some(DropReason::PodQuota));
        if n % 100 == 0 {
            let other = from_pod(1, OUTSIDE).tcp(5_000 + (n / 100) as u16, 443, TcpFlags::SYN, b"");
            let out = node.forwarded(&other, TRUNK);
            node.forwarded(&answer_to(&out), ETH0);
        }
    }
    assert_eq!(held, 60_000 - quota);
    let of = |pod: usize| {
        node.flows()
            .iter()
            .filter(|flow| flow.pod == PODS[pod])
            .count()
    };
    assert_eq!((of(0), of(1)), (quota as usize, 600));
    // Over IPv6 it is the same pod.
    let six = from_pod6(0, PEER6).udp(1, 2, b"x");
    assert_eq!(
        refused(node.send(&six, TRUNK).0),
        Some(DropReason::PodQuota)
    );
    // What ends gives room again.
    node.wait(Duration::from_secs(241));
    node.wait(Duration::from_secs(121));
    node.forwarded(&six, TRUNK);
}

/// F33: with the table nearly full, what nobody answered makes room after ten seconds, its port
/// too; without that pressure it has its four minutes, and what was answered keeps its time.
#[test]
fn f33_half_open_conversations_yield_under_pressure() {
    for (flood, stay) in [(2_000u16, 1_536), (100, 101)] {
        let mut config = config();
        config.tuning.flows_per_pod = None;
        let mut node = Node::with(config, 1, 2_048);
        let open = node.forwarded(&from_pod(1, OUTSIDE).tcp(1, 443, TcpFlags::SYN, b""), TRUNK);
        node.forwarded(&answer_to(&open), ETH0);
        let ack = from_pod(1, OUTSIDE).tcp(1, 443, TcpFlags::ACK, b"");
        node.forwarded(&ack, TRUNK);
        for port in 1..=flood {
            let syn = from_pod(0, OUTSIDE).tcp(port, 443, TcpFlags::SYN, b"");
            node.forwarded(&syn, TRUNK);
        }
        node.wait(Duration::from_secs(9));
        assert_eq!(node.flows().len(), usize::from(flood) + 1);
        node.wait(Duration::from_secs(3));
        // They go until the pressure has: below three quarters of the table.
        assert_eq!(node.flows().len(), stay.min(1_535));
        assert_eq!(node.engines[0].stats().snat_ports as usize, stay.min(1_535));
        assert!(node.flows().iter().any(|flow| flow.pod == PODS[1]));
    }
}
