//! A small, sound snapshot for unit tests: two pods, two ENIs, both families.

use std::net::{Ipv4Addr, Ipv6Addr};

use penstock_dataplane_api::{
    Access, Endpoint, FlowSettings, MacAddr, Node, PortChoice, PortRange, Snapshot, Snat, SnatMode,
    Uplink,
};

/// Address of the primary ENI.
pub(crate) const PRIMARY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);

/// IPv6 address of the primary ENI.
pub(crate) const PRIMARY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, 0x1010);

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        generation: 1,
        node: Node {
            name: "node-a".to_owned(),
            primary_address: PRIMARY,
            primary_address6: Some(PRIMARY6),
        },
        vpc_cidrs: vec![
            "10.0.0.0/16".parse().unwrap(),
            "2001:db8:10::/56".parse().unwrap(),
        ],
        kernel_cidrs: vec!["10.0.0.10/32".parse().unwrap()],
        snat: Snat {
            mode: SnatMode::Node,
            exclude_cidrs: Vec::new(),
            address: PRIMARY,
            ports: PortRange {
                first: 11_000,
                last: 29_999,
            },
            port_choice: PortChoice::Prng,
        },
        imds: Access::Deny,
        flow: FlowSettings::default(),
        uplinks: vec![uplink(1), uplink(2)],
        endpoints: vec![endpoint(11, 1), endpoint(12, 2)],
    }
}

pub(crate) fn uplink(number: u8) -> Uplink {
    Uplink {
        eni_id: format!("eni-{number}"),
        ifname: format!("eth{}", number - 1),
        ifindex: u32::from(number) + 1,
        mac: MacAddr([2, 0, 0, 0, 1, number]),
        mtu: 9_001,
        primary: number == 1,
        address: Ipv4Addr::new(10, 0, 0, 10 * number),
        gateway: Ipv4Addr::new(10, 0, 0, 1),
        address6: Some(address6(0x1000 + 0x10 * u16::from(number))),
        gateway6: Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
        gateway_mac: Some(MacAddr([2, 0, 0, 0, 9, 9])),
    }
}

pub(crate) fn endpoint(number: u8, eni: u8) -> Endpoint {
    Endpoint {
        addresses: vec![
            Ipv4Addr::new(10, 0, 0, number).into(),
            address6(number.into()).into(),
        ],
        eni_id: format!("eni-{eni}"),
        ifname: format!("eni{number:011x}"),
        ifindex: 100 + u32::from(number),
        host_mac: MacAddr([2, 0, 0, 0, 2, number]),
        pod_mac: MacAddr([2, 0, 0, 0, 3, number]),
        mtu: 9_001,
        namespace: "default".to_owned(),
        pod: format!("pod-{number}"),
        container_id: format!("container-{number}"),
    }
}

fn address6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, last)
}
