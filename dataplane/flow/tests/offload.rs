//! Flows that the hooks carry, against hooks that do as they are told but late: what they know is
//! always a flow of the engine's, under the port the engine holds for it, and ends with it.
#![expect(clippy::panic, reason = "a failed test panics")]
mod node;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use node::*;
use penstock_flow::offload::{Carried, News, OFFER_AFTER, Passage, Place, Session, Wish};
use penstock_flow::{Config, OutIf, Snat, TcpState, Timestamp, UplinkId};
use penstock_packet::TcpFlags;
use penstock_packet::build::Frame;
use penstock_packet::rewrite::{End, Macs, Side};
use proptest::prelude::*;

const SERVER_PORT: u16 = 53;
const ACK: TcpFlags = TcpFlags::ACK;

/// Hooks with room for some flows, which do one wish at a time.
struct Hooks {
    room: usize,
    map: HashMap<Place, (u64, [Passage; 2])>,
    wishes: VecDeque<Wish>,
    news: VecDeque<News>,
}

impl Hooks {
    fn new(room: usize) -> Self {
        Self {
            room,
            map: HashMap::new(),
            wishes: VecDeque::new(),
            news: VecDeque::new(),
        }
    }

    /// Takes what the engine wishes; returns how much that was.
    fn listen(&mut self, node: &mut Node) -> usize {
        let before = self.wishes.len();
        while let Some(wish) = node.engines[0].wish() {
            self.wishes.push_back(wish);
        }
        self.wishes.len() - before
    }

    /// Does one wish; whether there was one.
    fn serve(&mut self, carried: [Carried; 2]) -> bool {
        match self.wishes.pop_front() {
            None => return false,
            Some(Wish::Remove { place, .. }) => {
                let was_in = self.map.remove(&place).is_some();
                let carried = if was_in { carried } else { Default::default() };
                self.news.push_back(News::Removed(place, carried));
            }
            Some(Wish::Install {
                place,
                epoch,
                passages,
            }) => {
                self.map.remove(&place);
                for passage in &passages {
                    let taken = self.map.values().flat_map(|(_, passages)| passages);
                    let keys: Vec<_> = taken.map(|taken| taken.key).collect();
                    assert!(!keys.contains(&passage.key), "{passage:?} is another's");
                }
                if self.map.len() == self.room {
                    self.news.push_back(News::Refused(place, epoch));
                } else {
                    self.map.insert(place, (epoch, passages));
                }
            }
        }
        true
    }

    /// Tells the engine one thing; whether there was one.
    fn tell(&mut self, node: &mut Node) -> bool {
        let Some(news) = self.news.pop_front() else {
            return false;
        };
        node.engines[0].hear(&news, &node.snapshot, node.now);
        true
    }

    fn settle(&mut self, node: &mut Node) {
        loop {
            let heard = self.listen(node) > 0;
            let served = self.serve(Default::default());
            if !(self.tell(node) || served || heard) {
                return;
            }
        }
    }

    /// Says of every flow that is in what a look at all of them finds.
    fn sweep(&mut self, epoch: u64, carried: [Carried; 2]) {
        for (place, (decided, _)) in &self.map {
            self.news.push_back(match *decided == epoch {
                true => News::Seen(*place, carried),
                false => News::Stale(*place),
            });
        }
    }
}

fn offloading() -> Config {
    let mut config = config();
    config.tuning.offload = true;
    config
}

fn node() -> Node {
    Node::with(offloading(), 1, 64)
}

/// Packets of a pod's connection to the outside, one after the other.
struct Talk {
    port: Option<u16>,
}

impl Talk {
    fn new() -> Self {
        Self { port: None }
    }

    fn out(&mut self, node: &mut Node, flags: TcpFlags) {
        let frame = from_pod(0, OUTSIDE).tcp(40_000, SERVER_PORT, flags, b"");
        self.port = Some(names(&node.forwarded(&frame, TRUNK)).2);
    }

    fn back(&mut self, node: &mut Node, flags: TcpFlags) {
        let port = self.port.unwrap_or_default();
        let frame = from_eni(0, OUTSIDE, NODE).tcp(SERVER_PORT, port, flags, b"");
        node.forwarded(&frame, ETH0);
    }

    /// Opens, and goes on until the connection is worth an offer.
    fn establish(&mut self, node: &mut Node) {
        self.out(node, TcpFlags::SYN);
        self.back(node, TcpFlags::SYN.and(ACK));
        for _ in 2..OFFER_AFTER {
            assert!(!node.engines[0].has_wishes(), "too early");
            self.out(node, ACK);
        }
    }
}

fn one_wish(node: &mut Node) -> Wish {
    let Some(wish) = node.engines[0].wish() else {
        panic!("no wish");
    };
    assert_eq!(node.engines[0].wish(), None);
    wish
}

fn carried(node: &Node, packets: u64) -> Carried {
    Carried {
        packets,
        bytes: packets * 1_000,
        last_seen: node.now,
    }
}

#[test]
fn an_established_connection_is_offered_with_all_the_hooks_need() {
    let mut node = node();
    let mut talk = Talk::new();
    talk.establish(&mut node);
    let port = talk.port.unwrap_or_default();
    let Wish::Install {
        epoch, passages, ..
    } = one_wish(&mut node)
    else {
        panic!("not an installation");
    };
    assert_eq!(epoch, node.snapshot.epoch());
    let [out, back] = passages;
    assert_eq!(out.out, OutIf::Uplink(UplinkId(0)));
    assert_eq!(out.macs, Macs::new(gateway_mac(0), eni_mac(0)));
    let outside = End {
        address: NODE,
        port,
    };
    assert_eq!(out.replacement, Some((Side::Source, outside)));
    assert_eq!(
        (out.key.source, out.key.source_port),
        (PODS[0].into(), 40_000)
    );
    assert_eq!(back.out, OutIf::Endpoint);
    assert_eq!(back.macs, Macs::new(pod_mac(0), host_mac(0)));
    let inside = End {
        address: PODS[0],
        port: 40_000,
    };
    assert_eq!(back.replacement, Some((Side::Destination, inside)));
    assert_eq!(
        (back.key.destination, back.key.destination_port),
        (NODE.into(), port)
    );
    assert_eq!((out.mtu, back.mtu), (1500, 1500));
    for _ in 0..100 {
        talk.out(&mut node, ACK);
        talk.back(&mut node, ACK);
    }
    assert!(!node.engines[0].has_wishes(), "offered once");
}

#[test]
fn nothing_is_offered_unasked_unanswered_or_of_a_kind_the_hooks_do_not_carry() {
    let mut off = Node::with(config(), 1, 64);
    let mut talk = Talk::new();
    talk.establish(&mut off);
    talk.out(&mut off, ACK);
    assert!(!off.engines[0].has_wishes(), "switched off");

    let mut node = node();
    for _ in 0..100 {
        node.forwarded(&from_pod(0, OUTSIDE).udp(1, 2, b"any"), TRUNK);
        node.forwarded(&from_pod(0, PEER).ip(47, b"GREGREGRE"), TRUNK);
        node.forwarded(&from_eni(0, PEER, PODS[0]).ip(47, b"GREGREGRE"), ETH0);
    }
    assert!(!node.engines[0].has_wishes());
    assert_eq!(node.engines[0].stats().offloaded, 0);
}

#[test]
fn datagrams_between_pods_are_offered_once_both_have_spoken() {
    let mut node = node();
    for _ in 0..OFFER_AFTER {
        assert!(!node.engines[0].has_wishes());
        node.forwarded(&from_pod(0, PODS[1]).udp(7, 9, b"?"), TRUNK);
    }
    node.forwarded(&from_pod(1, PODS[0]).udp(9, 7, b"!"), TRUNK);
    let Wish::Install { passages, .. } = one_wish(&mut node) else {
        panic!("not an installation");
    };
    assert_eq!(passages.map(|passage| passage.out), [OutIf::Endpoint; 2]);
    assert_eq!(passages[0].macs, Macs::new(pod_mac(1), host_mac(1)));
    assert_eq!(passages[1].macs, Macs::new(pod_mac(0), host_mac(0)));
}

#[test]
fn a_fin_recalls_and_the_hooks_counts_are_the_flows() {
    let mut node = node();
    let mut hooks = Hooks::new(8);
    let mut talk = Talk::new();
    talk.establish(&mut node);
    hooks.settle(&mut node);
    assert_eq!(hooks.map.len(), 1);
    assert_eq!(node.engines[0].stats().offloaded, 1);

    let before = node.flows()[0];
    node.now = node.now.after(Duration::from_secs(100));
    hooks.sweep(
        node.snapshot.epoch(),
        [carried(&node, 5), carried(&node, 7)],
    );
    hooks.settle(&mut node);
    let seen = node.flows()[0];
    assert_eq!(seen.packets_out, before.packets_out + 5);
    assert_eq!(seen.packets_in, before.packets_in + 7);
    assert_eq!(seen.bytes_in, before.bytes_in + 7_000);
    assert_eq!(seen.idle_ms, 0);

    talk.out(&mut node, TcpFlags::FIN.and(ACK));
    hooks.listen(&mut node);
    assert!(hooks.serve([carried(&node, 1), carried(&node, 2)]));
    assert!(hooks.tell(&mut node));
    let last = node.flows()[0];
    assert_eq!(
        last.packets_out,
        seen.packets_out + 2,
        "the FIN is one of them"
    );
    assert_eq!(last.packets_in, seen.packets_in + 2);
    assert!(hooks.map.is_empty());
    assert_eq!(node.engines[0].stats().offloaded, 0);
    talk.back(&mut node, TcpFlags::FIN.and(ACK));
    talk.out(&mut node, ACK);
    assert_eq!(node.flows()[0].state, Some(TcpState::TimeWait));
    assert!(!node.engines[0].has_wishes(), "what is over is not offered");
}

#[test]
fn a_reset_of_a_connection_whose_numbers_only_the_hooks_saw_is_believed() {
    let mut node = node();
    let mut hooks = Hooks::new(8);
    let mut talk = Talk::new();
    talk.establish(&mut node);
    hooks.settle(&mut node);
    // Gigabytes later.
    let far = from_eni(0, OUTSIDE, NODE).tcp(
        SERVER_PORT,
        talk.port.unwrap_or_default(),
        TcpFlags::RST,
        b"",
    );
    let far = far.with(38, [0xc0, 0, 0, 0]).seal();
    node.forwarded(&far, ETH0);
    assert_eq!(node.flows()[0].state, Some(TcpState::Close));
    assert!(matches!(one_wish(&mut node), Wish::Remove { .. }));
}

#[test]
fn a_flow_that_only_the_hooks_see_does_not_expire() {
    let mut node = node();
    let mut hooks = Hooks::new(8);
    for _ in 0..OFFER_AFTER {
        node.forwarded(&from_pod(0, PEER).udp(7, 9, b"?"), TRUNK);
        node.forwarded(&from_eni(0, PEER, PODS[0]).udp(9, 7, b"!"), ETH0);
    }
    hooks.settle(&mut node);
    // The look at all flows comes in time.
    for _ in 0..10 {
        node.wait(Duration::from_secs(200));
        hooks.sweep(
            node.snapshot.epoch(),
            [carried(&node, 1), Carried::default()],
        );
        hooks.settle(&mut node);
    }
    assert_eq!((node.flows().len(), hooks.map.len()), (1, 1));
    // It does not: the timer asks the hooks before it ends a flow.
    node.wait(Duration::from_secs(302));
    hooks.listen(&mut node);
    assert!(hooks.serve([carried(&node, 1), Carried::default()]));
    hooks.settle(&mut node);
    node.wait(Duration::from_secs(3));
    assert_eq!((node.flows().len(), hooks.map.len()), (1, 0));
    node.forwarded(&from_pod(0, PEER).udp(7, 9, b"?"), TRUNK);
    hooks.settle(&mut node);
    assert_eq!(hooks.map.len(), 1, "offered again");
    // Idle in truth.
    node.wait(Duration::from_secs(302));
    hooks.settle(&mut node);
    node.wait(Duration::from_secs(3));
    assert_eq!((node.flows().len(), hooks.map.len()), (0, 0));
}

#[test]
fn new_rules_renew_offers_and_a_pod_that_goes_ends_them() {
    let mut node = node();
    let mut hooks = Hooks::new(8);
    let mut talk = Talk::new();
    talk.establish(&mut node);
    hooks.settle(&mut node);
    node.publish(offloading());
    hooks.sweep(node.snapshot.epoch(), Default::default());
    hooks.settle(&mut node);
    talk.out(&mut node, ACK);
    hooks.settle(&mut node);
    let epochs: Vec<u64> = hooks.map.values().map(|(epoch, _)| *epoch).collect();
    assert_eq!(epochs, [node.snapshot.epoch()]);

    let mut without = offloading();
    let gone = [IpAddr::V4(PODS[0]), IpAddr::V6(PODS6[0])];
    without.endpoints.retain(|pod| !gone.contains(&pod.address));
    node.publish(without);
    assert_eq!(node.engines[0].stats().snat_ports, 1);
    hooks.sweep(node.snapshot.epoch(), Default::default());
    while hooks.tell(&mut node) {}
    let stats = node.engines[0].stats();
    assert_eq!(
        (stats.flows, stats.snat_ports),
        (0, 1),
        "held for the hooks"
    );
    hooks.settle(&mut node);
    assert!(hooks.map.is_empty());
    assert_eq!(node.engines[0].stats().snat_ports, 0);
}

#[test]
fn switching_off_takes_everything_back() {
    let mut node = node();
    let mut hooks = Hooks::new(8);
    let mut talk = Talk::new();
    talk.establish(&mut node);
    hooks.settle(&mut node);
    node.publish(config());
    hooks.sweep(node.snapshot.epoch(), Default::default());
    hooks.settle(&mut node);
    assert!(hooks.map.is_empty());
    assert_eq!(node.flows().len(), 1);
    for _ in 0..20 {
        talk.out(&mut node, ACK);
    }
    assert!(!node.engines[0].has_wishes());
}

#[test]
fn without_room_a_flow_stays_with_its_worker() {
    let mut node = node();
    let mut hooks = Hooks::new(0);
    let mut talk = Talk::new();
    talk.establish(&mut node);
    hooks.settle(&mut node);
    assert_eq!(node.engines[0].stats().offloaded, 0);
    for _ in 0..20 {
        talk.back(&mut node, ACK);
    }
    assert!(!node.engines[0].has_wishes(), "no nagging");
    node.publish(offloading());
    hooks.room = 1;
    talk.back(&mut node, ACK);
    hooks.settle(&mut node);
    assert_eq!(hooks.map.len(), 1);
}

/// What a successor reads of an entry pair.
fn session([out, back]: &[Passage; 2]) -> Session {
    Session {
        keys: [out.key, back.key],
        snat: out.replacement.map(|(_, end)| end),
        uplink: match out.out {
            OutIf::Uplink(id) => Some(id),
            OutIf::Endpoint => None,
        },
        carried: Default::default(),
    }
}

#[test]
fn a_successor_takes_up_what_the_hooks_carry() {
    let mut before = node();
    let mut hooks = Hooks::new(8);
    let mut talk = Talk::new();
    talk.establish(&mut before);
    for _ in 0..OFFER_AFTER {
        before.forwarded(&from_pod(0, PODS[1]).udp(7, 9, b"?"), TRUNK);
        before.forwarded(&from_pod(1, PODS[0]).udp(9, 7, b"!"), TRUNK);
        // From the VPC, by another ENI than the pod's.
        before.forwarded(&from_eni(1, PEER, PODS[0]).udp(5, 6, b"?"), ETH1);
        before.forwarded(&from_pod(0, PEER).udp(6, 5, b"!"), TRUNK);
    }
    hooks.settle(&mut before);
    assert_eq!(hooks.map.len(), 3);
    let sessions: Vec<Session> = hooks.map.values().map(|(_, pair)| session(pair)).collect();

    let mut after = node();
    for session in &sessions {
        let (snapshot, now) = (&after.snapshot, after.now);
        assert!(
            after.engines[0].resume(session, snapshot, now),
            "{session:?}"
        );
    }
    let mut successor = Hooks::new(8);
    // The next packet of each goes the way it went before, and offers its flow again.
    talk.back(&mut after, ACK);
    let port = talk.port;
    talk.out(&mut after, ACK);
    assert_eq!(talk.port, port);
    after.forwarded(&from_pod(1, PODS[0]).udp(9, 7, b"!"), TRUNK);
    after.forwarded(&from_pod(0, PEER).udp(6, 5, b"!"), TRUNK);
    successor.settle(&mut after);
    let pairs = |hooks: &Hooks| {
        let mut pairs: Vec<String> = hooks.map.values().map(|pair| format!("{pair:?}")).collect();
        pairs.sort();
        pairs
    };
    assert_eq!(pairs(&successor), pairs(&hooks));
    assert_eq!(after.engines[0].stats().snat_ports, 1);

    // A pod that is gone, and a worker that is not its owner, take up nothing.
    let gone = [IpAddr::V4(PODS[0]), IpAddr::V6(PODS6[0])];
    let mut without = offloading();
    without.endpoints.retain(|pod| !gone.contains(&pod.address));
    let mut third = Node::with(without, 1, 64);
    let mut many = Node::with(offloading(), 4, 64);
    for session in &sessions {
        let (snapshot, now) = (&third.snapshot, third.now);
        assert!(!third.engines[0].resume(session, snapshot, now));
        let (snapshot, now) = (&many.snapshot, many.now);
        let engines = many.engines.iter_mut();
        let takers = engines.filter_map(|one| one.resume(session, snapshot, now).then_some(()));
        assert!(takers.count() <= 1);
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Out(usize, u16),
    Back(usize, u16),
    /// The hooks carry some packets of everything they know.
    Sweep,
    Serve,
    Tell,
    Wait(u64),
    /// The middle pod comes or goes.
    Reload,
    Switch,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || (0usize..3, 1u16..4);
    prop_oneof![
        12 => name().prop_map(|(pod, port)| Step::Out(pod, port)),
        12 => name().prop_map(|(pod, port)| Step::Back(pod, port)),
        1 => Just(Step::Sweep),
        4 => Just(Step::Serve),
        4 => Just(Step::Tell),
        1 => (1u64..400).prop_map(Step::Wait),
        1 => Just(Step::Reload),
        1 => Just(Step::Switch),
    ]
}

/// Few enough that flows fight for them.
fn few_ports(mut config: Config, present: bool, offload: bool) -> Config {
    if let Snat::Node(snat) = &mut config.snat {
        (snat.ports.first, snat.ports.last) = (20_000, 20_007);
    }
    config.tuning.offload = offload;
    let gone = [IpAddr::V4(PODS[1]), IpAddr::V6(PODS6[1])];
    let stays = |address| present || !gone.contains(&address);
    config.endpoints.retain(|pod| stays(pod.address));
    config
}

/// Whatever the hooks know of a translated flow, no other flow has its port.
fn no_port_is_anothers(node: &Node, hooks: &Hooks) {
    for (_, [out, back]) in hooks.map.values() {
        let rivals = node.flows().into_iter().filter(|flow| {
            flow.snat.map(|end| end.port) == Some(back.key.destination_port)
                && flow.remote_port == back.key.source_port
        });
        for rival in rivals {
            let its = (out.key.source, out.key.source_port);
            assert_eq!((rival.pod, rival.pod_port), its, "{back:?}");
        }
    }
}

fn frame(pod: usize, port: u16) -> Frame {
    from_pod(pod, OUTSIDE).udp(port, SERVER_PORT, b"question")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(runs(200)))]
    #[test]
    fn late_hooks_never_know_what_is_not_so(steps in proptest::collection::vec(step(), 1..400)) {
        let (mut present, mut offload) = (true, true);
        let mut node = Node::with(few_ports(config(), present, offload), 1, 16);
        let mut hooks = Hooks::new(6);
        let mut outside = HashMap::new();
        for step in steps {
            match step {
                Step::Out(pod, port) => {
                    let (_, out) = node.send(&frame(pod, port), TRUNK);
                    outside.insert((pod, port), names(&out).2);
                }
                Step::Back(pod, port) => {
                    let Some(to) = outside.get(&(pod, port)) else { continue };
                    let answer = from_eni(0, OUTSIDE, NODE).udp(SERVER_PORT, *to, b"answer");
                    node.send(&answer, ETH0);
                }
                Step::Sweep => hooks.sweep(node.snapshot.epoch(), [carried(&node, 1); 2]),
                Step::Serve => {
                    hooks.listen(&mut node);
                    hooks.serve([carried(&node, 3); 2]);
                }
                Step::Tell => {
                    hooks.tell(&mut node);
                }
                Step::Wait(seconds) => node.wait(Duration::from_secs(seconds)),
                Step::Reload => {
                    present = !present;
                    node.publish(few_ports(config(), present, offload));
                }
                Step::Switch => {
                    offload = !offload;
                    node.publish(few_ports(config(), present, offload));
                }
            }
            no_port_is_anothers(&node, &hooks);
        }
        // Everything ends in the end, and nothing is left anywhere.
        for _ in 0..4 {
            hooks.settle(&mut node);
            node.wait(Duration::from_secs(500));
            hooks.settle(&mut node);
            node.wait(Duration::from_secs(5));
        }
        let stats = node.engines[0].stats();
        prop_assert_eq!((stats.flows, stats.snat_ports, stats.offloaded), (0, 0, 0));
        prop_assert!(hooks.map.is_empty());
        prop_assert!(node.now > Timestamp::default());
    }
}
