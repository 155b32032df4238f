//! Session tokens of the metadata service.
//!
//! Guarantees: a token lives exactly its time to live; the number of live tokens is bounded (the oldest goes).

use std::collections::VecDeque;
use std::time::Duration;

/// Longest time to live: six hours (EC2 user guide, "Use IMDSv2").
const TTL_MAX_SECONDS: u64 = 21_600;
/// Tokens kept at a time.
const TOKENS_KEPT: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Tokens {
    issued: u64,
    live: VecDeque<(String, Duration)>,
}

impl Tokens {
    pub(super) fn issue(&mut self, now: Duration, ttl: Duration) -> String {
        self.issued = self.issued.wrapping_add(1);
        // 56 characters, as the real ones have; there is nothing here to guess one for.
        let token = format!("AQAEA{:051}", self.issued);
        self.live.retain(|(_, expires)| *expires > now);
        if self.live.len() == TOKENS_KEPT {
            self.live.pop_front();
        }
        self.live.push_back((token.clone(), now + ttl));
        token
    }

    pub(super) fn is_live(&self, token: &str, now: Duration) -> bool {
        self.live
            .iter()
            .any(|(known, expires)| known == token && *expires > now)
    }
}

/// A time to live in whole seconds, 1 to six hours.
pub(super) fn parse_ttl(text: &str) -> Option<Duration> {
    let seconds: u64 = text.trim().parse().ok()?;
    (1..=TTL_MAX_SECONDS)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_its_time_and_not_longer() {
        let mut tokens = Tokens::default();
        let at = Duration::from_secs;
        let token = tokens.issue(at(100), at(5));
        assert!(tokens.is_live(&token, at(104)));
        assert!(!tokens.is_live(&token, at(105)));
        assert!(!tokens.is_live("", at(100)));
    }

    #[test]
    fn the_oldest_token_goes_when_there_are_too_many() {
        let mut tokens = Tokens::default();
        let first = tokens.issue(Duration::ZERO, Duration::from_secs(60));
        for _ in 0..TOKENS_KEPT {
            tokens.issue(Duration::ZERO, Duration::from_secs(60));
        }
        assert_eq!(tokens.live.len(), TOKENS_KEPT);
        assert!(!tokens.is_live(&first, Duration::ZERO));
    }

    #[test]
    fn a_time_to_live_is_one_second_to_six_hours() {
        for bad in ["", "0", "21601", "-1", "1.5", "x"] {
            assert_eq!(parse_ttl(bad), None, "{bad}");
        }
        assert_eq!(parse_ttl("21600"), Some(Duration::from_secs(21_600)));
    }
}
