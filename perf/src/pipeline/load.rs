//! Frames of many flows, without memory for each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use penstock_packet::checksum::{Sum, pseudo_header};

use super::rig::{self, Family};

/// Bytes of a frame, Ethernet header included and check sequence not: 64 on the wire.
const FRAME: usize = 60;
const UDP: u8 = 17;

/// Numbers `0..flows` in an order without pattern, over and over.
#[derive(Debug, Clone)]
pub struct Order {
    flows: u32,
    mask: u32,
    state: u32,
}

impl Order {
    /// An order of `flows` numbers; at least one.
    #[must_use]
    pub fn new(flows: u32) -> Self {
        let flows = flows.max(1);
        Self {
            flows,
            mask: flows.next_power_of_two() - 1,
            state: 0,
        }
    }

    /// The next number. A full-period generator (Hull and Dobell) gives each of a power of two
    /// once a round; its low bits alternate, so they are spread by the high ones.
    pub fn step(&mut self) -> u32 {
        loop {
            self.state = self
                .state
                .wrapping_mul(0x915f_77f5)
                .wrapping_add(0x3c6e_f35f)
                & self.mask;
            let spread = self.state ^ (self.state >> ((32 - self.mask.leading_zeros()) / 2));
            if spread < self.flows {
                return spread;
            }
        }
    }
}

/// The frames of one batch.
#[derive(Debug)]
pub struct Load {
    family: Family,
    frames: Vec<[u8; 128]>,
}

impl Load {
    /// Room for `batch` frames.
    #[must_use]
    pub fn new(family: Family, batch: usize) -> Self {
        Self {
            family,
            frames: vec![[0; 128]; batch],
        }
    }

    /// Writes the frames of the next flows: 64 bytes of UDP from a pod to the outside.
    pub fn write(&mut self, flows: impl Iterator<Item = u32>) {
        for (frame, flow) in self.frames.iter_mut().zip(flows) {
            match self.family {
                Family::Ip4 => write4(frame, flow),
                Family::Ip6 => write6(frame, flow),
            }
        }
    }

    /// Bytes of each frame.
    #[must_use]
    pub fn frame_length(&self) -> usize {
        match self.family {
            Family::Ip4 => FRAME,
            Family::Ip6 => FRAME + 20,
        }
    }

    /// The frames.
    pub fn frames_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let length = self.frame_length();
        self.frames
            .iter_mut()
            .map(move |frame| frame.split_at_mut(length).0)
    }

    /// The frames.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let length = self.frame_length();
        self.frames.iter().map(move |frame| &frame[..length])
    }
}

/// The pod, remote host and ports of a flow; no two flows have the same.
fn ends(family: Family, flow: u32) -> (u32, IpAddr, u16, u16) {
    let pod = flow % rig::PODS;
    let rest = flow / rig::PODS;
    let remote = match family {
        // 512 hosts of a documentation network's size times eight: ports towards one suffice.
        Family::Ip4 => Ipv4Addr::from_bits(0xc612_0000 | (rest & 0x1ff)).into(),
        Family::Ip6 => Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(rest & 0x1ff)).into(),
    };
    (pod, remote, 1024 + (rest >> 9) as u16, 443)
}

fn ethernet(frame: &mut [u8], pod: u32, ethertype: u16) {
    frame[..6].copy_from_slice(&rig::host_mac(pod));
    frame[6..12].copy_from_slice(&rig::pod_mac(pod));
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
}

/// UDP header and zeros for `udp`, with the checksum over `pseudo` as well.
fn udp(udp: &mut [u8], source: u16, destination: u16, pseudo: Sum) {
    let length = udp.len() as u16;
    udp.fill(0);
    udp[..2].copy_from_slice(&source.to_be_bytes());
    udp[2..4].copy_from_slice(&destination.to_be_bytes());
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    let checksum = pseudo
        .word(source)
        .word(destination)
        .word(length)
        .checksum();
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
}

fn write4(frame: &mut [u8], flow: u32) {
    let (pod, remote, source, destination) = ends(Family::Ip4, flow);
    let (IpAddr::V4(from), IpAddr::V4(to)) = (rig::address(Family::Ip4, pod), remote) else {
        return;
    };
    ethernet(frame, pod, 0x0800);
    let ip = &mut frame[14..34];
    ip.copy_from_slice(&[
        0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let checksum = Sum::ZERO.bytes(ip).checksum();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = pseudo_header(from.to_bits(), to.to_bits(), UDP, 26);
    udp(&mut frame[34..FRAME], source, destination, pseudo);
}

fn write6(frame: &mut [u8], flow: u32) {
    let (pod, remote, source, destination) = ends(Family::Ip6, flow);
    let (IpAddr::V6(from), IpAddr::V6(to)) = (rig::address(Family::Ip6, pod), remote) else {
        return;
    };
    ethernet(frame, pod, 0x86dd);
    frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 26, UDP, 64]);
    frame[22..38].copy_from_slice(&from.octets());
    frame[38..54].copy_from_slice(&to.octets());
    let pseudo = Sum::ZERO
        .bytes(&frame[22..54])
        .word(u16::from(UDP))
        .word(26);
    udp(&mut frame[54..FRAME + 20], source, destination, pseudo);
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_packet::{L4, Parsed, parse};
    use std::collections::HashSet;

    #[test]
    fn an_order_gives_each_number_once_a_round() {
        for flows in [1, 64, 1000, 4096, 65_536] {
            let mut order = Order::new(flows);
            let round: HashSet<u32> = (0..flows).map(|_| order.step()).collect();
            assert_eq!(round.len(), flows as usize);
        }
    }

    #[test]
    fn frames_are_valid_and_flows_distinct() {
        for family in [Family::Ip4, Family::Ip6] {
            let mut load = Load::new(family, 100_000);
            load.write((0..1_000_000).step_by(10));
            let mut seen = HashSet::new();
            for frame in load.frames() {
                let Ok(Parsed::Ip(ip)) = parse(frame, frame.len()) else {
                    panic!("{frame:?}");
                };
                let L4::Udp { source, .. } = ip.l4 else {
                    panic!("{ip:?}");
                };
                assert!(seen.insert((ip.source, ip.destination, source)));
            }
        }
    }
}
