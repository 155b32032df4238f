//! Z6: the session table against a model of lists, through the engine's front door: insert, hit,
//! expire, quarantine, reload. Both directions of a session are there or neither is, and no port
//! is used twice towards one endpoint.

mod node;

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use node::*;
use penstock_flow::{Config, Snat, Verdict};
use penstock_packet::DropReason;
use penstock_packet::build::Frame;
use proptest::prelude::*;

/// Ports of the range: fewer than flows there can be towards one endpoint.
const PORTS: std::ops::RangeInclusive<u16> = 20_000..=20_005;
/// Every wait is a multiple of this, and no timer is: what a timer's grain is makes no difference.
const BEAT: u64 = 80;
const IDLE: u64 = 300;
const QUARANTINE: u64 = 120;

/// Far ends: two ports of the outside, which are translated to, and one in the VPC.
const REMOTES: [(Ipv4Addr, u16); 3] = [(OUTSIDE, 53), (OUTSIDE, 54), (PEER, 53)];

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A pod's packet, by pod, L4 port and far end.
    Out(usize, u16, usize),
    /// The far end's answer to what such a packet looked like when it last left.
    In(usize, u16, usize),
    Wait(u64),
    /// The middle pod comes or goes.
    Reload,
}

/// What the model knows of a session.
#[derive(Debug, Clone, Copy)]
struct Session {
    pod: usize,
    pod_port: u16,
    remote: usize,
    /// The port it has outside.
    port: Option<u16>,
    last: u64,
    /// Since when it only keeps its port.
    quarantined: Option<u64>,
}

impl Session {
    fn is(&self, (pod, pod_port, remote): (usize, u16, usize)) -> bool {
        (self.pod, self.pod_port, self.remote) == (pod, pod_port, remote)
    }
}

struct Model {
    sessions: Vec<Session>,
    now: u64,
    present: bool,
}

/// What the model says of a packet.
#[derive(Debug, PartialEq)]
enum Expected {
    /// Forwarded, and if translated by a port that is this one, or any that is free.
    Known(Option<u16>),
    New(BTreeSet<u16>),
    Dropped(DropReason),
}

impl Model {
    fn is_translated(remote: usize) -> bool {
        REMOTES[remote].0 == OUTSIDE
    }

    fn has(&self, pod: usize) -> bool {
        pod != 1 || self.present
    }

    fn free(&self, remote: usize) -> BTreeSet<u16> {
        let of = |session: &&Session| session.remote == remote;
        let taken: HashSet<u16> = self
            .sessions
            .iter()
            .filter(of)
            .filter_map(|session| session.port)
            .collect();
        PORTS.filter(|port| !taken.contains(port)).collect()
    }

    fn out(&mut self, name: (usize, u16, usize)) -> Expected {
        let (pod, _, remote) = name;
        if !self.has(pod) {
            self.sessions
                .retain(|session| !session.is(name) || session.quarantined.is_some());
            return Expected::Dropped(DropReason::SpoofIp);
        }
        let now = self.now;
        if let Some(session) = self.sessions.iter_mut().find(|session| session.is(name)) {
            session.last = now;
            session.quarantined = None;
            return Expected::Known(session.port);
        }
        match (Self::is_translated(remote), self.free(remote)) {
            (false, _) => {
                self.add(name, None);
                Expected::Known(None)
            }
            (true, free) if free.is_empty() => Expected::Dropped(DropReason::NatNoPort),
            (true, free) => Expected::New(free),
        }
    }

    fn add(&mut self, (pod, pod_port, remote): (usize, u16, usize), port: Option<u16>) {
        self.sessions.push(Session {
            pod,
            pod_port,
            remote,
            port,
            last: self.now,
            quarantined: None,
        });
    }

    /// An answer to `port`, or to the pod itself.
    fn back(&mut self, name: (usize, u16, usize), port: Option<u16>) -> Expected {
        let (pod, _, remote) = name;
        let at = self.sessions.iter().position(|session| match port {
            Some(port) => {
                session.remote == remote
                    && session.port == Some(port)
                    && session.quarantined.is_none()
            }
            None => session.is(name),
        });
        let absent = !self.has(at.map_or(pod, |at| self.sessions[at].pod));
        match (at, port, absent) {
            (Some(at), _, true) => {
                self.sessions.remove(at);
                Expected::Dropped(if port.is_some() {
                    DropReason::NatNosession
                } else {
                    DropReason::NoLocal
                })
            }
            (Some(at), ..) => {
                self.sessions[at].last = self.now;
                Expected::Known(None)
            }
            (None, Some(_), _) => Expected::Dropped(DropReason::NatNosession),
            (None, None, true) => Expected::Dropped(DropReason::NoLocal),
            (None, None, false) => {
                self.add(name, None);
                Expected::Known(None)
            }
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += seconds;
        let now = self.now;
        self.sessions
            .retain_mut(|session| match session.quarantined {
                Some(since) => now - since < QUARANTINE,
                None if now - session.last < IDLE => true,
                None => {
                    session.quarantined = Some(now);
                    session.port.is_some()
                }
            });
    }
}

fn frame((pod, pod_port, remote): (usize, u16, usize)) -> Frame {
    let (address, port) = REMOTES[remote];
    from_pod(pod, address).udp(pod_port, port, b"question")
}

fn without_pod_1(config: &mut Config) {
    let gone = [IpAddr::V4(PODS[1]), IpAddr::V6(PODS6[1])];
    config
        .endpoints
        .retain(|endpoint| !gone.contains(&endpoint.address));
}

fn small() -> Config {
    let mut config = config();
    if let Snat::Node(snat) = &mut config.snat {
        snat.ports.first = *PORTS.start();
        snat.ports.last = *PORTS.end();
    }
    config
}

fn reason(verdict: Verdict) -> Option<DropReason> {
    match verdict {
        Verdict::Drop(reason) => Some(reason),
        Verdict::Reject(rejection) => Some(rejection.reason),
        _ => None,
    }
}

fn step() -> impl Strategy<Value = Step> {
    let name = || (0usize..3, 1u16..5, 0usize..3);
    prop_oneof![
        6 => name().prop_map(|(pod, port, remote)| Step::Out(pod, port, remote)),
        4 => name().prop_map(|(pod, port, remote)| Step::In(pod, port, remote)),
        2 => (1u64..6).prop_map(|beats| Step::Wait(beats * BEAT)),
        1 => Just(Step::Reload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(runs(400)))]
    #[test]
    fn z6_sessions_are_the_models(steps in proptest::collection::vec(step(), 1..120)) {
        let mut node = Node::with(small(), 1, 64);
        let mut model = Model { sessions: Vec::new(), now: 0, present: true };
        // How a flow looked outside when it last left.
        let mut last_port = std::collections::HashMap::new();
        for step in steps {
            match step {
                Step::Out(pod, pod_port, remote) => {
                    let name = (pod, pod_port, remote);
                    let (verdict, out) = node.send(&frame(name), TRUNK);
                    match model.out(name) {
                        Expected::Dropped(expected) => prop_assert_eq!(reason(verdict), Some(expected)),
                        Expected::Known(port) => {
                            prop_assert_eq!(reason(verdict), None);
                            prop_assert_eq!(names(&out).2, port.unwrap_or(pod_port));
                            last_port.insert(name, port);
                        }
                        Expected::New(free) => {
                            prop_assert_eq!(reason(verdict), None);
                            let port = names(&out).2;
                            prop_assert!(free.contains(&port), "{} of {:?}", port, free);
                            model.add(name, Some(port));
                            last_port.insert(name, Some(port));
                        }
                    }
                }
                Step::In(pod, pod_port, remote) => {
                    let name = (pod, pod_port, remote);
                    let (address, port) = REMOTES[remote];
                    let outside = match Model::is_translated(remote) {
                        true => match last_port.get(&name) {
                            Some(outside) => *outside,
                            None => continue,
                        },
                        false => None,
                    };
                    let to = outside.map_or(PODS[pod], |_| NODE);
                    let answer = from_eni(0, address, to).udp(port, outside.unwrap_or(pod_port), b"a");
                    let (verdict, out) = node.send(&answer, ETH0);
                    let owner = model.sessions.iter().find(|session| {
                        session.remote == remote && session.port == outside && session.quarantined.is_none()
                            && (outside.is_some() || session.is(name))
                    }).copied();
                    match model.back(name, outside) {
                        Expected::Dropped(expected) => prop_assert_eq!(reason(verdict), Some(expected)),
                        _ => {
                            prop_assert_eq!(reason(verdict), None);
                            let (pod, pod_port) = owner.map_or((pod, pod_port), |owner| (owner.pod, owner.pod_port));
                            prop_assert_eq!((names(&out).1, names(&out).3), (PODS[pod], pod_port));
                        }
                    }
                }
                Step::Wait(seconds) => {
                    node.wait(Duration::from_secs(seconds));
                    model.wait(seconds);
                }
                Step::Reload => {
                    model.present = !model.present;
                    let mut next = small();
                    if !model.present {
                        without_pod_1(&mut next);
                    }
                    node.publish(next);
                }
            }
            let stats = node.engines[0].stats();
            let living = model.sessions.iter().filter(|session| session.quarantined.is_none());
            let ports = model.sessions.iter().filter(|session| session.port.is_some()).count();
            prop_assert_eq!(stats.flows as usize, living.clone().count());
            prop_assert_eq!(stats.snat_ports as usize, ports);
            let expected: BTreeSet<_> = living
                .map(|session| {
                    let (address, port) = REMOTES[session.remote];
                    (IpAddr::V4(PODS[session.pod]), session.pod_port, IpAddr::V4(address), port, session.port)
                })
                .collect();
            let seen: BTreeSet<_> = node
                .flows()
                .iter()
                .map(|flow| (flow.pod, flow.pod_port, flow.remote, flow.remote_port, flow.snat.map(|end| end.port)))
                .collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
