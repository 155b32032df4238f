//! After a restart: which attachments still stand.
//!
//! A live host interface wins over every other source: its pod keeps its address whatever the checkpoint or EC2 say.
//! Deciding is pure ([`decide`]); [`apply`] puts the result into the state.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use penstock_control_api::{AttachmentKey, PodIdentity};
use penstock_dataplane_api::MacAddr;

use crate::clock::Timestamp;
use crate::ipam::checkpoint::{Checkpoint, Cooling};
use crate::ipam::legacy::Holders;
use crate::ipam::{PodLink, Record};
use crate::node::{Link, PodPath, table_of};
use crate::state::State;

/// Network name of records rebuilt from the kernel.
pub(crate) const RECOVERED: &str = "recovered";

/// What the kernel shows of pods.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// All links.
    pub links: Vec<Link>,
    /// /32 routes with link scope: (address, interface index).
    pub routes: Vec<(Ipv4Addr, u32)>,
    /// Resolved neighbours: (interface index, address, hardware address).
    pub neighbors: Vec<(u32, Ipv4Addr, MacAddr)>,
    /// By which name the runtime knows pods that another CNI attached.
    pub holders: Holders,
}

/// The state to start from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Attachments that stand.
    pub records: Vec<Record>,
    /// Paths of attachments that do not; to be removed from the kernel.
    pub gone: Vec<PodPath>,
    /// Addresses that rest.
    pub cooling: Vec<Cooling>,
    /// Attachments deleted lately.
    pub tombstones: HashMap<AttachmentKey, Timestamp>,
}

/// Decides from the checkpoint (empty: absent or bad) and the kernel.
#[must_use]
pub fn decide(
    checkpoint: Checkpoint,
    kernel: &Kernel,
    veth_prefix: &str,
    now: Timestamp,
) -> Restored {
    let mut restored = Restored::default();
    let mut seen = HashSet::new();
    restored.cooling = checkpoint.cooling;
    let tombstones = checkpoint.tombstones.into_iter();
    restored.tombstones = tombstones.map(|stone| (stone.key, stone.at)).collect();
    for record in checkpoint.attachments {
        seen.insert(record.address);
        if stands(&record, &kernel.links) {
            restored.records.push(record);
        } else {
            restored.cooling.push(Cooling {
                address: record.address,
                since: now,
            });
            restored.gone.extend(State::path_of(&record));
            if record.superseded {
                // Its sandbox must not take the name back.
                restored.tombstones.insert(record.key, now);
            }
        }
    }
    for (address, ifindex) in &kernel.routes {
        let link = kernel.links.iter().find(|link| link.index == *ifindex);
        let pods = |link: &&Link| link.veth && link.up && link.name.starts_with(veth_prefix);
        if let Some(link) = link.filter(pods)
            && seen.insert(*address)
        {
            restored
                .records
                .extend(rebuild(*address, link, kernel, now));
        }
    }
    restored
}

/// Reservations keep waiting for their Confirm; confirmed ones need their interface, which must be the same one.
fn stands(record: &Record, links: &[Link]) -> bool {
    match record.link {
        None => !record.superseded,
        Some(pair) => links.iter().any(|link| {
            link.index == pair.ifindex
                && link.name == record.host_ifname
                && link.mac == Some(pair.host_mac)
        }),
    }
}

fn rebuild(address: Ipv4Addr, link: &Link, kernel: &Kernel, now: Timestamp) -> Option<Record> {
    let mut neighbors = kernel.neighbors.iter();
    let pod_mac = neighbors.find(|(oif, of, _)| *oif == link.index && *of == address);
    let nameless = || {
        let key = AttachmentKey {
            network: RECOVERED.to_owned(),
            container_id: link.name.clone(),
            ifname: "eth0".to_owned(),
        };
        (key, PodIdentity::default())
    };
    let holder = kernel.holders.get(&address).cloned();
    let (key, pod) = holder.unwrap_or_else(nameless);
    Some(Record {
        key,
        pod,
        netns: String::new(),
        address,
        eni_id: String::new(),
        device_number: 0,
        host_ifname: link.name.clone(),
        mtu: link.mtu,
        reserved_at: now,
        link: Some(PodLink {
            ifindex: link.index,
            host_mac: link.mac?,
            pod_mac: pod_mac.map(|(_, _, mac)| *mac),
        }),
        superseded: false,
    })
}

/// Puts what was decided into the state, whose ENIs and addresses must be known by now. Returns what could not be
/// placed, for the log.
pub fn apply(restored: Restored, state: &mut State) -> Vec<String> {
    let mut complaints = Vec::new();
    for mut record in restored.records {
        if let Some(owner) = state.pool.owner(record.address) {
            record.eni_id = owner.to_owned();
        }
        if let Some(eni) = state.enis.get(&record.eni_id) {
            record.device_number = eni.device_number;
        }
        if let Err(error) = state
            .pool
            .adopt(&record.key, &record.eni_id, record.address)
        {
            complaints.push(format!(
                "{} ({}): {error}",
                record.address, record.host_ifname
            ));
        }
        state.records.insert(record.key.clone(), record);
    }
    for resting in restored.cooling {
        state.pool.set_cooling(resting.address, resting.since);
    }
    state.tombstones = restored.tombstones;
    complaints
}

/// Table of each address that is held, for the removal of all other pods' rules.
#[must_use]
pub fn tables(state: &State) -> HashMap<Ipv4Addr, u32> {
    let live = state.records.values().filter(|record| record.is_live());
    live.map(|record| (record.address, table_of(record.device_number)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::checkpoint::Tombstone;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn link(index: u32, name: &str, last: u8) -> Link {
        Link {
            index,
            name: name.into(),
            mac: Some(mac(last)),
            mtu: 9001,
            up: true,
            veth: true,
        }
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 1, last)
    }

    fn record(last: u8, ifindex: Option<u32>) -> Record {
        Record {
            key: AttachmentKey {
                network: "penstock".into(),
                container_id: format!("c{last}"),
                ifname: "eth0".into(),
            },
            pod: PodIdentity::default(),
            netns: String::new(),
            address: address(last),
            eni_id: "eni-1".into(),
            device_number: 1,
            host_ifname: format!("eni{last}"),
            mtu: 9001,
            reserved_at: Timestamp(5),
            link: ifindex.map(|ifindex| PodLink {
                ifindex,
                host_mac: mac(last),
                pod_mac: Some(mac(100)),
            }),
            superseded: false,
        }
    }

    #[test]
    fn live_interfaces_keep_their_pods_and_the_rest_goes() {
        let superseded = Record {
            superseded: true,
            ..record(5, None)
        };
        let checkpoint = Checkpoint {
            attachments: vec![
                record(1, Some(11)),
                record(2, Some(12)),
                record(3, None),
                record(4, Some(14)),
                superseded,
            ],
            tombstones: vec![Tombstone {
                key: record(9, None).key,
                at: Timestamp(7),
            }],
            cooling: vec![Cooling {
                address: address(8),
                since: Timestamp(6),
            }],
            ..Checkpoint::default()
        };
        // Interface 14 exists again, but as another sandbox's: same name, other hardware address.
        let kernel = Kernel {
            links: vec![link(11, "eni1", 1), link(14, "eni4", 77)],
            ..Kernel::default()
        };
        let restored = decide(checkpoint, &kernel, "eni", NOW);
        assert_eq!(restored.records, [record(1, Some(11)), record(3, None)]);
        let gone: Vec<_> = restored.gone.iter().map(|path| path.address).collect();
        assert_eq!(gone, [address(2), address(4)]);
        let resting: Vec<_> = restored
            .cooling
            .iter()
            .map(|c| (c.address, c.since))
            .collect();
        let expected = [(8, Timestamp(6)), (2, NOW), (4, NOW), (5, NOW)];
        assert_eq!(
            resting,
            expected.map(|(last, since)| (address(last), since))
        );
        assert_eq!(restored.tombstones[&record(9, None).key], Timestamp(7));
    }

    #[test]
    fn without_a_checkpoint_running_pods_are_found_in_the_kernel() {
        let down = Link {
            up: false,
            ..link(23, "eni23", 3)
        };
        let kernel = Kernel {
            links: vec![link(21, "eni21", 1), link(22, "docker0", 2), down],
            routes: vec![
                (address(1), 21),
                (address(2), 22),
                (address(3), 23),
                (address(4), 99),
            ],
            neighbors: vec![(21, address(1), mac(50))],
            ..Kernel::default()
        };
        let restored = decide(Checkpoint::default(), &kernel, "eni", NOW);
        assert_eq!(restored.records.len(), 1);
        let found = &restored.records[0];
        assert_eq!(
            (found.address, found.host_ifname.as_str()),
            (address(1), "eni21")
        );
        assert_eq!(found.link.unwrap().pod_mac, Some(mac(50)));
        assert_eq!(found.key.network, RECOVERED);
    }

    #[test]
    fn a_pod_of_the_vpc_cni_is_taken_over_under_the_runtimes_name() {
        let theirs = AttachmentKey {
            network: "aws-cni".into(),
            container_id: "c7".into(),
            ifname: "eth0".into(),
        };
        let pod = PodIdentity {
            namespace: "default".into(),
            name: "web-0".into(),
            uid: String::new(),
        };
        let kernel = Kernel {
            links: vec![link(21, "eni21", 1)],
            routes: vec![(address(1), 21)],
            // The file also knows a pod whose interface is gone: that one is not brought back.
            holders: [(1, "c7"), (2, "c8")]
                .into_iter()
                .map(|(last, id)| {
                    let container_id = id.to_owned();
                    let key = AttachmentKey {
                        container_id,
                        ..theirs.clone()
                    };
                    (address(last), (key, pod.clone()))
                })
                .collect(),
            ..Kernel::default()
        };
        let restored = decide(Checkpoint::default(), &kernel, "eni", NOW);
        let [record] = &restored.records[..] else {
            panic!("{restored:?}");
        };
        assert_eq!((&record.key, &record.pod), (&theirs, &pod));
        assert!(record.is_live());
    }

    #[test]
    fn a_recorded_pod_is_not_rebuilt_a_second_time() {
        let kernel = Kernel {
            links: vec![link(11, "eni1", 1)],
            routes: vec![(address(1), 11)],
            ..Kernel::default()
        };
        let checkpoint = Checkpoint {
            attachments: vec![record(1, Some(11))],
            ..Checkpoint::default()
        };
        let restored = decide(checkpoint, &kernel, "eni", NOW);
        assert_eq!(restored.records, [record(1, Some(11))]);
    }
}
