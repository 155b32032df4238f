//! The published timers as the flow engine's.

use std::time::Duration;

use penstock_dataplane_api::FlowTimers;
use penstock_flow::Timeouts;

/// Whether they are long enough, [`Timeouts::check`] says.
pub(crate) fn timeouts(timers: &FlowTimers) -> Timeouts {
    let seconds = |count: u32| Duration::from_secs(count.into());
    Timeouts {
        udp: seconds(timers.udp_seconds),
        tcp_established: seconds(timers.tcp_established_seconds),
        tcp_transitory: seconds(timers.tcp_transitory_seconds),
        icmp: seconds(timers.icmp_seconds),
        quarantine: seconds(timers.quarantine_seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_the_same_defaults() {
        assert_eq!(timeouts(&FlowTimers::default()), Timeouts::default());
    }
}
