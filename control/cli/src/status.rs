//! `penstock status`: one word, the parts it is made of, and what to do about each problem.

use std::io::Write;
use std::process::ExitCode;

use penstock_control_api::Status as ControlStatus;
use penstock_dataplane_api::{
    Offload, OffloadReport, Status as DataplaneStatus, UplinkMode, UplinkReport,
};
use serde::Serialize;
use serde_json::json;

use crate::arguments::Format;
use crate::daemons::Daemons;
use crate::failure::Failure;
use crate::table::{Column, View, text};

/// How a part is, worst last; the number is the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok = 0,
    Degraded = 1,
    Down = 2,
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// One line of the answer.
#[derive(Debug, Serialize)]
struct Part {
    name: String,
    health: Health,
    detail: String,
    /// What is wrong and what to do; empty when nothing is.
    problem: String,
}

/// Asks both daemons, prints the verdict, and returns it as exit status.
pub(crate) fn show(
    daemons: &Daemons,
    format: Format,
    output: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let report = Report::of(daemons.control_status(), daemons.dataplane_status());
    report.write(format, output)?;
    Ok(ExitCode::from(report.health as u8))
}

struct Report {
    health: Health,
    parts: Vec<Part>,
    control: Option<ControlStatus>,
    dataplane: Option<DataplaneStatus>,
}

impl Report {
    fn of(
        control: Result<ControlStatus, Failure>,
        dataplane: Result<DataplaneStatus, Failure>,
    ) -> Self {
        let mut parts = vec![control_part(&control), dataplane_part(&control, &dataplane)];
        if let Ok(status) = &control {
            parts.push(pool_part(status));
        }
        if let Ok(status) = &dataplane {
            parts.extend(status.uplinks.iter().map(uplink_part));
        }
        // One daemon alone still moves packets: the kernel carries the same policy, or the
        // dataplane forwards by its last snapshot.
        let health = match (&control, &dataplane) {
            (Err(_), Err(_)) => Health::Down,
            (Err(_), _) | (_, Err(_)) => Health::Degraded,
            _ => parts
                .iter()
                .map(|part| part.health)
                .max()
                .unwrap_or(Health::Ok),
        };
        Self {
            health,
            parts,
            control: control.ok(),
            dataplane: dataplane.ok(),
        }
    }

    fn write(&self, format: Format, output: &mut impl Write) -> std::io::Result<()> {
        const COLUMNS: &[Column] = &[text("PART"), text("HEALTH"), text("DETAIL")];
        let row = |part: &Part| {
            vec![
                part.name.clone(),
                part.health.word().to_owned(),
                part.detail.clone(),
            ]
        };
        let view = View {
            json: json!({
                "health": self.health,
                "parts": self.parts,
                "control": self.control,
                "dataplane": self.dataplane,
            }),
            columns: COLUMNS,
            rows: self.parts.iter().map(row).collect(),
        };
        view.write(format, true, output)?;
        if format.is_for_machines() {
            return Ok(());
        }
        for part in self.parts.iter().filter(|part| !part.problem.is_empty()) {
            writeln!(output, "\n{}: {}", part.name, part.problem)?;
        }
        writeln!(output, "\nPenstock is {}.", self.health.word())
    }
}

fn control_part(status: &Result<ControlStatus, Failure>) -> Part {
    let name = "control".to_owned();
    let status = match status {
        Ok(status) => status,
        Err(failure) => return away(name, "no pod can be added", failure),
    };
    let health = if status.ready && status.problem.is_empty() {
        Health::Ok
    } else {
        Health::Degraded
    };
    Part {
        name,
        health,
        detail: format!(
            "{}, pid {}, up {}, {} ({}), generation {}{}",
            status.version,
            status.pid,
            duration(status.uptime_seconds),
            status.instance_id,
            status.instance_type,
            status.generation,
            repairs(status.repairs, &status.last_repair)
        ),
        problem: match (status.ready, status.problem.is_empty()) {
            (false, true) => "not ready to add pods".to_owned(),
            _ => status.problem.clone(),
        },
    }
}

/// Repairs are no fault of a daemon's, but somebody on the node works against it.
fn repairs(count: u64, last: &str) -> String {
    match count {
        0 => String::new(),
        count => format!(", {count} repairs, the last: {last}"),
    }
}

fn dataplane_part(
    control: &Result<ControlStatus, Failure>,
    status: &Result<DataplaneStatus, Failure>,
) -> Part {
    let name = "dataplane".to_owned();
    let status = match status {
        Ok(status) => status,
        Err(failure) => return away(name, "traffic takes the kernel path", failure),
    };
    let published = control.as_ref().map_or(0, |control| control.generation);
    let problem = if status.fallback_queues > 0 {
        format!(
            "{} queues pass to the kernel because their worker is late; see `penstock get workers`",
            status.fallback_queues
        )
    } else if status.generation < published {
        format!(
            "it forwards by generation {} while control is at {published}; see control's log",
            status.generation
        )
    } else {
        String::new()
    };
    Part {
        name,
        health: health_of(&problem),
        detail: format!(
            "{}, pid {}, up {}, {} workers, {} pods, {}, generation {}",
            status.version,
            status.pid,
            duration(status.uptime_seconds),
            status.workers,
            status.endpoints,
            offload(&status.offload),
            status.generation
        ),
        problem,
    }
}

fn offload(report: &OffloadReport) -> String {
    match report.setting {
        Offload::Off => "offload off".to_owned(),
        Offload::Established => format!("{} flows offloaded", report.flows),
    }
}

fn pool_part(status: &ControlStatus) -> Part {
    let pool = &status.pool;
    let exhausted = pool.free == 0 && pool.total >= pool.limit;
    let problem = if exhausted {
        "every address the instance type can hold is in use; use a larger one or fewer pods"
    } else {
        ""
    };
    Part {
        name: "pool".to_owned(),
        health: health_of(problem),
        detail: format!(
            "{} assigned, {} cooling, {} free of {} addresses; at most {}",
            pool.assigned, pool.cooling, pool.free, pool.total, pool.limit
        ),
        problem: problem.to_owned(),
    }
}

fn uplink_part(uplink: &UplinkReport) -> Part {
    let mode = match uplink.mode {
        UplinkMode::ZeroCopy => "zero-copy",
        UplinkMode::Copy => "copy",
        UplinkMode::Kernel => "kernel",
    };
    Part {
        name: uplink.ifname.clone(),
        health: health_of(&uplink.problem),
        detail: format!("{}, {mode}, {} queues", uplink.eni_id, uplink.queues),
        problem: uplink.problem.clone(),
    }
}

fn away(name: String, consequence: &str, failure: &Failure) -> Part {
    Part {
        name,
        health: Health::Down,
        detail: consequence.to_owned(),
        problem: failure.to_string(),
    }
}

fn health_of(problem: &str) -> Health {
    if problem.is_empty() {
        Health::Ok
    } else {
        Health::Degraded
    }
}

/// The two largest units of a time: `2d3h`, `4m0s`, `7s`.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d{}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h{}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
