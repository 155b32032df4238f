//! Hooks `trunk` and `trunk-rx`.

use std::os::fd::AsFd;

use penstock_packet::DropReason::HookRedirect;
use penstock_packet::build::Base;
use socket2::{Domain, Socket, Type};

use super::{OTHER_POD, OUTSIDE, Outcome, POD, Rig, SERVICE, arp, from_pod};
use crate::limits::TRUNK_SLOT;
use crate::{HookError, HookKind};

/// An AF_XDP socket; never bound, which the socket map does not ask for.
pub(super) fn xdp_socket() -> Socket {
    const AF_XDP: i32 = 44;
    Socket::new(Domain::from(AF_XDP), Type::RAW, None).unwrap()
}

#[test]
#[ignore = "needs root and network namespaces"]
fn trunk_delivers_to_pods_and_punts_the_rest() {
    let rig = Rig::new(1);
    let to = |address| Base::new(OUTSIDE, address).udp(53, 40_000, b"answer");
    rig.expect(HookKind::Trunk, &to(POD).bytes, Outcome::Pod);
    rig.expect(HookKind::Trunk, &to(OTHER_POD).bytes, Outcome::Pod);
    rig.expect(HookKind::Trunk, &to(SERVICE).bytes, Outcome::Kernel);
    rig.expect(
        HookKind::Trunk,
        &arp([2; 6], [2; 6], OUTSIDE, POD),
        Outcome::Kernel,
    );
    let other_type = to(POD).with(12, [0x88, 0xcc]);
    rig.expect(HookKind::Trunk, &other_type.bytes, Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn trunk_rx_needs_a_socket() {
    let rig = Rig::new(1);
    let frame = from_pod(OUTSIDE).udp(40_000, 53, b"").bytes;
    rig.expect(HookKind::TrunkRx, &frame, Outcome::Drop(HookRedirect));
    let socket = xdp_socket();
    rig.hooks.set_socket(TRUNK_SLOT, 0, socket.as_fd()).unwrap();
    rig.expect(HookKind::TrunkRx, &frame, Outcome::Worker);
    rig.hooks.clear_socket(TRUNK_SLOT, 0).unwrap();
    rig.hooks.clear_socket(TRUNK_SLOT, 0).unwrap();
    rig.expect(HookKind::TrunkRx, &frame, Outcome::Drop(HookRedirect));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn places_outside_the_socket_map_are_refused() {
    let rig = Rig::new(1);
    let socket = xdp_socket();
    for (slot, queue) in [
        (crate::limits::MAX_SLOTS, 0),
        (0, crate::limits::MAX_QUEUES),
    ] {
        let refused = rig.hooks.set_socket(slot, queue, socket.as_fd());
        assert!(
            matches!(refused, Err(HookError::Limit { .. })),
            "{refused:?}"
        );
    }
    let not_xdp = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    let refused = rig.hooks.set_socket(TRUNK_SLOT, 0, not_xdp.as_fd());
    assert!(matches!(refused, Err(HookError::Map { .. })), "{refused:?}");
}
