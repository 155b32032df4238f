//! Every setting of `kernel-config/knobs.toml`, read back.

use std::io;

use super::{Finding, Verdict, merged};
use crate::failure::Failure;
use crate::host::{Host, Reading, Subject};
use crate::knob::{self, How, Knob, Need, Place};
use crate::scene::Scene;

/// Reads every setting of everything that has it.
///
/// # Errors
/// When the compiled-in table is unsound; a test excludes that.
pub(super) fn check(host: &Host, scene: &Scene) -> Result<Vec<Finding>, Failure> {
    let knobs = knob::all().map_err(|error| Failure::Node(error.to_string()))?;
    let mut findings = Vec::new();
    for knob in &knobs {
        let Some(want) = scene.fill(&knob.want) else {
            continue;
        };
        let read = |subject: &Subject| check_one(host, scene, (knob, &want), subject);
        let of_knob = scene.subjects(knob).iter().filter_map(read).collect();
        findings.extend(merged(of_knob, kind(knob.on)));
    }
    Ok(findings)
}

/// Nothing when the setting does not exist here: another kernel, another namespace.
fn check_one(
    host: &Host,
    scene: &Scene,
    (knob, want): (&Knob, &str),
    subject: &Subject,
) -> Option<Finding> {
    let on = if subject.ifname.is_empty() {
        kind(knob.on)
    } else {
        &subject.ifname
    };
    let found = match host.read(&knob.how, subject) {
        Ok(Reading::Value(found)) => found,
        Ok(Reading::Absent(_)) => return None,
        Err(error) => return Some(unreadable((&knob.id, on), &error)),
    };
    if knob.compare.accepts(want, &found) {
        return Some(Finding::pass(&knob.id, on, shown(&found)));
    }
    let verdict = match knob.need {
        Need::May => Verdict::Note,
        Need::Should => Verdict::Warn,
        Need::Must => Verdict::Fail,
    };
    let found = format!("{}, not {want}: {}", shown(&found), knob.why);
    let fix = fix(knob, scene);
    Some(Finding::bad(verdict, (&knob.id, on), found, fix))
}

fn unreadable((check, on): (&str, &str), error: &io::Error) -> Finding {
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => "run as root",
        _ => "see the error",
    };
    Finding::bad(Verdict::Warn, (check, on), error.to_string(), fix)
}

fn fix(knob: &Knob, scene: &Scene) -> String {
    match (&knob.fix, &knob.how) {
        (_, _) if knob.live => format!("penstock tune --apply --only {}", knob.id),
        (Some(fix), _) => fix.clone(),
        (None, How::Boot { boot, .. }) => {
            let word = scene.fill(boot).unwrap_or_else(|| boot.clone());
            format!("add {word} to the kernel's command line")
        }
        (None, _) => "see kernel-config".to_owned(),
    }
}

fn shown(value: &str) -> &str {
    if value.is_empty() { "nothing" } else { value }
}

fn kind(place: Place) -> &'static str {
    match place {
        Place::Node | Place::Instance => "node",
        Place::Uplinks => "uplinks",
        Place::Pods => "pods",
        Place::Trunk => "trunk0",
        Place::Dataplane => "dataplane",
    }
}
