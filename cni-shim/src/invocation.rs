//! What the runtime asks, from the environment: parsed and validated before anything is done.
//!
//! Nothing here reaches a path or the kernel unchecked: container ids, interface names and pod
//! names are held to their alphabets and lengths.

use std::env;
use std::path::PathBuf;

use penstock_control_api::{AttachmentKey, Failure, PodIdentity};

use crate::failure::{ENVIRONMENT, failure};

/// Longest container id, pod name, namespace or uid taken; Kubernetes' own names stay below it.
const NAME_BYTES: usize = 253;
/// IFNAMSIZ less its terminator (linux/if.h).
const IFNAME_BYTES: usize = 15;

/// The verbs of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// One call of the plugin.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) command: Command,
    /// Empty for the commands that are not about one container.
    pub(crate) container_id: String,
    pub(crate) ifname: String,
    /// Absent only for DEL, where the namespace may be gone.
    pub(crate) netns: Option<PathBuf>,
    /// Filled in for ADD only.
    pub(crate) pod: PodIdentity,
}

impl Invocation {
    pub(crate) fn from_environment() -> Result<Self, Failure> {
        let command = command(&variable("CNI_COMMAND")?)?;
        let mut invocation = Self {
            command,
            container_id: String::new(),
            ifname: String::new(),
            netns: None,
            pod: PodIdentity::default(),
        };
        if matches!(command, Command::Add | Command::Del | Command::Check) {
            invocation.read_container()?;
        }
        if command == Command::Add {
            invocation.pod = pod_identity(&variable("CNI_ARGS")?)?;
        }
        Ok(invocation)
    }

    fn read_container(&mut self) -> Result<(), Failure> {
        let netns = variable("CNI_NETNS")?;
        self.container_id = variable("CNI_CONTAINERID")?;
        self.ifname = variable("CNI_IFNAME")?;
        let netns_needed = self.command != Command::Del;
        let missing: Vec<_> = [
            ("CNI_CONTAINERID", self.container_id.is_empty()),
            ("CNI_IFNAME", self.ifname.is_empty()),
            ("CNI_NETNS", netns.is_empty() && netns_needed),
        ]
        .iter()
        .filter_map(|(name, missing)| missing.then_some(*name))
        .collect();
        if !missing.is_empty() {
            return Err(invalid(
                format!("missing environment variables: {}", missing.join(", ")),
                "the container runtime sets them for every call",
            ));
        }
        if !is_name(&self.container_id) {
            return Err(invalid(
                "CNI_CONTAINERID is not a container id",
                "expected letters, digits, `_`, `.` and `-`, starting with a letter or digit",
            ));
        }
        if !is_ifname(&self.ifname) {
            return Err(invalid(
                "CNI_IFNAME is not an interface name",
                "expected 1 to 15 bytes without `/`, `:`, `%` and blanks, and not `.` or `..`",
            ));
        }
        self.netns = (!netns.is_empty()).then(|| PathBuf::from(netns));
        Ok(())
    }

    /// The attachment this call is about.
    pub(crate) fn key(&self, network: &str) -> AttachmentKey {
        AttachmentKey {
            network: network.to_owned(),
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
        }
    }
}

fn command(text: &str) -> Result<Command, Failure> {
    match text {
        "ADD" => Ok(Command::Add),
        "DEL" => Ok(Command::Del),
        "CHECK" => Ok(Command::Check),
        "STATUS" => Ok(Command::Status),
        "GC" => Ok(Command::Gc),
        "VERSION" => Ok(Command::Version),
        "" => Err(invalid(
            "missing environment variables: CNI_COMMAND",
            "this is a CNI plugin; a container runtime runs it. `penstock --help` is for people",
        )),
        other => Err(invalid(
            format!("CNI_COMMAND {other:?} is unknown"),
            "expected ADD, DEL, CHECK, STATUS, GC or VERSION",
        )),
    }
}

/// The value of a variable; empty when it is not set.
fn variable(name: &str) -> Result<String, Failure> {
    env::var_os(name)
        .unwrap_or_default()
        .into_string()
        .map_err(|_| invalid(format!("{name} is not UTF-8"), "see the runtime's log"))
}

/// Reads `K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;...`; keys we do not know are not ours.
fn pod_identity(arguments: &str) -> Result<PodIdentity, Failure> {
    let mut pod = PodIdentity::default();
    for pair in arguments.split(';').filter(|_| !arguments.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| {
                invalid(
                    format!("CNI_ARGS: {pair:?} is not KEY=VALUE"),
                    "expected KEY=VALUE pairs joined by `;`",
                )
            })?;
        let field = match key {
            "K8S_POD_NAMESPACE" => &mut pod.namespace,
            "K8S_POD_NAME" => &mut pod.name,
            "K8S_POD_UID" => &mut pod.uid,
            _ => continue,
        };
        if !is_name(value) {
            return Err(invalid(
                format!("CNI_ARGS: {key} is not a Kubernetes name"),
                "expected up to 253 letters, digits, `_`, `.` and `-`",
            ));
        }
        value.clone_into(field);
    }
    if pod.namespace.is_empty() || pod.name.is_empty() {
        return Err(invalid(
            "CNI_ARGS: K8S_POD_NAMESPACE and K8S_POD_NAME are needed",
            "the host interface's name is made from them",
        ));
    }
    Ok(pod)
}

/// The specification's alphabet for container ids and network names, bounded.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// What `dev_valid_name` (net/core/dev.c) takes, less control characters and the kernel's `%d`.
fn is_ifname(text: &str) -> bool {
    (1..=IFNAME_BYTES).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| "/:%".contains(c) || c.is_whitespace() || c.is_control())
}

fn invalid(message: impl Into<String>, details: &str) -> Failure {
    failure(ENVIRONMENT, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_sends_is_understood() {
        let pod = pod_identity(
            "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns-57ff979f67-qqbdh;\
             K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=1-2;IgnoreUnknown=1",
        )
        .unwrap();
        assert_eq!(pod.namespace, "kube-system");
        assert_eq!(pod.name, "coredns-57ff979f67-qqbdh");
        assert_eq!(pod.uid, "1-2");
    }

    #[test]
    fn broken_arguments_are_refused() {
        let long = format!("K8S_POD_NAMESPACE=a;K8S_POD_NAME={}", "x".repeat(300));
        for text in [
            ";;=",
            "K8S_POD_NAME",
            "K8S_POD_NAMESPACE=a;K8S_POD_NAME=",
            "K8S_POD_NAMESPACE=a;K8S_POD_NAME=a\nb",
            "K8S_POD_NAMESPACE=a;K8S_POD_NAME=../x",
            "K8S_POD_NAMESPACE=a",
            "",
            &long,
        ] {
            assert_eq!(pod_identity(text).unwrap_err().code, 4, "{text:?}");
        }
    }

    #[test]
    fn interface_names_are_the_kernels() {
        for good in ["eth0", "a", "exactly15bytes_"] {
            assert!(is_ifname(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "eth%d",
            "sixteen_bytes_xx",
        ] {
            assert!(!is_ifname(bad), "{bad:?}");
        }
    }
}
