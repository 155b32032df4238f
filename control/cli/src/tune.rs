//! `penstock tune`: applies the settings that can be changed while the node runs, shows what would
//! change, and puts back what was there; lists all, and renders them for a machine image.
//!
//! What was there before is recorded ([`record`]) before anything is written, once: applying twice
//! records nothing new, and reverting restores the first values. Only settings of the operator's
//! and of the daemons' that differ are written.

mod list;
mod record;
mod render;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::arguments::Format;
use crate::daemons::Daemons;
use crate::failure::Failure;
use crate::host::{Host, Reading, Subject};
use crate::knob::{self, Knob};
use crate::scene::Scene;
use crate::table::{Column, View, text};
use record::{Entry, Record};

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("verb").required(true)))]
pub(crate) struct TuneArguments {
    /// Set what differs. A second time changes nothing.
    #[arg(long, group = "verb")]
    apply: bool,
    /// Show what `--apply` would set; exit status 1 when there is something.
    #[arg(long, group = "verb")]
    diff: bool,
    /// Show every setting: its value, who sets it, why, and how it is read back.
    #[arg(long, group = "verb")]
    list: bool,
    /// Put back what was there before the first `--apply`.
    #[arg(long, group = "verb")]
    revert: bool,
    /// Print what to give a new node.
    #[arg(long, group = "verb", value_name = "SYSTEM")]
    render: Option<render::System>,
    /// Only this setting, by the name `penstock doctor` gives it; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Which settings count.
    #[arg(long, value_name = "LEVEL", default_value = "should")]
    level: Level,
    /// Cores of the workers to render for, such as 2,3.
    #[arg(long, value_name = "CORES", default_value = "")]
    cores: String,
    /// Where the host's file system is, seen from a container.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// L4 ports the dataplane translates to, as the agent was told.
    #[arg(
        long,
        env = "PENSTOCK_SNAT_PORTS",
        value_name = "FIRST-LAST",
        default_value = "11000-29999"
    )]
    snat_ports: String,
    /// Output format.
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        default_value = "table"
    )]
    format: Format,
}

/// How far tuning goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// What packets depend on.
    Must,
    /// And what saves trouble under load.
    Should,
    /// And what is only faster.
    May,
}

/// One setting that differs.
#[derive(Debug, Serialize)]
struct Change {
    setting: String,
    on: String,
    from: String,
    to: String,
    #[serde(skip)]
    how: knob::How,
}

/// Does what was asked.
pub(crate) fn run(
    (daemons, run_dir): (&Daemons, &Path),
    arguments: &TuneArguments,
    output: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let knobs = selected(arguments)?;
    if let Some(system) = arguments.render {
        write!(output, "{}", system.render(&knobs, &arguments.cores))?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.list {
        list::view(&knobs).write(arguments.format, true, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let host = Host::at(&arguments.root);
    let path = record::path(run_dir);
    if arguments.revert {
        let done = revert(&host, &path, &arguments.only)?;
        show(&done, arguments.format, output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let scene = Scene::survey(daemons, &arguments.snat_ports)?;
    let changes = differences(&host, &scene, &knobs)?;
    if arguments.apply {
        apply(&host, &path, &changes)?;
    }
    show(&changes, arguments.format, output)?;
    let open = arguments.diff && !changes.is_empty();
    Ok(ExitCode::from(u8::from(open)))
}

/// The settings that were named, or those of the level.
fn selected(arguments: &TuneArguments) -> Result<Vec<Knob>, Failure> {
    let knobs = knob::all().map_err(|error| Failure::Node(error.to_string()))?;
    for name in &arguments.only {
        if !knobs.iter().any(|knob| knob.id == *name) {
            return Err(Failure::Node(format!(
                "no setting is called {name}; `penstock doctor` lists them"
            )));
        }
    }
    let least = match arguments.level {
        Level::Must => knob::Need::Must,
        Level::Should => knob::Need::Should,
        Level::May => knob::Need::May,
    };
    let wanted = |knob: &Knob| {
        if arguments.only.is_empty() {
            knob.need >= least
        } else {
            arguments.only.contains(&knob.id)
        }
    };
    Ok(knobs.into_iter().filter(wanted).collect())
}

/// Live settings that are here and differ.
fn differences(host: &Host, scene: &Scene, knobs: &[Knob]) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::new();
    for knob in knobs.iter().filter(|knob| knob.live) {
        let Some(want) = scene.fill(&knob.want) else {
            continue;
        };
        for subject in scene.subjects(knob) {
            let Reading::Value(from) = host.read(&knob.how, &subject)? else {
                continue;
            };
            if !knob.compare.accepts(&want, &from) {
                changes.push(Change {
                    setting: knob.id.clone(),
                    on: subject.ifname,
                    to: knob.compare.target(&want, &from),
                    from,
                    how: knob.how.clone(),
                });
            }
        }
    }
    Ok(changes)
}

/// Records, writes, and reads back.
fn apply(host: &Host, path: &Path, changes: &[Change]) -> Result<(), Failure> {
    let mut record = Record::load(path)?;
    for change in changes {
        record.remember(&change.setting, &change.on, &change.from);
    }
    record.save(path)?;
    for change in changes {
        set(host, change)?;
    }
    Ok(())
}

/// Writes one value and makes sure the kernel took it.
fn set(host: &Host, change: &Change) -> Result<(), Failure> {
    let subject = Subject {
        ifname: change.on.clone(),
        pid: None,
    };
    let failed = |problem: String| {
        let on = if change.on.is_empty() {
            "node"
        } else {
            &change.on
        };
        Failure::Node(format!("{} of {on}: {problem}", change.setting))
    };
    let written = host.write(&change.how, &subject, &change.to);
    written.map_err(|error| failed(error.to_string()))?;
    match host.read(&change.how, &subject)? {
        Reading::Value(now) if same(&now, &change.to) => Ok(()),
        other => Err(failed(format!("wrote {}, read {other:?}", change.to))),
    }
}

/// The kernel may write a list more shortly than it was given.
fn same(now: &str, written: &str) -> bool {
    now == written
        || (knob::Compare::Covers.accepts(now, written)
            && knob::Compare::Covers.accepts(written, now))
}

/// Puts back what was recorded, last first; what is gone since, such as a pod, is forgotten.
fn revert(host: &Host, path: &Path, only: &[String]) -> Result<Vec<Change>, Failure> {
    let knobs = knob::all().map_err(|error| Failure::Node(error.to_string()))?;
    let mut record = Record::load(path)?;
    let mut done = Vec::new();
    let chosen = |entry: &Entry| only.is_empty() || only.contains(&entry.setting);
    for entry in record.entries.clone().into_iter().rev() {
        if !chosen(&entry) {
            continue;
        }
        let how = knobs.iter().find(|knob| knob.id == entry.setting);
        let subject = Subject {
            ifname: entry.on.clone(),
            pid: None,
        };
        if let Some(how) = how.map(|knob| knob.how.clone())
            && let Reading::Value(from) = host.read(&how, &subject)?
            && from != entry.before
        {
            let change = Change {
                setting: entry.setting.clone(),
                on: entry.on.clone(),
                from,
                to: entry.before.clone(),
                how,
            };
            set(host, &change)?;
            done.push(change);
        }
        record.forget(&entry);
        record.save(path)?;
    }
    Ok(done)
}

fn show(changes: &[Change], format: Format, output: &mut impl Write) -> Result<(), Failure> {
    const COLUMNS: &[Column] = &[text("SETTING"), text("ON"), text("FROM"), text("TO")];
    let or = |text: &str, empty: &str| match text {
        "" => empty.to_owned(),
        text => text.to_owned(),
    };
    let row = |change: &Change| {
        vec![
            change.setting.clone(),
            or(&change.on, "node"),
            or(&change.from, "nothing"),
            or(&change.to, "nothing"),
        ]
    };
    let view = View {
        json: serde_json::to_value(changes).map_err(std::io::Error::from)?,
        columns: COLUMNS,
        rows: changes.iter().map(row).collect(),
    };
    view.write(format, !changes.is_empty(), output)?;
    Ok(())
}

#[cfg(test)]
#[path = "tune_tests.rs"]
mod tests;
