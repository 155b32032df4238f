//! Which events were sent lately: the same one is not sent again for a while, however often its cause occurs.

use std::collections::HashMap;
use std::time::Duration;

use super::Event;
use crate::clock::Timestamp;

/// How long the same event is not sent again; the API server keeps one for an hour.
const SILENCE: Duration = Duration::from_secs(300);
/// More different ones than a node has pods.
const MOST: usize = 1024;

/// The memory.
#[derive(Debug, Default)]
pub(super) struct Recent {
    sent: HashMap<Event, Timestamp>,
}

impl Recent {
    /// Whether an event is to be sent; it counts as sent then.
    pub(super) fn is_news(&mut self, event: &Event, now: Timestamp) -> bool {
        self.sent.retain(|_, at| now.since(*at) < SILENCE);
        if self.sent.contains_key(event) || self.sent.len() >= MOST {
            return false;
        }
        self.sent.insert(event.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::Subject;

    #[test]
    fn the_same_is_said_once_in_five_minutes_and_no_flood_is_sent() {
        let mut recent = Recent::default();
        let event = |text: String| Event {
            subject: Subject::Node,
            reason: "Test",
            message: text,
        };
        let at = |seconds: u64| Timestamp(seconds * 1000);
        assert!(recent.is_news(&event("full".into()), at(0)));
        assert!(!recent.is_news(&event("full".into()), at(299)));
        assert!(recent.is_news(&event("full".into()), at(300)));
        let sent = (0..5_000).filter(|n| recent.is_news(&event(n.to_string()), at(301)));
        assert_eq!(sent.count(), MOST - 1);
        assert!(recent.is_news(&event("later".into()), at(602)));
    }
}
