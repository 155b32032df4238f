//! The node, compiled: immutable, shared by all workers, read once per batch.
//!
//! Look-ups cost a constant number of cache lines for endpoints and uplinks. Every neighbour a
//! packet can be sent to has a number ([`HopId`]) that holds for this snapshot alone, so a flow
//! that was decided under it needs no more than that number. A snapshot is never changed; a new
//! one has a new epoch.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use penstock_packet::rewrite::Macs;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::config::{
    Access, Cidr, Config, ConfigError, Endpoint, NodeSnat, PortRange, Problem, Snat, Uplink,
};
use crate::entry::Epoch;
use crate::hop::NextHop;
use crate::key::Family;
use crate::ports::PortSet;
use crate::prefixes::Prefixes;
use crate::{OutIf, Timeouts, UplinkId, classify};

/// Number of a neighbour in one snapshot.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub(crate) struct HopId(u16);

/// Most endpoints a snapshot holds: the numbers that uplinks leave.
const MAX_ENDPOINTS: usize = 65_000;

/// Everything forwarding goes by.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) epoch: u64,
    pub(crate) primary_address: Ipv4Addr,
    pub(crate) primary_address6: Option<Ipv6Addr>,
    pub(crate) trunk_mac: [u8; 6],
    pub(crate) imds: Access,
    pub(crate) timeouts: Timeouts,
    pub(crate) flows_per_pod: Option<NonZeroU32>,
    pub(crate) mss_clamp: Option<u16>,
    pub(crate) offload: bool,
    pub(crate) snat: Option<NodeSnat>,
    pub(crate) reserved_ports: Box<PortSet>,
    /// VPC and excluded prefixes: destinations that are never translated.
    untranslated: Prefixes,
    kernel: Prefixes,
    uplinks: Vec<Option<Uplink>>,
    primary_uplink: UplinkId,
    endpoints: Endpoints,
    /// The routers of each uplink, IPv4 then IPv6, then every endpoint.
    hops: Vec<NextHop>,
}

impl Snapshot {
    /// Checks and compiles `config`.
    ///
    /// # Errors
    /// Every problem of every entry.
    pub fn compile(config: Config) -> Result<Self, Vec<ConfigError>> {
        let problems = check(&config);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut untranslated = config.vpc_cidrs;
        let mut reserved = PortSet::EMPTY;
        let snat = match config.snat {
            Snat::Node(snat) => {
                untranslated.extend(&snat.exclude_cidrs);
                reserved = snat.reserved.iter().copied().collect();
                Some(snat)
            }
            Snat::External => None,
        };
        let slots = config
            .uplinks
            .iter()
            .map(|uplink| usize::from(uplink.id.0) + 1)
            .max();
        let mut uplinks = vec![None; slots.unwrap_or(0)];
        for uplink in &config.uplinks {
            if let Some(slot) = uplinks.get_mut(usize::from(uplink.id.0)) {
                *slot = Some(*uplink);
            }
        }
        let primary = config.uplinks.iter().find(|uplink| uplink.primary);
        Ok(Self {
            epoch: config.epoch,
            primary_address: config.primary_address,
            primary_address6: config.primary_address6,
            trunk_mac: config.trunk_mac,
            imds: config.imds,
            timeouts: config.tuning.timeouts,
            flows_per_pod: config.tuning.flows_per_pod,
            mss_clamp: config.tuning.mss_clamp,
            offload: config.tuning.offload,
            reserved_ports: Box::new(reserved),
            snat,
            untranslated: prefixes(&untranslated),
            kernel: prefixes(&config.kernel_cidrs),
            hops: hops(&uplinks, &config.endpoints),
            uplinks,
            primary_uplink: primary.map_or(UplinkId(0), |uplink| uplink.id),
            endpoints: Endpoints::new(&config.endpoints),
        })
    }

    /// The version of this snapshot.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The version as flows keep it.
    #[inline]
    pub(crate) const fn short_epoch(&self) -> Epoch {
        // Never the epoch of an empty place in a table, which is 0.
        Epoch((self.epoch as u32) | 1 << 31)
    }

    /// The neighbour with this number.
    #[inline]
    pub(crate) fn hop(&self, id: HopId) -> Option<&NextHop> {
        self.hops.get(usize::from(id.0))
    }

    /// The pod of an endpoint of this snapshot.
    pub(crate) fn hop_to_pod(&self, endpoint: &Endpoint) -> Option<HopId> {
        let number = self.endpoints.number(endpoint.address)?;
        u16::try_from(self.uplinks.len() * 2 + number)
            .ok()
            .map(HopId)
    }

    /// The router of an uplink; `None` while its MAC is not known.
    pub(crate) fn hop_to_router(&self, uplink: &Uplink, family: Family) -> Option<HopId> {
        let at = u16::from(uplink.id.0) * 2;
        match family {
            Family::Ip4 => uplink.gateway_mac.map(|_| HopId(at)),
            Family::Ip6 => uplink.gateway_mac6.map(|_| HopId(at + 1)),
        }
    }

    /// The endpoint that has `address`.
    #[inline]
    #[must_use]
    pub fn endpoint(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.get(address)
    }

    /// The uplink in slot `id`.
    #[inline]
    #[must_use]
    pub fn uplink(&self, id: UplinkId) -> Option<&Uplink> {
        self.uplinks.get(usize::from(id.0))?.as_ref()
    }

    /// The uplink translated traffic leaves by.
    #[must_use]
    pub fn primary_uplink(&self) -> Option<&Uplink> {
        self.uplink(self.primary_uplink)
    }

    /// Whether packets to `destination` are translated when they leave. IPv6 never is.
    pub(crate) fn translates(&self, destination: IpAddr) -> bool {
        destination.is_ipv4() && self.snat.is_some() && !self.untranslated.contains(destination)
    }

    /// Whether `destination` is the kernel's: the node's own addresses and what is configured.
    pub(crate) fn is_kernels(&self, destination: IpAddr) -> bool {
        let mut uplinks = self.uplinks.iter().flatten();
        let nodes = match destination {
            IpAddr::V4(address) => {
                let snat = self
                    .snat
                    .as_ref()
                    .is_some_and(|snat| snat.address == address);
                address == self.primary_address
                    || snat
                    || uplinks.any(|uplink| uplink.address == address)
            }
            IpAddr::V6(address) => {
                self.primary_address6 == Some(address)
                    || uplinks.any(|uplink| uplink.address6 == Some(address))
            }
        };
        nodes || self.kernel.contains(destination)
    }

    /// The range of L4 ports that are the engine's on `address`.
    #[inline]
    pub(crate) fn snat_ports(&self, address: IpAddr) -> Option<PortRange> {
        self.snat
            .as_ref()
            .filter(|snat| IpAddr::V4(snat.address) == address)
            .map(|snat| snat.ports)
    }
}

/// The prefixes of a list.
fn prefixes(cidrs: &[Cidr]) -> Prefixes {
    Prefixes::new(cidrs.iter().map(|cidr| (cidr.address, cidr.prefix)))
}

/// Every neighbour, in the order of [`HopId`]s.
fn hops(uplinks: &[Option<Uplink>], endpoints: &[Endpoint]) -> Vec<NextHop> {
    let router = |uplink: &Uplink, mac: Option<[u8; 6]>| NextHop {
        macs: Macs::new(mac.unwrap_or_default(), uplink.mac),
        out: OutIf::Uplink(uplink.id),
        mtu: uplink.mtu,
    };
    let nobody = NextHop {
        macs: Macs::default(),
        out: OutIf::Endpoint,
        mtu: 0,
    };
    let routers = uplinks.iter().flat_map(|uplink| match uplink {
        Some(uplink) => [uplink.gateway_mac, uplink.gateway_mac6].map(|mac| router(uplink, mac)),
        None => [nobody; 2],
    });
    let pods = endpoints.iter().map(|endpoint| NextHop {
        macs: Macs::new(endpoint.pod_mac, endpoint.host_mac),
        out: OutIf::Endpoint,
        mtu: endpoint.mtu,
    });
    routers.chain(pods).collect()
}

/// Endpoints by address: open addressing at no more than half load.
#[derive(Debug)]
struct Endpoints {
    all: Vec<Endpoint>,
    /// Place in `all`, plus one; 0 is empty.
    slots: Box<[u32]>,
    shift: u32,
}

impl Endpoints {
    fn new(endpoints: &[Endpoint]) -> Self {
        let size = (endpoints.len() * 2).next_power_of_two().max(2);
        let mut table = Self {
            all: endpoints.to_vec(),
            slots: vec![0; size].into_boxed_slice(),
            shift: 32 - size.trailing_zeros(),
        };
        for (number, endpoint) in (1..).zip(endpoints) {
            let mut at = table.home(endpoint.address);
            while table.slots.get(at).is_some_and(|slot| *slot != 0) {
                at = (at + 1) & (size - 1);
            }
            if let Some(slot) = table.slots.get_mut(at) {
                *slot = number;
            }
        }
        table
    }

    /// First slot to try. Addresses are handed out by us, so a fixed multiplier does.
    fn home(&self, address: IpAddr) -> usize {
        let bits = match address {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                let folded = bits as u64 ^ (bits >> 64) as u64;
                folded as u32 ^ (folded >> 32) as u32
            }
        };
        (bits.wrapping_mul(0x9E37_79B1) >> self.shift) as usize
    }

    /// Place of the endpoint with this address.
    fn number(&self, address: IpAddr) -> Option<usize> {
        let mut at = self.home(address);
        loop {
            let number = (*self.slots.get(at)? as usize).checked_sub(1)?;
            if self.all.get(number)?.address == address {
                return Some(number);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    fn get(&self, address: IpAddr) -> Option<&Endpoint> {
        self.all.get(self.number(address)?)
    }
}

/// Every problem of a configuration.
fn check(config: &Config) -> Vec<ConfigError> {
    let mut problems = Problems(Vec::new());
    problems.unless(
        usable(config.primary_address.into()),
        "primary_address",
        Problem::Address,
    );
    problems.unless(station(config.trunk_mac), "trunk_mac", Problem::Mac);
    problems.prefixes("vpc_cidrs", &config.vpc_cidrs);
    problems.prefixes("kernel_cidrs", &config.kernel_cidrs);
    if let Snat::Node(snat) = &config.snat {
        problems.unless(
            usable(snat.address.into()),
            "snat.address",
            Problem::Address,
        );
        let ports = snat.ports;
        problems.unless(
            ports.first > 0 && ports.first <= ports.last,
            "snat.ports",
            Problem::Ports,
        );
        problems.prefixes("snat.exclude_cidrs", &snat.exclude_cidrs);
    }
    let mut ids = HashSet::new();
    for uplink in &config.uplinks {
        let entry = format!("uplinks[{}]", uplink.id.0);
        problems.unless(ids.insert(uplink.id), &entry, Problem::Duplicate);
        problems.unless(station(uplink.mac), &entry, Problem::Mac);
        problems.unless(uplink.gateway_mac.is_none_or(station), &entry, Problem::Mac);
        problems.unless(uplink.mtu >= 68, &entry, Problem::Mtu);
        problems.unless(
            uplink.gateway_mac6.is_none_or(station),
            &entry,
            Problem::Mac,
        );
        problems.unless(usable(uplink.address.into()), &entry, Problem::Address);
    }
    let primaries = config
        .uplinks
        .iter()
        .filter(|uplink| uplink.primary)
        .count();
    problems.unless(primaries == 1, "uplinks", Problem::PrimaryUplink);
    problems.unless(
        config.endpoints.len() <= MAX_ENDPOINTS,
        "endpoints",
        Problem::TooMany,
    );
    let mut addresses = HashSet::new();
    for endpoint in &config.endpoints {
        let entry = format!("endpoints[{}]", endpoint.address);
        problems.unless(
            addresses.insert(endpoint.address),
            &entry,
            Problem::Duplicate,
        );
        problems.unless(usable(endpoint.address), &entry, Problem::Address);
        problems.unless(
            ids.contains(&endpoint.uplink),
            &entry,
            Problem::UnknownUplink,
        );
        problems.unless(station(endpoint.host_mac), &entry, Problem::Mac);
        problems.unless(station(endpoint.pod_mac), &entry, Problem::Mac);
        problems.unless(endpoint.mtu >= 68, &entry, Problem::Mtu);
    }
    problems.0
}

/// Problems found so far.
struct Problems(Vec<ConfigError>);

impl Problems {
    fn unless(&mut self, fine: bool, entry: &str, problem: Problem) {
        if !fine {
            self.0.push(ConfigError {
                entry: entry.to_owned(),
                problem,
            });
        }
    }

    fn prefixes(&mut self, list: &str, cidrs: &[Cidr]) {
        for cidr in cidrs {
            let entry = format!("{list}[{}/{}]", cidr.address, cidr.prefix);
            let longest = if cidr.address.is_ipv4() { 32 } else { 128 };
            self.unless(cidr.prefix <= longest, &entry, Problem::Prefix);
        }
    }
}

/// Whether an interface can have this MAC.
fn station(mac: [u8; 6]) -> bool {
    let [first, ..] = mac;
    mac != [0; 6] && first & 1 == 0
}

/// Whether an interface can have this address.
fn usable(address: IpAddr) -> bool {
    !classify::is_martian_source(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PortChoice, Tuning};

    fn config() -> Config {
        let uplink = |id, primary| Uplink {
            id: UplinkId(id),
            mac: [2, 0, 0, 0, 1, id],
            gateway_mac: Some([2, 0, 0, 0, 2, id]),
            gateway_mac6: Some([2, 0, 0, 0, 6, id]),
            mtu: 9001,
            address: Ipv4Addr::new(10, 0, id, 10),
            address6: None,
            primary,
        };
        Config {
            epoch: 1,
            primary_address: Ipv4Addr::new(10, 0, 0, 10),
            primary_address6: None,
            trunk_mac: [2, 0, 0, 0, 0, 9],
            vpc_cidrs: vec![Cidr {
                address: Ipv4Addr::new(10, 0, 5, 5).into(),
                prefix: 16,
            }],
            kernel_cidrs: vec![Cidr {
                address: Ipv4Addr::new(172, 20, 0, 0).into(),
                prefix: 16,
            }],
            snat: Snat::Node(NodeSnat {
                address: Ipv4Addr::new(10, 0, 0, 10),
                ports: PortRange {
                    first: 11000,
                    last: 29999,
                },
                reserved: Vec::new(),
                choice: PortChoice::Prng,
                exclude_cidrs: vec![Cidr {
                    address: Ipv4Addr::new(192, 168, 0, 0).into(),
                    prefix: 24,
                }],
            }),
            imds: Access::Deny,
            tuning: Tuning::default(),
            uplinks: vec![uplink(0, true), uplink(3, false)],
            endpoints: (1..=250)
                .map(|n| Endpoint {
                    address: Ipv4Addr::new(10, 0, 1, n).into(),
                    uplink: UplinkId(3),
                    host_mac: [2, 0, 0, 1, 0, n],
                    pod_mac: [2, 0, 0, 2, 0, n],
                    mtu: 9001,
                })
                .collect(),
        }
    }

    #[test]
    fn everything_is_found_and_nothing_else() {
        let snapshot = Snapshot::compile(config()).unwrap();
        for n in 1..=250 {
            let address = Ipv4Addr::new(10, 0, 1, n).into();
            assert_eq!(snapshot.endpoint(address).unwrap().address, address);
        }
        for n in 0..=255 {
            assert!(
                snapshot
                    .endpoint(Ipv4Addr::new(10, 0, 2, n).into())
                    .is_none()
            );
        }
        assert_eq!(snapshot.uplink(UplinkId(3)).unwrap().id, UplinkId(3));
        assert!(snapshot.uplink(UplinkId(1)).is_none());
        assert!(snapshot.uplink(UplinkId(200)).is_none());
        assert_eq!(snapshot.primary_uplink().unwrap().id, UplinkId(0));
        assert!(!snapshot.translates(Ipv4Addr::new(10, 0, 200, 1).into()));
        assert!(!snapshot.translates(Ipv4Addr::new(192, 168, 0, 9).into()));
        assert!(snapshot.translates(Ipv4Addr::new(192, 168, 1, 9).into()));
        assert!(snapshot.is_kernels(Ipv4Addr::new(10, 0, 3, 10).into()));
        assert!(snapshot.is_kernels(Ipv4Addr::new(172, 20, 255, 255).into()));
        assert!(!snapshot.is_kernels(Ipv4Addr::new(172, 21, 0, 0).into()));
    }

    #[test]
    fn a_zero_prefix_in_the_exclusions_turns_translation_off() {
        let mut config = config();
        if let Snat::Node(snat) = &mut config.snat {
            snat.exclude_cidrs = vec![Cidr {
                address: Ipv4Addr::UNSPECIFIED.into(),
                prefix: 0,
            }];
        }
        let snapshot = Snapshot::compile(config).unwrap();
        assert!(!snapshot.translates(Ipv4Addr::new(8, 8, 8, 8).into()));
    }

    #[test]
    fn all_problems_are_reported_together_with_their_entries() {
        let mut config = config();
        config.trunk_mac = [0; 6];
        config.vpc_cidrs[0].prefix = 33;
        if let Snat::Node(snat) = &mut config.snat {
            snat.ports.first = 30000;
        }
        config.uplinks[0].primary = false;
        config.uplinks[1].mtu = 60;
        config.endpoints[0].uplink = UplinkId(7);
        config.endpoints[1].pod_mac = [0xff; 6];
        config.endpoints[2].address = config.endpoints[3].address;
        config.endpoints[4].address = Ipv4Addr::LOCALHOST.into();
        let text: Vec<String> = Snapshot::compile(config)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            text,
            [
                "trunk_mac: the MAC is zero or a group address",
                "vpc_cidrs[10.0.5.5/33]: the prefix is longer than an address",
                "snat.ports: the port range is empty or holds port 0",
                "uplinks[3]: the MTU is below 68 bytes",
                "uplinks: exactly one uplink must be primary",
                "endpoints[10.0.1.1]: it names an uplink that is not there",
                "endpoints[10.0.1.2]: the MAC is zero or a group address",
                "endpoints[10.0.1.4]: another entry has the same key",
                "endpoints[127.0.0.1]: no interface can have this address",
            ]
        );
    }
}
