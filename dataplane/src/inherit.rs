//! What a dead predecessor's hooks went on carrying, as conversations for the workers of today.
//!
//! Read once, at the start. Until the first publication the predecessor's hooks stay at work, by
//! the rules they have; then workers take up the conversations, and interface by interface our
//! hooks take the place of the old ones.

use std::collections::HashMap;

use penstock_flow::key::{FlowKey, Zone};
use penstock_flow::offload::{Carried, Session};
use penstock_flow::{Timestamp, UplinkId};
use penstock_hooks::flows::{Ends, Exit, Found, Translation, Zone as HookZone};
use penstock_hooks::{FlowMap, HookError};
use penstock_packet::rewrite::End;

/// Entries read with one system call.
const BATCH: u32 = 1_024;

/// Epochs by which a successor's rules are ahead of its predecessor's last.
const LEAP: u64 = 16;

/// What was found.
#[derive(Debug, Default)]
pub struct Inheritance {
    found: Vec<Found>,
}

impl Inheritance {
    /// Reads all there is.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn read(flows: &FlowMap) -> Result<Self, HookError> {
        let mut found = Vec::new();
        let mut walk = flows.walk(BATCH)?;
        while walk.next_batch(&mut found)? {}
        Ok(Self { found })
    }

    /// Number of the first snapshot, which no entry is of.
    #[must_use]
    pub fn first_number(&self) -> u64 {
        let last = self.found.iter().map(|found| found.entry.epoch).max();
        last.map_or(0, |last| u64::from(last) + LEAP)
    }

    /// The conversations, whose uplinks are known by their interfaces.
    #[must_use]
    pub fn sessions(self, uplinks: &HashMap<u32, UplinkId>) -> Vec<Session> {
        let mut pairs: HashMap<u64, [Option<Found>; 2]> = HashMap::new();
        for found in self.found {
            let direction = usize::from(found.entry.owner & 1 == 1);
            pairs.entry(found.entry.owner >> 1).or_default()[direction] = Some(found);
        }
        let whole = pairs.into_values().filter_map(|pair| match pair {
            [Some(egress), Some(ingress)] => session(&[egress, ingress], uplinks),
            _ => None,
        });
        whole.collect()
    }
}

fn session(pair: &[Found; 2], uplinks: &HashMap<u32, UplinkId>) -> Option<Session> {
    let [egress, _] = pair;
    Some(Session {
        keys: pair.each_ref().map(|found| flow_key(&found.key)),
        snat: match egress.entry.translation {
            Translation::None => None,
            Translation::Source(to) => Some(End {
                address: *to.ip(),
                port: to.port(),
            }),
            Translation::Destination(_) => return None,
        },
        uplink: match egress.entry.exit {
            Exit::Uplink(ifindex) => Some(*uplinks.get(&ifindex)?),
            Exit::Pod(_) => None,
        },
        carried: pair.each_ref().map(|found| Carried {
            packets: found.usage.packets,
            bytes: found.usage.bytes,
            last_seen: Timestamp::from_nanos(found.usage.last_seen_ns),
        }),
    })
}

fn flow_key(key: &penstock_hooks::flows::FlowKey) -> FlowKey {
    let (source, destination) = match key.ends {
        Ends::V4 {
            source,
            destination,
        } => (source.into(), destination.into()),
        Ends::V6 {
            source,
            destination,
        } => (source.into(), destination.into()),
    };
    FlowKey {
        source,
        destination,
        source_port: key.source_port,
        destination_port: key.destination_port,
        protocol: key.protocol,
        zone: match key.zone {
            HookZone::Pods => Zone::Pods,
            HookZone::Uplinks => Zone::Uplinks,
        },
    }
}
