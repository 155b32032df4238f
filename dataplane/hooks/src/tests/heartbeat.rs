//! The dead-man switch.

use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags, ProgramInput};

use super::{OUTSIDE, Outcome, Rig, config, from_pod, monotonic_ns};
use crate::HookKind;
use crate::limits::RETURN_AFTER_NS;

impl Rig {
    /// Ends the waiting time of workers that were found away.
    pub(super) fn forget_lapses(&self, workers: u32) {
        for worker in 0..workers {
            self.map("lapses")
                .update(&worker.to_ne_bytes(), &[0; 16], MapFlags::ANY)
                .unwrap();
        }
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_fresh_stamp_keeps_the_worker_and_a_stale_one_falls_back() {
    let rig = Rig::new(1);
    let frame = from_pod(OUTSIDE).udp(4_000, 53, b"").bytes;
    rig.beat(0, monotonic_ns());
    rig.expect(HookKind::Pod, &frame, Outcome::Worker);
    assert_eq!(rig.hooks.lapses(1).unwrap()[0].count, 0);

    // The hooks' clock is coarse: it may be one tick, at most 10 ms, behind.
    rig.beat(0, monotonic_ns() - 31_000_000);
    rig.expect(HookKind::Pod, &frame, Outcome::Fallback);
    rig.expect(HookKind::Pod, &frame, Outcome::Fallback);
    assert_eq!(
        rig.hooks.lapses(1).unwrap()[0].count,
        1,
        "one absence, however many packets"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_worker_that_never_stamped_is_away() {
    let rig = Rig::new(1);
    rig.beat(0, 0);
    let frame = from_pod(OUTSIDE).udp(4_000, 53, b"").bytes;
    rig.expect(HookKind::Pod, &frame, Outcome::Fallback);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_worker_that_returns_waits_out_the_hysteresis() {
    let rig = Rig::new(1);
    let frame = from_pod(OUTSIDE).udp(4_000, 53, b"").bytes;
    rig.beat(0, 0);
    rig.expect(HookKind::Pod, &frame, Outcome::Fallback);
    let away = Instant::now();
    rig.beat(0, monotonic_ns() + 60_000_000_000);
    rig.expect(HookKind::Pod, &frame, Outcome::Fallback);

    let deadline = away + Duration::from_secs(5);
    let input = || ProgramInput {
        data_in: Some(&frame),
        ..ProgramInput::default()
    };
    while rig.run(HookKind::Pod, input()) == u32::MAX {
        assert!(Instant::now() < deadline, "never came back");
    }
    let waited = away.elapsed();
    // One tick of the coarse clock either way.
    let least = Duration::from_nanos(RETURN_AFTER_NS) - Duration::from_millis(11);
    assert!(waited >= least, "came back after {waited:?}");
    assert_eq!(rig.hooks.lapses(1).unwrap()[0].count, 1);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn without_configuration_everything_is_the_kernels() {
    let rig = Rig::new(1);
    rig.hooks.configure(&config(0)).unwrap();
    let frame = from_pod(OUTSIDE).udp(4_000, 53, b"").bytes;
    rig.expect(HookKind::Pod, &frame, Outcome::Fallback);
    let frame = super::from_wire(super::POD).udp(53, 4_000, b"").bytes;
    rig.expect(HookKind::Uplink, &frame, Outcome::Fallback);
}
