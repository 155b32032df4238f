//! The ICMP errors we write; against random packets in `z4_icmp_errors.rs`.

#![expect(clippy::panic, reason = "a failed test panics")]

use std::net::Ipv4Addr;

use penstock_packet::build::{Base, Frame};
use penstock_packet::icmp::{self, Envelope};
use penstock_packet::{Ip, Parsed, parse};

fn ip4(frame: &Frame) -> Ip {
    match parse(&frame.bytes, frame.bytes.len()) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

#[test]
fn types_codes_and_mtu_of_errors() {
    let offender = Base::new(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(8, 8, 8, 8)).udp(1, 2, b"x");
    let envelope = Envelope {
        source_mac: [2, 0, 0, 0, 0, 7],
        destination_mac: [2, 0, 0, 0, 0, 8],
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
    };
    for (error, header) in [
        (icmp::Error::TimeExceeded, [11, 0, 0, 0, 0, 0]),
        (icmp::Error::HostUnreachable, [3, 1, 0, 0, 0, 0]),
        (icmp::Error::TooBig { mtu: 1500 }, [3, 4, 0, 0, 0x05, 0xdc]),
        (icmp::Error::Prohibited, [3, 13, 0, 0, 0, 0]),
    ] {
        let mut out = vec![0; icmp::MAX_ERROR];
        let packet = ip4(&offender);
        icmp::build_error(&mut out, error, &envelope, &offender.bytes, &packet).unwrap();
        assert_eq!(
            [out[34], out[35], out[38], out[39], out[40], out[41]],
            header
        );
        let mut short = vec![0; icmp::MAX_ERROR - 1];
        assert!(
            icmp::build_error(&mut short, error, &envelope, &offender.bytes, &packet).is_none()
        );
    }
}
