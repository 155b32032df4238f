//! Frames in at one end of a node and out at another, for tests that compare what became of them.

#![allow(
    dead_code,
    reason = "each test binary compiles its own copy and uses a part"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use penstock_dataplane_api::{Request, Response};
use penstock_lab::{NetNs, Node};
use penstock_netlink::Netlink;
use penstock_packet::build::Frame;
use penstock_perf::capture::Capture;
use penstock_perf::inject;
use rand::Rng as _;
use rand::rngs::StdRng;

/// Bytes of IP packet every interface carries.
pub(crate) const MTU: u16 = 9001;
/// Seed of all frames: every run sends the same.
pub(crate) const SEED: u64 = 0x70e5_70c4;

/// Frames in flight at a time: fewer than any ring or queue on the way holds.
const BATCH: usize = 256;
/// How long the last frames of a batch may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the workers may take to take over.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);

/// An interface in a namespace.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) netns: &'a NetNs,
    pub(crate) ifname: &'a str,
}

impl Place<'_> {
    pub(crate) fn mac(&self) -> [u8; 6] {
        self.netns
            .run(|| Netlink::open().and_then(|mut netlink| netlink.link_by_name(self.ifname)))
            .expect("enter")
            .expect("link")
            .mac
            .expect("an Ethernet interface")
    }
}

/// Sends the frames from one place to the other, a batch at a time, and returns what came out, in
/// their order. `number` reads the low 16 bits of a frame's place in `frames`, if it is one of them.
pub(crate) fn send(
    name: &str,
    (from, to): (Place<'_>, Place<'_>),
    frames: &[Frame],
    number: impl Fn(&[u8]) -> Option<u16>,
) -> Vec<Frame> {
    let mut capture = to
        .netns
        .run(|| Capture::open(to.ifname))
        .expect("enter")
        .expect("capture");
    let mut arrived = Vec::with_capacity(frames.len());
    for (batch, frames) in frames.chunks(BATCH).enumerate() {
        let bytes = frames.iter().map(|frame| frame.bytes.as_slice());
        from.netns
            .run(|| inject::frames(from.ifname, bytes))
            .expect("enter")
            .expect(name);
        let mut missing: BTreeMap<u16, usize> = (0..frames.len())
            .map(|index| ((batch * BATCH + index) as u16, index))
            .collect();
        let mut slots = vec![None; frames.len()];
        let deadline = Instant::now() + PATIENCE;
        while !missing.is_empty() && Instant::now() < deadline {
            let Some(frame) = capture.frame().expect(name) else {
                continue;
            };
            if let Some(index) = number(frame).and_then(|number| missing.remove(&number)) {
                let bytes = frame.to_vec();
                slots[index] = Some(Frame { bytes });
            }
        }
        for (slot, sent) in slots.into_iter().zip(frames) {
            arrived.push(slot.unwrap_or_else(|| panic!("{name}: lost {:02x?}", sent.bytes)));
        }
    }
    arrived
}

/// Mostly what fits an ordinary frame, now and then as much as fits behind `headers` at all.
pub(crate) fn payload(random: &mut StdRng, headers: usize) -> Vec<u8> {
    let most = match random.random_range(0..16) {
        0 => usize::from(MTU) - headers,
        1..4 => 8,
        _ => 1500 - headers,
    };
    let mut payload = vec![0; random.random_range(0..=most)];
    random.fill(payload.as_mut_slice());
    payload
}

/// Packets the node's workers have taken and its hooks have carried for them, once it is quiet.
pub(crate) fn carried(node: &Node) -> u64 {
    node.settled_counters().expect("counters").carried()
}

/// Waits until `endpoints` pods and every uplink of the node are the workers'.
pub(crate) fn wait_for_workers(node: &Node, endpoints: u32) {
    let deadline = Instant::now() + TAKEN_OVER_WITHIN;
    loop {
        let status = match node.dataplane_call(&Request::Status).expect("dataplane") {
            Response::Status(status) => status,
            other => panic!("{other:?}"),
        };
        if status.endpoints == endpoints && status.fallback_queues == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::yield_now();
    }
}
