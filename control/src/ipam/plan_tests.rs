//! Tests of the plan: the VPC CNI's documented figures as tables, rules one by one, then random histories.

use proptest::prelude::*;

use super::*;

const T3_SMALL: Limits = limits(3, 4);
const P3DN: Limits = limits(15, 50);

const fn limits(enis: u32, addresses_per_eni: u32) -> Limits {
    Limits {
        enis,
        addresses_per_eni,
        prefixes: true,
    }
}

const NOTHING: Targets = Targets {
    kind: Kind::Address,
    warm_enis: 0,
    warm_prefixes: 0,
    warm_ips: 0,
    minimum_ips: 0,
    max_enis: None,
};

fn warm_enis(warm_enis: u32) -> Targets {
    Targets {
        warm_enis,
        ..NOTHING
    }
}

fn ips(kind: Kind, warm_ips: u32, minimum_ips: u32) -> Targets {
    Targets {
        kind,
        warm_ips,
        minimum_ips,
        // Both are outranked.
        warm_enis: 1,
        warm_prefixes: 1,
        ..NOTHING
    }
}

fn warm_prefixes(warm_prefixes: u32) -> Targets {
    Targets {
        kind: Kind::Prefix,
        warm_prefixes,
        // Has no meaning with prefixes.
        warm_enis: 1,
        ..NOTHING
    }
}

/// An ENI of single addresses.
fn eni(device_number: u32, assigned: u32, free: u32, cooling: u32) -> EniView {
    EniView {
        eni_id: format!("eni-{device_number}"),
        device_number,
        assigned,
        free,
        cooling,
        held: Units::of(Kind::Address, assigned + free + cooling),
        idle: Units::of(Kind::Address, free),
        age: Duration::from_secs(600),
        ..EniView::default()
    }
}

fn situation(enis: &[EniView], targets: Targets, limits: Limits) -> Situation {
    Situation {
        enis: enis.to_vec(),
        ordered_enis: Vec::new(),
        unmanaged: 0,
        targets,
        limits,
        max_pods: None,
        waiting: 0,
        fragmented: false,
        allowed: Allowed::ALL,
    }
}

/// A node on which the plan is carried out at once; pods are packed in device order.
#[derive(Debug, Clone)]
struct ModelNode {
    /// Per ENI: use of each single address, and of each prefix's sixteen.
    enis: Vec<ModelEni>,
    situation: Situation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Free,
    Pod,
    Cooling,
}

#[derive(Debug, Clone, Default)]
struct ModelEni {
    singles: Vec<Use>,
    prefixes: Vec<[Use; 16]>,
}

impl ModelEni {
    fn slots(&self) -> usize {
        self.singles.len() + self.prefixes.len()
    }

    fn all(&self) -> impl Iterator<Item = Use> + '_ {
        self.singles
            .iter()
            .chain(self.prefixes.iter().flatten())
            .copied()
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Use> + '_ {
        self.singles
            .iter_mut()
            .chain(self.prefixes.iter_mut().flatten())
    }

    fn of(&self, wanted: Use) -> u32 {
        count(self.all().filter(|u| *u == wanted).count())
    }

    fn add(&mut self, units: Units) {
        let singles = self.singles.len() + units.singles as usize;
        self.singles.resize(singles, Use::Free);
        let prefixes = self.prefixes.len() + units.prefixes as usize;
        self.prefixes.resize(prefixes, [Use::Free; 16]);
    }

    fn remove(&mut self, mut units: Units) {
        let take = |left: &mut u32, idle: bool| {
            let taken = idle && *left > 0;
            *left -= u32::from(taken);
            !taken
        };
        self.singles
            .retain(|u| take(&mut units.singles, *u == Use::Free));
        self.prefixes
            .retain(|prefix| take(&mut units.prefixes, prefix.iter().all(|u| *u == Use::Free)));
        assert_eq!(units, Units::default(), "only what is idle is given back");
    }
}

impl ModelNode {
    fn new(targets: Targets, limits: Limits) -> Self {
        Self {
            enis: vec![ModelEni::default()],
            situation: situation(&[], targets, limits),
        }
    }

    fn look(&self) -> Situation {
        let view = |(eni, device_number): (&ModelEni, u32)| EniView {
            eni_id: format!("eni-{device_number}"),
            device_number,
            assigned: eni.of(Use::Pod),
            free: eni.of(Use::Free),
            cooling: eni.of(Use::Cooling),
            held: Units {
                singles: count(eni.singles.len()),
                prefixes: count(eni.prefixes.len()),
            },
            idle: Units {
                singles: count(eni.singles.iter().filter(|u| **u == Use::Free).count()),
                prefixes: count(
                    eni.prefixes
                        .iter()
                        .filter(|p| p.iter().all(|u| *u == Use::Free))
                        .count(),
                ),
            },
            age: Duration::from_secs(600),
            fragmented: self.situation.fragmented,
            ..EniView::default()
        };
        Situation {
            enis: self.enis.iter().zip(0..).map(view).collect(),
            ..self.situation.clone()
        }
    }

    /// Carries out plans until there is nothing to do; returns the actions.
    fn settle(&mut self) -> Vec<Action> {
        let mut history = Vec::new();
        loop {
            let actions = plan(&self.look());
            if actions.is_empty() {
                return history;
            }
            for action in &actions {
                self.carry_out(action);
            }
            history.extend(actions);
            assert!(history.len() < 200, "never settles: {history:?}");
        }
    }

    fn carry_out(&mut self, action: &Action) {
        let at = |eni_id: &str| eni_id["eni-".len()..].parse::<usize>().unwrap();
        match action {
            Action::Fill { eni_id, units } => self.enis[at(eni_id)].add(*units),
            Action::AddEni { units } => {
                self.enis.push(ModelEni::default());
                self.enis.last_mut().unwrap().add(*units);
            }
            Action::Release { eni_id, units } => self.enis[at(eni_id)].remove(*units),
            Action::RemoveEni { eni_id } => {
                let gone = self.enis.remove(at(eni_id));
                assert_eq!(gone.of(Use::Pod) + gone.of(Use::Cooling), 0);
            }
        }
    }

    /// Puts as many pods as there are free addresses for; the rest wait.
    fn add_pods(&mut self, pods: u32) {
        let mut left = pods;
        for slot in self.enis.iter_mut().flat_map(ModelEni::all_mut) {
            if left > 0 && *slot == Use::Free {
                *slot = Use::Pod;
                left -= 1;
            }
        }
        self.situation.waiting = left;
    }

    /// As a runtime does it: what waits gets its address as soon as there is one.
    fn run_pods(&mut self, pods: u32) {
        let mut left = pods;
        while left > 0 {
            self.add_pods(left);
            let before = left;
            left = self.situation.waiting;
            let grown = self.settle();
            if before == left && grown.is_empty() {
                break;
            }
        }
        self.situation.waiting = 0;
        self.settle();
    }

    fn total(&self) -> u32 {
        count(self.enis.iter().map(|eni| eni.all().count()).sum())
    }

    fn of(&self, wanted: Use) -> u32 {
        self.enis.iter().map(|eni| eni.of(wanted)).sum()
    }
}

/// (ENIs, slots) a fresh node has with `pods` pods.
fn fresh(pods: u32, targets: Targets, limits: Limits) -> (usize, usize) {
    let mut node = ModelNode::new(targets, limits);
    node.settle();
    node.run_pods(pods);
    (node.enis.len(), node.enis.iter().map(ModelEni::slots).sum())
}

#[test]
fn documented_warm_eni_targets_of_a_t3_small() {
    for (pods, expected) in [(0, (1, 3)), (1, (2, 6)), (5, (3, 9)), (9, (3, 9))] {
        assert_eq!(fresh(pods, warm_enis(1), T3_SMALL), expected, "{pods} pods");
    }
    for (pods, expected) in [(0, (1, 3)), (3, (2, 6)), (4, (2, 6)), (6, (3, 9))] {
        assert_eq!(
            fresh(pods, warm_enis(0), T3_SMALL),
            expected,
            "{pods} pods, no warm ENI"
        );
    }
}

#[test]
fn documented_warm_ip_targets() {
    let cases = [
        (T3_SMALL, 1, 1, &[(0, (1, 1)), (5, (2, 6))][..]),
        (T3_SMALL, 2, 5, &[(0, (2, 5)), (5, (3, 7)), (9, (3, 9))]),
        (
            P3DN,
            5,
            10,
            &[(0, (1, 10)), (7, (1, 12)), (15, (1, 20)), (45, (2, 50))],
        ),
    ];
    for (limits, warm, minimum, rows) in cases {
        for (pods, expected) in rows {
            let found = fresh(*pods, ips(Kind::Address, warm, minimum), limits);
            assert_eq!(
                found, *expected,
                "{pods} pods, WARM_IP_TARGET={warm}, MINIMUM_IP_TARGET={minimum}"
            );
        }
    }
}

#[test]
fn documented_prefix_targets_of_a_t3_small() {
    for (pods, expected) in [
        (0, (1, 1)),
        (5, (1, 2)),
        (16, (1, 2)),
        (17, (1, 3)),
        (58, (2, 5)),
    ] {
        assert_eq!(
            fresh(pods, warm_prefixes(1), T3_SMALL),
            expected,
            "{pods} pods, WARM_PREFIX_TARGET=1"
        );
    }
    for (pods, expected) in [(0, 1), (5, 1), (17, 2), (58, 4)] {
        let (_, prefixes) = fresh(pods, ips(Kind::Prefix, 1, 1), T3_SMALL);
        assert_eq!(prefixes, expected, "{pods} pods, 1 and 1");
    }
    for (pods, expected) in [(0, 2), (5, 2), (17, 2), (58, 5)] {
        let (_, prefixes) = fresh(pods, ips(Kind::Prefix, 7, 20), T3_SMALL);
        assert_eq!(prefixes, expected, "{pods} pods, 7 and 20");
    }
}

#[test]
fn max_eni_caps_growth_only_inside_the_instance_limit() {
    let capped = |max| Targets {
        max_enis: Some(max),
        ..warm_enis(1)
    };
    assert_eq!(fresh(5, capped(2), T3_SMALL), (2, 6));
    assert_eq!(fresh(5, capped(0), T3_SMALL), (3, 9));
    assert_eq!(fresh(5, capped(50), T3_SMALL), (3, 9));
}

#[test]
fn the_pods_a_node_may_run_end_the_growth() {
    let mut input = situation(&[eni(0, 3, 0, 0)], warm_enis(1), P3DN);
    input.max_pods = Some(5);
    let ordered = |input: &Situation| match plan(input).as_slice() {
        [Action::Fill { units, .. }] => units.singles,
        [] => 0,
        other => panic!("unexpected {other:?}"),
    };
    assert_eq!(ordered(&input), 2, "no whole ENI for two more pods");
    input.max_pods = Some(3);
    assert_eq!(ordered(&input), 0);
    input.waiting = 1;
    assert_eq!(ordered(&input), 1, "a pod that is there is served");
}

#[test]
fn everything_short_is_ordered_at_once() {
    let mut input = situation(&[eni(0, 0, 0, 0)], warm_enis(1), P3DN);
    input.waiting = 250;
    let actions = plan(&input);
    let ordered: u32 = actions
        .iter()
        .map(|action| match action {
            Action::Fill { units, .. } | Action::AddEni { units } => units.addresses(),
            other => panic!("unexpected {other:?}"),
        })
        .sum();
    assert_eq!((actions.len(), ordered), (6, 6 * 49));
}

#[test]
fn what_is_on_order_is_not_ordered_again() {
    let mut first = eni(0, 3, 0, 0);
    let mut input = situation(&[first.clone()], warm_enis(1), T3_SMALL);
    input.ordered_enis = vec![Units::of(Kind::Address, 3)];
    assert_eq!(plan(&input), []);
    assert!(can_grow(&input));
    first = eni(0, 1, 0, 0);
    first.ordered = Units::of(Kind::Address, 2);
    let input = situation(&[first], warm_enis(0), T3_SMALL);
    assert_eq!(plan(&input), []);
}

#[test]
fn foreign_enis_take_up_room() {
    let mut input = situation(&[eni(0, 3, 0, 0)], warm_enis(1), T3_SMALL);
    input.unmanaged = 2;
    assert_eq!(plan(&input), []);
    assert!(!can_grow(&input));
    input.unmanaged = 1;
    let units = Units::of(Kind::Address, 3);
    assert_eq!(plan(&input), [Action::AddEni { units }]);
}

#[test]
fn cooling_addresses_are_not_available() {
    let input = situation(&[eni(0, 0, 0, 3)], warm_enis(1), T3_SMALL);
    let units = Units::of(Kind::Address, 3);
    assert_eq!(plan(&input), [Action::AddEni { units }]);
}

#[test]
fn custom_networking_leaves_the_primary_eni_to_the_host() {
    let mut primary = eni(0, 0, 3, 0);
    primary.role = Role::Host;
    let mut input = situation(&[primary], warm_enis(1), T3_SMALL);
    let units = Units::of(Kind::Address, 3);
    assert_eq!(plan(&input), [Action::AddEni { units }]);
    assert_eq!(capacity(&input), 6);
    input.targets = ips(Kind::Address, 0, 0);
    input.targets.warm_ips = 1;
    let units = Units::of(Kind::Address, 1);
    assert_eq!(plan(&input), [Action::AddEni { units }]);
}

#[test]
fn a_retired_eni_gives_back_what_is_unused_and_then_goes() {
    let mut retired = eni(1, 1, 2, 0);
    retired.role = Role::Retired;
    let enis = [eni(0, 0, 3, 0), retired];
    let input = situation(&enis, warm_enis(1), T3_SMALL);
    let [Action::Release { eni_id, units }] = &plan(&input)[..] else {
        panic!("{:?}", plan(&input));
    };
    assert_eq!((eni_id.as_str(), units.singles), ("eni-1", 2));
    let mut emptied = eni(1, 0, 0, 0);
    emptied.role = Role::Retired;
    let enis = [eni(0, 0, 3, 0), emptied];
    let input = situation(&enis, warm_enis(1), T3_SMALL);
    let eni_id = "eni-1".to_owned();
    assert_eq!(plan(&input), [Action::RemoveEni { eni_id }]);
}

#[test]
fn a_fragmented_subnet_is_asked_for_single_addresses() {
    let mut fragmented = eni(0, 0, 0, 0);
    fragmented.fragmented = true;
    let mut input = situation(&[fragmented], warm_prefixes(1), P3DN);
    let eni_id = "eni-0".to_owned();
    let units = Units::of(Kind::Address, 16);
    assert_eq!(plan(&input), [Action::Fill { eni_id, units }]);
    input.waiting = 60;
    input.fragmented = true;
    let units = Units::of(Kind::Address, 11);
    assert_eq!(plan(&input)[1..], [Action::AddEni { units }]);
}

#[test]
fn a_full_subnet_does_not_mask_the_others() {
    let mut full = eni(0, 1, 0, 0);
    full.subnet_full = true;
    let enis = [full, eni(1, 1, 0, 0)];
    let input = situation(&enis, warm_enis(0), T3_SMALL);
    let units = Units::of(Kind::Address, 2);
    let eni_id = "eni-1".to_owned();
    assert_eq!(plan(&input), [Action::Fill { eni_id, units }]);
}

#[test]
fn an_eni_is_given_back_only_when_nothing_hangs_on_it() {
    let full = |last: EniView| [eni(0, 0, 3, 0), eni(1, 0, 3, 0), last];
    let removed = |enis: &[EniView]| match plan(&situation(enis, warm_enis(1), T3_SMALL)).as_slice()
    {
        [Action::RemoveEni { eni_id }] => Some(eni_id.clone()),
        [] => None,
        other => panic!("unexpected {other:?}"),
    };
    assert_eq!(removed(&full(eni(2, 0, 3, 0))).as_deref(), Some("eni-2"));
    assert_eq!(removed(&full(eni(2, 1, 2, 0))).as_deref(), Some("eni-1"));
    assert_eq!(removed(&full(eni(2, 0, 2, 1))).as_deref(), Some("eni-1"));
    let mut young = eni(2, 0, 3, 0);
    young.age = MIN_ENI_AGE - Duration::from_millis(1);
    assert_eq!(removed(&full(young)).as_deref(), Some("eni-1"));
    let mut draining = eni(2, 0, 3, 0);
    draining.draining = true;
    assert_eq!(removed(&full(draining)), None);
    assert_eq!(removed(&[eni(0, 0, 3, 0)]), None);
}

#[test]
fn nothing_is_done_that_is_not_allowed() {
    let nothing = Allowed {
        fill: false,
        new_enis: false,
        release: false,
        remove_enis: false,
    };
    let over = [eni(0, 0, 3, 0), eni(1, 0, 3, 0), eni(2, 0, 3, 0)];
    for (enis, targets) in [
        (&over[..1], warm_enis(2)),
        (&over[..], warm_enis(0)),
        (&over[..], ips(Kind::Address, 1, 0)),
    ] {
        let mut input = situation(enis, targets, T3_SMALL);
        assert_ne!(plan(&input), []);
        input.allowed = nothing;
        assert_eq!(plan(&input), []);
    }
}

#[test]
fn an_instance_type_without_secondary_addresses_does_nothing() {
    let mut input = situation(&[eni(0, 0, 0, 0)], warm_enis(1), limits(2, 1));
    input.waiting = 1;
    assert_eq!(plan(&input), []);
}

fn targets() -> impl Strategy<Value = Targets> {
    (
        any::<bool>(),
        0..4u32,
        0..4u32,
        prop_oneof![2 => Just(0), 1 => 0..40u32],
        prop_oneof![2 => Just(0), 1 => 0..80u32],
        prop::option::of(0..20u32),
    )
        .prop_map(
            |(prefix, warm_enis, warm_prefixes, warm_ips, minimum_ips, max_enis)| Targets {
                kind: if prefix { Kind::Prefix } else { Kind::Address },
                warm_enis,
                warm_prefixes,
                warm_ips,
                minimum_ips,
                max_enis,
            },
        )
}

#[derive(Debug, Clone)]
enum Event {
    Start(u32),
    /// Every n-th pod ends.
    Stop(u32),
    Cooled,
    Fragmented(bool),
    Retarget(Targets),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..90u32).prop_map(Event::Start),
        3 => (1..5u32).prop_map(Event::Stop),
        2 => Just(Event::Cooled),
        1 => any::<bool>().prop_map(Event::Fragmented),
        1 => targets().prop_map(Event::Retarget),
    ]
}

fn happen(node: &mut ModelNode, event: Event) {
    match event {
        Event::Start(pods) => node.run_pods(pods),
        Event::Stop(every) => {
            let slots = node.enis.iter_mut().flat_map(ModelEni::all_mut);
            let pods = slots.filter(|slot| **slot == Use::Pod);
            for (_, slot) in pods.enumerate().filter(|(n, _)| n % every as usize == 0) {
                *slot = Use::Cooling;
            }
        }
        Event::Cooled => {
            for slot in node.enis.iter_mut().flat_map(ModelEni::all_mut) {
                if *slot == Use::Cooling {
                    *slot = Use::Free;
                }
            }
        }
        Event::Fragmented(now) => node.situation.fragmented = now,
        Event::Retarget(targets) => {
            let max_enis = node.situation.targets.max_enis;
            // MAX_ENI is read at start; lowering it takes nothing away from a running node.
            node.situation.targets = Targets {
                max_enis,
                ..targets
            };
        }
    }
}

/// Whether a history ordered and gave back the same: single addresses, prefixes or ENIs.
fn turns(history: &[Action]) -> bool {
    let mut ordered = [0; 3];
    let mut returned = [0; 3];
    for action in history {
        let (counts, units, enis) = match action {
            Action::Fill { units, .. } => (&mut ordered, *units, 0),
            Action::AddEni { units } => (&mut ordered, *units, 1),
            Action::Release { units, .. } => (&mut returned, *units, 0),
            Action::RemoveEni { .. } => (&mut returned, Units::default(), 1),
        };
        for (count, more) in counts.iter_mut().zip([units.singles, units.prefixes, enis]) {
            *count += more;
        }
    }
    ordered.iter().zip(returned).any(|(a, b)| *a > 0 && b > 0)
}

proptest! {
    #[test]
    fn no_history_leaves_the_limits_or_the_pods_or_oscillates(
        targets in targets(),
        enis in 1..16u32,
        addresses_per_eni in 2..51u32,
        max_pods in prop::option::of(0..250u32),
        events in prop::collection::vec(event(), 1..12),
    ) {
        let limits = limits(enis, addresses_per_eni);
        let mut node = ModelNode::new(targets, limits);
        node.situation.max_pods = max_pods;
        for event in events {
            let pods_before = node.of(Use::Pod);
            let stops = matches!(event, Event::Stop(_));
            let kind_before = node.situation.targets.kind;
            happen(&mut node, event);
            let history = node.settle();
            // Prefixes take the place of single addresses when the kind changes, and the other way round.
            let same_kind = node.situation.targets.kind == kind_before;
            prop_assert!(!same_kind || !turns(&history), "{history:?}");
            prop_assert!(plan(&node.look()).is_empty());
            prop_assert!(stops || node.of(Use::Pod) >= pods_before);
            let usable = usable_enis(node.situation.targets, limits, 0).max(1) as usize;
            prop_assert!(node.enis.len() <= usable);
            for eni in &node.enis {
                prop_assert!(eni.slots() <= limits.slots() as usize);
            }
        }
    }

    #[test]
    fn every_pod_the_instance_can_hold_gets_an_address(
        targets in targets(),
        enis in 1..16u32,
        addresses_per_eni in 2..51u32,
        pods in 0..300u32,
    ) {
        let mut node = ModelNode::new(targets, limits(enis, addresses_per_eni));
        node.run_pods(pods);
        let capacity = capacity(&node.look());
        prop_assert_eq!(node.of(Use::Pod), pods.min(capacity));
        prop_assert!(node.total() <= capacity);
    }
}
