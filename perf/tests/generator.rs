//! The generator and the drop baseline, on one veth pair: what is sent is what is counted.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::time::Duration;

use penstock_lab::NetNs;
use penstock_netlink::{LinkChange, Netlink, VethEnd, VethSpec};
use penstock_perf::drop_at_hook::DropAtHook;
use penstock_perf::generator::{Generator, Stream};
use penstock_xsk::ethtool::{self, Feature};

#[test]
#[ignore = "needs root and network namespaces"]
fn live_frames_reach_the_peer() {
    let id = std::process::id();
    let near = NetNs::create(&format!("pen-gen{id}-a")).expect("namespace");
    let far = NetNs::create(&format!("pen-gen{id}-b")).expect("namespace");
    for netns in [&near, &far] {
        // Neighbour discovery would be counted with the frames.
        netns
            .sysctl("ipv6/conf/default/disable_ipv6", "1")
            .expect("sysctl");
    }
    let far_file = std::fs::File::open(far.path()).expect("open");
    let up = LinkChange {
        up: Some(true),
        ..LinkChange::default()
    };
    let ifindex = near
        .run(|| {
            let mut netlink = Netlink::open().expect("netlink");
            let end = |name, netns| VethEnd {
                name,
                mac: None,
                mtu: 1500,
                queues: 1,
                netns,
            };
            let peer = end("far", Some(far_file.as_fd()));
            let spec = VethSpec {
                name: "near",
                mac: None,
                mtu: 1500,
                queues: 1,
                peer,
            };
            netlink.create_veth(&spec).expect("veth");
            let index = netlink.link_by_name("near").expect("link").index;
            netlink.set_link(index, &up).expect("up");
            index
        })
        .expect("enter");
    let dropper = far
        .run(|| {
            let mut netlink = Netlink::open().expect("netlink");
            let index = netlink.link_by_name("far").expect("link").index;
            netlink.set_link(index, &up).expect("up");
            ethtool::set_feature("far", Feature::Gro, true).expect("GRO");
            DropAtHook::attach(index).expect("attach")
        })
        .expect("enter");

    let stream = Stream {
        ifindex,
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        source: Ipv4Addr::new(10, 0, 0, 1),
        destinations: vec![SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 9)],
        ..Stream::default()
    };
    let sent = near
        .run(|| {
            let mut generator = Generator::load(&stream).expect("load");
            generator.run(Duration::from_millis(200)).expect("run")
        })
        .expect("enter");
    let dropped = dropper.packets().expect("count");
    eprintln!("sent {sent}, dropped at the hook {dropped}");
    assert!(sent > 0);
    assert!(
        dropped > sent / 2,
        "most of {sent} frames arrive, {dropped} did"
    );
    assert!(dropped <= sent, "nothing is counted twice");
}
