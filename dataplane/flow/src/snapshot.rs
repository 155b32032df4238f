//! The node, compiled: immutable, shared by all workers, read once per batch.
//!
//! Look-ups cost a constant number of cache lines for endpoints and uplinks and a scan of a few
//! prefixes on the slow path. A snapshot is never changed; a new one has a new epoch.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use crate::UplinkId;
use crate::config::{
    Access, Cidr, Config, ConfigError, Endpoint, NodeSnat, PortRange, Problem, Snat, Uplink,
};

/// Everything forwarding goes by.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) epoch: u64,
    pub(crate) primary_address: Ipv4Addr,
    pub(crate) trunk_mac: [u8; 6],
    pub(crate) imds: Access,
    pub(crate) snat: Option<NodeSnat>,
    /// VPC and excluded prefixes: destinations that are never translated.
    untranslated: Prefixes,
    kernel: Prefixes,
    uplinks: Vec<Option<Uplink>>,
    primary_uplink: UplinkId,
    endpoints: Endpoints,
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
        let snat = match config.snat {
            Snat::Node(snat) => {
                untranslated.extend(&snat.exclude_cidrs);
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
            trunk_mac: config.trunk_mac,
            imds: config.imds,
            snat,
            untranslated: Prefixes::new(&untranslated),
            kernel: Prefixes::new(&config.kernel_cidrs),
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

    /// The endpoint that has `address`.
    #[inline]
    #[must_use]
    pub fn endpoint(&self, address: Ipv4Addr) -> Option<&Endpoint> {
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

    /// Whether packets to `destination` are translated when they leave.
    pub(crate) fn translates(&self, destination: Ipv4Addr) -> bool {
        self.snat.is_some() && !self.untranslated.contain(destination)
    }

    /// Whether `destination` is the kernel's: the node's own addresses and what is configured.
    pub(crate) fn is_kernels(&self, destination: Ipv4Addr) -> bool {
        destination == self.primary_address
            || self.kernel.contain(destination)
            || self
                .uplinks
                .iter()
                .flatten()
                .any(|uplink| uplink.address == destination)
            || self
                .snat
                .as_ref()
                .is_some_and(|snat| snat.address == destination)
    }

    /// The range of L4 ports that are the engine's on `address`.
    #[inline]
    pub(crate) fn snat_ports(&self, address: Ipv4Addr) -> Option<PortRange> {
        self.snat
            .as_ref()
            .filter(|snat| snat.address == address)
            .map(|snat| snat.ports)
    }
}

/// A few prefixes, scanned.
#[derive(Debug)]
struct Prefixes(Vec<(u32, u32)>);

impl Prefixes {
    fn new(cidrs: &[Cidr]) -> Self {
        let mask = |prefix: u8| u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Self(
            cidrs
                .iter()
                .map(|cidr| {
                    (
                        cidr.address.to_bits() & mask(cidr.prefix),
                        mask(cidr.prefix),
                    )
                })
                .collect(),
        )
    }

    fn contain(&self, address: Ipv4Addr) -> bool {
        self.0
            .iter()
            .any(|(network, mask)| address.to_bits() & mask == *network)
    }
}

/// Endpoints by address: open addressing at no more than half load.
#[derive(Debug)]
struct Endpoints {
    slots: Box<[Option<Endpoint>]>,
    shift: u32,
}

impl Endpoints {
    fn new(endpoints: &[Endpoint]) -> Self {
        let size = (endpoints.len() * 2).next_power_of_two().max(2);
        let mut table = Self {
            slots: vec![None; size].into_boxed_slice(),
            shift: 32 - size.trailing_zeros(),
        };
        for endpoint in endpoints {
            let mut at = table.home(endpoint.address);
            while table.slots.get(at).is_some_and(Option::is_some) {
                at = (at + 1) & (size - 1);
            }
            if let Some(slot) = table.slots.get_mut(at) {
                *slot = Some(*endpoint);
            }
        }
        table
    }

    /// First slot to try. Addresses are handed out by us, so a fixed multiplier does.
    #[inline]
    fn home(&self, address: Ipv4Addr) -> usize {
        (address.to_bits().wrapping_mul(0x9E37_79B1) >> self.shift) as usize
    }

    #[inline]
    fn get(&self, address: Ipv4Addr) -> Option<&Endpoint> {
        let mut at = self.home(address);
        loop {
            let endpoint = self.slots.get(at)?.as_ref()?;
            if endpoint.address == address {
                return Some(endpoint);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

/// Every problem of a configuration.
fn check(config: &Config) -> Vec<ConfigError> {
    let mut problems = Problems(Vec::new());
    problems.unless(
        usable(config.primary_address),
        "primary_address",
        Problem::Address,
    );
    problems.unless(station(config.trunk_mac), "trunk_mac", Problem::Mac);
    problems.prefixes("vpc_cidrs", &config.vpc_cidrs);
    problems.prefixes("kernel_cidrs", &config.kernel_cidrs);
    if let Snat::Node(snat) = &config.snat {
        problems.unless(usable(snat.address), "snat.address", Problem::Address);
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
        problems.unless(usable(uplink.address), &entry, Problem::Address);
    }
    let primaries = config
        .uplinks
        .iter()
        .filter(|uplink| uplink.primary)
        .count();
    problems.unless(primaries == 1, "uplinks", Problem::PrimaryUplink);
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
            self.unless(cidr.prefix <= 32, &entry, Problem::Prefix);
        }
    }
}

/// Whether an interface can have this MAC.
fn station(mac: [u8; 6]) -> bool {
    let [first, ..] = mac;
    mac != [0; 6] && first & 1 == 0
}

/// Whether an interface can have this address.
fn usable(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !matches!(first, 0 | 127 | 224..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PortChoice;

    fn config() -> Config {
        let uplink = |id, primary| Uplink {
            id: UplinkId(id),
            mac: [2, 0, 0, 0, 1, id],
            gateway_mac: Some([2, 0, 0, 0, 2, id]),
            mtu: 9001,
            address: Ipv4Addr::new(10, 0, id, 10),
            primary,
        };
        Config {
            epoch: 1,
            primary_address: Ipv4Addr::new(10, 0, 0, 10),
            trunk_mac: [2, 0, 0, 0, 0, 9],
            vpc_cidrs: vec![Cidr {
                address: Ipv4Addr::new(10, 0, 5, 5),
                prefix: 16,
            }],
            kernel_cidrs: vec![Cidr {
                address: Ipv4Addr::new(172, 20, 0, 0),
                prefix: 16,
            }],
            snat: Snat::Node(NodeSnat {
                address: Ipv4Addr::new(10, 0, 0, 10),
                ports: PortRange {
                    first: 11000,
                    last: 29999,
                },
                choice: PortChoice::Prng,
                exclude_cidrs: vec![Cidr {
                    address: Ipv4Addr::new(192, 168, 0, 0),
                    prefix: 24,
                }],
            }),
            imds: Access::Deny,
            uplinks: vec![uplink(0, true), uplink(3, false)],
            endpoints: (1..=250)
                .map(|n| Endpoint {
                    address: Ipv4Addr::new(10, 0, 1, n),
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
            let address = Ipv4Addr::new(10, 0, 1, n);
            assert_eq!(snapshot.endpoint(address).unwrap().address, address);
        }
        for n in 0..=255 {
            assert!(snapshot.endpoint(Ipv4Addr::new(10, 0, 2, n)).is_none());
        }
        assert_eq!(snapshot.uplink(UplinkId(3)).unwrap().id, UplinkId(3));
        assert!(snapshot.uplink(UplinkId(1)).is_none());
        assert!(snapshot.uplink(UplinkId(200)).is_none());
        assert_eq!(snapshot.primary_uplink().unwrap().id, UplinkId(0));
        assert!(!snapshot.translates(Ipv4Addr::new(10, 0, 200, 1)));
        assert!(!snapshot.translates(Ipv4Addr::new(192, 168, 0, 9)));
        assert!(snapshot.translates(Ipv4Addr::new(192, 168, 1, 9)));
        assert!(snapshot.is_kernels(Ipv4Addr::new(10, 0, 3, 10)));
        assert!(snapshot.is_kernels(Ipv4Addr::new(172, 20, 255, 255)));
        assert!(!snapshot.is_kernels(Ipv4Addr::new(172, 21, 0, 0)));
    }

    #[test]
    fn a_zero_prefix_in_the_exclusions_turns_translation_off() {
        let mut config = config();
        if let Snat::Node(snat) = &mut config.snat {
            snat.exclude_cidrs = vec![Cidr {
                address: Ipv4Addr::UNSPECIFIED,
                prefix: 0,
            }];
        }
        let snapshot = Snapshot::compile(config).unwrap();
        assert!(!snapshot.translates(Ipv4Addr::new(8, 8, 8, 8)));
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
        config.endpoints[4].address = Ipv4Addr::new(127, 0, 0, 1);
        let text: Vec<String> = Snapshot::compile(config)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            text,
            [
                "trunk_mac: the MAC is zero or a group address",
                "vpc_cidrs[10.0.5.5/33]: the prefix is longer than 32 bits",
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
