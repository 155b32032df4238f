//! How long an idle flow lives. Only [`Timeouts`] knows; everything else asks it.
//!
//! Packets of either direction count as life (RFC 4787 REQ-6 allows it and the kernel does the
//! same); ICMP errors never do (RFC 5508 REQ-6). Every timer may be set longer and none shorter
//! than its RFC's minimum: [`Timeouts::check`].
//!
//! One deviation, on purpose (F33): while the table is nearly full, a TCP conversation that was
//! asked for and not agreed to lives for [`HALF_OPEN_UNDER_PRESSURE`] instead of RFC 5382 REQ-5's
//! four minutes. A flood of SYNs would otherwise shut out everybody else. No other flow is
//! touched, and without pressure the RFC holds.

use std::fmt;
use std::time::Duration;

use penstock_packet::wire::{PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP};

use crate::tcp_state::TcpState;

/// Idle time of a half-open TCP conversation under pressure (F33): three retransmissions of its
/// SYN at 1, 3 and 7 seconds (RFC 6298) still find it.
pub const HALF_OPEN_UNDER_PRESSURE: Duration = Duration::from_secs(10);

/// Idle times after which a flow ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP, and protocols without ports; RFC 4787 REQ-5 recommends 5 minutes, at least 2.
    pub udp: Duration,
    /// TCP in both directions; RFC 5382 REQ-5 wants at least 2 hours 4 minutes.
    pub tcp_established: Duration,
    /// TCP that opens or closes; RFC 5382 REQ-5 wants at least 4 minutes.
    pub tcp_transitory: Duration,
    /// ICMP echo; RFC 5508 REQ-2 wants at least 60 seconds.
    pub icmp: Duration,
    /// How long a SNAT port stays unused towards the same remote endpoint after a flow that was
    /// not seen to close; RFC 6888 REQ-8 wants at least 120 seconds.
    pub quarantine: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            tcp_established: Duration::from_secs(7_440),
            tcp_transitory: Duration::from_secs(240),
            icmp: Duration::from_secs(60),
            quarantine: Duration::from_secs(120),
        }
    }
}

/// A timer that is shorter than its RFC allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeoutError {
    /// Name of the field.
    pub timer: &'static str,
    /// Its value.
    pub given: Duration,
    /// The least it may be.
    pub minimum: Duration,
    /// Who says so.
    pub source: &'static str,
}

impl fmt::Display for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            timer,
            given,
            minimum,
            source,
        } = self;
        write!(
            f,
            "timeouts.{timer}: {given:?} is shorter than the minimum of {source}, {minimum:?}"
        )
    }
}

impl std::error::Error for TimeoutError {}

/// How full a flow table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pressure {
    /// There is room.
    #[default]
    None,
    /// Nearly full: half-open conversations must not keep others out (F33).
    High,
}

impl Pressure {
    /// The pressure now, from the one before: high from seven eighths of `capacity` on, gone
    /// below three quarters, and in between as it was, so that it does not flicker.
    #[must_use]
    pub const fn update(self, flows: usize, capacity: usize) -> Self {
        if flows >= capacity - capacity / 8 {
            Self::High
        } else if flows < capacity - capacity / 4 {
            Self::None
        } else {
            self
        }
    }
}

impl Timeouts {
    /// Every timer with the name of its field.
    #[must_use]
    pub const fn all(&self) -> [(&'static str, Duration); 5] {
        [
            ("udp", self.udp),
            ("tcp_established", self.tcp_established),
            ("tcp_transitory", self.tcp_transitory),
            ("icmp", self.icmp),
            ("quarantine", self.quarantine),
        ]
    }

    /// Compares every timer with its RFC's minimum.
    ///
    /// # Errors
    /// Every timer that is too short.
    pub fn check(&self) -> Result<(), Vec<TimeoutError>> {
        let floors = [
            (120, "RFC 4787 REQ-5"),
            (7_440, "RFC 5382 REQ-5"),
            (240, "RFC 5382 REQ-5"),
            (60, "RFC 5508 REQ-2"),
            (120, "RFC 6888 REQ-8"),
        ];
        let errors: Vec<TimeoutError> = self
            .all()
            .into_iter()
            .zip(floors)
            .map(|((timer, given), (minimum, source))| TimeoutError {
                timer,
                given,
                minimum: Duration::from_secs(minimum),
                source,
            })
            .filter(|error| error.given < error.minimum)
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// Idle time of a flow of `protocol`, in `tcp` if that is TCP, without pressure.
    #[inline]
    #[must_use]
    pub const fn idle(&self, protocol: u8, tcp: Option<TcpState>) -> Duration {
        match (protocol, tcp) {
            (PROTOCOL_TCP, Some(TcpState::Established)) => self.tcp_established,
            (PROTOCOL_TCP, _) => self.tcp_transitory,
            (PROTOCOL_ICMP | PROTOCOL_ICMP6, _) => self.icmp,
            _ => self.udp,
        }
    }

    /// Idle time of the same flow under `pressure`.
    #[inline]
    #[must_use]
    pub const fn idle_under(
        &self,
        pressure: Pressure,
        protocol: u8,
        tcp: Option<TcpState>,
    ) -> Duration {
        match (pressure, tcp) {
            (Pressure::High, Some(state)) if state.is_half_open() => HALF_OPEN_UNDER_PRESSURE,
            _ => self.idle(protocol, tcp),
        }
    }

    /// When to look at the same flow, whatever the pressure is now: it may be high by then. A
    /// timer set for longer would find a half-open flow too late.
    #[inline]
    #[must_use]
    pub const fn look_after(&self, protocol: u8, tcp: Option<TcpState>) -> Duration {
        self.idle_under(Pressure::High, protocol, tcp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_packet::wire::PROTOCOL_UDP;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn n1_to_n4_n9_defaults() {
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.check(), Ok(()));
        assert_eq!(timeouts.quarantine, seconds(120));
        for (protocol, tcp, idle) in [
            (PROTOCOL_UDP, None, 300),
            (132, None, 300),
            (PROTOCOL_ICMP, None, 60),
            (PROTOCOL_ICMP6, None, 60),
            (PROTOCOL_TCP, None, 240),
        ] {
            assert_eq!(timeouts.idle(protocol, tcp), seconds(idle), "{protocol}");
        }
        for state in TcpState::ALL {
            let idle = match state {
                TcpState::Established => 7_440,
                _ => 240,
            };
            assert_eq!(timeouts.idle(PROTOCOL_TCP, Some(state)), seconds(idle));
        }
    }

    #[test]
    fn a_timer_below_its_minimum_is_named_with_its_rfc() {
        let short = Timeouts {
            udp: Duration::from_millis(119_999),
            tcp_established: seconds(7_439),
            tcp_transitory: seconds(0),
            icmp: seconds(59),
            quarantine: seconds(119),
        };
        let text: Vec<String> = short
            .check()
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            text,
            [
                "timeouts.udp: 119.999s is shorter than the minimum of RFC 4787 REQ-5, 120s",
                "timeouts.tcp_established: 7439s is shorter than the minimum of RFC 5382 REQ-5, 7440s",
                "timeouts.tcp_transitory: 0ns is shorter than the minimum of RFC 5382 REQ-5, 240s",
                "timeouts.icmp: 59s is shorter than the minimum of RFC 5508 REQ-2, 60s",
                "timeouts.quarantine: 119s is shorter than the minimum of RFC 6888 REQ-8, 120s",
            ]
        );
        let long = Timeouts {
            udp: seconds(120),
            icmp: Duration::MAX,
            ..Timeouts::default()
        };
        assert_eq!(long.check(), Ok(()));
    }

    /// F33: only half-open conversations, only under pressure.
    #[test]
    fn f33_pressure_shortens_half_open_conversations_only() {
        let timeouts = Timeouts::default();
        let half_open = [TcpState::SynSent, TcpState::SynSent2, TcpState::SynRecv];
        for state in TcpState::ALL {
            let (protocol, tcp) = (PROTOCOL_TCP, Some(state));
            let idle = timeouts.idle(protocol, tcp);
            assert_eq!(timeouts.idle_under(Pressure::None, protocol, tcp), idle);
            let pressed = match half_open.contains(&state) {
                true => seconds(10),
                false => idle,
            };
            assert_eq!(timeouts.idle_under(Pressure::High, protocol, tcp), pressed);
            assert_eq!(timeouts.look_after(protocol, tcp), pressed);
        }
        let udp = timeouts.idle_under(Pressure::High, PROTOCOL_UDP, None);
        assert_eq!(udp, seconds(300));
    }

    #[test]
    fn pressure_does_not_flicker() {
        let mut pressure = Pressure::default();
        for (flows, expected) in [
            (0, Pressure::None),
            (895, Pressure::None),
            (896, Pressure::High),
            (1_024, Pressure::High),
            (768, Pressure::High),
            (767, Pressure::None),
            (895, Pressure::None),
        ] {
            pressure = pressure.update(flows, 1_024);
            assert_eq!(pressure, expected, "{flows}");
        }
        assert_eq!(
            Pressure::None.update(0, 0),
            Pressure::High,
            "no room at all"
        );
    }
}
