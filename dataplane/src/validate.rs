//! Whether a published snapshot makes sense on its own.
//!
//! Reports every problem, each naming the entry by list and index, so that one round is enough to
//! mend them. Knows no kernel: whether interfaces exist is found out when they are used.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use penstock_dataplane_api::{Endpoint, FlowSettings, MacAddr, Snapshot, SnatMode, Uplink};

use penstock_hooks::limits::{MAX_KERNEL_CIDRS, MAX_PODS};

use crate::timers::timeouts;
use crate::trunk;

/// Most CIDRs of the kernel: what the hooks have room for.
pub const MAX_CIDRS: usize = MAX_KERNEL_CIDRS as usize;

/// Most prefixes in a list that only workers go by, who find an address among any number of them
/// in a few steps.
pub const MAX_RULES: usize = 16_384;

/// Most uplinks: more than any instance type has ENIs on one network card.
pub const MAX_UPLINKS: usize = 16;

/// Most endpoints: what the hooks have room for.
pub const MAX_ENDPOINTS: usize = MAX_PODS as usize;

/// Problems reported in one answer; the rest is counted.
const MAX_PROBLEMS: usize = 100;

/// IFNAMSIZ of linux/if.h, less the terminating zero.
const MAX_IFNAME_BYTES: usize = 15;

/// Bytes of IP packet an interface may carry: RFC 791's datagram that everybody must take, to the
/// largest MTU of the ENA driver. A VPC carries 9,001 at most.
const MTU: RangeInclusive<u32> = 576..=9_216;

/// Least MTU of an interface with IPv6 (RFC 8200, section 5).
const MTU6_MIN: u32 = 1_280;

/// Longest a flow timer may run: what the timer wheel counts, less than ever matters.
const TIMER_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// MSS a clamp may ask for: of the smallest and of the largest IPv4 MTU, less 40 bytes of headers.
const MSS: RangeInclusive<u16> = 536..=9_176;

/// Every problem of `snapshot`; none means it can be compiled for `workers` workers.
#[must_use]
pub fn problems(snapshot: &Snapshot, workers: u32) -> Vec<String> {
    let mut found = Problems::default();
    if snapshot.generation == 0 {
        found.add("generation", "is 0; publications count from 1");
    }
    found.cidrs("vpc_cidrs", &snapshot.vpc_cidrs, MAX_RULES);
    found.cidrs("kernel_cidrs", &snapshot.kernel_cidrs, MAX_CIDRS);
    let excluded: Vec<IpNet> = snapshot
        .snat
        .exclude_cidrs
        .iter()
        .copied()
        .map(IpNet::V4)
        .collect();
    found.cidrs("snat.exclude_cidrs", &excluded, MAX_RULES);
    found.flow(&snapshot.flow);
    if let Some(address) = snapshot.node.primary_address6 {
        found.address("node", "primary_address6", address.into());
    }
    found.uplinks(&snapshot.uplinks);
    found.snat(snapshot, workers);
    found.endpoints(snapshot);
    found.finish()
}

#[derive(Default)]
struct Problems {
    listed: Vec<String>,
    unlisted: usize,
}

impl Problems {
    fn add(&mut self, place: impl Display, problem: impl Display) {
        if self.listed.len() < MAX_PROBLEMS {
            self.listed.push(format!("{place} {problem}"));
        } else {
            self.unlisted += 1;
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.unlisted > 0 {
            self.listed.push(format!("and {} more", self.unlisted));
        }
        self.listed
    }

    fn at_most(&mut self, list: &str, length: usize, limit: usize) {
        if length > limit {
            self.add(list, format!("has {length} entries; at most {limit}"));
        }
    }

    fn flow(&mut self, flow: &FlowSettings) {
        let timeouts = timeouts(&flow.timers);
        for error in timeouts.check().err().unwrap_or_default() {
            let (given, least) = (error.given.as_secs(), error.minimum.as_secs());
            let place = format!("flow.timers.{}_seconds", error.timer);
            self.add(
                place,
                format!("is {given}; {} wants at least {least}", error.source),
            );
        }
        for (timer, idle) in timeouts.all() {
            if idle > TIMER_MAX {
                let (given, most) = (idle.as_secs(), TIMER_MAX.as_secs());
                let place = format!("flow.timers.{timer}_seconds");
                self.add(place, format!("is {given}; at most {most}"));
            }
        }
        if flow.flows_per_pod == Some(0) {
            self.add("flow.flows_per_pod", "is 0; null is unlimited");
        }
        if let Some(mss) = flow.mss_clamp.filter(|mss| !MSS.contains(mss)) {
            let (low, high) = (MSS.start(), MSS.end());
            self.add("flow.mss_clamp", format!("is {mss}; {low} to {high}"));
        }
    }

    fn cidrs(&mut self, list: &str, cidrs: &[IpNet], most: usize) {
        self.at_most(list, cidrs.len(), most);
        self.unique(list, "prefix", cidrs.iter().copied());
        for (index, cidr) in cidrs.iter().enumerate() {
            if cidr.trunc() != *cidr {
                let meant = cidr.trunc();
                self.add(
                    format!("{list}[{index}]"),
                    format!("{cidr} has host bits set; {meant}?"),
                );
            }
        }
    }

    fn uplinks(&mut self, uplinks: &[Uplink]) {
        let list = "uplinks";
        self.at_most(list, uplinks.len(), MAX_UPLINKS);
        self.unique(list, "eni_id", uplinks.iter().map(|uplink| &uplink.eni_id));
        self.unique(list, "ifname", uplinks.iter().map(|uplink| &uplink.ifname));
        self.unique(list, "ifindex", uplinks.iter().map(|uplink| uplink.ifindex));
        self.unique(list, "address", uplinks.iter().map(|uplink| uplink.address));
        let address6 = |uplink: &Uplink| uplink.address6;
        self.unique(list, "address6", uplinks.iter().filter_map(address6));
        self.unique(list, "mac", uplinks.iter().map(|uplink| uplink.mac));
        for (index, uplink) in uplinks.iter().enumerate() {
            let place = format!("{list}[{index}] ({})", uplink.eni_id);
            if uplink.eni_id.is_empty() {
                self.add(&place, "has no eni_id");
            }
            self.interface(&place, &uplink.ifname, uplink.ifindex);
            self.mtu(&place, uplink.mtu);
            self.mac(&place, "mac", uplink.mac);
            if let Some(mac) = uplink.gateway_mac {
                self.mac(&place, "gateway_mac", mac);
            }
            if uplink.address.is_unspecified() || uplink.gateway.is_unspecified() {
                self.add(&place, "has no address or no gateway");
            }
            self.uplink6(&place, uplink);
        }
        let primaries = uplinks.iter().filter(|uplink| uplink.primary).count();
        if primaries != 1 {
            self.add(
                list,
                format!("has {primaries} primary entries; exactly one"),
            );
        }
    }

    fn uplink6(&mut self, place: &str, uplink: &Uplink) {
        if let Some(address) = uplink.address6 {
            self.address(place, "address6", address.into());
            self.mtu6(place, uplink.mtu);
        }
        let no_router = |router: &Ipv6Addr| router.is_unspecified() || router.is_multicast();
        if let Some(router) = uplink.gateway6.filter(no_router) {
            self.add(
                place,
                format!("has gateway6 {router}, which is no router's"),
            );
        }
    }

    fn snat(&mut self, snapshot: &Snapshot, workers: u32) {
        let snat = &snapshot.snat;
        if snat.ports.first == 0 || snat.ports.last < snat.ports.first {
            let (first, last) = (snat.ports.first, snat.ports.last);
            self.add("snat.ports", format!("{first}-{last} is no range of ports"));
        } else if u32::from(snat.ports.last - snat.ports.first) + 1 < workers {
            self.add("snat.ports", format!("is too small for {workers} workers"));
        }
        let primary = snapshot.uplinks.iter().find(|uplink| uplink.primary);
        let Some(primary) = primary else { return };
        if snat.mode == SnatMode::Node && snat.address != primary.address {
            self.add(
                "snat.address",
                format!(
                    "{} is not the primary uplink's {}; EC2 would drop what carries it",
                    snat.address, primary.address
                ),
            );
        }
    }

    fn endpoints(&mut self, snapshot: &Snapshot) {
        let list = "endpoints";
        let endpoints = &snapshot.endpoints;
        self.at_most(list, endpoints.len(), MAX_ENDPOINTS);
        let addresses = endpoints.iter().flat_map(|entry| &entry.addresses);
        self.unique(list, "address", addresses);
        self.unique(list, "ifname", endpoints.iter().map(|entry| &entry.ifname));
        self.unique(list, "ifindex", endpoints.iter().map(|entry| entry.ifindex));
        let enis: HashSet<&str> = snapshot
            .uplinks
            .iter()
            .map(|uplink| uplink.eni_id.as_str())
            .collect();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let name = endpoint
                .addresses
                .first()
                .map_or_else(String::new, IpAddr::to_string);
            let place = format!("{list}[{index}] ({name})");
            if !enis.contains(endpoint.eni_id.as_str()) {
                self.add(&place, format!("names unknown ENI `{}`", endpoint.eni_id));
            }
            self.endpoint(&place, endpoint, snapshot);
        }
    }

    fn endpoint(&mut self, place: &str, endpoint: &Endpoint, snapshot: &Snapshot) {
        self.interface(place, &endpoint.ifname, endpoint.ifindex);
        self.mtu(place, endpoint.mtu);
        self.mac(place, "host_mac", endpoint.host_mac);
        self.mac(place, "pod_mac", endpoint.pod_mac);
        if endpoint.host_mac == endpoint.pod_mac {
            self.add(place, "has the same MAC on both sides of its veth");
        }
        self.endpoint_addresses(place, endpoint);
        let uplink_owns = |uplink: &Uplink| {
            uplink.ifname == endpoint.ifname
                || uplink.ifindex == endpoint.ifindex
                || endpoint.address4() == Some(uplink.address)
                || endpoint
                    .address6()
                    .is_some_and(|address| uplink.address6 == Some(address))
        };
        if let Some(uplink) = snapshot.uplinks.iter().find(|uplink| uplink_owns(uplink)) {
            let eni_id = &uplink.eni_id;
            self.add(place, format!("claims an interface or address of {eni_id}"));
        }
    }

    fn endpoint_addresses(&mut self, place: &str, endpoint: &Endpoint) {
        let of_family = |six: bool| {
            let same = |address: &&IpAddr| address.is_ipv6() == six;
            endpoint.addresses.iter().filter(same).count()
        };
        if endpoint.addresses.is_empty() || of_family(false) > 1 || of_family(true) > 1 {
            let addresses = &endpoint.addresses;
            self.add(
                place,
                format!("has addresses {addresses:?}; one, or one of each family"),
            );
        }
        for address in &endpoint.addresses {
            self.address(place, "address", *address);
        }
        if of_family(true) > 0 {
            self.mtu6(place, endpoint.mtu);
        }
    }

    /// An address that an interface is reached by from other links.
    fn address(&mut self, place: &str, field: &str, address: IpAddr) {
        let unusable = match address {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
        };
        let nobody = address.is_unspecified() || address.is_loopback() || address.is_multicast();
        if unusable || nobody {
            self.add(
                place,
                format!("has {field} {address}, which it cannot have"),
            );
        }
    }

    fn mtu6(&mut self, place: &str, mtu: u32) {
        if mtu < MTU6_MIN {
            self.add(
                place,
                format!("has IPv6 and MTU {mtu}; at least {MTU6_MIN}"),
            );
        }
    }

    fn interface(&mut self, place: &str, ifname: &str, ifindex: u32) {
        let legal = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
        let length = ifname.len();
        if length == 0 || length > MAX_IFNAME_BYTES || !ifname.bytes().all(legal) {
            self.add(place, format!("has ifname `{}`", ifname.escape_debug()));
        }
        if ifname == trunk::KERNEL_SIDE || ifname == trunk::WORKER_SIDE {
            self.add(place, format!("claims {ifname}, which is the dataplane's"));
        }
        if ifindex == 0 || i32::try_from(ifindex).is_err() {
            self.add(place, format!("has ifindex {ifindex}"));
        }
    }

    fn mtu(&mut self, place: &str, mtu: u32) {
        if !MTU.contains(&mtu) {
            let (low, high) = (MTU.start(), MTU.end());
            self.add(place, format!("has MTU {mtu}; {low} to {high}"));
        }
    }

    fn mac(&mut self, place: &str, field: &str, mac: MacAddr) {
        if !mac.is_unicast() {
            self.add(place, format!("has {field} {mac}, which is no station's"));
        }
    }

    fn unique<T: Eq + Hash + Display>(
        &mut self,
        list: &str,
        field: &str,
        values: impl Iterator<Item = T>,
    ) {
        let mut seen = HashSet::new();
        for (index, value) in values.enumerate() {
            if let Some(twice) = seen.replace(value) {
                self.add(
                    format!("{list}[{index}]"),
                    format!("repeats {field} {twice} of another entry"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_sound_snapshot_has_no_problem() {
        assert_eq!(problems(&fixture::snapshot(), 4), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_reported_with_its_place() {
        let mut snapshot = fixture::snapshot();
        snapshot.vpc_cidrs.push("10.1.2.3/16".parse().unwrap());
        snapshot.endpoints[1].eni_id = "eni-unknown".to_owned();
        snapshot.endpoints[1].ifname = "trunk0".to_owned();
        snapshot.uplinks[0].primary = false;
        let found = problems(&snapshot, 1).join("\n");
        for expected in [
            "vpc_cidrs[2] 10.1.2.3/16 has host bits",
            "endpoints[1] (10.0.0.12) names unknown ENI `eni-unknown`",
            "endpoints[1] (10.0.0.12) claims trunk0",
            "uplinks has 0 primary entries",
        ] {
            assert!(
                found.contains(expected),
                "{expected} missing from:\n{found}"
            );
        }
    }

    #[test]
    fn either_family_alone_is_sound() {
        let mut snapshot = fixture::snapshot();
        snapshot.endpoints[0].addresses.truncate(1);
        snapshot.endpoints[1].addresses.remove(0);
        snapshot.uplinks[1].address6 = None;
        snapshot.flow.flows_per_pod = None;
        assert_eq!(problems(&snapshot, 4), Vec::<String>::new());
    }

    type Fault = fn(&mut Snapshot);

    fn each_is_found(faults: &[(&str, Fault)]) {
        for (expected, fault) in faults {
            let mut snapshot = fixture::snapshot();
            fault(&mut snapshot);
            let found = problems(&snapshot, 1).join("\n");
            assert!(found.contains(expected), "{expected} not in `{found}`");
        }
    }

    #[test]
    fn each_fault_of_addresses_and_settings_is_found() {
        each_is_found(&[
            ("repeats address 2001:db8", |s| {
                s.endpoints[1].addresses[1] = s.endpoints[0].addresses[1];
            }),
            ("one of each family", |s| s.endpoints[0].addresses.clear()),
            ("one of each family", |s| {
                s.endpoints[0].addresses[1] = [10, 0, 0, 99].into();
            }),
            ("one of each family", |s| {
                s.endpoints[0].addresses.push([10, 0, 0, 99].into());
            }),
            ("cannot have", |s| {
                s.endpoints[0].addresses[0] = [0; 4].into();
            }),
            ("cannot have", |s| {
                s.endpoints[0].addresses[1] = "fe80::5".parse().unwrap();
            }),
            ("cannot have", |s| {
                s.endpoints[0].addresses[1] = "::ffff:10.0.0.7".parse().unwrap();
            }),
            ("cannot have", |s| {
                s.node.primary_address6 = Some(Ipv6Addr::LOCALHOST);
            }),
            ("cannot have", |s| {
                s.uplinks[0].address6 = Some("ff02::1".parse().unwrap());
            }),
            ("no router's", |s| {
                s.uplinks[0].gateway6 = Some([0; 16].into());
            }),
            ("repeats address6", |s| {
                s.uplinks[0].address6 = s.uplinks[1].address6;
            }),
            ("at least 1280", |s| s.endpoints[0].mtu = 1_279),
            ("at least 1280", |s| s.uplinks[0].mtu = 1_279),
            ("vpc_cidrs[2] repeats prefix", |s| {
                s.vpc_cidrs.push(s.vpc_cidrs[0]);
            }),
            ("kernel_cidrs[1] 2001:db8::1/64 has host bits", |s| {
                s.kernel_cidrs.push("2001:db8::1/64".parse().unwrap());
            }),
            (
                "flow.timers.udp_seconds is 119; RFC 4787 REQ-5 wants at least 120",
                |s| s.flow.timers.udp_seconds = 119,
            ),
            (
                "flow.timers.quarantine_seconds is 0; RFC 6888 REQ-8 wants at least 120",
                |s| s.flow.timers.quarantine_seconds = 0,
            ),
            (
                "flow.timers.quarantine_seconds is 4294967295; at most 604800",
                |s| {
                    s.flow.timers.quarantine_seconds = u32::MAX;
                },
            ),
            ("flow.flows_per_pod", |s| s.flow.flows_per_pod = Some(0)),
            ("flow.mss_clamp", |s| s.flow.mss_clamp = Some(535)),
            ("of eni-2", |s| {
                s.endpoints[0].addresses[1] = s.uplinks[1].address6.unwrap().into();
            }),
        ]);
    }

    #[test]
    fn each_single_fault_is_found() {
        each_is_found(&[
            ("generation", |s| s.generation = 0),
            ("snat.ports", |s| s.snat.ports.first = 0),
            ("snat.ports", |s| s.snat.ports.last = 1),
            ("snat.address", |s| s.snat.address = [1, 2, 3, 4].into()),
            ("repeats address", |s| {
                s.endpoints[1].addresses[0] = s.endpoints[0].addresses[0];
            }),
            ("repeats ifindex", |s| {
                s.endpoints[1].ifindex = s.endpoints[0].ifindex;
            }),
            ("of eni-1", |s| {
                s.endpoints[0].addresses[0] = s.uplinks[0].address.into();
            }),
            ("same MAC", |s| {
                s.endpoints[0].pod_mac = s.endpoints[0].host_mac;
            }),
            ("no station's", |s| s.endpoints[0].pod_mac = MacAddr([1; 6])),
            ("MTU", |s| s.endpoints[0].mtu = 20),
            ("MTU", |s| s.uplinks[0].mtu = 65_000),
            ("ifname", |s| s.uplinks[0].ifname = "../../x".to_owned()),
            ("ifindex", |s| s.uplinks[0].ifindex = 0),
            ("no gateway", |s| s.uplinks[0].gateway = [0; 4].into()),
        ]);
    }

    #[test]
    fn a_flood_is_refused_with_a_bounded_answer() {
        let mut snapshot = fixture::snapshot();
        let endpoint = snapshot.endpoints[0].clone();
        snapshot.endpoints = vec![endpoint; 100_000];
        let found = problems(&snapshot, 1);
        assert_eq!(found.len(), MAX_PROBLEMS + 1);
        assert!(found[0].contains("at most"));
    }
}
