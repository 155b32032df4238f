//! Running a command inside a lab: finds the namespace a name stands for, enters it, and becomes
//! the command.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use penstock_lab::{NetNs, netns};

use super::directory_of;
use crate::failure::Failure;

/// Becomes `command` inside `place`; returns only when that failed. In a node, the daemons' run
/// directory is set for `penstock` itself.
pub(super) fn exec(id: &str, place: &str, command: &[OsString]) -> Result<(), Failure> {
    let found = resolve(&places(id)?, place).map_err(|problem| no_place(id, &problem))?;
    let namespace = NetNs::open(&format!("{}{found}", prefix(id)))?;
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    setns(File::open(namespace.path())?, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Failure::Lab(format!("cannot enter {place}: {errno}; use sudo")))?;
    let mut process = Command::new(program);
    process.args(arguments);
    let run_dir = directory_of(id).join(&found).join("run");
    if run_dir.is_dir() {
        process.env("PENSTOCK_RUN_DIR", run_dir);
    }
    let error = process.exec();
    Err(Failure::Lab(format!(
        "cannot run {}: {error}",
        program.to_string_lossy()
    )))
}

/// All namespaces of a lab, without its prefix, sorted.
pub(super) fn places(id: &str) -> Result<Vec<String>, Failure> {
    let prefix = prefix(id);
    let mut places: Vec<_> = netns::list(&prefix)?
        .iter()
        .filter_map(|name| name.strip_prefix(&prefix))
        .map(str::to_owned)
        .collect();
    places.sort();
    Ok(places)
}

/// The namespace called `name`, or the only pod of that name: pods' namespaces are called
/// `pod-<node>-<serial>-<pod>`.
fn resolve(places: &[String], name: &str) -> Result<String, String> {
    if places.iter().any(|place| place == name) {
        return Ok(name.to_owned());
    }
    let pods: Vec<_> = places
        .iter()
        .filter(|place| pod_name(place) == Some(name))
        .collect();
    match pods.as_slice() {
        [pod] => Ok((*pod).clone()),
        [] if places.is_empty() => Err("it is not up; `penstock lab up`".to_owned()),
        [] => Err(format!("no `{name}`; there are {}", places.join(", "))),
        several => {
            let names: Vec<_> = several.iter().map(|place| place.as_str()).collect();
            Err(format!(
                "several pods are called `{name}`: {}",
                names.join(", ")
            ))
        }
    }
}

fn pod_name(place: &str) -> Option<&str> {
    place.strip_prefix("pod-")?.splitn(3, '-').nth(2)
}

fn prefix(id: &str) -> String {
    format!("pen-{id}-")
}

fn no_place(id: &str, problem: &str) -> Failure {
    Failure::Lab(format!("lab {id}: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<String> {
        [
            "fabric",
            "node1",
            "node2",
            "outside",
            "pod-1-0-web-1",
            "pod-1-1-db-1",
            "pod-2-0-db-1",
        ]
        .map(str::to_owned)
        .into()
    }

    #[test]
    fn places_go_by_their_names_and_pods_by_theirs() {
        assert_eq!(resolve(&all(), "node2").unwrap(), "node2");
        assert_eq!(resolve(&all(), "web-1").unwrap(), "pod-1-0-web-1");
        assert_eq!(resolve(&all(), "pod-2-0-db-1").unwrap(), "pod-2-0-db-1");
    }

    #[test]
    fn what_is_missing_or_ambiguous_is_explained() {
        assert!(
            resolve(&all(), "db-1")
                .unwrap_err()
                .contains("pod-2-0-db-1")
        );
        assert!(
            resolve(&all(), "1")
                .unwrap_err()
                .contains("there are fabric")
        );
        assert!(
            resolve(&[], "node1")
                .unwrap_err()
                .contains("penstock lab up")
        );
    }
}
