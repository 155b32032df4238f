//! The measurements themselves: a wire of known delay and loss is measured as it is, within 5 %.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use penstock_lab::NetNs;
use penstock_netlink::Netlink;
use penstock_perf::delay_line::{Answer, carry};
use penstock_perf::load::exchange::{self, Pace, Transport};
use penstock_perf::load::probe::{self, Flows};
use penstock_perf::place::Place;

const TOLERANCE: f64 = 0.05;
const ANSWER: Answer = Answer {
    delay: Duration::from_millis(100),
    drop_one_in: 10,
};

/// Two ends and the wire between them.
struct Rig {
    wire: NetNs,
    near: Place,
    far: Place,
}

impl Rig {
    fn build() -> Self {
        let id = std::process::id();
        let named = |name: &str| NetNs::create(&format!("pen-ka{id}-{name}")).expect("namespace");
        let rig = Self {
            wire: named("wire"),
            near: end(named("near"), Ipv4Addr::new(10, 1, 0, 1)),
            far: end(named("far"), Ipv4Addr::new(10, 1, 0, 2)),
        };
        rig.wire
            .sysctl("ipv6/conf/default/disable_ipv6", "1")
            .expect("sysctl");
        for (place, name) in [(&rig.near, "near"), (&rig.far, "far")] {
            let ends = [
                "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns",
            ];
            let arguments: Vec<&str> = ends.into_iter().chain([place.netns.name()]).collect();
            rig.wire.ip(&arguments).expect("veth");
            rig.wire.ip(&["link", "set", name, "up"]).expect("up");
            let address = format!("{}/24", place.address);
            let netns = &place.netns;
            netns
                .ip(&["address", "add", &address, "dev", "eth0"])
                .expect("address");
            // What the wire carries must be finished frames.
            let off = [
                "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off",
            ];
            netns.tool("ethtool", &off).expect("offloads");
            netns.ip(&["link", "set", "eth0", "up"]).expect("up");
        }
        rig
    }

    fn through<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> T {
        let mac = |place: &Place| {
            let link = place.netns.run(|| Netlink::open()?.link_by_name("eth0"));
            link.expect("enter").expect("eth0").mac.expect("an address")
        };
        let (near, far) = (("near", mac(&self.near)), ("far", mac(&self.far)));
        carry(&self.wire, near, far, ANSWER, work).expect("measured")
    }
}

fn end(netns: NetNs, address: Ipv4Addr) -> Place {
    netns
        .sysctl("ipv6/conf/default/disable_ipv6", "1")
        .expect("sysctl");
    Place {
        netns,
        ifname: "eth0".to_owned(),
        address,
        host_ifname: None,
    }
}

fn close(measured: f64, known: f64) -> bool {
    (measured / known - 1.0).abs() <= TOLERANCE
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_wire_of_known_delay_and_loss_is_measured_as_it_is() {
    let rig = Rig::build();
    let ends = (&rig.near, &rig.far);
    let seen = rig.through(|| {
        let time = Duration::from_secs(2);
        exchange::run(ends, Transport::Udp, Pace::PerSecond(500.0), time)
    });
    let known = ANSWER.delay.as_secs_f64() * 2e6;
    let (p50, p99, loss) = (seen.micros(0.5), seen.micros(0.99), seen.loss());
    eprintln!(
        "round trip p50 {p50:.0} us, p99 {p99:.0} us, known {known}; loss {loss:.4}, known 0.1"
    );
    assert!(close(p50, known), "p50 {p50} us of {known}");
    assert!(close(loss, 1.0 / ANSWER.drop_one_in as f64), "loss {loss}");

    let stop = AtomicBool::new(false);
    let passage = rig.through(|| {
        thread::scope(|scope| {
            let probe = scope.spawn(|| probe::run(ends, Flows::New, 500, &stop, Instant::now()));
            thread::sleep(Duration::from_secs(2));
            stop.store(true, Ordering::Relaxed);
            probe.join().expect("no panic")
        })
    });
    let loss = passage.lost() as f64 / passage.sent as f64;
    eprintln!(
        "one way: {} of {} lost, known 0.1",
        passage.lost(),
        passage.sent
    );
    assert!(close(loss, 1.0 / ANSWER.drop_one_in as f64), "loss {loss}");
}
