//! Reads and writes one setting of a node, wherever it is: files below a root, ethtool, a process.
//!
//! Files are those of the root that was named (a container sees the host's below a mount);
//! interfaces are those of the calling thread's network namespace. What a kernel does not have is
//! [`Reading::Absent`], never an error, because kernels differ.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use penstock_xsk::ethtool::{self, Feature};

use crate::knob::How;

/// Where kubelet's configuration is, the later files over the earlier (EKS images).
const KUBELET_FILES: [&str; 2] = [
    "/var/lib/kubelet/config.yaml",
    "/etc/kubernetes/kubelet/config.json",
];
const KUBELET_DROP_INS: &str = "/etc/kubernetes/kubelet/config.json.d";

/// Bits of `CapEff`, include/uapi/linux/capability.h.
const CAPABILITIES: [(&str, u32); 6] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_IPC_LOCK", 14),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_NICE", 23),
    ("CAP_BPF", 39),
];

/// What was found of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Its value.
    Value(String),
    /// It is not here, and why.
    Absent(String),
}

/// What has the setting: an interface, a process, or the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Subject {
    /// Name of the interface; empty for the others.
    pub(crate) ifname: String,
    /// The process, where one is meant.
    pub(crate) pid: Option<u32>,
}

/// The node's files and interfaces.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    root: PathBuf,
}

impl Host {
    /// The host whose file system is at `root`.
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// `path`, which is absolute, below the root.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's content without the line's end.
    ///
    /// # Errors
    /// As the kernel says.
    pub(crate) fn read_file(&self, path: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.path(path))?.trim_end().to_owned())
    }

    /// Reads a setting. Its texts have no placeholders left.
    ///
    /// # Errors
    /// When it is there and cannot be read; usually for want of privilege.
    pub(crate) fn read(&self, how: &How, subject: &Subject) -> io::Result<Reading> {
        match how {
            How::Sysctl { sysctl } => self.read_value(&sysctl_path(sysctl, &subject.ifname)),
            How::File { file } | How::Boot { file, .. } => {
                self.read_value(&file.replace("{if}", &subject.ifname))
            }
            How::Offload { offload } => read_offload(offload, &subject.ifname),
            How::Limit { limit } => self.read_limit(limit, subject.pid),
            How::Capability { capability } => self.read_capability(capability, subject.pid),
            How::Kubelet { kubelet } => Ok(self.read_kubelet(kubelet)),
            How::Line { line, file } => self.read_line(file, line),
            How::Driver { .. } => Ok(ethtool::driver(&subject.ifname).map_or_else(
                |error| Reading::Absent(error.to_string()),
                |driver| Reading::Value(driver.version),
            )),
            How::Ethtool { ethtool, show, .. } => read_ethtool(ethtool, show, &subject.ifname),
            How::LaunchTemplate { .. } => {
                Ok(Reading::Absent("cannot be read on the node".to_owned()))
            }
        }
    }

    /// Writes a setting that can be changed live.
    ///
    /// # Errors
    /// When it cannot be, or the kernel refuses.
    pub(crate) fn write(&self, how: &How, subject: &Subject, value: &str) -> io::Result<()> {
        match how {
            How::Sysctl { sysctl } => {
                fs::write(self.path(&sysctl_path(sysctl, &subject.ifname)), value)
            }
            How::File { file } => {
                fs::write(self.path(&file.replace("{if}", &subject.ifname)), value)
            }
            How::Offload { offload } => {
                let feature = feature_of(offload)?;
                ethtool::set_feature(&subject.ifname, feature, value == "on")
                    .map_err(io::Error::other)
            }
            How::Ethtool { ethtool, set, .. } => {
                run_ethtool(&[set, &subject.ifname, ethtool, value]).map(drop)
            }
            _ => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "cannot be changed while the node runs",
            )),
        }
    }

    fn read_value(&self, path: &str) -> io::Result<Reading> {
        match self.read_file(path) {
            Ok(value) => Ok(Reading::Value(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Reading::Absent(format!("{path} is not here")))
            }
            Err(error) => Err(error),
        }
    }

    fn read_limit(&self, limit: &str, pid: Option<u32>) -> io::Result<Reading> {
        let Some(pid) = pid else {
            return Ok(Reading::Absent("the process is not here".to_owned()));
        };
        // What the process may lock whatever its limit.
        let exempt = self.read_capability("CAP_IPC_LOCK", Some(pid))?;
        if exempt == Reading::Value("effective".to_owned()) {
            return Ok(Reading::Value("unlimited".to_owned()));
        }
        let limits = self.read_value(&format!("/proc/{pid}/limits"))?;
        let Reading::Value(limits) = limits else {
            return Ok(limits);
        };
        let soft = limits.lines().find_map(|line| line.strip_prefix(limit));
        let soft = soft.and_then(|rest| rest.split_whitespace().next());
        Ok(soft.map_or_else(
            || Reading::Absent(format!("no limit {limit}")),
            |soft| Reading::Value(soft.to_owned()),
        ))
    }

    fn read_capability(&self, capability: &str, pid: Option<u32>) -> io::Result<Reading> {
        let Some(pid) = pid else {
            return Ok(Reading::Absent("the process is not here".to_owned()));
        };
        let status = self.read_value(&format!("/proc/{pid}/status"))?;
        let Reading::Value(status) = status else {
            return Ok(status);
        };
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .ok_or_else(|| io::Error::other(format!("no CapEff of process {pid}")))?;
        let held = |name: &str| {
            CAPABILITIES
                .iter()
                .any(|(known, bit)| *known == name && mask & (1 << bit) != 0)
        };
        // CAP_SYS_ADMIN stands for the younger CAP_BPF (capabilities(7)).
        let effective = held(capability) || (capability == "CAP_BPF" && held("CAP_SYS_ADMIN"));
        let word = if effective { "effective" } else { "missing" };
        Ok(Reading::Value(word.to_owned()))
    }

    fn read_kubelet(&self, key: &str) -> Reading {
        let mut files: Vec<PathBuf> = KUBELET_FILES.iter().map(|file| self.path(file)).collect();
        if let Ok(entries) = fs::read_dir(self.path(KUBELET_DROP_INS)) {
            let mut drop_ins: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            drop_ins.sort();
            files.extend(drop_ins);
        }
        let texts: Vec<String> = files
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok())
            .collect();
        if texts.is_empty() {
            return Reading::Absent("no configuration of kubelet is here".to_owned());
        }
        // JSON is YAML.
        let last = texts.iter().rev().find_map(|text| {
            let value: serde_json::Value = serde_norway::from_str(text).ok()?;
            value.get(key)?.as_str().map(str::to_owned)
        });
        Reading::Value(last.unwrap_or_else(|| "none".to_owned()))
    }

    fn read_line(&self, file: &str, key: &str) -> io::Result<Reading> {
        let text = self.read_value(file)?;
        let Reading::Value(text) = text else {
            return Ok(text);
        };
        let value = text.lines().rev().find_map(|line| {
            let (name, value) = line.trim().split_once('=')?;
            (name.trim_start_matches("export ") == key)
                .then(|| value.trim_matches(['"', '\'']).to_owned())
        });
        Ok(Reading::Value(value.unwrap_or_default()))
    }
}

/// The file of a sysctl key. The interface goes in last: its name may hold a dot.
pub(crate) fn sysctl_path(key: &str, ifname: &str) -> String {
    format!(
        "/proc/sys/{}",
        key.replace('.', "/").replace("{if}", ifname)
    )
}

fn feature_of(offload: &str) -> io::Result<Feature> {
    [
        Feature::TxChecksum,
        Feature::ScatterGather,
        Feature::Tso,
        Feature::Gso,
        Feature::Gro,
    ]
    .into_iter()
    .find(|feature| feature.label() == offload)
    .ok_or_else(|| io::Error::other(format!("no offload is called {offload}")))
}

fn read_offload(offload: &str, ifname: &str) -> io::Result<Reading> {
    let feature = feature_of(offload)?;
    Ok(match ethtool::feature(ifname, feature) {
        Ok(on) => Reading::Value(if on { "on" } else { "off" }.to_owned()),
        Err(error) => Reading::Absent(error.to_string()),
    })
}

fn read_ethtool(key: &str, show: &str, ifname: &str) -> io::Result<Reading> {
    match run_ethtool(&[show, ifname]) {
        Ok(text) => Ok(shown(&text, key).map_or_else(
            || Reading::Absent(format!("ethtool {show} {ifname} shows no {key}")),
            Reading::Value,
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Reading::Absent("ethtool is not installed".to_owned()))
        }
        Err(error) => Ok(Reading::Absent(error.to_string())),
    }
}

/// The value of `key` in what ethtool shows: the last one, since the maxima come first.
fn shown(text: &str, key: &str) -> Option<String> {
    let key = key.replace('-', " ");
    text.lines().rev().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.split_whitespace().next()?;
        (name.trim().eq_ignore_ascii_case(&key) && value != "n/a").then(|| value.to_owned())
    })
}

fn run_ethtool(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("ethtool").args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let problem = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "ethtool {}: {}",
        arguments.join(" "),
        problem.trim()
    )))
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
