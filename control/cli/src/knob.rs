//! The settings of `kernel-config/knobs.toml`, compiled in: what each should be, why, and how it is read.
//!
//! Data only. [`all`] cannot fail at run time: a test reads the same bytes. Nothing here touches the node.

use serde::Deserialize;

const SOURCE: &str = include_str!("../../../kernel-config/knobs.toml");

/// One setting.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Knob {
    /// Name, unique; what `doctor` calls the check.
    pub(crate) id: String,
    /// What has the setting.
    pub(crate) on: Place,
    /// Only where the interface (for the node: the primary ENI) has this driver.
    #[serde(default)]
    pub(crate) driver: Option<String>,
    /// Where the setting is.
    pub(crate) how: How,
    /// The value to set, with placeholders.
    pub(crate) want: String,
    /// Which values will do.
    #[serde(default)]
    pub(crate) compare: Compare,
    /// What its absence costs.
    pub(crate) need: Need,
    /// Whether it can be changed while the node runs.
    pub(crate) live: bool,
    /// Who sets it.
    pub(crate) by: String,
    /// Why.
    pub(crate) why: String,
    /// Where that is written.
    pub(crate) source: String,
    /// What to do, where `penstock tune --apply` does not do it.
    #[serde(default)]
    pub(crate) fix: Option<String>,
    /// The command that reads it, where this program cannot.
    #[serde(default)]
    pub(crate) read: Option<String>,
}

/// What has a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    /// The node as a whole.
    Node,
    /// Every ENI.
    Uplinks,
    /// Every pod's host interface.
    Pods,
    /// `trunk0`.
    Trunk,
    /// The dataplane's process.
    Dataplane,
    /// The EC2 instance; not readable on the node.
    Instance,
}

/// Where a setting is. The first variant whose fields are all there is meant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum How {
    /// A key of sysctl(8).
    Sysctl { sysctl: String },
    /// An offload by ethtool(8)'s name.
    Offload { offload: String },
    /// A line of /proc/PID/limits.
    Limit { limit: String },
    /// A capability of the process.
    Capability { capability: String },
    /// A word of the kernel's command line, and the file that shows its effect.
    Boot { boot: String, file: String },
    /// A key of kubelet's configuration.
    Kubelet { kubelet: String },
    /// `line=value` in a file of shell assignments.
    Line { line: String, file: String },
    /// The driver's version.
    Driver {
        #[serde(rename = "driver")]
        _what: DriverFact,
    },
    /// A value ethtool(8) shows by `show` and sets by `set`.
    Ethtool {
        ethtool: String,
        show: String,
        set: String,
    },
    /// A field of an EC2 launch template.
    LaunchTemplate { launch_template: String },
    /// A file that holds the value.
    File { file: String },
}

/// What of a driver is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DriverFact {
    /// Its version.
    Version,
}

/// Which values will do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compare {
    /// The one wanted.
    #[default]
    Equal,
    /// That or more; version numbers part by part.
    AtLeast,
    /// A list such as `1,4-6` that holds all of the wanted one.
    Covers,
    /// Any of these.
    #[serde(rename = "one_of")]
    OneOf(Vec<String>),
}

/// What the absence of a setting costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Need {
    /// Speed.
    May,
    /// Trouble under load.
    Should,
    /// Packets.
    Must,
}

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    knob: Vec<Knob>,
}

/// All settings, in the file's order.
///
/// # Errors
/// What is wrong with the compiled-in file; a test excludes that.
pub(crate) fn all() -> Result<Vec<Knob>, toml::de::Error> {
    toml::from_str::<File>(SOURCE).map(|file| file.knob)
}

impl Compare {
    /// Whether `found` will do where `want` is wanted. What is no number is not at least anything.
    pub(crate) fn accepts(&self, want: &str, found: &str) -> bool {
        match self {
            Self::Equal => want == found,
            Self::OneOf(values) => values.iter().any(|value| value == found),
            Self::AtLeast => match (version(want), version(found)) {
                (Some(want), Some(found)) => found >= want,
                _ => false,
            },
            Self::Covers => match (ranges(want), ranges(found)) {
                (Some(want), Some(found)) => want.iter().all(|wanted| covered(*wanted, &found)),
                _ => false,
            },
        }
    }

    /// The value to write: the wanted one, which for a list is added to what is there.
    pub(crate) fn target(&self, want: &str, found: &str) -> String {
        if *self == Self::Covers && !found.is_empty() {
            format!("{found},{want}")
        } else {
            want.to_owned()
        }
    }
}

/// Leading numbers of `2.17.0g`, separated by dots.
pub(crate) fn version(text: &str) -> Option<Vec<u64>> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let numbers = text[..end.unwrap_or(text.len())].split('.');
    let numbers: Vec<u64> = numbers.map_while(|part| part.parse().ok()).collect();
    (!numbers.is_empty()).then_some(numbers)
}

/// `1,4-6` as inclusive ranges; nothing for what is none.
fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = (first.parse().ok()?, last.parse().ok()?);
            (range.0 <= range.1).then_some(range)
        })
        .collect()
}

/// Whether the ranges of `by`, together, hold all of `wanted`.
fn covered(wanted: (u32, u32), by: &[(u32, u32)]) -> bool {
    let mut by = by.to_vec();
    by.sort_unstable();
    let mut next = wanted.0;
    for (first, last) in by {
        if first <= next && next <= last {
            if last >= wanted.1 {
                return true;
            }
            next = last + 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_file_is_sound() {
        let knobs = all().unwrap();
        let ids: BTreeSet<_> = knobs.iter().map(|knob| knob.id.as_str()).collect();
        assert_eq!(ids.len(), knobs.len(), "ids are unique");
        for knob in &knobs {
            assert!(
                !knob.why.is_empty() && !knob.source.is_empty(),
                "{}",
                knob.id
            );
            let launch = matches!(knob.how, How::LaunchTemplate { .. });
            assert_eq!(launch, knob.on == Place::Instance, "{}", knob.id);
            assert_eq!(launch, knob.read.is_some(), "{}", knob.id);
            let writable = matches!(
                knob.how,
                How::Sysctl { .. } | How::File { .. } | How::Offload { .. } | How::Ethtool { .. }
            );
            assert!(writable || !knob.live, "{} cannot be set live", knob.id);
            let advised = knob.live || launch || knob.fix.is_some();
            let booted = matches!(knob.how, How::Boot { .. });
            assert!(advised || booted, "{} says what to do", knob.id);
        }
    }

    #[test]
    fn lists_are_compared_as_sets() {
        let covers = |want, found| Compare::Covers.accepts(want, found);
        assert!(covers("11000-29999", "11000-29999"));
        assert!(covers("11000-29999", "8080,11000-20000,20001-30000"));
        assert!(!covers("11000-29999", "11000-20000,20002-30000"));
        assert!(!covers("11000-29999", ""));
        assert!(covers("2,3", "0-7"));
        assert!(!covers("2,3", "three"));
        assert_eq!(Compare::Covers.target("5-6", "1"), "1,5-6");
        assert_eq!(Compare::Covers.target("5-6", ""), "5-6");
    }

    #[test]
    fn versions_are_compared_part_by_part() {
        let at_least = |want, found| Compare::AtLeast.accepts(want, found);
        assert!(at_least("2.17.0", "2.17.0g"));
        assert!(at_least("2.9.1", "2.13.2g"));
        assert!(!at_least("2.17.0", "2.13.2g"));
        assert!(at_least("8192", "10000"));
        assert!(!at_least("8192", "unlimited"));
        assert_eq!(version("6.12.40-64.114.amzn2023"), Some(vec![6, 12, 40]));
    }
}
