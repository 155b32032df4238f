//! Tests of the programs in the kernel: by BPF_PROG_TEST_RUN, and on veth pairs.
//!
//! Every run states one outcome; [`Rig::expect`] compares *all* counters of all hooks with it, so
//! whatever is not named must not move. Everything is loaded anew for each test and pinned
//! nowhere.

mod carrier;
mod conntrack;
mod flow_hash;
mod heartbeat;
mod ip6;
mod namespace;
mod netns;
mod offload;
mod pod;
mod pod6;
mod trunk;
mod uplink;
mod uplink6;

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ProgramInput, ProgramOutput};
use nix::time::{ClockId, clock_gettime};
use penstock_packet::DropReason;
use penstock_packet::build::{Base, Frame};

use crate::{
    HookConfig, HookCounters, HookKind, Hooks, ImdsAccess, Offload, PodEntry, SnatRange, hooks,
};

/// Index of `lo`, which test runs without a context come in by, in every network namespace.
const LOOPBACK: u32 = 1;

/// Offloaded flows there is room for.
const FLOWS: u32 = 1_000;

const POD_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
const WIRE_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
const ENI_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];

const POD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
const OTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 11);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 4);
const SERVICE: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 10);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const POD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10);
const OTHER_POD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x11);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 4);
const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x5e, 0, 0, 0, 0, 0, 0xa);
const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7);
const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

const SNAT: SnatRange = SnatRange {
    address: NODE,
    first: 11_000,
    last: 29_999,
};

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Worker,
    Kernel,
    Fallback,
    Pod,
    /// With the bytes of the frame.
    Offloaded(u64),
    Drop(DropReason),
}

/// The loaded programs with one pod (on `lo`), another pod's address, one uplink and workers that
/// are alive for a minute.
struct Rig {
    object: RefCell<Object>,
    hooks: Hooks,
}

impl Rig {
    fn new(workers: u32) -> Self {
        let object = hooks::open(FLOWS).unwrap();
        let mut hooks = Hooks::from_object(&object).unwrap();
        hooks.configure(&config(workers)).unwrap();
        hooks.set_pod(&pod()).unwrap();
        let other = PodEntry {
            ifindex: 77,
            address: Some(OTHER_POD),
            address6: Some(OTHER_POD6),
            ..pod()
        };
        hooks.set_pod(&other).unwrap();
        let kernel = [
            "10.1.0.4/32",
            "172.20.0.0/16",
            "169.254.169.253/32",
            "2001:db8:1::4/128",
            "fd00:5e::/108",
        ];
        let kernel: Vec<_> = kernel.iter().map(|net| net.parse().unwrap()).collect();
        hooks.set_kernel_cidrs(&kernel).unwrap();
        let rig = Self {
            object: RefCell::new(object),
            hooks,
        };
        let entry = crate::layout::uplink(1, ENI_MAC);
        rig.map("uplinks")
            .update(&LOOPBACK.to_ne_bytes(), &entry, MapFlags::ANY)
            .unwrap();
        for worker in 0..workers {
            rig.beat(worker, monotonic_ns() + 60_000_000_000);
        }
        rig
    }

    fn map(&self, name: &str) -> MapHandle {
        let object = self.object.borrow();
        let map = object.maps().find(|map| map.name() == name).unwrap();
        MapHandle::try_from(&map).unwrap()
    }

    fn beat(&self, worker: u32, at_ns: u64) {
        self.map("heartbeat")
            .update(&worker.to_ne_bytes(), &at_ns.to_ne_bytes(), MapFlags::ANY)
            .unwrap();
    }

    fn run(&self, kind: HookKind, input: ProgramInput<'_>) -> u32 {
        self.run_for(kind, input).0
    }

    /// Runs the program; its verdict, and how many bytes of the frame were left, when asked for.
    fn run_for(&self, kind: HookKind, input: ProgramInput<'_>) -> (u32, usize) {
        self.output(kind, input, |output| {
            (
                output.return_value,
                output.data.map_or(0, |data| data.len()),
            )
        })
    }

    fn output<R>(
        &self,
        kind: HookKind,
        input: ProgramInput<'_>,
        read: impl FnOnce(ProgramOutput<'_>) -> R,
    ) -> R {
        let name = match kind {
            HookKind::Pod => "pod",
            HookKind::Trunk => "trunk",
            HookKind::TrunkRx => "trunk_rx",
            HookKind::Uplink => "uplink",
            HookKind::UplinkTcx => "uplink_tcx",
        };
        let object = self.object.borrow_mut();
        let program = object.progs_mut().find(|program| program.name() == name);
        read(program.unwrap().test_run(input).unwrap())
    }

    /// Runs `kind` once over `frame`; the verdict and every counter must say `outcome`.
    #[track_caller]
    fn expect(&self, kind: HookKind, frame: &[u8], outcome: Outcome) {
        let input = ProgramInput {
            data_in: Some(frame),
            ..ProgramInput::default()
        };
        self.expect_input(kind, input, outcome, 1);
    }

    /// The same for a run that stands for `packets` packets; returns the bytes that were left of
    /// the frame, when they were asked for.
    #[track_caller]
    fn expect_input(
        &self,
        kind: HookKind,
        input: ProgramInput<'_>,
        outcome: Outcome,
        packets: u64,
    ) -> usize {
        let mut expected = self.hooks.counters().unwrap();
        let (action, left) = self.run_for(kind, input);
        let counters = self.hooks.counters().unwrap();
        apply(&mut expected[kind.row() as usize], outcome, packets);
        assert_eq!(counters, expected, "{outcome:?}");
        assert_eq!(action, verdict(kind, outcome), "verdict for {outcome:?}");
        left
    }
}

fn apply(counters: &mut HookCounters, outcome: Outcome, packets: u64) {
    counters.seen += packets;
    match outcome {
        Outcome::Worker => counters.to_worker += packets,
        Outcome::Kernel => counters.to_kernel += packets,
        Outcome::Fallback => {
            counters.to_kernel += packets;
            counters.fallback += packets;
        }
        Outcome::Pod => counters.to_pod += packets,
        Outcome::Offloaded(bytes) => {
            counters.offloaded += packets;
            counters.offloaded_bytes += bytes;
        }
        Outcome::Drop(reason) => {
            let mut row = vec![0; 8 * (7 + DropReason::COUNT)];
            let at = 8 * (7 + reason.index());
            row[at..at + 8].copy_from_slice(&packets.to_ne_bytes());
            counters.add(&row);
        }
    }
}

/// TCX_NEXT -1, TCX_DROP 2, TCX_REDIRECT 7; XDP_DROP 1, XDP_PASS 2, XDP_REDIRECT 4.
fn verdict(kind: HookKind, outcome: Outcome) -> u32 {
    let xdp = matches!(kind, HookKind::TrunkRx | HookKind::Uplink);
    match outcome {
        Outcome::Worker | Outcome::Pod | Outcome::Offloaded(_) if xdp => 4,
        Outcome::Worker | Outcome::Pod | Outcome::Offloaded(_) => 7,
        Outcome::Kernel | Outcome::Fallback if xdp => 2,
        Outcome::Kernel | Outcome::Fallback => u32::MAX,
        Outcome::Drop(_) if xdp => 1,
        Outcome::Drop(_) => 2,
    }
}

fn config(workers: u32) -> HookConfig {
    HookConfig {
        trunk_ifindex: 99,
        workers,
        snat: Some(SNAT),
        node6: Some(NODE6),
        offload: Offload::Off,
        epoch: 0,
        imds: ImdsAccess::Deny,
        stale_after: Duration::from_millis(20),
    }
}

fn pod() -> PodEntry {
    PodEntry {
        ifindex: LOOPBACK,
        address: Some(POD),
        address6: Some(POD6),
        pod_mac: POD_MAC,
        host_mac: HOST_MAC,
    }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_nanos().try_into().unwrap()
}

/// A frame the pod may send.
fn from_pod(destination: Ipv4Addr) -> Base {
    Base::new(POD, destination).macs(POD_MAC, HOST_MAC)
}

/// A frame the ENI may receive.
fn from_wire(destination: Ipv4Addr) -> Base {
    Base::new(OUTSIDE, destination).macs(WIRE_MAC, ENI_MAC)
}

/// The frame with these option bytes (a multiple of four) behind its IPv4 header.
fn with_options(frame: &Frame, options: &[u8]) -> Vec<u8> {
    let mut bytes = frame.bytes.clone();
    bytes.splice(34..34, options.iter().copied());
    bytes[14] = 0x45 + u8::try_from(options.len() / 4).unwrap();
    Frame { bytes }.fit().seal().bytes
}

/// The frame as a fragment: `word` is the flags and offset field.
fn as_fragment(frame: &Frame, word: u16) -> Vec<u8> {
    frame.clone().with(20, word.to_be_bytes()).seal().bytes
}

/// An ARP message over Ethernet.
fn arp(eth_source: [u8; 6], sender_mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(eth_source);
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend(sender_mac);
    bytes.extend(sender.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    bytes
}
