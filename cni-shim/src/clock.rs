//! The time an ADD has, and where it goes: with `PENSTOCK_CNI_TIMES` in the environment, one JSON
//! object of microseconds on standard error, which runtimes pass on to nobody.

use std::env;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

/// Longest an ADD waits for the agent, all calls together.
const ADD_DEADLINE: Duration = Duration::from_secs(10);

/// One ADD's clock.
pub(crate) struct Clock {
    deadline: Instant,
    last: Instant,
    laps: Map<String, Value>,
}

impl Clock {
    /// Runs since the process `began`.
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            deadline: began + ADD_DEADLINE,
            last: began,
            laps: Map::new(),
        }
    }

    /// When the agent must have answered.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What was done since the last lap is called `name`.
    pub(crate) fn lap(&mut self, name: &str) {
        let now = Instant::now();
        let micros = u64::try_from((now - self.last).as_micros()).unwrap_or(u64::MAX);
        self.laps.insert(name.to_owned(), micros.into());
        self.last = now;
    }

    /// Tells who asked.
    pub(crate) fn report(self) {
        if env::var_os("PENSTOCK_CNI_TIMES").is_some() {
            // Nobody has to read it.
            let _ = writeln!(io::stderr(), "{}", Value::Object(self.laps));
        }
    }
}
