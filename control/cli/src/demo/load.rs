//! Background traffic for the live table: bounded probes in turn until the time is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use penstock_control_api::{Request, Response};
use penstock_dataplane_api::{Request as DataplaneRequest, Response as DataplaneResponse};
use penstock_lab::traffic::{End, ping, tcp, udp};
use penstock_lab::{Node, OUTSIDE_ADDRESSES, Pod};

use super::Stage;
use super::screen::Reading;
use crate::failure::Failure;

/// Time between two rows of the table.
const INTERVAL: Duration = Duration::from_millis(500);
/// One stream: short, so that the end of the demo is not late.
const STREAM: Duration = Duration::from_millis(400);

/// Who sends to whom, for how long.
pub(super) struct Load<'a> {
    pub(super) stage: &'a Stage,
    pub(super) interrupted: &'a AtomicBool,
}

impl Load<'_> {
    /// Runs traffic for `duration`; `show` is called with each node's reading twice a second.
    pub(super) fn run(
        &self,
        duration: Duration,
        mut show: impl FnMut(&[Reading]) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + duration;
        let failed = AtomicBool::new(false);
        let over = || {
            let stopped = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
            stopped(self.interrupted) || stopped(&failed) || Instant::now() >= deadline
        };
        thread::scope(|scope| {
            let senders: Vec<_> = self
                .pairs()
                .into_iter()
                .map(|(client, server)| scope.spawn(move || send(client, server, over)))
                .collect();
            let shown = self.watch(over, &mut show);
            failed.store(shown.is_err(), Ordering::Relaxed);
            let sent = senders.into_iter().try_for_each(|sender| {
                sender
                    .join()
                    .unwrap_or_else(|_| Err(Failure::Lab("a sender panicked".to_owned())))
            });
            shown.and(sent)
        })
    }

    /// Reads and shows until it is over.
    fn watch(
        &self,
        over: impl Fn() -> bool,
        show: &mut impl FnMut(&[Reading]) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        let mut last = self.readings()?;
        while !over() {
            thread::park_timeout(INTERVAL);
            let now = self.readings()?;
            let rows: Vec<Reading> = now
                .iter()
                .zip(&last)
                .map(|(now, last)| now.since(last))
                .collect();
            show(&rows)?;
            last = now;
        }
        Ok(())
    }

    /// Same node, other node and outside, by pods of either ENI.
    fn pairs(&self) -> Vec<(End<'_>, End<'_>)> {
        let [first, second] = [&self.stage.pods[0], &self.stage.pods[1]];
        let outside = End {
            netns: self.stage.lab.outside(),
            address: OUTSIDE_ADDRESSES[0],
        };
        let last = &first[first.len() - 1];
        vec![
            (end(&first[0]), end(&first[1])),
            (end(&first[2]), end(&second[0])),
            (end(&first[3]), outside),
            (end(last), end(&second[1])),
        ]
    }

    fn readings(&self) -> Result<Vec<Reading>, Failure> {
        self.stage.lab.nodes().iter().map(read).collect()
    }
}

/// A pod as an end of a probe.
pub(super) fn end(pod: &Pod) -> End<'_> {
    End {
        netns: pod.netns(),
        address: pod.address(),
    }
}

fn send(client: End<'_>, server: End<'_>, over: impl Fn() -> bool) -> Result<(), Failure> {
    while !over() {
        ping(client, server, 10, 56)?;
        udp(client, server, 100, 512)?;
        tcp(client, server, STREAM)?;
    }
    Ok(())
}

fn read(node: &Node) -> Result<Reading, Failure> {
    let counters = node.counters()?;
    let unexpected = |answer: String| Failure::Lab(format!("{} answered {answer}", node.name()));
    let pool = match node.control_call(&Request::Status)? {
        Response::Status(status) => status.pool,
        other => return Err(unexpected(format!("{other:?}"))),
    };
    let enis = match node.control_call(&Request::Enis)? {
        Response::Enis(rows) => rows.len(),
        other => return Err(unexpected(format!("{other:?}"))),
    };
    let fallback_queues = match node.dataplane_call(&DataplaneRequest::Status)? {
        DataplaneResponse::Status(status) => status.fallback_queues,
        other => return Err(unexpected(format!("{other:?}"))),
    };
    Ok(Reading::new(
        node.name(),
        &counters,
        pool,
        enis,
        fallback_queues,
    ))
}
