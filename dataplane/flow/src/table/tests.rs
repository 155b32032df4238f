//! The table against a map, at its limits, and its size.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use penstock_packet::rewrite::Translation;
use proptest::prelude::*;

use super::*;
use crate::entry::{Way4, Way6};
use crate::key::{FlowKey, Zone};
use crate::snapshot::HopId;

const SEED: Seed = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

const NOBODY: Account = Account::from_bits(u16::MAX);

/// The tables of both families, behind what the tests need to be one.
trait Addresses: Way {
    fn address(n: u32) -> IpAddr;
}

impl Addresses for Way4 {
    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }
}

impl Addresses for Way6 {
    fn address(n: u32) -> IpAddr {
        Ipv6Addr::from_bits(0x2600_1f14 << 96 | u128::from(n)).into()
    }
}

fn key<W: Addresses>(n: u32) -> FlowKey {
    FlowKey {
        source: W::address(1 + (n & 0xff)),
        destination: W::address(0x1_0000),
        source_port: (n >> 8) as u16,
        destination_port: 53,
        protocol: 17,
        zone: Zone::Pods,
    }
}

fn flow<W: Addresses>(n: u32) -> NewFlow {
    NewFlow {
        egress: key::<W>(n),
        ingress: key::<W>(n).reverse(Zone::Uplinks),
        egress_hop: HopId::default(),
        ingress_hop: HopId::default(),
        originator: Direction::Egress,
        translations: [Translation::NONE; 2],
        tcp: None,
        pods: [n, 0],
        uplink: 0,
    }
}

fn insert<W: Addresses>(table: &mut FlowTable<W>, n: u32) -> Result<FlowId, TableFull> {
    table.insert((&flow::<W>(n), NOBODY), Epoch(1), Moment::default())
}

fn find<W: Addresses>(table: &FlowTable<W>, key: FlowKey) -> Option<(FlowId, Direction)> {
    let key = W::Key::pack(&key)?;
    let found = table.find(&key);
    // The two-step look-up says the same, or leaves it to the search.
    let at = table.candidate(table.spot(&key));
    if table.is_at(at, &key) {
        assert_eq!(found, Some(at));
    }
    found.map(|at| (at.flow(), at.direction()))
}

/// Both keys find the flow, or neither; a full table refuses and changes nothing; places are used
/// again.
fn equals_a_map<W: Addresses>(steps: Vec<(u32, bool)>) -> Result<(), TestCaseError> {
    let mut table = FlowTable::<W>::new(24, SEED).unwrap();
    let mut model: HashMap<u32, FlowId> = HashMap::new();
    for (n, add) in steps {
        match (add, model.get(&n).copied()) {
            (true, None) => match insert(&mut table, n) {
                Ok(id) => {
                    prop_assert!(model.values().all(|other| *other != id));
                    model.insert(n, id);
                }
                Err(TableFull) => prop_assert_eq!(model.len(), 24),
            },
            (false, Some(id)) => {
                prop_assert_eq!(table.remove(id).map(|pair| pair.pods), Some([n, 0]));
                prop_assert_eq!(table.remove(id), None);
                model.remove(&n);
            }
            _ => {}
        }
        for n in 0..48 {
            let id = model.get(&n).copied();
            let to = key::<W>(n);
            let from = to.reverse(Zone::Uplinks);
            prop_assert_eq!(find(&table, to), id.map(|id| (id, Direction::Egress)));
            prop_assert_eq!(find(&table, from), id.map(|id| (id, Direction::Ingress)));
            // The same packet from the other side is another key.
            prop_assert_eq!(find(&table, to.reverse(Zone::Pods)), None);
        }
        prop_assert_eq!(table.iter().count(), model.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn ip4_equals_a_map(
        steps in proptest::collection::vec((0u32..48, any::<bool>()), 1..400),
    ) {
        equals_a_map::<Way4>(steps)?;
    }

    #[test]
    fn ip6_equals_a_map(
        steps in proptest::collection::vec((0u32..48, any::<bool>()), 1..400),
    ) {
        equals_a_map::<Way6>(steps)?;
    }
}

#[test]
fn a_key_of_the_other_family_is_refused() {
    let mut table = FlowTable::<Way4>::new(4, SEED).unwrap();
    let foreign = table.insert((&flow::<Way6>(1), NOBODY), Epoch(1), Moment::default());
    assert_eq!(foreign, Err(TableFull));
    assert_eq!(table.iter().count(), 0);
}

/// The load the sizes allow does not overflow buckets, and churn at capacity does not either.
#[test]
fn fills_to_capacity_and_churns_there() {
    // Two keys each, eight slots a bucket: this fills buckets to the half, the most there is.
    const CAPACITY: u32 = 1 << 17;
    let mut table = FlowTable::<Way4>::new(CAPACITY as usize, SEED).unwrap();
    let mut ids: Vec<FlowId> = (0..CAPACITY)
        .map(|n| insert(&mut table, n).unwrap())
        .collect();
    assert_eq!(insert(&mut table, CAPACITY), Err(TableFull));
    for n in CAPACITY..4 * CAPACITY {
        let at = (n as usize * 7919) % ids.len();
        table.remove(ids[at]).unwrap();
        ids[at] = insert(&mut table, n).unwrap();
    }
    assert_eq!(table.iter().count(), CAPACITY as usize);
    // Most look-ups end in the first bucket: the reason for the rule of the crowded bucket.
    let first = (3 * CAPACITY..4 * CAPACITY)
        .filter_map(|n| Key::pack(&key::<Way4>(n)))
        .filter(|key| table.find(key).is_some())
        .map(|key| table.is_at(table.candidate(table.spot(&key)), &key));
    let hits: Vec<bool> = first.collect();
    let direct = hits.iter().filter(|hit| **hit).count();
    assert!(direct * 10 > hits.len() * 8, "{direct} of {}", hits.len());
}

/// The bound, both directions, tables and timers, at the worst rounding of buckets.
#[test]
fn memory_per_flow_is_bounded() {
    // Buckets round up to a power of two: just above one, at worst twice what is asked.
    let capacity = (1 << 16) + 1;
    let timer = crate::wheel::BYTES_PER_FLOW;
    let four = FlowTable::<Way4>::new(capacity, SEED).unwrap();
    let six = FlowTable::<Way6>::new(capacity, SEED).unwrap();
    for bytes in [four.bytes_per_flow(), six.bytes_per_flow()] {
        assert!(bytes + timer <= 256, "{bytes}");
    }
}
