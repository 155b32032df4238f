//! What a row is, and running it.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_flow::{Config, Ingress, OutIf, TcpState, UplinkId, Verdict};
use penstock_packet::build::Frame;
use penstock_packet::{DropReason, frame_length};

use crate::node::*;

/// What must become of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Forwarded, valid if it was valid, TTL one less.
    Forward(OutIf),
    /// The kernel's, untouched but for the trunk's MAC.
    Kernel,
    /// Dropped under this name, and nobody is told.
    Drop(DropReason),
    /// Dropped under this name, and the sender is told by an ICMP error of this type and code.
    Answered(DropReason, [u8; 2]),
}

type Make = Box<dyn Fn(&[Frame]) -> Frame>;
type Check = Box<dyn Fn(&Node, &[Frame])>;

enum Step {
    Packet(Make, Ingress, Fate),
    /// The last packet left exactly like this.
    Out(Make),
    Wait(Duration),
    Publish(fn(&mut Config)),
    Check(Check),
}

/// One row.
pub(crate) struct Row {
    name: String,
    config: Config,
    steps: Vec<Step>,
    moves: Vec<(&'static str, i64)>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            config: config(),
            steps: Vec::new(),
            moves: Vec::new(),
        }
    }

    /// The node is another one.
    pub(crate) fn on(mut self, change: fn(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// A packet comes in.
    pub(crate) fn packet(self, frame: Frame, ingress: Ingress, fate: Fate) -> Self {
        self.then(move |_| frame.clone(), ingress, fate)
    }

    /// A packet comes in that depends on what came out for those before it (all of them, in
    /// order; the ICMP error where one was sent, the packet itself where nothing came out).
    pub(crate) fn then(
        mut self,
        make: impl Fn(&[Frame]) -> Frame + 'static,
        ingress: Ingress,
        fate: Fate,
    ) -> Self {
        self.steps.push(Step::Packet(Box::new(make), ingress, fate));
        self
    }

    /// The last packet came out byte for byte like this.
    pub(crate) fn out(self, frame: Frame) -> Self {
        self.out_as(move |_| frame.clone())
    }

    /// The same, depending on what came out before.
    pub(crate) fn out_as(mut self, make: impl Fn(&[Frame]) -> Frame + 'static) -> Self {
        self.steps.push(Step::Out(Box::new(make)));
        self
    }

    /// Time passes and due timers fire.
    pub(crate) fn wait(mut self, seconds: u64) -> Self {
        self.steps.push(Step::Wait(Duration::from_secs(seconds)));
        self
    }

    /// A new snapshot comes into force.
    pub(crate) fn publish(mut self, change: fn(&mut Config)) -> Self {
        self.steps.push(Step::Publish(change));
        self
    }

    /// Something else holds now.
    pub(crate) fn check(mut self, check: impl Fn(&Node, &[Frame]) + 'static) -> Self {
        self.steps.push(Step::Check(Box::new(check)));
        self
    }

    /// There is one TCP conversation, in this state.
    pub(crate) fn state(self, state: TcpState) -> Self {
        self.check(move |node, _| {
            let flows = node.flows();
            assert_eq!(flows.len(), 1);
            assert_eq!(flows[0].state, Some(state));
        })
    }

    /// The engine's counters moved by this much, and no other did.
    pub(crate) fn moves(mut self, moves: &[(&'static str, i64)]) -> Self {
        self.moves.extend_from_slice(moves);
        self
    }
}

/// Counters by name; absent is zero.
type Counters = BTreeMap<&'static str, i64>;

fn engine_counters(node: &Node) -> Counters {
    let mut sum = Counters::new();
    for engine in &node.engines {
        let stats = engine.stats();
        for (name, value) in [
            ("flows", stats.flows),
            ("flows_created", stats.flows_created),
            ("flows_expired", stats.flows_expired),
            ("snat_ports", stats.snat_ports),
            ("translated", stats.translated),
        ] {
            *sum.entry(name).or_default() += value as i64;
        }
    }
    sum
}

/// Runs rows, each on a node of its own; every failed one is named.
pub(crate) fn run(rows: Vec<Row>) {
    let mut failed = Vec::new();
    for row in rows {
        let name = row.name.clone();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_row(row)));
        if outcome.is_err() {
            failed.push(name);
        }
    }
    assert!(
        failed.is_empty(),
        "rows that failed, see above: {failed:#?}"
    );
}

fn run_row(row: Row) {
    let name = row.name;
    let mut node = Node::with(row.config, 1, 1024);
    let before = engine_counters(&node);
    let mut outs: Vec<Frame> = Vec::new();
    for step in row.steps {
        match step {
            Step::Packet(make, ingress, fate) => {
                let frame = make(&outs);
                let out = judge(&name, &mut node, &frame, ingress, fate);
                outs.push(out);
            }
            Step::Out(make) => assert_eq!(outs.last(), Some(&make(&outs)), "{name}: bytes"),
            Step::Wait(duration) => node.wait(duration),
            Step::Publish(change) => {
                let mut next = config();
                change(&mut next);
                node.publish(next);
            }
            Step::Check(check) => check(&node, &outs),
        }
    }
    let mut moved = engine_counters(&node);
    for (counter, value) in before {
        *moved.entry(counter).or_default() -= value;
    }
    moved.retain(|_, value| *value != 0);
    let expected: Counters = row.moves.into_iter().collect();
    assert_eq!(moved, expected, "{name}: counters");
}

/// Sends a packet and holds what becomes of it to its fate; what came out.
fn judge(name: &str, node: &mut Node, frame: &Frame, ingress: Ingress, fate: Fate) -> Frame {
    let (verdict, out) = node.send(frame, ingress);
    match (verdict, fate) {
        (Verdict::Forward(by), Fate::Forward(wanted)) => {
            assert_eq!(by, wanted, "{name}");
            let whole = frame_length(&frame.bytes) == frame.bytes.len();
            if whole {
                assert_eq!(out.is_sealed(), frame.is_sealed(), "{name}: checksums");
            }
            let at = if frame.bytes[12] == 0x86 { 21 } else { 22 };
            assert_eq!(out.bytes[at], frame.bytes[at] - 1, "{name}: TTL");
            out
        }
        (Verdict::ToKernel, Fate::Kernel) => {
            assert_eq!(out.bytes[6..], frame.bytes[6..], "{name}: untouched");
            out
        }
        (Verdict::Drop(reason), Fate::Drop(wanted)) if reason == wanted => out,
        (Verdict::Reject(rejection), Fate::Drop(wanted)) if rejection.reason == wanted => {
            assert_eq!(node.answer(frame, verdict), None, "{name}: silent");
            out
        }
        (Verdict::Reject(rejection), Fate::Answered(wanted, kind))
            if rejection.reason == wanted =>
        {
            let answer = node.answer(frame, verdict);
            let answer = answer.unwrap_or_else(|| panic!("{name}: not answered"));
            assert!(answer.is_sealed(), "{name}: answer");
            let l4 = answer.l4_offset();
            assert_eq!(answer.bytes[l4..l4 + 2], kind, "{name}: answer");
            answer
        }
        _ => panic!("{name}: {verdict:?}, not {fate:?}"),
    }
}

/// A plain packet of each side, and what becomes of it.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) plain: Frame,
    pub(crate) ingress: Ingress,
    /// Its fate.
    pub(crate) forward: Fate,
    /// What a plain packet looks like once forwarded.
    pub(crate) hop: fn(&Frame) -> Frame,
}

/// Untranslated packets from a pod into the VPC, and the other way.
pub(crate) fn sides(family: u8) -> [Side; 2] {
    let plain = |pods: bool| match (family, pods) {
        (4, true) => from_pod(0, PEER).udp(1, 2, b"abc"),
        (4, false) => from_eni(0, PEER, PODS[0]).udp(1, 2, b"abc"),
        (_, true) => from_pod6(0, PEER6).udp(1, 2, b"abc"),
        (_, false) => from_eni6(0, PEER6, PODS6[0]).udp(1, 2, b"abc"),
    };
    [
        Side {
            name: "from a pod",
            plain: plain(true),
            ingress: TRUNK,
            forward: Fate::Forward(OutIf::Uplink(UplinkId(0))),
            hop: |frame| hop(frame, gateway_mac(0), eni_mac(0)),
        },
        Side {
            name: "from the wire",
            plain: plain(false),
            ingress: ETH0,
            forward: Fate::Forward(OutIf::Endpoint),
            hop: |frame| hop(frame, pod_mac(0), host_mac(0)),
        },
    ]
}
