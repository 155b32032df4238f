//! Whether a published snapshot makes sense on its own.
//!
//! Reports every problem, each naming the entry by list and index, so that one round is enough to
//! mend them. Knows no kernel: whether interfaces exist is found out when they are used.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;

use ipnet::Ipv4Net;
use penstock_dataplane_api::{Endpoint, MacAddr, Snapshot, SnatMode, Uplink};

use penstock_hooks::limits::{MAX_KERNEL_CIDRS, MAX_PODS};

use crate::trunk;

/// Most CIDRs in any one list: what the hooks have room for.
pub const MAX_CIDRS: usize = MAX_KERNEL_CIDRS as usize;

/// Most uplinks: more than any instance type has ENIs on one network card.
pub const MAX_UPLINKS: usize = 16;

/// Most endpoints: what the hooks have room for.
pub const MAX_ENDPOINTS: usize = MAX_PODS as usize;

/// Problems reported in one answer; the rest is counted.
const MAX_PROBLEMS: usize = 100;

/// IFNAMSIZ of linux/if.h, less the terminating zero.
const MAX_IFNAME_BYTES: usize = 15;

/// Bytes of IP packet an interface may carry: RFC 791's minimum to the largest VPC MTU.
const MTU: std::ops::RangeInclusive<u32> = 68..=9_001;

/// Every problem of `snapshot`; none means it can be compiled for `workers` workers.
#[must_use]
pub fn problems(snapshot: &Snapshot, workers: u32) -> Vec<String> {
    let mut found = Problems::default();
    if snapshot.generation == 0 {
        found.add("generation", "is 0; publications count from 1");
    }
    found.cidrs("vpc_cidrs", &snapshot.vpc_cidrs);
    found.cidrs("kernel_cidrs", &snapshot.kernel_cidrs);
    found.cidrs("snat.exclude_cidrs", &snapshot.snat.exclude_cidrs);
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

    fn cidrs(&mut self, list: &str, cidrs: &[Ipv4Net]) {
        self.at_most(list, cidrs.len(), MAX_CIDRS);
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
        }
        let primaries = uplinks.iter().filter(|uplink| uplink.primary).count();
        if primaries != 1 {
            self.add(
                list,
                format!("has {primaries} primary entries; exactly one"),
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
        self.unique(list, "address", endpoints.iter().map(|entry| entry.address));
        self.unique(list, "ifname", endpoints.iter().map(|entry| &entry.ifname));
        self.unique(list, "ifindex", endpoints.iter().map(|entry| entry.ifindex));
        let enis: HashSet<&str> = snapshot
            .uplinks
            .iter()
            .map(|uplink| uplink.eni_id.as_str())
            .collect();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let place = format!("{list}[{index}] ({})", endpoint.address);
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
        let address = endpoint.address;
        if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
            self.add(place, "has an address no pod can have");
        }
        let uplink_owns = |uplink: &Uplink| {
            uplink.ifname == endpoint.ifname
                || uplink.ifindex == endpoint.ifindex
                || uplink.address == address
        };
        if let Some(uplink) = snapshot.uplinks.iter().find(|uplink| uplink_owns(uplink)) {
            let eni_id = &uplink.eni_id;
            self.add(place, format!("claims an interface or address of {eni_id}"));
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
            "vpc_cidrs[1] 10.1.2.3/16 has host bits",
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
    fn each_single_fault_is_found() {
        type Fault = fn(&mut Snapshot);
        let faults: &[(&str, Fault)] = &[
            ("generation", |s| s.generation = 0),
            ("snat.ports", |s| s.snat.ports.first = 0),
            ("snat.ports", |s| s.snat.ports.last = 1),
            ("snat.address", |s| s.snat.address = [1, 2, 3, 4].into()),
            ("repeats address", |s| {
                s.endpoints[1].address = s.endpoints[0].address;
            }),
            ("repeats ifindex", |s| {
                s.endpoints[1].ifindex = s.endpoints[0].ifindex;
            }),
            ("of eni-1", |s| {
                s.endpoints[0].address = s.uplinks[0].address;
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
        ];
        for (expected, fault) in faults {
            let mut snapshot = fixture::snapshot();
            fault(&mut snapshot);
            let found = problems(&snapshot, 1).join("\n");
            assert!(found.contains(expected), "{expected} not in `{found}`");
        }
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
