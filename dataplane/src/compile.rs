//! From what control published to what the packet path forwards by.
//!
//! Two things are added to the snapshot here: a small number for every ENI, which it keeps for as
//! long as the process lives, and whether its sockets are bound. An uplink that is not bound has
//! no next hop as far as workers know, so what would leave by it goes to the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::num::NonZeroU32;

use ipnet::IpNet;
use penstock_dataplane_api as api;
use penstock_flow::{
    Access, Cidr, Config, Endpoint, NodeSnat, PortChoice, PortRange, Snapshot, Snat, Tuning,
    Uplink, UplinkId,
};
use penstock_hooks::limits::MAX_SLOTS;
use penstock_hooks::{HookConfig, ImdsAccess, Offload, PodEntry, SnatRange};

use crate::timers::timeouts;

/// Numbers of the ENIs seen so far; a number is never given to another ENI.
#[derive(Debug, Default)]
pub struct Slots {
    numbers: BTreeMap<String, UplinkId>,
    /// Each ENI's router as last resolved: a publication that comes while the kernel asks for it
    /// again must not stop flows.
    routers: BTreeMap<UplinkId, [u8; 6]>,
}

impl Slots {
    /// The number of an ENI, given at first sight; `None` when all are taken.
    pub fn id(&mut self, eni_id: &str) -> Option<UplinkId> {
        if let Some(id) = self.numbers.get(eni_id) {
            return Some(*id);
        }
        // Slot 0 of the hooks' socket map is the trunk's.
        let next = u8::try_from(self.numbers.len()).ok()?;
        if u32::from(next) + 1 >= MAX_SLOTS {
            return None;
        }
        self.numbers.insert(eni_id.to_owned(), UplinkId(next));
        Some(UplinkId(next))
    }

    /// The MAC of an ENI's router: as published, else as last published.
    fn router(&mut self, id: UplinkId, published: Option<api::MacAddr>) -> Option<[u8; 6]> {
        if let Some(mac) = published {
            self.routers.insert(id, mac.0);
        }
        self.routers.get(&id).copied()
    }

    /// The ENI with a number.
    #[must_use]
    pub fn eni_id(&self, id: UplinkId) -> Option<&str> {
        self.numbers
            .iter()
            .find(|(_, taken)| **taken == id)
            .map(|(eni_id, _)| eni_id.as_str())
    }
}

/// An uplink's row in the hooks' socket map.
#[must_use]
pub fn hook_slot(id: UplinkId) -> u32 {
    u32::from(id.0) + 1
}

/// What is known here and not published.
#[derive(Debug, Clone, Copy)]
pub struct Local {
    /// Number the snapshot gets.
    pub epoch: u64,
    /// MAC of the trunk's kernel end.
    pub trunk_mac: [u8; 6],
    /// Whether established flows are offered to the hooks.
    pub offload: api::Offload,
}

/// What workers forward by.
///
/// # Errors
/// Every problem the engine finds that the validation did not.
pub fn flow_snapshot(
    snapshot: &api::Snapshot,
    slots: &mut Slots,
    bound: &BTreeSet<UplinkId>,
    local: &Local,
) -> Result<Snapshot, Vec<String>> {
    let mut problems = Vec::new();
    let mut uplinks = Vec::new();
    for uplink in &snapshot.uplinks {
        match slots.id(&uplink.eni_id) {
            Some(id) => {
                let router = slots.router(id, uplink.gateway_mac);
                let router = router.filter(|_| bound.contains(&id));
                uplinks.push(flow_uplink(uplink, id, router));
            }
            None => problems.push(format!(
                "{}: too many ENIs in this process's life; restart the dataplane",
                uplink.eni_id
            )),
        }
    }
    let endpoints = snapshot
        .endpoints
        .iter()
        .filter_map(|endpoint| Some(flow_endpoints(endpoint, slots.id(&endpoint.eni_id)?)))
        .flatten()
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let config = Config {
        epoch: local.epoch,
        primary_address: snapshot.node.primary_address,
        primary_address6: snapshot.node.primary_address6,
        trunk_mac: local.trunk_mac,
        vpc_cidrs: cidrs(snapshot.vpc_cidrs.iter().copied()),
        kernel_cidrs: cidrs(snapshot.kernel_cidrs.iter().copied()),
        snat: flow_snat(&snapshot.snat),
        imds: match snapshot.imds {
            api::Access::Allow => Access::Allow,
            api::Access::Deny => Access::Deny,
        },
        tuning: tuning(&snapshot.flow, local.offload),
        uplinks,
        endpoints,
    };
    Snapshot::compile(config).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn tuning(settings: &api::FlowSettings, offload: api::Offload) -> Tuning {
    Tuning {
        timeouts: timeouts(&settings.timers),
        flows_per_pod: settings.flows_per_pod.and_then(NonZeroU32::new),
        mss_clamp: settings.mss_clamp,
        offload: offload == api::Offload::Established,
    }
}

fn flow_uplink(uplink: &api::Uplink, id: UplinkId, router: Option<[u8; 6]>) -> Uplink {
    Uplink {
        id,
        mac: uplink.mac.0,
        gateway_mac: router,
        gateway_mac6: router.filter(|_| uplink.gateway6.is_some()),
        mtu: u16::try_from(uplink.mtu).unwrap_or(u16::MAX),
        address: uplink.address,
        address6: uplink.address6,
        primary: uplink.primary,
    }
}

fn flow_endpoints(endpoint: &api::Endpoint, uplink: UplinkId) -> impl Iterator<Item = Endpoint> {
    endpoint.addresses.iter().map(move |address| Endpoint {
        address: *address,
        uplink,
        host_mac: endpoint.host_mac.0,
        pod_mac: endpoint.pod_mac.0,
        mtu: u16::try_from(endpoint.mtu).unwrap_or(u16::MAX),
    })
}

fn flow_snat(snat: &api::Snat) -> Snat {
    match snat.mode {
        api::SnatMode::External => Snat::External,
        api::SnatMode::Node => Snat::Node(NodeSnat {
            address: snat.address,
            ports: PortRange {
                first: snat.ports.first,
                last: snat.ports.last,
            },
            reserved: Vec::new(),
            choice: match snat.port_choice {
                api::PortChoice::Prng => PortChoice::Prng,
                api::PortChoice::Hashrandom => PortChoice::Hashrandom,
                api::PortChoice::None => PortChoice::None,
            },
            exclude_cidrs: cidrs(snat.exclude_cidrs.iter().copied().map(IpNet::V4)),
        }),
    }
}

fn cidrs(nets: impl Iterator<Item = IpNet>) -> Vec<Cidr> {
    nets.map(|net| Cidr {
        address: net.network(),
        prefix: net.prefix_len(),
    })
    .collect()
}

/// What hooks decide by.
#[must_use]
pub fn hook_config(
    snapshot: &api::Snapshot,
    trunk_ifindex: u32,
    workers: u32,
    local: &Local,
) -> HookConfig {
    let snat = &snapshot.snat;
    HookConfig {
        trunk_ifindex,
        workers,
        snat: (snat.mode == api::SnatMode::Node).then_some(SnatRange {
            address: snat.address,
            first: snat.ports.first,
            last: snat.ports.last,
        }),
        node6: snapshot.node.primary_address6,
        imds: match snapshot.imds {
            api::Access::Allow => ImdsAccess::Allow,
            api::Access::Deny => ImdsAccess::Deny,
        },
        offload: match local.offload {
            api::Offload::Off => Offload::Off,
            api::Offload::Established => Offload::Established,
        },
        epoch: hook_epoch(local.epoch),
        stale_after: crate::pulse::STALE_AFTER,
    }
}

/// An epoch as the hooks and the entries of offloaded flows carry it. They compare only for
/// equality, so it may come round again.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half tells epochs apart"
)]
pub const fn hook_epoch(epoch: u64) -> u32 {
    epoch as u32
}

/// What workers forward by before anything is published: nothing is a pod's, all is the kernel's.
///
/// # Errors
/// Never, unless the engine finds the placeholders unusable.
pub fn nothing(trunk_mac: [u8; 6]) -> Result<Snapshot, Vec<String>> {
    // TEST-NET-1, RFC 5737: an address nobody has.
    let nobody = Ipv4Addr::new(192, 0, 2, 1);
    let config = Config {
        epoch: 0,
        primary_address: nobody,
        primary_address6: None,
        trunk_mac,
        vpc_cidrs: Vec::new(),
        kernel_cidrs: Vec::new(),
        snat: Snat::External,
        imds: Access::Allow,
        tuning: Tuning::default(),
        uplinks: vec![Uplink {
            id: UplinkId(0),
            mac: trunk_mac,
            gateway_mac: None,
            gateway_mac6: None,
            mtu: u16::MAX,
            address: nobody,
            address6: None,
            primary: true,
        }],
        endpoints: Vec::new(),
    };
    Snapshot::compile(config).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// A pod as the hooks see it.
#[must_use]
pub fn pod_entry(endpoint: &api::Endpoint) -> PodEntry {
    PodEntry {
        ifindex: endpoint.ifindex,
        address: endpoint.address4(),
        address6: endpoint.address6(),
        pod_mac: endpoint.pod_mac.0,
        host_mac: endpoint.host_mac.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const TRUNK: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn local(epoch: u64) -> Local {
        Local {
            epoch,
            trunk_mac: TRUNK,
            offload: api::Offload::Established,
        }
    }

    #[test]
    fn an_eni_keeps_its_number() {
        let mut slots = Slots::default();
        assert_eq!(slots.id("eni-a"), Some(UplinkId(0)));
        assert_eq!(slots.id("eni-b"), Some(UplinkId(1)));
        assert_eq!(slots.id("eni-a"), Some(UplinkId(0)));
        assert_eq!(slots.eni_id(UplinkId(1)), Some("eni-b"));
        assert_eq!(hook_slot(UplinkId(0)), 1, "0 is the trunk's");
        let given = (0..100).filter_map(|n| slots.id(&format!("eni-{n}"))).max();
        assert_eq!(given.map(hook_slot), Some(MAX_SLOTS - 1));
    }

    #[test]
    fn only_bound_uplinks_have_a_next_hop() {
        let mut slots = Slots::default();
        let published = fixture::snapshot();
        let bound = BTreeSet::from([UplinkId(1)]);
        let compiled = flow_snapshot(&published, &mut slots, &bound, &local(7)).unwrap();
        assert_eq!(compiled.epoch(), 7);
        assert_eq!(compiled.uplink(UplinkId(0)).unwrap().gateway_mac, None);
        assert!(compiled.uplink(UplinkId(1)).unwrap().gateway_mac.is_some());
        assert_eq!(compiled.primary_uplink().unwrap().id, UplinkId(0));
        for endpoint in &published.endpoints {
            let found = compiled.endpoint(endpoint.addresses[0]).unwrap();
            assert_eq!(found.pod_mac, endpoint.pod_mac.0);
            assert_eq!(Some(found.uplink), slots.id(&endpoint.eni_id));
        }
    }

    #[test]
    fn a_router_that_is_asked_for_again_keeps_its_mac() {
        let mut slots = Slots::default();
        let mut published = fixture::snapshot();
        let bound = BTreeSet::from([UplinkId(0), UplinkId(1)]);
        let known = flow_snapshot(&published, &mut slots, &bound, &local(1)).unwrap();
        for uplink in &mut published.uplinks {
            uplink.gateway_mac = None;
        }
        let asking = flow_snapshot(&published, &mut slots, &bound, &local(2)).unwrap();
        let never = flow_snapshot(&published, &mut Slots::default(), &bound, &local(3)).unwrap();
        for id in bound {
            let mac = |snapshot: &Snapshot| snapshot.uplink(id).unwrap().gateway_mac;
            assert!(mac(&known).is_some());
            assert_eq!(mac(&asking), mac(&known));
            assert_eq!(mac(&never), None);
        }
    }

    #[test]
    fn nothing_is_a_sound_snapshot() {
        assert!(nothing(TRUNK).unwrap().primary_uplink().is_some());
    }

    #[test]
    fn the_hooks_are_told_the_workers_epoch() {
        let config = hook_config(&fixture::snapshot(), 5, 2, &local((7 << 32) | 9));
        assert_eq!(config.epoch, 9);
        assert_eq!(config.node6, Some(fixture::PRIMARY6));
    }

    #[test]
    fn external_snat_leaves_the_hooks_no_range() {
        let mut published = fixture::snapshot();
        assert!(hook_config(&published, 5, 2, &local(1)).snat.is_some());
        published.snat.mode = api::SnatMode::External;
        assert!(hook_config(&published, 5, 2, &local(1)).snat.is_none());
    }
}
