//! Links, stamps and ethtool against the kernel.

use std::os::fd::AsFd;

use super::bpf;
use super::rig::{Hook, collect, ethernet, in_namespace, port, small, umem, veth};
use crate::ethtool::{self, Feature};
use crate::stamp::{StampArray, monotonic_ns};
use crate::{AttachError, link};

#[test]
#[ignore = "needs root and network namespaces"]
fn a_foreign_xdp_program_is_refused_and_keeps_running() {
    in_namespace(|| {
        let (a, b) = veth(1500);
        let mut umem = umem(1024);
        let foreign = Hook::attach(b);
        let mut from = port(&small(a, 0), &umem);
        let mut to = port(&small(b, 0), &umem);
        foreign.open(&mut to, &mut umem);

        let ours = bpf::xdp_constant(1).expect("XDP_DROP loads");
        let error = link::attach_xdp_native(ours.as_fd(), b).expect_err("one is there");
        assert!(matches!(error, AttachError::Foreign { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("to b:") && text.contains("bpftool net show"),
            "{text}"
        );

        let packet = umem.packet_from(&ethernet(64, 1)).expect("free");
        from.send(&mut umem, packet).expect("room");
        from.flush();
        assert_eq!(
            collect(&mut to, &mut umem, 1, |_, _| {}),
            1,
            "the other program still runs"
        );

        drop(foreign);
        let link = link::attach_xdp_native(ours.as_fd(), b).expect("the hook is free again");
        drop(link);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn tcx_programs_stack_and_leave_with_their_links() {
    in_namespace(|| {
        let (a, _) = veth(1500);
        let program = bpf::tc_next().expect("loads");
        let other = bpf::tc_next().expect("loads");
        let first = link::attach_tcx_ingress(program.as_fd(), a).expect("attach");
        let second = link::attach_tcx_ingress(other.as_fd(), a).expect("attach");
        assert_eq!(bpf::tcx_ingress_count(a).expect("query"), 2);
        drop(first);
        assert_eq!(bpf::tcx_ingress_count(a).expect("query"), 1);
        drop(second);
        assert_eq!(bpf::tcx_ingress_count(a).expect("query"), 0);
        let egress = link::attach_tcx_egress(program.as_fd(), a).expect("attach");
        drop(egress);
        let error = link::attach_tcx_ingress(program.as_fd(), 4242).expect_err("no interface");
        assert!(error.to_string().contains("interface 4242"), "{error}");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_program_of_the_wrong_kind_is_refused() {
    in_namespace(|| {
        let (a, _) = veth(1500);
        let tc = bpf::tc_next().expect("loads");
        let error = link::attach_xdp_native(tc.as_fd(), a).expect_err("not XDP");
        assert!(
            matches!(error, AttachError::Unsupported { .. }),
            "{error:?}"
        );
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn stamps_reach_the_map_without_a_system_call() {
    let map = bpf::stamp_array(3).expect("create");
    let stamps = StampArray::map(map.as_fd(), 3).expect("map");
    let now = monotonic_ns();
    assert!(stamps.store(2, now));
    assert!(!stamps.store(3, now), "past the end");
    assert_eq!(stamps.load(3), None);
    assert_eq!(bpf::array_value(map.as_fd(), 2).expect("look up"), now);
    assert_eq!(bpf::array_value(map.as_fd(), 0).expect("look up"), 0);
    assert!(monotonic_ns() >= now && now > 0);
    assert!(
        StampArray::map(map.as_fd(), 100_000).is_err(),
        "larger than the map"
    );
    assert!(StampArray::map(map.as_fd(), 0).is_err());
}

#[test]
#[ignore = "needs root and network namespaces"]
fn offloads_switch_and_read_back() {
    in_namespace(|| {
        veth(1500);
        let features = [
            Feature::Tso,
            Feature::Gso,
            Feature::TxChecksum,
            Feature::ScatterGather,
            Feature::Gro,
        ];
        for feature in features {
            for on in [true, false] {
                ethtool::set_feature("a", feature, on).expect("veth can");
                assert_eq!(ethtool::feature("a", feature).expect("read"), on);
            }
        }
        assert_eq!(ethtool::driver("a").expect("read").name, "veth");
        let channels = ethtool::channels("a").expect("read");
        assert_eq!((channels.rx_queues(), channels.tx), (2, 2), "{channels:?}");
        // TSO needs scatter-gather and TX checksums, which are off now: the kernel takes the
        // request and keeps it off.
        let error = ethtool::set_feature("a", Feature::Tso, true).expect_err("kept");
        assert!(error.to_string().contains("keeps tso off"), "{error}");
        let error = ethtool::set_feature("nope", Feature::Gro, true).expect_err("no interface");
        assert!(error.to_string().contains("nope"), "{error}");
    });
}
