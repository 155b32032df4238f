//! SIGKILL of the dataplane under load: what is lost of flows at the hooks, how long others see
//! nothing, how many connections are reset. Worst of all kills.
//!
//! Three loads at once from one pod to the outside through SNAT: one established flow of
//! datagrams; datagrams that each begin a flow; a TCP connection with requests and answers. The
//! dataplane is killed amid them and started again after; both directions of the same fault.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::Session;
use super::cps::wait_published;
use crate::load::exchange::{self, Pace, Transport};
use crate::load::probe::{self, Flows, Passage};
use crate::report::{Axis, Chart, Figure, Report};
use crate::testbed::{Plan, Side, Testbed, Who};
use crate::validity::{Guard, Offered};

/// Datagrams a second of each load.
const RATE: u32 = 2_000;
/// Requests a second on the connection.
const REQUESTS: f64 = 500.0;
/// The fewest kills that a worst case is the worst of; a session's repeats may ask for more.
const KILLS_PER_REPEAT: u32 = 4;
/// Time of load before and after a kill.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_millis(700);
/// Width of the pictures' pieces, in seconds.
const PIECE: f64 = 0.01;
/// Lost when nothing was killed: then the rig loses, not the fault.
const RIG_LOSS: u64 = 0;

pub(super) fn run(session: &Session) -> Result<Report> {
    let mut report = Report::new("crash");
    let guard = Guard::begin();
    let kills = session.options.repeats * KILLS_PER_REPEAT;
    let plan = Plan {
        who: vec![Who::On, Who::Off],
        ..Plan::new(4)
    };
    let testbed = Testbed::build(session, &plan)?;
    testbed.describe(&mut report);
    session.expect(kills * testbed.sides().len() as u32);
    let mut unaccounted = 0;
    for side in testbed.sides() {
        let mut tally = Tally::default();
        let calm = fault(&testbed, side, Fault::None)?;
        if calm.established.lost() > RIG_LOSS || calm.new.lost() > RIG_LOSS {
            report.invalidate(format!(
                "{}: {} datagrams were lost without a fault",
                side.who.name(),
                calm.established.lost() + calm.new.lost()
            ));
        }
        for _ in 0..kills {
            session.say(format!("kill -9, {}", side.who.name()));
            let seen = fault(&testbed, side, Fault::Kill)?;
            tally.add(&seen);
            tally.last = Some(seen);
            restart(&testbed, side)?;
            session.step();
        }
        tally.add_to(&mut report, side.who);
        unaccounted += Guard::judge_testbed(&testbed, Offered::Within, &mut report);
    }
    report.push(Figure::new(
        "packets unaccounted for",
        "packets",
        &[unaccounted as f64],
    ));
    guard.judge(&mut report);
    Ok(report)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Kill,
}

/// What the loads saw of one fault.
struct Seen {
    established: Passage,
    new: Passage,
    reset: bool,
}

fn fault(testbed: &Testbed, side: &Side, fault: Fault) -> Result<Seen> {
    let ends = (side.pod(), testbed.outside());
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    thread::scope(|scope| {
        let load = |flows| {
            scope.spawn({
                let stop = &stop;
                move || probe::run(ends, flows, RATE, stop, started)
            })
        };
        let (established, new) = (load(Flows::Established), load(Flows::New));
        let whole = BEFORE + AFTER;
        let tcp = scope
            .spawn(move || exchange::run(ends, Transport::Tcp, Pace::PerSecond(REQUESTS), whole));
        thread::sleep(BEFORE);
        if fault == Fault::Kill {
            testbed.node(side).kill_dataplane();
        }
        thread::sleep(AFTER);
        stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("a load panicked");
        Ok(Seen {
            established: established
                .join()
                .map_err(panicked)?
                .context("established")?,
            new: new.join().map_err(panicked)?.context("new flows")?,
            reset: tcp.join().map_err(panicked)?.is_err(),
        })
    })
}

fn restart(testbed: &Testbed, side: &Side) -> Result<()> {
    let node = testbed.node(side);
    side.start_dataplane(node)?;
    wait_published(node, side.pods().len())
}

#[derive(Default)]
struct Tally {
    established_lost: Vec<f64>,
    established_gap: Vec<f64>,
    new_lost: Vec<f64>,
    new_gap: Vec<f64>,
    resets: Vec<f64>,
    last: Option<Seen>,
}

impl Tally {
    fn add(&mut self, seen: &Seen) {
        self.established_lost.push(seen.established.lost() as f64);
        self.established_gap.push(seen.established.longest_gap_ms());
        self.new_lost.push(seen.new.lost() as f64);
        self.new_gap.push(seen.new.longest_gap_ms());
        self.resets.push(f64::from(u8::from(seen.reset)));
    }

    fn add_to(&self, report: &mut Report, who: Who) {
        let worst =
            |name: &str, unit: &str, samples: &[f64]| Figure::new(name, unit, samples).worst();
        let resets: f64 = self.resets.iter().sum();
        let (named, rest) = match who {
            Who::On => (
                [
                    (
                        "packets of offloaded flows lost",
                        "packets",
                        &self.established_lost,
                    ),
                    ("longest gap of other flows", "ms", &self.new_gap),
                ],
                [
                    (
                        "longest gap of offloaded flows",
                        "ms",
                        &self.established_gap,
                    ),
                    ("packets of other flows lost", "packets", &self.new_lost),
                ],
            ),
            _ => (
                [
                    (
                        "offload off: packets of established flows lost",
                        "packets",
                        &self.established_lost,
                    ),
                    ("offload off: longest gap of new flows", "ms", &self.new_gap),
                ],
                [
                    (
                        "offload off: longest gap of established flows",
                        "ms",
                        &self.established_gap,
                    ),
                    (
                        "offload off: packets of new flows lost",
                        "packets",
                        &self.new_lost,
                    ),
                ],
            ),
        };
        for (name, unit, samples) in named.into_iter().chain(rest) {
            report.push(worst(name, unit, samples));
        }
        let name = match who {
            Who::On => "connections reset",
            _ => "offload off: connections reset",
        };
        report.push(Figure::new(name, "connections", &[resets]));
        if let Some(last) = &self.last {
            let axis = Axis::Linear {
                label: "seconds; the kill is at 0.3".to_owned(),
            };
            let title = format!("Datagrams that arrive around kill -9, {}", who.name());
            let mut chart = Chart::lines(&title, axis, "packets a second");
            chart.add("established flow", last.established.rate_over_time(PIECE));
            chart.add("new flows", last.new.rate_over_time(PIECE));
            report.charts.push(chart);
        }
    }
}
