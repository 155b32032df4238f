//! Bad frames from a pod and from the wire: each gets its named drop, nothing more and nothing less.
//!
//! The row numbers are those of the bad-packet table in docs/TESTING.md. Frames go in byte for byte
//! through AF_PACKET: from the pod's own interface, or from the fabric's end of the ENI's cable.

#![expect(
    clippy::expect_used,
    reason = "a test fails by panicking, with what it was doing"
)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use penstock_dataplane_api::Counters;
use penstock_lab::{IFNAME, Lab, LabConfig, NetNs, Node, OUTSIDE_ADDRESSES, Pod};
use penstock_netlink::Netlink;
use penstock_packet::TcpFlags;
use penstock_packet::build::{Base, Frame};
use penstock_perf::inject;

/// Copies of each frame, so that a single stray packet cannot pass for the case.
const COPIES: u64 = 5;
const OUTSIDE: Ipv4Addr = OUTSIDE_ADDRESSES[0];

/// What must become of a frame.
enum Fate {
    /// Dropped under this name, without an answer.
    Drop(&'static str),
    /// Dropped under this name, and answered with an ICMP error.
    Answered(&'static str),
    /// Passed to the kernel by the hook it came in at.
    ToKernel,
    /// Carried by a worker to where it goes.
    Forwarded,
}

struct Case {
    row: &'static str,
    frame: Vec<u8>,
    fate: Fate,
}

fn case(row: &'static str, frame: impl Into<Vec<u8>>, fate: Fate) -> Case {
    Case {
        row,
        frame: frame.into(),
        fate,
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn bad_frames_get_their_named_drop() {
    let lab = Lab::up(LabConfig {
        mtu: 1500,
        ..LabConfig::unique("bad")
    })
    .expect("lab");
    let node = &lab.nodes()[0];
    node.start_dataplane(&[]).expect("dataplane");
    node.start_control(&[("AWS_VPC_ENI_MTU", "1500")])
        .expect("control");
    let pod = node.add_pod("bad", "a").expect("ADD");
    let other = node.add_pod("bad", "b").expect("ADD");
    // Somebody listens, so that what is forwarded is not answered by port unreachable.
    let _sink = lab
        .outside()
        .run(|| std::net::UdpSocket::bind((OUTSIDE, 9)))
        .expect("enter")
        .expect("bind");

    let from_pod = from_pod(node, &pod, &other);
    for case in &from_pod {
        check(node, case, "pod", pod.netns(), IFNAME);
    }
    let wire = lab
        .fabric()
        .interface_of(node.primary_eni())
        .expect("cable");
    for case in &from_wire(node, &pod, &other) {
        check(node, case, "uplink", lab.fabric().netns(), &wire);
    }
    assert!(from_pod.len() > 20, "the table is there");
}

fn from_pod(node: &Node, pod: &Pod, other: &Pod) -> Vec<Case> {
    use Fate::{Answered, Drop, Forwarded, ToKernel};

    let own = mac(pod.netns(), IFNAME);
    let gateway = mac(node.netns(), pod.host_ifname().expect("host interface"));
    let base = |source, destination| Base::new(source, destination).macs(own, gateway);
    let outwards = base(pod.address(), OUTSIDE);
    let udp = |base: Base| base.udp(5000, 9, b"penstock");
    let plain = || udp(outwards);
    let ether = |offset: usize, value: [u8; 6]| plain().with(offset, value).bytes;

    vec![
        case("P03 zero source MAC", ether(6, [0; 6]), Drop("l2_src_bad")),
        case(
            "P03 multicast source MAC",
            ether(6, [1, 0, 0x5e, 0, 0, 1]),
            Drop("l2_src_bad"),
        ),
        case("P04", ether(6, [2, 9, 9, 9, 9, 9]), Drop("spoof_mac")),
        case(
            "P06",
            plain().with(12, [0x88, 0xb5]).bytes,
            Drop("l2_ethertype"),
        ),
        case("P07", plain().with(12, [0x81, 0x00]).bytes, Drop("l2_vlan")),
        case(
            "P09",
            arp(own, gateway, other.address(), Ipv4Addr::new(169, 254, 1, 1)),
            Drop("spoof_arp"),
        ),
        case(
            "P10",
            arp(own, gateway, pod.address(), OUTSIDE)[..30].to_vec(),
            Drop("arp_bad"),
        ),
        case("P11", plain().with(14, [0x65]).bytes, Drop("ip_version")),
        case("P12", plain().bytes[..14 + 12].to_vec(), Drop("ip4_short")),
        case(
            "P13 too small",
            plain().with(14, [0x44]).bytes,
            Drop("ip4_ihl"),
        ),
        case(
            "P13 past the frame",
            plain().with(14, [0x4f]).bytes,
            Drop("ip4_ihl"),
        ),
        case(
            "P14 under the header",
            plain().with(16, [0, 19]).bytes,
            Drop("ip4_len"),
        ),
        case(
            "P14 past the frame",
            plain().with(16, [0x05, 0xdc]).bytes,
            Drop("ip4_len"),
        ),
        case("P15", [plain().bytes, vec![0; 18]].concat(), Forwarded),
        case(
            "P16",
            plain().with(24, [0xde, 0xad]).bytes,
            Drop("ip4_csum"),
        ),
        case("P17 one", udp(outwards.ttl(1)).bytes, Answered("ttl")),
        case("P17 zero", udp(outwards.ttl(0)).bytes, Answered("ttl")),
        case("P18", plain().options(&[1, 1, 1, 0]).bytes, ToKernel),
        case(
            "P19",
            plain().options(&[131, 7, 4, 10, 0, 0, 1, 0]).bytes,
            Drop("ip4_srcroute"),
        ),
        case(
            "P20 zero length",
            plain().options(&[7, 0, 0, 0]).bytes,
            Drop("ip4_opt"),
        ),
        case(
            "P20 past the header",
            plain().options(&[7, 40, 4, 0]).bytes,
            Drop("ip4_opt"),
        ),
        case(
            "P23",
            fragment(outwards.ip(6, &[0; 16]), 0x2000),
            Drop("frag_tiny"),
        ),
        case(
            "P24",
            fragment(outwards.ip(6, &[0; 16]), 0x2001),
            Drop("frag_offset1"),
        ),
        case(
            "P31",
            udp(base(Ipv4Addr::new(127, 0, 0, 1), OUTSIDE)).bytes,
            Drop("martian_src"),
        ),
        case(
            "P32",
            udp(base(pod.address(), Ipv4Addr::new(127, 0, 0, 1))).bytes,
            Drop("martian_dst"),
        ),
        case(
            "P33",
            udp(base(pod.address(), pod.address())).bytes,
            Drop("land"),
        ),
        case(
            "P34 another pod",
            udp(base(other.address(), OUTSIDE)).bytes,
            Drop("spoof_ip"),
        ),
        case(
            "P34 the node",
            udp(base(node.primary_address(), OUTSIDE)).bytes,
            Drop("spoof_ip"),
        ),
        case(
            "P39",
            udp(base(pod.address(), Ipv4Addr::new(169, 254, 169, 254))).bytes,
            Drop("imds"),
        ),
        case(
            "P41",
            udp(base(pod.address(), node.primary_address())).bytes,
            ToKernel,
        ),
        case(
            "P45",
            outwards.tcp(5001, 80, TcpFlags::ACK, b"").bytes,
            Drop("nat_nonsyn"),
        ),
    ]
}

fn from_wire(node: &Node, pod: &Pod, other: &Pod) -> Vec<Case> {
    use Fate::{Drop, ToKernel};

    let eni = mac(node.netns(), "eth0");
    let router = penstock_lab::fabric::ROUTER_MAC.0;
    let base = |source, destination| Base::new(source, destination).macs(router, eni);
    let inwards = base(OUTSIDE, pod.address());
    let udp = |base: Base| base.udp(5000, 9, b"penstock");
    let plain = || udp(inwards);
    let nobody = Ipv4Addr::from(u32::from(pod.address()) | 0x0000_0eff);

    vec![
        case(
            "P05",
            plain().with(0, [2, 9, 9, 9, 9, 9]).bytes,
            Drop("l2_not_ours"),
        ),
        case(
            "P10",
            arp(router, eni, OUTSIDE, node.primary_address())[..30].to_vec(),
            Drop("arp_bad"),
        ),
        case("P03", plain().with(6, [0_u8; 6]).bytes, Drop("l2_src_bad")),
        case("P13", plain().with(14, [0x44]).bytes, Drop("ip4_ihl")),
        case("P14", plain().with(16, [0, 19]).bytes, Drop("ip4_len")),
        case(
            "P16",
            plain().with(24, [0xde, 0xad]).bytes,
            Drop("ip4_csum"),
        ),
        case("P17", udp(inwards.ttl(1)).bytes, Fate::Answered("ttl")),
        case(
            "P19",
            plain().options(&[131, 7, 4, 10, 0, 0, 1, 0]).bytes,
            Drop("ip4_srcroute"),
        ),
        case(
            "P23",
            fragment(inwards.ip(6, &[0; 16]), 0x2000),
            Drop("frag_tiny"),
        ),
        case(
            "P31",
            udp(base(Ipv4Addr::new(127, 0, 0, 1), pod.address())).bytes,
            Drop("martian_src"),
        ),
        case(
            "P33",
            udp(base(pod.address(), pod.address())).bytes,
            Drop("land"),
        ),
        case(
            "P35",
            udp(base(other.address(), pod.address())).bytes,
            Drop("spoof_self"),
        ),
        case("P36", udp(base(OUTSIDE, nobody)).bytes, Drop("no_local")),
        case(
            "node-bound",
            udp(base(OUTSIDE, node.primary_address())).bytes,
            ToKernel,
        ),
    ]
}

/// Injects the frame and compares everything that moved with the fate.
fn check(node: &Node, case: &Case, hook: &str, netns: &NetNs, ifname: &str) {
    let row = case.row;
    let before = node.settled_counters().expect(row);
    netns
        .run(|| inject::frames(ifname, (0..COPIES).map(|_| case.frame.as_slice())))
        .expect("enter")
        .expect(row);
    let after = settled_after(node, &before, hook);
    let drops = difference(&after, &before);
    let tx = sum_tx(&after) - sum_tx(&before);
    let passed = after.to_kernel(hook) - before.to_kernel(hook);
    let named = |reason: &str| BTreeMap::from([(reason.to_owned(), COPIES)]);
    match case.fate {
        Fate::Drop(reason) => {
            assert_eq!(drops, named(reason), "{hook} {row}");
            assert_eq!(tx, 0, "{hook} {row}: nothing goes on");
        }
        Fate::Answered(reason) => {
            assert_eq!(drops, named(reason), "{hook} {row}");
            assert_eq!(tx, COPIES, "{hook} {row}: an ICMP error each");
        }
        Fate::ToKernel => {
            assert_eq!(drops, BTreeMap::new(), "{hook} {row}");
            assert_eq!((tx, passed), (0, COPIES), "{hook} {row}");
        }
        Fate::Forwarded => {
            assert_eq!(drops, BTreeMap::new(), "{hook} {row}");
            assert_eq!(tx, COPIES, "{hook} {row}");
        }
    }
}

/// Counters once the injected frames have arrived and the node is quiet again.
fn settled_after(node: &Node, before: &Counters, hook: &str) -> Counters {
    let seen = |counters: &Counters| {
        counters
            .hooks
            .iter()
            .filter(|row| row.hook == hook)
            .map(|row| row.seen)
            .sum::<u64>()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
    loop {
        let now = node.settled_counters().expect("settled");
        if seen(&now) >= seen(before) + COPIES || std::time::Instant::now() > deadline {
            return now;
        }
    }
}

/// Drops that moved. Pods' kernels send IPv6 discovery at their own time; that is not the case's.
fn difference(after: &Counters, before: &Counters) -> BTreeMap<String, u64> {
    let before = before.drops();
    after
        .drops()
        .into_iter()
        .map(|(reason, packets)| {
            let earlier = before.get(&reason).copied().unwrap_or(0);
            (reason, packets - earlier)
        })
        .filter(|(reason, packets)| *packets > 0 && reason != "ip6_disabled")
        .collect()
}

fn sum_tx(counters: &Counters) -> u64 {
    counters.workers.iter().map(|worker| worker.tx).sum()
}

fn fragment(frame: Frame, flags_and_offset: u16) -> Vec<u8> {
    frame.with(20, flags_and_offset.to_be_bytes()).seal().bytes
}

/// RFC 826 request for `target`, padded as a wire would.
fn arp(sender_mac: [u8; 6], to: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [to, sender_mac].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(sender_mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame.resize(60, 0);
    frame
}

fn mac(netns: &NetNs, ifname: &str) -> [u8; 6] {
    netns
        .run(|| Netlink::open().and_then(|mut netlink| netlink.link_by_name(ifname)))
        .expect("enter")
        .expect("link")
        .mac
        .expect("an Ethernet interface")
}
