//! Z2: classification and first decision against a model that was written from the tables, not
//! from the engine: it knows a packet by its description, has no state and takes no short cuts.
#![expect(clippy::unwrap_used, reason = "a failed test panics")]

mod node;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use node::*;
use penstock_flow::{Access, Config, Ingress, OutIf, Snat, UplinkId, Verdict};
use penstock_packet::build::{Base, Base6, Frame};
use penstock_packet::{DropReason, TcpFlags};
use proptest::prelude::*;

/// A packet as a person would describe it.
#[derive(Debug, Clone)]
struct Described {
    ingress: Ingress,
    source: IpAddr,
    destination: IpAddr,
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    ttl: u8,
    body: Body,
    options: bool,
    payload: usize,
    dont_fragment: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Body {
    Udp {
        source: u16,
        destination: u16,
    },
    Tcp {
        source: u16,
        destination: u16,
        flags: TcpFlags,
    },
    EchoRequest,
    EchoReply,
    Sctp,
}

/// What the tables say becomes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    Drop(DropReason),
    Answered(DropReason),
    Kernel,
    Out(OutIf),
}
use Expected::{Answered, Drop, Kernel, Out};

fn in_prefix(address: Ipv4Addr, prefix: [u8; 4], length: u32) -> bool {
    let bits = |address: Ipv4Addr| u64::from(address.to_bits()) >> (32 - length);
    bits(address) == bits(prefix.into())
}

struct Model<'a>(&'a Config);

impl Model<'_> {
    fn pod(&self, address: IpAddr) -> Option<usize> {
        (0..3).find(|pod| address == IpAddr::V4(PODS[*pod]) || address == IpAddr::V6(PODS6[*pod]))
    }

    fn is_nodes(&self, address: IpAddr) -> bool {
        let uplinks = &self.0.uplinks;
        address == IpAddr::V4(NODE)
            || address == IpAddr::V6(NODE6)
            || uplinks.iter().any(|uplink| match address {
                IpAddr::V4(address) => uplink.address == address,
                IpAddr::V6(address) => uplink.address6 == Some(address),
            })
            || matches!(address, IpAddr::V4(address) if in_prefix(address, [172, 20, 0, 0], 16))
    }

    fn is_link_local(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => in_prefix(address, [169, 254, 0, 0], 16),
            IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
        }
    }

    fn is_martian(address: IpAddr, source: bool) -> bool {
        match address {
            IpAddr::V4(address) => {
                let first = address.octets()[0];
                first == 0 || first == 127 || source && first >= 224
            }
            IpAddr::V6(address) => {
                address == Ipv6Addr::UNSPECIFIED
                    || address == Ipv6Addr::LOCALHOST
                    || address.segments()[..6] == [0, 0, 0, 0, 0, 0xffff]
                    || source && address.segments()[0] >= 0xff00
            }
        }
    }

    fn is_group(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => (224..240).contains(&address.octets()[0]),
            IpAddr::V6(address) => address.segments()[0] >= 0xff00,
        }
    }

    fn is_translated(&self, destination: IpAddr) -> bool {
        let IpAddr::V4(destination) = destination else {
            return false;
        };
        matches!(self.0.snat, Snat::Node(_))
            && !in_prefix(destination, [10, 0, 0, 0], 16)
            && !in_prefix(destination, [192, 168, 0, 0], 16)
    }

    fn first(&self, packet: &Described) -> Expected {
        let everybody = IpAddr::V4(Ipv4Addr::BROADCAST);
        if Self::is_martian(packet.source, true) {
            return Drop(DropReason::MartianSrc);
        }
        if Self::is_martian(packet.destination, false) {
            return Drop(DropReason::MartianDst);
        }
        if packet.source == packet.destination {
            return Drop(DropReason::Land);
        }
        match packet.ingress {
            Ingress::Trunk => self.leaves(packet, everybody),
            Ingress::Uplink(UplinkId(id)) => self.arrives(packet, id, everybody),
        }
    }

    fn leaves(&self, packet: &Described, everybody: IpAddr) -> Expected {
        let destination = packet.destination;
        let Some(pod) = self.pod(packet.source) else {
            return Drop(DropReason::SpoofIp);
        };
        if packet.source_mac != pod_mac(pod) {
            return Drop(DropReason::SpoofMac);
        }
        if destination == everybody {
            return Drop(DropReason::Bcast);
        }
        if Self::is_group(destination) {
            return Drop(DropReason::Mcast);
        }
        let metadata = destination == IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254))
            || destination == IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254));
        if metadata && self.0.imds == Access::Deny {
            return Drop(DropReason::Imds);
        }
        if metadata
            || Self::is_link_local(destination)
            || self.is_nodes(destination)
            || packet.options
        {
            return Kernel;
        }
        if self.pod(destination).is_some() {
            return self.carried(packet, OutIf::Endpoint);
        }
        if self.is_translated(destination) {
            return match Self::untranslatable(packet.body) {
                Some(reason) => Drop(reason),
                None => self.carried(packet, OutIf::Uplink(UplinkId(0))),
            };
        }
        self.carried(packet, OutIf::Uplink(UplinkId(u8::from(pod == 2))))
    }

    fn arrives(&self, packet: &Described, id: u8, everybody: IpAddr) -> Expected {
        let destination = packet.destination;
        if packet.destination_mac != eni_mac(id) {
            let group = packet.destination_mac[0] & 1 == 1;
            return if group {
                Kernel
            } else {
                Drop(DropReason::L2NotOurs)
            };
        }
        if self.pod(packet.source).is_some() {
            return Drop(DropReason::SpoofSelf);
        }
        if self.pod(destination).is_some() {
            return match packet.options {
                true => Kernel,
                false => self.carried(packet, OutIf::Endpoint),
            };
        }
        let ours =
            matches!(&self.0.snat, Snat::Node(snat) if destination == IpAddr::V4(snat.address));
        let range = match packet.body {
            Body::Udp { destination, .. } | Body::Tcp { destination, .. } => {
                (11_000..30_000).contains(&destination)
            }
            _ => false,
        };
        if ours && range {
            return match packet.options || !self.is_translated(packet.source) {
                true => Kernel,
                false => Drop(DropReason::NatNosession),
            };
        }
        let kernels = Self::is_group(destination)
            || destination == everybody
            || Self::is_link_local(destination)
            || self.is_nodes(destination);
        if kernels {
            Kernel
        } else {
            Drop(DropReason::NoLocal)
        }
    }

    /// Why a packet may not start a translated flow.
    fn untranslatable(body: Body) -> Option<DropReason> {
        match body {
            Body::Udp { source: 0, .. } | Body::Udp { destination: 0, .. } => {
                Some(DropReason::NatPort0)
            }
            Body::Tcp { source: 0, .. } | Body::Tcp { destination: 0, .. } => {
                Some(DropReason::NatPort0)
            }
            Body::Tcp { flags, .. } => {
                let (fin, syn, rst, ack) = (
                    flags.0 & 1,
                    flags.0 >> 1 & 1,
                    flags.0 >> 2 & 1,
                    flags.0 >> 4 & 1,
                );
                match (fin, syn, rst, ack) {
                    (0, 0, 0, 0) | (1, _, _, 0) | (1, 1, ..) | (1, _, 1, _) | (_, 1, 1, _) => {
                        Some(DropReason::TcpFlags)
                    }
                    (0, 1, 0, 0) => None,
                    _ => Some(DropReason::NatNonsyn),
                }
            }
            Body::EchoReply => Some(DropReason::NatNosession),
            Body::Sctp => Some(DropReason::NatProto),
            Body::Udp { .. } | Body::EchoRequest => None,
        }
    }

    /// TTL and size, the last hurdles: every interface takes 1,500 bytes.
    fn carried(&self, packet: &Described, out: OutIf) -> Expected {
        if packet.ttl <= 1 {
            return Answered(DropReason::Ttl);
        }
        let header = if packet.source.is_ipv4() { 20 } else { 40 };
        let l4 = match packet.body {
            Body::Tcp { .. } => 20,
            Body::Sctp => 0,
            _ => 8,
        };
        match (
            header + l4 + packet.payload > 1_500,
            packet.source.is_ipv6() || packet.dont_fragment,
        ) {
            (true, true) => Answered(DropReason::Mtu),
            (true, false) => Kernel,
            (false, _) => Out(out),
        }
    }
}

impl Described {
    fn frame(&self) -> Frame {
        let payload = vec![0x61; self.payload];
        let frame = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let base = Base {
                    source,
                    destination,
                    ttl: self.ttl,
                    source_mac: self.source_mac,
                    destination_mac: self.destination_mac,
                };
                match self.body {
                    Body::Udp {
                        source,
                        destination,
                    } => base.udp(source, destination, &payload),
                    Body::Tcp {
                        source,
                        destination,
                        flags,
                    } => base.tcp(source, destination, flags, &payload),
                    Body::EchoRequest => base.echo(true, 7, &payload),
                    Body::EchoReply => base.echo(false, 7, &payload),
                    Body::Sctp => base.ip(132, &payload),
                }
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let base = Base6 {
                    source,
                    destination,
                    hop_limit: self.ttl,
                    source_mac: self.source_mac,
                    destination_mac: self.destination_mac,
                };
                match self.body {
                    Body::Udp {
                        source,
                        destination,
                    } => base.udp(source, destination, &payload),
                    Body::Tcp {
                        source,
                        destination,
                        flags,
                    } => base.tcp(source, destination, flags, &payload),
                    Body::EchoRequest => base.echo(true, 7, &payload),
                    Body::EchoReply => base.echo(false, 7, &payload),
                    Body::Sctp => base.ip(132, &payload),
                }
            }
            _ => unreachable!("families do not mix"),
        };
        let frame = match (self.dont_fragment, self.source.is_ipv4()) {
            (true, true) => frame.dont_fragment(),
            _ => frame,
        };
        match (self.options, self.source.is_ipv4()) {
            (false, _) => frame,
            (true, true) => frame.options(&[1, 1, 1, 1]),
            (true, false) => frame.extension(0, &[0; 6]),
        }
    }
}

fn address4() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        6 => proptest::sample::select(PODS.to_vec()),
        6 => proptest::sample::select(vec![PEER, OUTSIDE, NODE, Ipv4Addr::new(10, 0, 1, 10)]),
        4 => proptest::sample::select(vec![
            [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 5], [239, 255, 0, 1], [240, 0, 0, 1],
            [255, 255, 255, 255], [169, 254, 169, 254], [169, 254, 1, 1], [172, 20, 3, 4],
            [172, 21, 0, 1], [192, 168, 7, 7], [192, 169, 0, 1], [10, 1, 0, 0], [9, 255, 255, 255],
        ]).prop_map(Ipv4Addr::from),
        1 => any::<u32>().prop_map(Ipv4Addr::from_bits),
    ]
    .prop_map(IpAddr::V4)
}

fn address6() -> impl Strategy<Value = IpAddr> {
    let fixed = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    prop_oneof![
        6 => proptest::sample::select(PODS6.to_vec()),
        5 => proptest::sample::select(vec![PEER6, OUTSIDE6, NODE6]),
        3 => proptest::sample::select(vec![
            fixed("::"), fixed("::1"), fixed("::ffff:10.0.0.101"), fixed("fe80::1"), fixed("febf::1"),
            fixed("fec0::1"), fixed("ff02::1"), fixed("ff0e::5"), fixed("fd00:ec2::254"), fixed("fd00:ec2::253"),
        ]),
        1 => any::<u128>().prop_map(Ipv6Addr::from_bits),
    ]
    .prop_map(IpAddr::V6)
}

fn body() -> impl Strategy<Value = Body> {
    let port = || {
        prop_oneof![
            Just(0u16),
            Just(53),
            Just(10_999),
            Just(11_000),
            Just(29_999),
            Just(30_000),
            any::<u16>()
        ]
    };
    prop_oneof![
        3 => (port(), port()).prop_map(|(source, destination)| Body::Udp { source, destination }),
        3 => (port(), port(), 0u8..64).prop_map(|(source, destination, flags)| {
            Body::Tcp { source, destination, flags: TcpFlags(flags) }
        }),
        2 => (port(), port()).prop_map(|(source, destination)| {
            Body::Tcp { source, destination, flags: TcpFlags::SYN }
        }),
        1 => Just(Body::EchoRequest),
        1 => Just(Body::EchoReply),
        1 => Just(Body::Sctp),
    ]
}

fn described() -> impl Strategy<Value = Described> {
    let addresses = prop_oneof![
        2 => (address4(), address4()),
        1 => (address6(), address6()),
    ];
    let ingress = proptest::sample::select(vec![TRUNK, TRUNK, ETH0, ETH1]);
    let ttl = prop_oneof![1 => 0u8..3, 6 => Just(64), 1 => any::<u8>()];
    let size = prop_oneof![6 => 0usize..40, 1 => 1_430usize..1_490];
    let macs = (0usize..16, 0usize..8);
    (
        ingress,
        addresses,
        macs,
        ttl,
        body(),
        (prop::bool::weighted(0.1), size, any::<bool>()),
    )
        .prop_map(
            |(
                ingress,
                (source, destination),
                (from, to),
                ttl,
                body,
                (options, payload, dont_fragment),
            )| {
                let owner = (0..3).find(|pod| {
                    source == IpAddr::V4(PODS[*pod]) || source == IpAddr::V6(PODS6[*pod])
                });
                let (source_mac, destination_mac) = match ingress {
                    Ingress::Trunk => (
                        pod_mac(if from < 12 {
                            owner.unwrap_or(0)
                        } else {
                            from % 3
                        }),
                        host_mac(0),
                    ),
                    Ingress::Uplink(UplinkId(id)) => {
                        let mac = match to {
                            0 => [0xff; 6],
                            1 => eni_mac(1 - id),
                            _ => eni_mac(id),
                        };
                        (gateway_mac(id), mac)
                    }
                };
                Described {
                    ingress,
                    source,
                    destination,
                    source_mac,
                    destination_mac,
                    ttl,
                    body,
                    options,
                    payload,
                    dont_fragment,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(runs(4_000)))]
    #[test]
    fn z2_first_packets_as_the_tables_say(
        packet in described(),
        external in prop::bool::weighted(0.2),
        imds in any::<bool>(),
    ) {
        let mut config = config();
        if external {
            config.snat = Snat::External;
        }
        if imds {
            config.imds = Access::Allow;
        }
        let expected = Model(&config).first(&packet);
        let mut node = Node::with(config, 1, 16);
        let frame = packet.frame();
        let (verdict, _) = node.send(&frame, packet.ingress);
        let got = match verdict {
            Verdict::Forward(out) => Out(out),
            Verdict::ToKernel => Kernel,
            Verdict::Drop(reason) => Drop(reason),
            Verdict::Reject(rejection) => Answered(rejection.reason),
            Verdict::HandOff(_) => unreachable!("one worker"),
            Verdict::Hold(_) => unreachable!("no fragments"),
        };
        prop_assert_eq!(got, expected);
    }
}
