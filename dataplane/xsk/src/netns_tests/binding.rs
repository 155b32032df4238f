//! Binding, sharing, rebinding and closing.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::rig::{Hook, collect, drain, ethernet, in_namespace, ip, port, small, umem, veth};
use crate::{BindMode, Mode, Port, PortConfig, PortState, RingSize, SetupError, Statistics};

#[test]
#[ignore = "needs root and network namespaces"]
fn a_veth_binds_in_copy_mode_with_every_setting() {
    in_namespace(|| {
        let (a, _) = veth(1500);
        let mut umem = umem(2048);
        for mode in [BindMode::Auto, BindMode::Copy] {
            for multi_buffer in [false, true] {
                for need_wakeup in [false, true] {
                    let config = PortConfig {
                        mode,
                        multi_buffer,
                        need_wakeup,
                        ..small(a, 0)
                    };
                    let port = port(&config, &umem);
                    assert_eq!(port.mode(), Mode::Copy);
                    assert_eq!(port.statistics().expect("read"), Statistics::default());
                    assert_eq!(port.close(&mut umem), 0);
                }
            }
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn zero_copy_on_a_veth_says_what_to_do() {
    in_namespace(|| {
        let (a, _) = veth(1500);
        let config = PortConfig {
            mode: BindMode::ZeroCopy,
            ..small(a, 1)
        };
        let error = Port::bind(&config, &umem(16).handle(), None).expect_err("veth has none");
        assert!(
            matches!(error, SetupError::ZeroCopyUnsupported { .. }),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("a queue 1") && text.contains("Use copy mode"),
            "{text}"
        );
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_missing_queue_or_interface_is_named() {
    in_namespace(|| {
        let (a, _) = veth(1500);
        let handle = umem(16).handle();
        let error = Port::bind(&small(a, 7), &handle, None).expect_err("no such queue");
        assert!(error.to_string().contains("a queue 7"), "{error}");
        assert!(
            error.to_string().contains("Check that the queue exists"),
            "{error}"
        );
        let error = Port::bind(&small(4242, 0), &handle, None).expect_err("no such interface");
        assert!(
            error.to_string().contains("interface 4242 queue 0"),
            "{error}"
        );
        assert!(error.to_string().contains("is gone"), "{error}");
    });
}

/// Sends `count` packets from one port to another of the same UMEM and checks every byte.
fn cross(from: &mut Port, to: &mut Port, umem: &mut crate::Umem, count: u32) {
    for number in 0..count {
        let packet = umem
            .packet_from(&ethernet(64, number))
            .expect("free frames");
        from.send(umem, packet).expect("room");
    }
    from.flush();
    let mut next = 0;
    let got = collect(to, umem, count as usize, |umem, packet| {
        assert_eq!(umem.bytes(packet.head()), ethernet(64, next));
        next += 1;
    });
    assert_eq!(got, count as usize);
    drain(from, umem);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn ports_share_one_umem_over_queues_and_interfaces() {
    for own_registration in [false, true] {
        in_namespace(move || {
            let (a, b) = veth(1500);
            let hook = Hook::attach(b);
            let mut umem = umem(4096);
            let first = port(&small(a, 0), &umem);
            let mut ports = vec![];
            for (ifindex, queue) in [(a, 1), (b, 0), (b, 1)] {
                let share = (!own_registration).then(|| first.as_fd());
                let port = Port::bind(&small(ifindex, queue), &umem.handle(), share);
                ports.push(port.expect("bind"));
            }
            let mut b1 = ports.pop().expect("three");
            let mut b0 = ports.pop().expect("two");
            let mut a1 = ports.pop().expect("one");
            let mut a0 = first;
            hook.open(&mut b0, &mut umem);
            hook.open(&mut b1, &mut umem);
            cross(&mut a0, &mut b0, &mut umem, 100);
            cross(&mut a1, &mut b1, &mut umem, 100);
            let lost: u32 = [a0, a1, b0, b1]
                .into_iter()
                .map(|port| port.close(&mut umem))
                .sum();
            assert_eq!((lost, umem.audit().free), (0, 4096));
        });
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_umem_outlives_the_port_that_registered_it() {
    in_namespace(|| {
        let (a, b) = veth(1500);
        let hook = Hook::attach(b);
        let mut umem = umem(2048);
        let first = port(&small(a, 1), &umem);
        let mut a0 = Port::bind(&small(a, 0), &umem.handle(), Some(first.as_fd())).expect("bind");
        let mut b0 = Port::bind(&small(b, 0), &umem.handle(), Some(first.as_fd())).expect("bind");
        assert_eq!(first.close(&mut umem), 0);
        hook.open(&mut b0, &mut umem);
        cross(&mut a0, &mut b0, &mut umem, 100);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_held_queue_is_reported_busy_after_the_deadline() {
    in_namespace(|| {
        let (a, _) = veth(1500);
        let umem = umem(16);
        let _holder = port(&small(a, 0), &umem);
        let started = Instant::now();
        let error = Port::bind(&small(a, 0), &umem.handle(), None).expect_err("held");
        assert!(matches!(error, SetupError::Busy { .. }), "{error:?}");
        assert!(error.to_string().contains("a queue 0"), "{error}");
        let waited = started.elapsed();
        assert!(
            waited >= Duration::from_secs(1) && waited < Duration::from_secs(3),
            "{waited:?}"
        );
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_queue_that_was_just_released_binds_again() {
    in_namespace(|| {
        let (a, _) = veth(1500);
        let mut umem = umem(1024);
        for _ in 0..20 {
            let mut port = port(&small(a, 0), &umem);
            port.refill(&mut umem);
            assert_eq!(port.close(&mut umem), 0);
            assert_eq!(umem.audit().free, 1024);
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn close_returns_every_frame_whatever_ring_it_is_in() {
    in_namespace(|| {
        let (a, b) = veth(1500);
        let hook = Hook::attach(b);
        let mut umem = umem(2048);
        let mut from = port(&small(a, 0), &umem);
        let mut to = port(&small(b, 0), &umem);
        hook.open(&mut to, &mut umem);
        for number in 0..100 {
            let packet = umem.packet_from(&ethernet(64, number)).expect("free");
            from.send(&mut umem, packet).expect("room");
        }
        from.flush();
        // Queued and never flushed: still ours, but out of the worker's hands.
        for number in 0..50 {
            let packet = umem.packet_from(&ethernet(64, number)).expect("free");
            from.send(&mut umem, packet).expect("room");
        }
        assert!(umem.audit().sending >= 50 && umem.audit().receiving == 256);
        // Some received and held, the rest left in the RX ring.
        crate::wait(&[to.as_fd()], super::rig::PATIENCE).expect("poll");
        let mut batch = crate::Batch::new();
        assert!(to.receive(&mut umem, &mut batch) > 0);
        let held = batch.len() as u32;
        assert_eq!(to.close(&mut umem), 0);
        assert_eq!(from.close(&mut umem), 0);
        let counts = umem.audit();
        assert_eq!((counts.held, counts.free), (held, 2048 - held));
        assert!(counts.is_balanced());
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn frames_of_a_socket_that_is_still_open_elsewhere_are_not_reused() {
    in_namespace(|| {
        let (a, b) = veth(1500);
        let hook = Hook::attach(b);
        let mut umem = umem(2048);
        let mut from = port(&small(a, 0), &umem);
        let mut to = port(&small(b, 0), &umem);
        hook.open(&mut to, &mut umem);
        let clone = to.as_fd().try_clone_to_owned().expect("clone");
        assert_eq!(to.close(&mut umem), 256);
        let counts = umem.audit();
        assert_eq!((counts.lost, counts.free), (256, 2048 - 256));
        // The kernel does still write into them: the packet is taken, not passed on.
        let packet = umem.packet_from(&ethernet(64, 1)).expect("free");
        from.send(&mut umem, packet).expect("room");
        assert_eq!(from.flush().pending, 0);
        assert_eq!(
            crate::wait(&[clone.as_fd()], super::rig::PATIENCE).expect("poll"),
            1
        );
        assert!(umem.audit().is_balanced());
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_port_whose_interface_is_down_or_gone_says_so() {
    in_namespace(|| {
        let (a, _) = veth(1500);
        let mut umem = umem(1024);
        let mut port = port(&small(a, 0), &umem);
        ip("link set dev a down");
        let packet = umem.packet_from(&ethernet(64, 0)).expect("free");
        port.send(&mut umem, packet).expect("room");
        assert_eq!(port.flush().state, PortState::Down);
        ip("link del dev a");
        assert_eq!(port.flush().state, PortState::Down);
        assert_eq!(port.close(&mut umem), 0);
        assert_eq!(umem.audit().free, 1024);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_completion_ring_smaller_than_the_tx_ring_only_slows_sending() {
    in_namespace(|| {
        let (a, b) = veth(1500);
        let hook = Hook::attach(b);
        let mut umem = umem(2048);
        let completion = RingSize::new(32).expect("a power of two");
        let mut from = port(
            &PortConfig {
                completion,
                ..small(a, 0)
            },
            &umem,
        );
        let mut to = port(&small(b, 0), &umem);
        hook.open(&mut to, &mut umem);
        for number in 0..200 {
            let packet = umem.packet_from(&ethernet(64, number)).expect("free");
            from.send(&mut umem, packet).expect("room");
        }
        let outcome = from.flush();
        assert_eq!(outcome.state, PortState::Later);
        assert!(outcome.pending > 0, "{outcome:?}");
        drain(&mut from, &mut umem);
        assert_eq!(collect(&mut to, &mut umem, 200, |_, _| {}), 200);
    });
}
