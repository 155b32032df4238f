//! `penstock monitor`: what changes on the node, one JSON object a line, with pods' names.
//!
//! It compares what the daemons report at one look and the next ([`Look::since`]); nothing is
//! armed in the packet path, so watching costs a packet nothing. A drop is therefore an event with
//! a count, not a packet. A flow that begins and is forgotten between two looks is not seen.

mod look;

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::daemons::Daemons;
use crate::failure::Failure;
use look::Look;

#[derive(Debug, Args)]
pub(crate) struct MonitorArguments {
    /// Kinds of events; all but flows when none is named.
    #[arg(long = "type", value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Only events of this pod, NAMESPACE/NAME; drops are not a pod's.
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Milliseconds between two looks.
    #[arg(long, value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(50..=60_000))]
    interval: u64,
    /// End after this many events.
    #[arg(long, value_name = "COUNT")]
    count: Option<usize>,
    /// End after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Kind {
    /// Packets dropped, by reason and place.
    Drop,
    /// Pods attached and detached.
    Pod,
    /// Flows that began or ended.
    Flow,
    /// Daemons, uplinks, publications, late workers.
    Health,
}

/// Watches until Ctrl-C, the count or the time is reached, or the reader leaves.
pub(crate) fn run(
    daemons: &Daemons,
    arguments: &MonitorArguments,
    output: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let (stop, stopped) = mpsc::channel();
    let on_signal = move || {
        // A second signal may find nobody waiting, which is as well.
        let _ = stop.send(());
    };
    ctrlc::set_handler(on_signal)
        .map_err(|error| Failure::Node(format!("cannot handle signals: {error}")))?;
    let kinds = match arguments.kinds.as_slice() {
        [] => vec![Kind::Drop, Kind::Pod, Kind::Health],
        kinds => kinds.to_vec(),
    };
    let begun = Instant::now();
    let (mut left, pause) = (arguments.count, Duration::from_millis(arguments.interval));
    let mut before = Look::take(daemons, &kinds);
    loop {
        let over = arguments.duration.map(Duration::from_secs);
        let rest = over.map(|over| over.saturating_sub(begun.elapsed()));
        if left == Some(0) || rest == Some(Duration::ZERO) {
            return Ok(ExitCode::SUCCESS);
        }
        let pause = rest.map_or(pause, |rest| rest.min(pause));
        if stopped.recv_timeout(pause).is_ok() {
            return Ok(ExitCode::SUCCESS);
        }
        let now = Look::take(daemons, &kinds);
        for event in now.since(&before, &kinds) {
            if left == Some(0) || !concerns(&event, arguments.pod.as_deref()) {
                continue;
            }
            writeln!(output, "{}", stamped(event))?;
            left = left.map(|left| left - 1);
        }
        output.flush()?;
        before = now;
    }
}

fn concerns(event: &Value, pod: Option<&str>) -> bool {
    let Some(pod) = pod else { return true };
    ["pod", "remote_pod"]
        .iter()
        .any(|side| event[*side].as_str() == Some(pod))
}

/// The event with the time of the look, which comes first.
fn stamped(event: Value) -> Value {
    // A clock past the year 9999 has no RFC 3339 form.
    let time = OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .unwrap_or_default();
    let mut stamped = json!({ "time": time });
    if let (Value::Object(all), Value::Object(fields)) = (&mut stamped, event) {
        all.extend(fields);
    }
    stamped
}
