//! A dataplane that is killed, frozen or keeps dying: what the hooks carry goes on as if nothing
//! had happened, what workers carried goes by the kernel, and the next start takes it all over
//! (T01, T03 and T06 of the reliability targets, as far as one pod's flows show them).

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use penstock_dataplane_api::{Request, Response, Status};
use penstock_lab::{Lab, LabConfig, NetNs, Node, OUTSIDE_ADDRESSES, Pod};

const CONVERGES_WITHIN: Duration = Duration::from_secs(10);

/// Between two datagrams of a flow.
const PACE: Duration = Duration::from_millis(1);

/// How long traffic goes on in each condition.
const WHILE: Duration = Duration::from_millis(400);

/// An answer that takes longer is lost.
const SILENCE: Duration = Duration::from_secs(2);

/// Most datagrams, one a millisecond, that may be lost of a flow no hook carries.
const GAP: u64 = 50;

fn status(node: &Node) -> Status {
    match node.dataplane_call(&Request::Status).expect("dataplane") {
        Response::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + CONVERGES_WITHIN;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        thread::yield_now();
    }
}

/// Counts of a UDP flow.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    received: u64,
    /// Most datagrams lost in a row.
    gap: u64,
}

impl Tally {
    fn note(&mut self, number: u64) {
        self.received += 1;
        self.gap = self.gap.max(number.saturating_sub(self.sent));
        self.sent = self.sent.max(number + 1);
    }
}

fn udp(netns: &NetNs, address: IpAddr) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind((address, 0)));
    let socket = socket.expect("enter").expect("bind");
    socket.set_read_timeout(Some(SILENCE)).expect("timeout");
    socket
}

/// Questions and answers by UDP until `over`; every answer is waited for. From the trouble on, all
/// questions must come from one end: before, the kernel may have had the first of them.
fn udp_talk(pod: &UdpSocket, outside: &UdpSocket, [trouble, over]: [&AtomicBool; 2]) -> Tally {
    let mut tally = Tally::default();
    let (mut buffer, mut seen) = ([0; 64], None);
    while !over.load(Ordering::Relaxed) {
        pod.send(&tally.sent.to_be_bytes()).expect("send");
        tally.sent += 1;
        if let Ok((length, from)) = outside.recv_from(&mut buffer) {
            let before = seen.replace(from);
            if trouble.load(Ordering::Relaxed) {
                assert_eq!(before, seen, "another port");
            }
            outside.send_to(&buffer[..length], from).expect("answer");
        }
        if pod.recv(&mut buffer).is_ok() {
            tally.received += 1;
        }
        thread::sleep(PACE);
    }
    tally
}

/// One-way datagrams, which no hook carries; what the receiver saw.
fn udp_stream(from: &UdpSocket, to: &UdpSocket, over: &AtomicBool) -> Tally {
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u64.. {
                // While nobody has the route, sending fails: that is a loss like any other.
                let _ = from.send(&number.to_be_bytes());
                if over.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(PACE);
            }
        });
        let mut tally = Tally::default();
        let mut buffer = [0; 8];
        while !over.load(Ordering::Relaxed) {
            if to.recv(&mut buffer).is_ok() {
                tally.note(u64::from_be_bytes(buffer));
            }
        }
        tally
    })
}

/// Questions and answers on one connection until `over`; how many.
fn tcp_talk(mut pod: TcpStream, mut outside: TcpStream, over: &AtomicBool) -> u64 {
    let mut buffer = [0; 512];
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        pod.write_all(&[7; 512]).expect("the connection was reset");
        outside.read_exact(&mut buffer).expect("nothing arrives");
        outside.write_all(&buffer).expect("the other end was reset");
        pod.read_exact(&mut buffer).expect("nothing comes back");
        rounds += 1;
        thread::sleep(PACE);
    }
    rounds
}

fn connect(lab: &Lab, pod: &Pod) -> (TcpStream, TcpStream) {
    let outside = IpAddr::from(OUTSIDE_ADDRESSES[0]);
    let listener = lab.outside().run(|| TcpListener::bind((outside, 0)));
    let listener = listener.expect("enter").expect("listen");
    let to = listener.local_addr().expect("address");
    let client = pod.netns().run(|| TcpStream::connect_timeout(&to, SILENCE));
    let client = client.expect("enter").expect("connect");
    let (server, _) = listener.accept().expect("accept");
    for end in [&client, &server] {
        end.set_read_timeout(Some(SILENCE)).expect("timeout");
        end.set_nodelay(true).expect("nodelay");
    }
    (client, server)
}

/// Ends traffic when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What was seen of each flow while `trouble` went on.
struct Outcome {
    talk: Tally,
    stream: Tally,
    rounds: u64,
}

/// An offloaded UDP flow and a connection to the outside, and a stream between pods that no hook
/// carries, while `trouble` happens.
fn through(lab: &Lab, pods: [&Pod; 2], trouble: impl FnOnce(&Node)) -> Outcome {
    let node = &lab.nodes()[0];
    let [one, two] = pods;
    let outside = udp(lab.outside(), OUTSIDE_ADDRESSES[0].into());
    let inside = udp(one.netns(), one.address().into());
    let peer: SocketAddr = outside.local_addr().expect("address");
    inside.connect(peer).expect("connect");
    let (from, to) = (
        udp(one.netns(), one.address().into()),
        udp(two.netns(), two.address().into()),
    );
    from.connect(to.local_addr().expect("address"))
        .expect("connect");
    let (client, server) = connect(lab, one);
    let (troubled, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let talk = scope.spawn(|| udp_talk(&inside, &outside, [&troubled, &over]));
        let stream = scope.spawn(|| udp_stream(&from, &to, &over));
        let rounds = scope.spawn(|| tcp_talk(client, server, &over));
        // Flows end with this, also when what follows fails.
        let ends = Ends(&over);
        eventually("both flows with the hooks", || {
            status(node).offload.flows == 2
        });
        troubled.store(true, Ordering::Relaxed);
        trouble(node);
        drop(ends);
        let panicked = "a flow broke";
        Outcome {
            talk: talk.join().expect(panicked),
            stream: stream.join().expect(panicked),
            rounds: rounds.join().expect(panicked),
        }
    })
}

fn lab(id: &str) -> (Lab, [Pod; 2]) {
    let lab = Lab::up(LabConfig {
        nodes: 1,
        ..LabConfig::unique(id)
    })
    .expect("lab");
    let node = &lab.nodes()[0];
    node.start_dataplane(&[]).expect("dataplane");
    node.start_control(&[]).expect("control");
    let pods = ["a", "b"].map(|name| node.add_pod("f", name).expect("ADD"));
    (lab, pods)
}

fn start_again(node: &Node) {
    node.start_dataplane(&[]).expect("dataplane again");
    eventually("the pods are taken over", || status(node).endpoints == 2);
}

/// T01, T06: killed, and killed again.
#[test]
#[ignore = "needs root and network namespaces"]
fn a_killed_dataplane_loses_nothing_that_hooks_carry() {
    let (lab, pods) = lab("fo");
    let outcome = through(&lab, pods.each_ref(), |node| {
        for _ in 0..3 {
            node.kill_dataplane();
            thread::sleep(WHILE);
            start_again(node);
            eventually("the flows with the new hooks", || {
                status(node).offload.flows == 2
            });
            thread::sleep(WHILE);
        }
    });
    let Outcome {
        talk,
        stream,
        rounds,
    } = outcome;
    eprintln!("offloaded {talk:?}, {rounds} rounds of TCP; not offloaded {stream:?}");
    assert!(talk.sent > 500, "{talk:?}");
    assert_eq!(talk.received, talk.sent, "lost of an offloaded flow");
    assert!(rounds > 500, "{rounds}");
    assert!(stream.gap <= GAP, "{stream:?}");
    lab.nodes()[0].settled_counters().expect("counters");
}

/// T03: frozen.
#[test]
#[ignore = "needs root and network namespaces"]
fn a_frozen_dataplane_loses_nothing_that_hooks_carry() {
    let (lab, pods) = lab("fz");
    let outcome = through(&lab, pods.each_ref(), |node| {
        node.signal_dataplane(Signal::SIGSTOP);
        thread::sleep(WHILE);
        node.signal_dataplane(Signal::SIGCONT);
        thread::sleep(WHILE);
    });
    eprintln!("{:?} {:?}", outcome.talk, outcome.stream);
    assert_eq!(outcome.talk.received, outcome.talk.sent);
    assert!(outcome.rounds > 200, "{}", outcome.rounds);
    assert!(outcome.stream.gap <= GAP, "{:?}", outcome.stream);
}

/// A dataplane that is told to stop, or removed after its death, leaves nothing behind.
#[test]
#[ignore = "needs root and network namespaces"]
fn nothing_stays_of_one_that_was_stopped_or_removed() {
    let (lab, _pods) = lab("rm");
    let node = &lab.nodes()[0];
    let programs = || {
        let links = node.netns().ip(&["link", "show", "eth0"]).expect("ip");
        links.contains("prog/xdp")
    };
    let pins = node.run_dir().join("bpf");
    assert!(programs() && pins.exists());
    node.stop_dataplane().expect("stop");
    assert!(!programs() && !pins.exists());

    start_again(node);
    node.kill_dataplane();
    assert!(programs(), "the hooks stay");
    node.remove_dataplane().expect("remove");
    assert!(!programs() && !pins.exists());
    let trunk = node.netns().ip(&["link", "show"]).expect("ip");
    assert!(!trunk.contains("trunk0"), "{trunk}");
}
