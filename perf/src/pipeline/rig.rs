//! An engine with the rules of a node that has 250 pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use penstock_flow::{
    Access, Cidr, Config, Endpoint, Engine, EngineConfig, Ingress, Look, NodeSnat, Packet,
    PortChoice, PortRange, Snapshot, Snat, Timestamp, Tuning, Uplink, UplinkId, Verdict,
    forward_seen,
};

use super::load::Load;
use super::meter::{Cost, Meter};

/// Pods on the node; the most an instance of this kind has.
pub(super) const PODS: u32 = 250;

/// Address family of the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4, translated.
    Ip4,
    /// IPv6, as it is.
    Ip6,
}

/// A pod's address.
#[must_use]
pub(super) fn address(family: Family, pod: u32) -> IpAddr {
    match family {
        Family::Ip4 => Ipv4Addr::from_bits(0x0a00_0100 + pod).into(),
        Family::Ip6 => Ipv6Addr::from_bits(0x2600_1f14 << 96 | u128::from(1 + pod)).into(),
    }
}

/// MAC of a pod's own end.
#[must_use]
pub(super) fn pod_mac(pod: u32) -> [u8; 6] {
    let [_, _, high, low] = pod.to_be_bytes();
    [2, 0xcc, 0, 0, high, low]
}

/// MAC of the host's end.
#[must_use]
pub(super) fn host_mac(pod: u32) -> [u8; 6] {
    let [_, _, high, low] = pod.to_be_bytes();
    [2, 0xbb, 0, 0, high, low]
}

/// An engine, its rules and its clock.
pub struct Rig {
    engine: Engine,
    snapshot: Snapshot,
    now: Timestamp,
    looks: Vec<Look>,
}

impl Rig {
    /// An engine with room for `flows` flows of either family.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(flows: u32) -> Result<Self> {
        let snapshot = Snapshot::compile(config())
            .map_err(|problems| anyhow::anyhow!("the rig's own rules are wrong: {problems:?}"))?;
        let engine = Engine::new(EngineConfig {
            worker: 0,
            workers: 1,
            capacity: flows as usize,
            capacity6: flows as usize,
            seed: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
        })
        .context("memory for the flow tables")?;
        Ok(Self {
            engine,
            snapshot,
            now: Timestamp::from_nanos(1_000_000_000_000),
            looks: Vec::with_capacity(256),
        })
    }

    /// Looks one batch up and does no more.
    pub fn look_up(&mut self, load: &Load) {
        let length = load.frame_length();
        self.looks.clear();
        self.looks.extend(
            load.frames()
                .map(|head| self.engine.look(head, length, Ingress::Trunk)),
        );
        self.engine.locate(&mut self.looks);
    }

    /// Sends one batch through and meters what that costs.
    ///
    /// # Errors
    /// As [`Rig::forward`].
    pub fn send(&mut self, load: &mut Load, meter: &mut Meter) -> Result<()> {
        meter.start();
        let outcome = self.forward(load);
        meter.stop(self.looks.len());
        outcome
    }

    /// Sends one batch through.
    ///
    /// # Errors
    /// When a packet was not forwarded: then it was not the hit path that was measured.
    pub fn forward(&mut self, load: &mut Load) -> Result<()> {
        let mut forwarded = 0;
        let mut other = None;
        let length = load.frame_length();
        self.look_up(load);
        for (head, look) in load.frames_mut().zip(&self.looks) {
            let packet = Packet {
                head,
                length,
                ingress: Ingress::Trunk,
                handed: false,
            };
            match forward_seen(&mut self.engine, &self.snapshot, packet, look, self.now) {
                Verdict::Forward(_) => forwarded += 1,
                verdict => other = Some(verdict),
            }
        }
        match other {
            Some(verdict) => bail!("a packet was not forwarded: {verdict:?}"),
            None if forwarded == self.looks.len() => Ok(()),
            None => bail!("{forwarded} packets of {} forwarded", self.looks.len()),
        }
    }

    /// Flows in the tables now.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.engine.stats().flows
    }

    /// Bytes a flow takes, of either family.
    #[must_use]
    pub fn bytes_per_flow(&self) -> [usize; 2] {
        self.engine.bytes_per_flow()
    }

    /// Lets all flows time out at once and meters what clearing them costs; in each call `budget`
    /// flows are looked at, as in a worker's loop.
    pub fn expire(&mut self, budget: usize, meter: &mut Meter) -> Cost {
        self.now = self.now.after(Duration::from_secs(3_600));
        loop {
            meter.start();
            let looked = self.engine.expire(self.now, budget);
            meter.stop(looked);
            if looked < budget {
                return meter.cost();
            }
        }
    }
}

fn config() -> Config {
    let endpoint = |family: Family, pod: u32| Endpoint {
        address: address(family, pod),
        uplink: UplinkId(0),
        host_mac: host_mac(pod),
        pod_mac: pod_mac(pod),
        mtu: 9001,
    };
    let node = Ipv4Addr::new(10, 0, 0, 10);
    let node6 = Ipv6Addr::from_bits(0x2600_1f14 << 96 | 0xffff);
    Config {
        epoch: 1,
        primary_address: node,
        primary_address6: Some(node6),
        trunk_mac: [2, 0xaa, 0, 0, 0, 0],
        vpc_cidrs: vec![Cidr {
            address: Ipv4Addr::new(10, 0, 0, 0).into(),
            prefix: 16,
        }],
        kernel_cidrs: vec![Cidr {
            address: Ipv4Addr::new(172, 20, 0, 0).into(),
            prefix: 16,
        }],
        snat: Snat::Node(NodeSnat {
            address: node,
            ports: PortRange {
                first: 11_000,
                last: 29_999,
            },
            reserved: Vec::new(),
            choice: PortChoice::Prng,
            exclude_cidrs: Vec::new(),
        }),
        imds: Access::Deny,
        tuning: Tuning::default(),
        uplinks: vec![Uplink {
            id: UplinkId(0),
            mac: [2, 0xdd, 0, 0, 0, 0],
            gateway_mac: Some([2, 0xee, 0, 0, 0, 0]),
            gateway_mac6: Some([2, 0xee, 0, 0, 0, 0]),
            mtu: 9001,
            address: node,
            address6: Some(node6),
            primary: true,
        }],
        endpoints: (0..PODS)
            .flat_map(|pod| [Family::Ip4, Family::Ip6].map(|family| endpoint(family, pod)))
            .collect(),
    }
}
