//! Packets through the kernel: contents, order, chains, drops, conservation of frames.

use super::rig::{Hook, collect, drain, ethernet, in_namespace, ip, port, small, umem, veth};
use crate::{
    Batch, FrameSize, HugePages, PortConfig, PortState, RingSize, Statistics, Umem, UmemConfig,
};

#[test]
#[ignore = "needs root and network namespaces"]
fn a_thousand_packets_arrive_in_order_and_no_frame_is_lost() {
    in_namespace(|| {
        let (a, b) = veth(1500);
        let hook = Hook::attach(b);
        let mut umem = umem(2048);
        let mut from = port(&small(a, 0), &umem);
        let mut to = port(&small(b, 0), &umem);
        hook.open(&mut to, &mut umem);
        let mut next = 0u32;
        let mut sent = 0u32;
        while sent < 1000 {
            for _ in 0..50 {
                let len = 60 + sent as usize % 1455;
                let packet = umem.packet_from(&ethernet(len, sent)).expect("free");
                from.send(&mut umem, packet).expect("room");
                sent += 1;
            }
            let before = umem.audit();
            let outcome = from.flush();
            assert_eq!((outcome.state, outcome.pending), (PortState::Up, 0));
            assert_eq!(umem.audit(), before, "a flush moves no frame");
            let got = collect(&mut to, &mut umem, 50, |umem, packet| {
                let len = 60 + next as usize % 1455;
                assert_eq!(umem.bytes(packet.head()), ethernet(len, next));
                next += 1;
            });
            assert_eq!(got, 50);
            from.reclaim(&mut umem);
            assert!(umem.audit().is_balanced(), "{:?}", umem.audit());
        }
        drain(&mut from, &mut umem);
        let counts = umem.audit();
        assert_eq!(
            (counts.free, counts.receiving, counts.held),
            (2048 - 256, 256, 0)
        );
        let kernel = to.statistics().expect("read");
        assert_eq!((kernel.rx_dropped, kernel.rx_ring_full), (0, 0));
        assert_eq!(
            kernel.rx_invalid_descs + from.statistics().expect("read").tx_invalid_descs,
            0
        );
        assert_eq!(to.counters().bad_desc + from.counters().bad_desc, 0);
        assert_eq!((to.close(&mut umem), from.close(&mut umem)), (0, 0));
        assert_eq!(umem.audit().free, 2048);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn jumbo_packets_cross_as_chains() {
    in_namespace(|| {
        let (a, b) = veth(9001);
        let hook = Hook::attach(b);
        let mut umem = umem(2048);
        let mut from = port(&small(a, 0), &umem);
        let mut to = port(&small(b, 0), &umem);
        hook.open(&mut to, &mut umem);
        for number in 0..40 {
            let packet = umem.packet_from(&ethernet(9015, number)).expect("free");
            assert_eq!(packet.frame_count(), 3);
            from.send(&mut umem, packet).expect("room");
        }
        assert_eq!(from.flush().pending, 0);
        let mut next = 0;
        let got = collect(&mut to, &mut umem, 40, |umem, packet| {
            let mut bytes = vec![0; 9015];
            assert_eq!(packet.frame_count(), 3);
            assert_eq!(umem.copy_out(packet, &mut bytes), Some(9015));
            assert_eq!(bytes, ethernet(9015, next));
            next += 1;
        });
        assert_eq!(got, 40);
        drain(&mut from, &mut umem);
        assert_eq!((to.close(&mut umem), from.close(&mut umem)), (0, 0));
        assert_eq!(umem.audit().free, 2048);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_packet_over_the_chain_limit_is_freed_whole_and_counted() {
    in_namespace(|| {
        let (a, b) = veth(9001);
        let hook = Hook::attach(b);
        let mut big = umem(512);
        let mut little = Umem::new(UmemConfig {
            frames: 512,
            frame_size: FrameSize::new(2048).expect("allowed"),
            huge_pages: HugePages::Never,
        })
        .expect("memory");
        let mut from = port(&small(a, 0), &big);
        let mut to = port(&small(b, 0), &little);
        hook.open(&mut to, &mut little);
        // 9015 bytes are six chunks of 2048: over the limit. The neighbours are not.
        for (number, len) in [(0, 64), (1, 9015), (2, 7000), (3, 9015), (4, 64)] {
            let packet = big.packet_from(&ethernet(len, number)).expect("free");
            from.send(&mut big, packet).expect("room");
        }
        assert_eq!(from.flush().pending, 0);
        let mut lengths = vec![];
        let got = collect(&mut to, &mut little, 3, |_, packet| {
            lengths.push(packet.len());
        });
        assert_eq!((got, lengths), (3, vec![64, 7000, 64]));
        assert_eq!((to.counters().rx_toobig, to.counters().bad_desc), (2, 0));
        let counts = little.audit();
        assert_eq!((counts.held, counts.free), (0, 512 - 256));
        assert_eq!(to.close(&mut little), 0);
        assert_eq!(little.audit().free, 512);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn one_flush_drains_the_ring_whatever_the_kernels_budget() {
    in_namespace(|| {
        let (a, b) = veth(1500);
        let hook = Hook::attach(b);
        let mut umem = umem(2048);
        let mut to = port(&small(b, 0), &umem);
        hook.open(&mut to, &mut umem);
        let mut kicks = vec![];
        for skb_budget in [None, Some(256)] {
            let mut from = port(
                &PortConfig {
                    skb_budget,
                    ..small(a, 0)
                },
                &umem,
            );
            for number in 0..200 {
                let packet = umem.packet_from(&ethernet(64, number)).expect("free");
                from.send(&mut umem, packet).expect("room");
            }
            let outcome = from.flush();
            assert_eq!(
                (outcome.state, outcome.pending),
                (PortState::Up, 0),
                "{outcome:?}"
            );
            assert_eq!(collect(&mut to, &mut umem, 200, |_, _| {}), 200);
            kicks.push(outcome.kicks);
            assert_eq!(from.close(&mut umem), 0);
        }
        // 32 a call is the kernel's default; a larger budget must not take more calls (it takes
        // fewer where the kernel knows the option).
        assert!(kicks[0] >= 200 / 32 && kicks[1] <= kicks[0], "{kicks:?}");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn under_overload_every_packet_is_received_or_counted() {
    let short_of_frames = overload(32, 256);
    assert!(short_of_frames.rx_dropped > 0, "{short_of_frames:?}");
    let short_of_room = overload(256, 32);
    assert!(short_of_room.rx_ring_full > 0, "{short_of_room:?}");
}

/// Sends more than a port with these rings can take, and checks that nothing is unaccounted for.
fn overload(fill: u32, rx: u32) -> Statistics {
    in_namespace(move || {
        let (a, b) = veth(1500);
        let hook = Hook::attach(b);
        let mut umem = umem(4096);
        let mut from = port(&small(a, 0), &umem);
        let fill = RingSize::new(fill).expect("a power of two");
        let rx = RingSize::new(rx).expect("a power of two");
        let mut to = port(
            &PortConfig {
                fill,
                rx,
                ..small(b, 0)
            },
            &umem,
        );
        hook.open(&mut to, &mut umem);
        let (mut sent, mut busy, mut received) = (0u64, 0u64, 0u64);
        let mut batch = Batch::new();
        for _ in 0..200 {
            for number in 0..200 {
                let packet = umem.packet_from(&ethernet(64, number)).expect("free");
                from.send(&mut umem, packet).expect("room");
                sent += 1;
            }
            let outcome = from.flush();
            assert_eq!(outcome.pending, 0, "{outcome:?}");
            busy += u64::from(outcome.busy);
            from.reclaim(&mut umem);
            received += to.receive(&mut umem, &mut batch) as u64;
            batch.drain().for_each(|packet| umem.free_packet(packet));
            to.refill(&mut umem);
        }
        drain(&mut from, &mut umem);
        while to.receive(&mut umem, &mut batch) > 0 {
            received += batch.len() as u64;
            batch.drain().for_each(|packet| umem.free_packet(packet));
        }
        let kernel = to.statistics().expect("read");
        let lost = kernel.rx_dropped + kernel.rx_ring_full;
        assert_eq!(sent - busy, received + lost, "{kernel:?}");
        assert!(umem.audit().is_balanced());
        assert_eq!((to.close(&mut umem), from.close(&mut umem)), (0, 0));
        assert_eq!(umem.audit().free, 4096);
        kernel
    })
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_cannot_be_sent_is_given_back() {
    in_namespace(|| {
        let (a, _) = veth(9001);
        let mut umem = umem(1024);
        let mut port = port(
            &PortConfig {
                multi_buffer: false,
                ..small(a, 0)
            },
            &umem,
        );
        let chain = umem.packet_from(&ethernet(9015, 0)).expect("free");
        let chain = port.send(&mut umem, chain).expect_err("no multi-buffer");
        assert_eq!(chain.len(), 9015);
        umem.free_packet(chain);
        let empty = umem.alloc().expect("free").into();
        let empty = port.send(&mut umem, empty).expect_err("an empty frame");
        umem.free_packet(empty);
        let mut queued = 0;
        loop {
            let packet = umem.packet_from(&ethernet(64, 0)).expect("free");
            if let Err(packet) = port.send(&mut umem, packet) {
                umem.free_packet(packet);
                break;
            }
            queued += 1;
        }
        assert_eq!(queued, 256, "the TX ring is the bound");
        assert_eq!(umem.audit().sending, 256);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn packets_the_kernel_drops_are_counted_and_their_frames_come_back() {
    in_namespace(|| {
        let (a, _) = veth(1500);
        let mut umem = umem(1024);
        let mut port = port(&small(a, 0), &umem);
        // Without a carrier the kernel takes and drops each packet (net/core/dev.c
        // `__dev_direct_xmit`).
        ip("link set dev b down");
        for number in 0..40 {
            let packet = umem.packet_from(&ethernet(64, number)).expect("free");
            port.send(&mut umem, packet).expect("room");
        }
        let outcome = port.flush();
        assert_eq!((outcome.busy, outcome.pending), (40, 0), "{outcome:?}");
        assert_eq!(
            (outcome.state, port.counters().tx_busy),
            (PortState::Up, 40)
        );
        drain(&mut port, &mut umem);
        assert_eq!(umem.audit().free, 1024);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_unfilled_or_unread_port_shows_in_the_kernels_statistics() {
    in_namespace(|| {
        let (a, b) = veth(1500);
        let hook = Hook::attach(b);
        let mut umem = umem(4096);
        let mut from = port(&small(a, 0), &umem);
        let mut to = port(&small(b, 0), &umem);
        hook.redirect
            .point(0, std::os::fd::AsFd::as_fd(&to))
            .expect("XSKMAP update");
        let send = |from: &mut crate::Port, umem: &mut Umem, count| {
            for number in 0..count {
                let packet = umem.packet_from(&ethernet(64, number)).expect("free");
                from.send(umem, packet).expect("room");
            }
            from.flush();
            drain(from, umem);
        };
        send(&mut from, &mut umem, 10);
        let kernel = to.statistics().expect("read");
        assert!(kernel.fill_ring_empty > 0, "{kernel:?}");
        to.refill(&mut umem);
        for _ in 0..3 {
            send(&mut from, &mut umem, 200);
            to.refill(&mut umem);
        }
        let kernel = to.statistics().expect("read");
        assert!(kernel.rx_ring_full > 0, "{kernel:?}");
        assert_eq!(
            collect(&mut to, &mut umem, 256, |_, _| {}),
            256,
            "a full RX ring is readable"
        );
    });
}
