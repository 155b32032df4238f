//! The fabric does what a VPC does, seen with real sockets and by its own counters. Kernel
//! networking only: no Penstock daemon runs here.
#![expect(
    clippy::unwrap_used,
    reason = "a failed test is a panic, in its helpers too"
)]

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use ec2_sim::cloud::{AddressChoice, AssignRequest, AttachRequest, CreateRequest};
use penstock_lab::traffic::{self, End};
use penstock_lab::{Lab, LabConfig, NetNs, Node, OUTSIDE_ADDRESSES, Sink, Verdict};

const STREAM: Duration = Duration::from_millis(300);

fn end(node: &Node) -> End<'_> {
    End {
        netns: node.netns(),
        address: node.primary_address(),
    }
}

fn outside(lab: &Lab) -> End<'_> {
    End {
        netns: lab.outside(),
        address: OUTSIDE_ADDRESSES[0],
    }
}

/// Sends one datagram from `source`, which is made a local address of the node for the purpose.
fn send_from(netns: &NetNs, source: Ipv4Addr, to: Ipv4Addr) {
    netns
        .ip(&["address", "add", &format!("{source}/32"), "dev", "lo"])
        .unwrap();
    let sent = netns.run(|| UdpSocket::bind((source, 0))?.send_to(b"x", (to, 9)));
    sent.unwrap().unwrap();
}

/// Polls until `condition` holds of the total, for packets that are still being forwarded.
fn eventually(lab: &Lab, verdict: Verdict, at_least: u64) -> u64 {
    let deadline = std::time::Instant::now() + Duration::from_secs(2);
    loop {
        let count = lab.fabric().counters().unwrap().verdict(verdict);
        if count >= at_least || std::time::Instant::now() > deadline {
            return count;
        }
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn nodes_reach_each_other_and_the_outside_with_their_own_address_and_full_ttl() {
    let lab = Lab::up(LabConfig::unique("fab")).unwrap();
    let [one, two] = lab.nodes() else { panic!() };
    for server in [end(two), outside(&lab)] {
        let ping = traffic::ping(end(one), server, 5, 56).unwrap();
        assert_eq!((ping.sent, ping.received), (5, 5));
        let udp = traffic::udp(end(one), server, 50, 1200).unwrap();
        assert_eq!((udp.sent, udp.received), (50, 50));
        let seen = udp.at_server.unwrap();
        assert_eq!(*seen.source.ip(), one.primary_address());
        assert_eq!(seen.ttl, 64, "a VPC does not touch TTL");
        let tcp = traffic::tcp(end(one), server, STREAM).unwrap();
        assert_eq!(tcp.corrupt, 0);
        assert!(tcp.bytes > 1 << 20, "{tcp:?}");
    }
    let counters = lab.fabric().counters().unwrap();
    for (name, port) in &counters.ports {
        let judged: u64 = Verdict::ALL.into_iter().map(|v| port.verdict(v)).sum();
        assert_eq!(
            port.rx_packets, judged,
            "{name}: every packet has one verdict"
        );
    }
    for verdict in [
        Verdict::SourceCheck,
        Verdict::SourceMac,
        Verdict::DestinationMac,
        Verdict::NoOwner,
        Verdict::OutsideSource,
        Verdict::TooBig,
        Verdict::Malformed,
        Verdict::NoPort,
    ] {
        assert_eq!(counters.verdict(verdict), 0, "{verdict}");
    }
    assert!(counters.verdict(Verdict::ArpAnswered) >= 3);
    lab.down().unwrap();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_source_the_eni_does_not_own_is_dropped_and_counted() {
    let lab = Lab::up(LabConfig::unique("fab")).unwrap();
    let [one, two] = lab.nodes() else { panic!() };
    send_from(
        one.netns(),
        Ipv4Addr::new(10, 0, 1, 77),
        two.primary_address(),
    );
    assert_eq!(eventually(&lab, Verdict::SourceCheck, 1), 1);
    let counters = lab.fabric().counters().unwrap();
    assert_eq!(
        counters
            .port(one.primary_eni())
            .verdict(Verdict::SourceCheck),
        1
    );
    assert_eq!(counters.port(two.primary_eni()).tx_packets, 0);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn only_primary_addresses_reach_the_outside_unless_it_accepts_any() {
    let lab = Lab::up(LabConfig::unique("fab")).unwrap();
    let node = &lab.nodes()[0];
    let assigned = lab
        .cloud()
        .assign_private_ip_addresses(&AssignRequest {
            eni_id: node.primary_eni().to_owned(),
            choice: AddressChoice::Count(1),
            allow_reassignment: false,
        })
        .unwrap();
    let secondary = assigned.addresses[0];
    send_from(node.netns(), secondary, OUTSIDE_ADDRESSES[0]);
    assert_eq!(eventually(&lab, Verdict::OutsideSource, 1), 1);
    assert_eq!(
        lab.fabric().counters().unwrap().port("outside").tx_packets,
        0
    );

    lab.fabric().set_outside_accepts_any(true).unwrap();
    let pod = End {
        netns: node.netns(),
        address: secondary,
    };
    let udp = traffic::udp(pod, outside(&lab), 3, 64).unwrap();
    assert_eq!(udp.received, 3);
    assert_eq!(*udp.at_server.unwrap().source.ip(), secondary);
    // The outside may open conversations towards any owned address, too.
    let udp = traffic::udp(outside(&lab), pod, 3, 64).unwrap();
    assert_eq!(udp.received, 3);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_address_nobody_owns_is_dropped_and_counted() {
    let lab = Lab::up(LabConfig::unique("fab")).unwrap();
    let node = &lab.nodes()[0];
    let sent = node
        .netns()
        .run(|| UdpSocket::bind((node.primary_address(), 0))?.send_to(b"x", ("10.0.31.200", 9)));
    sent.unwrap().unwrap();
    assert_eq!(eventually(&lab, Verdict::NoOwner, 1), 1);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn attaching_an_eni_makes_its_interface_appear_and_detaching_takes_it_away() {
    let lab = Lab::up(LabConfig::unique("fab")).unwrap();
    let [one, two] = lab.nodes() else { panic!() };
    let primary = lab.cloud().eni(one.primary_eni()).unwrap();
    let eni = lab
        .cloud()
        .create_network_interface(&CreateRequest {
            subnet_id: primary.subnet_id.clone(),
            ..CreateRequest::default()
        })
        .unwrap();
    let attachment = lab
        .cloud()
        .attach_network_interface(&AttachRequest {
            eni_id: eni.eni_id.clone(),
            instance_id: one.instance_id().to_owned(),
            device_index: 1,
        })
        .unwrap();
    assert_eq!(lab.cloud().wire_errors(), Vec::<String>::new());
    let link = one.netns().ip(&["link", "show", "eth1"]).unwrap();
    assert!(link.contains(&eni.mac_text()), "{link}");
    assert!(link.contains("state DOWN"), "{link}");

    // Its address works once the node configures it, by its own interface only.
    let address = format!("{}/32", eni.primary);
    let gateway = penstock_lab::fabric::gateway_of(eni.subnet_cidr).to_string();
    for command in [
        vec!["address", "add", &address, "dev", "eth1"],
        vec!["link", "set", "eth1", "up"],
        vec![
            "route", "add", &gateway, "dev", "eth1", "scope", "link", "table", "2",
        ],
        vec![
            "route", "add", "default", "via", &gateway, "dev", "eth1", "table", "2",
        ],
        vec!["rule", "add", "from", &address, "lookup", "2"],
    ] {
        one.netns().ip(&command).unwrap();
    }
    let second = End {
        netns: one.netns(),
        address: eni.primary,
    };
    assert_eq!(traffic::udp(second, end(two), 5, 64).unwrap().received, 5);
    let port = lab.fabric().counters().unwrap().port(&eni.eni_id);
    assert_eq!(port.verdict(Verdict::Delivered), 5);

    lab.cloud().detach_network_interface(&attachment).unwrap();
    assert!(one.netns().ip(&["link", "show", "eth1"]).is_err());
    assert!(
        !lab.fabric()
            .counters()
            .unwrap()
            .ports
            .contains_key(&eni.eni_id)
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn segmentation_is_left_to_the_sender_and_never_reaches_the_receiver() {
    let config = LabConfig {
        mtu: 1500,
        ..LabConfig::unique("fab")
    };
    let lab = Lab::up(config).unwrap();
    let [one, two] = lab.nodes() else { panic!() };
    // Merging on receipt would hide what was on the wire.
    two.netns()
        .tool("ethtool", &["-K", "eth0", "gro", "off"])
        .unwrap();
    let capture = Capture::open(two.netns());
    let tcp = traffic::tcp(end(one), end(two), STREAM).unwrap();
    assert_eq!(tcp.corrupt, 0);
    let longest = capture.longest();
    assert!(longest > 1000, "the capture saw the stream: {longest}");
    assert!(
        longest <= 1500 + 14,
        "{longest} bytes arrived in one packet"
    );
    let features = one.netns().tool("ethtool", &["-k", "eth0"]).unwrap();
    assert!(
        features.contains("tcp-segmentation-offload: on"),
        "{features}"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_sink_counts_instead_of_delivering() {
    let lab = Lab::up(LabConfig::unique("fab")).unwrap();
    let [one, two] = lab.nodes() else { panic!() };
    lab.fabric()
        .set_sink(one.primary_eni(), Sink::Protocol(17))
        .unwrap();
    let before = lab
        .fabric()
        .counters()
        .unwrap()
        .port(two.primary_eni())
        .tx_packets;
    let sent = one.netns().run(|| {
        let socket = UdpSocket::bind((one.primary_address(), 0))?;
        (0..10).try_for_each(|_| {
            socket
                .send_to(&[0; 22], (two.primary_address(), 9))
                .map(drop)
        })
    });
    sent.unwrap().unwrap();
    assert_eq!(eventually(&lab, Verdict::Sunk, 10), 10);
    let counters = lab.fabric().counters().unwrap();
    assert_eq!(counters.port(two.primary_eni()).tx_packets, before);
    assert_eq!(counters.port(one.primary_eni()).sunk_bytes, 640);
    // Other protocols still pass.
    assert_eq!(
        traffic::ping(end(one), end(two), 2, 56).unwrap().received,
        2
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_jumbo_vpc_carries_jumbo_packets() {
    let lab = Lab::up(LabConfig::unique("fab")).unwrap();
    let [one, two] = lab.nodes() else { panic!() };
    let udp = traffic::udp(end(one), end(two), 5, 9001 - 28).unwrap();
    assert_eq!(udp.received, 5);
}

/// An AF_PACKET socket's view of one interface, through tcpdump: lengths only.
struct Capture {
    child: std::process::Child,
}

impl Capture {
    fn open(netns: &NetNs) -> Self {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        let mut command = Command::new("tcpdump");
        command
            .args([
                "-i", "eth0", "-Q", "in", "-e", "-n", "-l", "-c", "200", "tcp",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = netns.spawn(command).unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(
                errors.read_line(&mut line).unwrap() > 0,
                "tcpdump ended early"
            );
        }
        // Kept open: a closed pipe would end tcpdump.
        child.stderr = Some(errors.into_inner());
        Self { child }
    }

    fn longest(mut self) -> usize {
        let mut text = String::new();
        std::io::Read::read_to_string(self.child.stdout.as_mut().unwrap(), &mut text).unwrap();
        let lengths = text.lines().filter_map(|line| {
            let (_, rest) = line.split_once("length ")?;
            rest.split(':').next()?.parse().ok()
        });
        lengths.max().unwrap_or(0)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
