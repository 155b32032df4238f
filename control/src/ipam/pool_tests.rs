//! Tests of the pool: rules one by one, then random histories against a plain model.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const COOLDOWN: Duration = Duration::from_secs(30);

fn key(id: u32) -> AttachmentKey {
    AttachmentKey {
        network: "penstock".into(),
        container_id: format!("c{id}"),
        ifname: "eth0".into(),
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp(seconds * 1000)
}

fn address(eni: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, eni, host)
}

/// `enis` ENIs of `each` addresses.
fn pool(enis: u8, each: u8) -> Pool {
    let mut pool = Pool::new(COOLDOWN);
    for eni in 0..enis {
        let id = format!("eni-{eni}");
        pool.add_eni(&id, u32::from(eni), at(0));
        for host in 1..=each {
            pool.add_address(&id, address(eni, host)).unwrap();
        }
    }
    pool
}

#[test]
fn a_key_gets_the_same_address_again() {
    let mut pool = pool(1, 3);
    let first = pool.assign(&key(1), at(0)).unwrap();
    assert_eq!(pool.assign(&key(1), at(99)).unwrap(), first);
    assert_eq!(pool.report(at(99), 3).assigned, 1);
}

#[test]
fn a_released_address_rests_and_is_not_counted_free() {
    let mut pool = pool(1, 1);
    let (held, _) = pool.assign(&key(1), at(0)).unwrap();
    assert_eq!(pool.release(&key(1), at(10)), Some(held));
    let report = pool.report(at(10), 1);
    assert_eq!((report.free, report.cooling, report.assigned), (0, 1, 0));
    let refused = pool.assign(&key(2), at(40)).unwrap_err();
    assert_eq!(
        refused,
        Exhausted {
            cooling: 1,
            next_free: Some(at(40))
        }
    );
    assert_eq!(pool.assign(&key(2), Timestamp(40_001)).unwrap().0, held);
}

#[test]
fn an_undone_address_does_not_rest() {
    let mut pool = pool(1, 1);
    let (held, _) = pool.assign(&key(1), at(0)).unwrap();
    pool.undo(&key(1));
    assert_eq!(pool.assign(&key(2), at(0)).unwrap().0, held);
}

#[test]
fn the_address_unused_for_longest_comes_first() {
    let mut pool = pool(1, 3);
    for id in 1..=3 {
        pool.assign(&key(id), at(0)).unwrap();
    }
    let second = pool.release(&key(2), at(1)).unwrap();
    let third = pool.release(&key(3), at(2)).unwrap();
    let first = pool.release(&key(1), at(3)).unwrap();
    let later = at(100);
    let order: Vec<_> = (4..=6)
        .map(|id| pool.assign(&key(id), later).unwrap().0)
        .collect();
    assert_eq!(order, [second, third, first]);
}

#[test]
fn pods_are_packed_onto_the_fullest_eni() {
    let mut pool = pool(3, 3);
    pool.adopt(&key(1), "eni-2", address(2, 2)).unwrap();
    assert_eq!(pool.assign(&key(2), at(0)).unwrap().1, "eni-2");
    assert_eq!(pool.assign(&key(3), at(0)).unwrap().1, "eni-2");
    assert_eq!(pool.assign(&key(4), at(0)).unwrap().1, "eni-0");
}

#[test]
fn a_draining_eni_hands_out_nothing_and_a_used_one_cannot_drain() {
    let mut pool = pool(2, 1);
    pool.set_draining("eni-0", true).unwrap();
    assert_eq!(pool.assign(&key(1), at(0)).unwrap().1, "eni-1");
    assert!(pool.assign(&key(2), at(0)).is_err());
    assert_eq!(
        pool.set_draining("eni-1", true),
        Err(PoolError::InUse("eni-1".into()))
    );
    assert_eq!(
        pool.remove_eni("eni-1", at(0)),
        Err(PoolError::InUse("eni-1".into()))
    );
    pool.remove_eni("eni-0", at(0)).unwrap();
    assert_eq!(pool.owner(address(0, 1)), None);
}

#[test]
fn one_address_on_two_enis_is_refused() {
    let mut pool = pool(2, 1);
    let refused = pool.add_address("eni-1", address(0, 1)).unwrap_err();
    assert_eq!(
        refused,
        PoolError::Duplicate {
            address: address(0, 1),
            eni_id: "eni-0".into()
        }
    );
}

#[test]
fn a_running_pod_outweighs_a_missing_address() {
    let mut pool = pool(1, 1);
    pool.adopt(&key(1), "eni-0", address(0, 77)).unwrap();
    assert_eq!(pool.held(&key(1)), Some((address(0, 77), "eni-0".into())));
    assert!(pool.adopt(&key(2), "eni-0", address(0, 77)).is_err());
    assert!(pool.remove_address(address(0, 77)).is_err());
}

fn prefix(eni: u8, sixteenth: u8) -> Ipv4Net {
    Ipv4Net::new(address(eni, sixteenth * 16), PREFIX_LENGTH).unwrap()
}

fn view(pool: &Pool, at: Timestamp) -> EniView {
    pool.views(at).remove(0)
}

#[test]
fn all_sixteen_addresses_of_a_prefix_are_for_pods() {
    let mut pool = pool(1, 0);
    pool.add_prefix("eni-0", prefix(0, 2)).unwrap();
    let handed: Vec<_> = (0..16)
        .map(|id| pool.assign(&key(id), at(0)).unwrap().0)
        .collect();
    assert_eq!(handed.first(), Some(&address(0, 32)));
    assert_eq!(handed.last(), Some(&address(0, 47)));
    assert!(pool.assign(&key(16), at(0)).is_err());
    let odd = "10.0.0.0/27".parse().unwrap();
    assert_eq!(
        pool.add_prefix("eni-0", odd),
        Err(PoolError::NotDelegated(odd))
    );
}

#[test]
fn pods_are_packed_onto_the_fullest_prefix() {
    let mut pool = pool(1, 0);
    for sixteenth in 0..3 {
        pool.add_prefix("eni-0", prefix(0, sixteenth)).unwrap();
    }
    pool.adopt(&key(0), "eni-0", address(0, 40)).unwrap();
    for id in 1..16 {
        let (given, _) = pool.assign(&key(id), at(0)).unwrap();
        assert!(prefix(0, 2).contains(&given), "{given}");
    }
    let view = view(&pool, at(0));
    assert_eq!((view.idle.prefixes, view.held.prefixes), (2, 3));
}

#[test]
fn a_prefix_in_which_an_address_rests_is_not_idle() {
    let mut pool = pool(1, 0);
    pool.add_prefix("eni-0", prefix(0, 0)).unwrap();
    pool.assign(&key(1), at(0)).unwrap();
    pool.release(&key(1), at(0));
    assert_eq!(view(&pool, at(30)).idle, Units::default());
    assert_eq!(view(&pool, at(31)).idle.prefixes, 1);
    let all = Units {
        singles: 9,
        prefixes: 9,
    };
    assert!(pool.part_with("eni-0", all, at(30)).unwrap().is_empty());
}

#[test]
fn what_is_leaving_is_nobodys_until_it_is_kept() {
    let mut pool = pool(1, 2);
    let units = Units::of(crate::ipam::plan::Kind::Address, 1);
    let parting = pool.part_with("eni-0", units, at(0)).unwrap();
    assert_eq!(parting.addresses, [address(0, 1)]);
    let seen = view(&pool, at(0));
    assert!(seen.draining && seen.free == 1 && seen.held.singles == 2);
    assert_eq!(pool.assign(&key(1), at(0)).unwrap().0, address(0, 2));
    assert!(pool.assign(&key(2), at(0)).is_err());
    pool.keep("eni-0", &parting);
    assert_eq!(pool.assign(&key(2), at(0)).unwrap().0, address(0, 1));
}

#[test]
fn a_lagging_view_does_not_bring_back_what_was_given_back() {
    let mut pool = pool(1, 1);
    pool.add_prefix("eni-0", prefix(0, 2)).unwrap();
    let all = Units {
        singles: 1,
        prefixes: 1,
    };
    let parting = pool.part_with("eni-0", all, at(0)).unwrap();
    pool.parted("eni-0", &parting, at(0));
    let later = at(DISBELIEF.as_secs() - 1);
    let look = (false, later);
    pool.sight_address("eni-0", address(0, 1), look).unwrap();
    pool.sight_prefix("eni-0", prefix(0, 2), look).unwrap();
    assert!(pool.assign(&key(1), later).is_err());
    pool.add_address("eni-0", address(0, 1)).unwrap();
    assert!(pool.assign(&key(1), later).is_ok(), "EC2 granted it anew");
    let believed = at(DISBELIEF.as_secs());
    let look = (false, believed);
    pool.sight_prefix("eni-0", prefix(0, 2), look).unwrap();
    assert_eq!(view(&pool, believed).free, 16);
}

#[test]
fn what_nobody_asked_for_must_be_in_sight_for_a_minute() {
    let mut pool = pool(1, 1);
    let mut free_after = |seconds: u64| {
        let look = (true, at(seconds));
        pool.sight_address("eni-0", address(0, 9), look).unwrap();
        pool.sight_prefix("eni-0", prefix(0, 2), look).unwrap();
        view(&pool, at(seconds)).free
    };
    assert_eq!(free_after(100), 1);
    assert_eq!(free_after(159), 1);
    // Out of sight for a minute: it begins anew.
    assert_eq!(free_after(219), 1);
    assert_eq!(free_after(278), 1);
    assert_eq!(free_after(279), 18);
}

#[test]
fn an_address_that_goes_and_comes_back_still_rests() {
    let mut pool = pool(1, 1);
    pool.assign(&key(1), at(0)).unwrap();
    pool.release(&key(1), at(10));
    pool.remove_address(address(0, 1)).unwrap();
    assert_eq!(pool.cooling(at(11)), [(address(0, 1), at(10))]);
    pool.add_address("eni-0", address(0, 1)).unwrap();
    assert!(pool.assign(&key(2), at(40)).is_err());
    assert!(pool.assign(&key(2), at(41)).is_ok());
}

#[test]
fn an_eni_without_pods_hands_out_nothing() {
    for role in [Role::Host, Role::Retired] {
        let mut pool = pool(1, 1);
        pool.set_role("eni-0", role).unwrap();
        assert!(pool.assign(&key(1), at(0)).is_err());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Assign(u32),
    Release(u32),
    Undo(u32),
    Wait(u64),
    Drain(u8, bool),
    RemoveAddress(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12u32).prop_map(Step::Assign),
        3 => (0..12u32).prop_map(Step::Release),
        1 => (0..12u32).prop_map(Step::Undo),
        2 => (0..40u64).prop_map(Step::Wait),
        1 => ((0..3u8), any::<bool>()).prop_map(|(eni, on)| Step::Drain(eni, on)),
        1 => ((0..3u8), (1..4u8)).prop_map(|(eni, host)| Step::RemoveAddress(eni, host)),
    ]
}

proptest! {
    #[test]
    fn no_history_hands_an_address_out_twice_or_too_soon(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut pool = pool(3, 3);
        let mut now = at(0);
        let mut held: HashMap<u32, Ipv4Addr> = HashMap::new();
        let mut resting: HashMap<Ipv4Addr, Timestamp> = HashMap::new();
        for step in steps {
            match step {
                Step::Assign(id) => {
                    if let Ok((address, _)) = pool.assign(&key(id), now) {
                        if let Some(before) = held.get(&id) {
                            prop_assert_eq!(*before, address);
                        } else if let Some(since) = resting.remove(&address) {
                            prop_assert!(now.since(since) > COOLDOWN);
                        }
                        held.insert(id, address);
                    }
                }
                Step::Release(id) => {
                    let released = pool.release(&key(id), now);
                    prop_assert_eq!(released, held.remove(&id));
                    resting.extend(released.map(|address| (address, now)));
                }
                Step::Undo(id) => {
                    prop_assert_eq!(pool.undo(&key(id)), held.remove(&id));
                }
                Step::Wait(seconds) => now = now.plus(Duration::from_secs(seconds)),
                Step::Drain(eni, on) => {
                    let _ = pool.set_draining(&format!("eni-{eni}"), on);
                }
                Step::RemoveAddress(eni, host) => {
                    let gone = address(eni, host);
                    let in_use = held.values().any(|address| *address == gone);
                    prop_assert_eq!(pool.remove_address(gone).is_err(), in_use);
                }
            }
            let distinct: HashSet<_> = held.values().collect();
            prop_assert_eq!(distinct.len(), held.len());
            let report = pool.report(now, 9);
            prop_assert_eq!(report.assigned as usize, held.len());
            prop_assert_eq!(report.total, report.assigned + report.cooling + report.free);
            prop_assert!(report.total <= 9);
        }
    }
}
