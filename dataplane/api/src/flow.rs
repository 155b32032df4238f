//! What the flow engine may be tuned by: timers, quota, MSS clamp.
//!
//! Every field has a default, so a publisher names only what it changes. Whether a value makes
//! sense is the dataplane's to say, with the rest of the snapshot.

use serde::{Deserialize, Serialize};

/// Tunables of the flow engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowSettings {
    /// Idle times after which flows end.
    pub timers: FlowTimers,
    /// Most flows of one pod at a time (RFC 6888 REQ-4); `null` is unlimited.
    pub flows_per_pod: Option<u32>,
    /// Largest MSS, in bytes, that TCP SYNs may announce on their way; `null` leaves them alone.
    pub mss_clamp: Option<u16>,
}

/// Idle times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowTimers {
    /// UDP and protocols without ports; RFC 4787 REQ-5 wants at least 120.
    pub udp_seconds: u32,
    /// TCP in both directions; RFC 5382 REQ-5 wants at least 7,440.
    pub tcp_established_seconds: u32,
    /// TCP that opens or closes; RFC 5382 REQ-5 wants at least 240.
    pub tcp_transitory_seconds: u32,
    /// ICMP echo; RFC 5508 REQ-2 wants at least 60.
    pub icmp_seconds: u32,
    /// How long a SNAT port rests after a flow that was not seen to close; RFC 6888 REQ-8 wants at
    /// least 120.
    pub quarantine_seconds: u32,
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            timers: FlowTimers::default(),
            flows_per_pod: Some(4_096),
            mss_clamp: None,
        }
    }
}

impl Default for FlowTimers {
    fn default() -> Self {
        Self {
            udp_seconds: 300,
            tcp_established_seconds: 7_440,
            tcp_transitory_seconds: 240,
            icmp_seconds: 60,
            quarantine_seconds: 120,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_keeps_its_default() {
        let named = r#"{"timers": {"udp_seconds": 30}, "flows_per_pod": null}"#;
        let settings: FlowSettings = serde_json::from_str(named).unwrap();
        let timers = FlowTimers {
            udp_seconds: 30,
            ..FlowTimers::default()
        };
        let expected = FlowSettings {
            timers,
            flows_per_pod: None,
            mss_clamp: None,
        };
        assert_eq!(settings, expected);
        let nothing: FlowSettings = serde_json::from_str("{}").unwrap();
        assert_eq!(nothing.flows_per_pod, Some(4_096));
    }

    #[test]
    fn unknown_names_are_refused() {
        for text in [r#"{"mss": 1}"#, r#"{"timers": {"udp": 30}}"#] {
            assert!(serde_json::from_str::<FlowSettings>(text).is_err());
        }
    }
}
