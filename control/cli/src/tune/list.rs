//! The table of settings for people and programs.

use serde_json::json;

use crate::knob::{Compare, How, Knob, Need, Place};
use crate::table::{Column, View, text};

/// All of `knobs`, with their placeholders as they are.
pub(super) fn view(knobs: &[Knob]) -> View {
    const COLUMNS: &[Column] = &[
        text("SETTING"),
        text("ON"),
        text("VALUE"),
        text("NEED"),
        text("LIVE"),
        text("BY"),
        text("READ BACK").wide(),
        text("WHY").wide(),
        text("SOURCE").wide(),
    ];
    let cells = |knob: &Knob| {
        vec![
            knob.id.clone(),
            place(knob).to_owned(),
            value(knob),
            need(knob.need).to_owned(),
            if knob.live { "yes" } else { "no" }.to_owned(),
            knob.by.clone(),
            read_back(knob),
            knob.why.clone(),
            knob.source.clone(),
        ]
    };
    let object = |knob: &Knob| {
        json!({
            "setting": knob.id,
            "on": place(knob),
            "driver": knob.driver,
            "value": knob.want,
            "need": need(knob.need),
            "live": knob.live,
            "by": knob.by,
            "read_back": read_back(knob),
            "why": knob.why,
            "source": knob.source,
        })
    };
    View {
        json: knobs.iter().map(object).collect(),
        columns: COLUMNS,
        rows: knobs.iter().map(cells).collect(),
    }
}

fn place(knob: &Knob) -> &'static str {
    match knob.on {
        Place::Node => "node",
        Place::Uplinks => "uplinks",
        Place::Pods => "pods",
        Place::Trunk => "trunk0",
        Place::Dataplane => "dataplane",
        Place::Instance => "instance",
    }
}

fn need(need: Need) -> &'static str {
    match need {
        Need::May => "may",
        Need::Should => "should",
        Need::Must => "must",
    }
}

fn value(knob: &Knob) -> String {
    match &knob.compare {
        Compare::Equal | Compare::OneOf(_) => knob.want.clone(),
        Compare::AtLeast => format!(">= {}", knob.want),
        Compare::Covers => format!("with {}", knob.want),
    }
}

/// The command a person reads it by.
fn read_back(knob: &Knob) -> String {
    if let Some(read) = &knob.read {
        return read.clone();
    }
    match &knob.how {
        How::Sysctl { sysctl } => format!("sysctl {sysctl}"),
        How::File { file } | How::Boot { file, .. } => format!("cat {file}"),
        How::Offload { .. } => "ethtool -k {if}".to_owned(),
        How::Limit { limit } => format!("grep '{limit}' /proc/PID/limits"),
        How::Capability { .. } => "grep CapEff /proc/PID/status".to_owned(),
        How::Kubelet { kubelet } => format!("grep {kubelet} /etc/kubernetes/kubelet/config.json"),
        How::Line { line, file } => format!("grep {line} {file}"),
        How::Driver { .. } => "ethtool -i {if}".to_owned(),
        How::Ethtool { show, .. } => format!("ethtool {show} {{if}}"),
        How::LaunchTemplate { launch_template } => launch_template.clone(),
    }
}
