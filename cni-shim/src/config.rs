//! The network configuration on standard input: read within bounds, then parsed and validated.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use penstock_control_api::Failure;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::failure::{CONFIG, DECODE, IO, UNSUPPORTED, VERSION, failure};
use crate::invocation::is_name;
use crate::{LATEST, SUPPORTED};

/// Largest configuration read.
const CONFIG_BYTES: usize = 1 << 20;
/// Longest wait for its end.
const CONFIG_DEADLINE: Duration = Duration::from_secs(5);
/// MTUs a pod's interface may have: RFC 791's least datagram, and EC2's jumbo frame.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 576..=9001;
/// Longest host interface prefix: 4 + 11 hex digits fill an interface name.
const VETH_PREFIX_BYTES: usize = 4;

/// The network configuration, valid.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) version: String,
    pub(crate) name: String,
    pub(crate) veth_prefix: String,
    pub(crate) run_dir: PathBuf,
    /// Largest MTU the agent may give.
    pub(crate) mtu: Option<u32>,
    pub(crate) dns: Value,
    pub(crate) previous: Option<Map<String, Value>>,
    wishes: RuntimeConfig,
    /// GC only.
    pub(crate) valid_attachments: Option<Vec<ValidAttachment>>,
}

/// An attachment the runtime still has.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(crate) container_id: String,
    pub(crate) ifname: String,
}

/// What the runtime passes for the capabilities a configuration declares. Those not named here
/// (`portMappings`, `bandwidth`, ...) are carried out by the plugins after this one.
#[derive(Debug, Deserialize, Default)]
struct RuntimeConfig {
    ips: Option<Value>,
    mac: Option<Value>,
}

/// The configuration as written; keys we do not know belong to others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawConfig {
    cni_version: Option<String>,
    name: Option<String>,
    veth_prefix: Option<String>,
    run_dir: Option<PathBuf>,
    mtu: Option<Value>,
    dns: Option<Map<String, Value>>,
    prev_result: Option<Map<String, Value>>,
    runtime_config: Option<RuntimeConfig>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

impl Config {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// Code 5 or 6 when it cannot be had, 1 for a version we do not speak, 7 for bad content.
    pub(crate) fn read(stream: impl Read + AsFd) -> Result<Self, Failure> {
        Self::parse(&bounded(stream)?)
    }

    /// The version of a configuration that need not be whole, as VERSION's is not.
    pub(crate) fn read_version(stream: impl Read + AsFd) -> Option<String> {
        let raw: RawConfig = serde_json::from_slice(&bounded(stream).ok()?).ok()?;
        raw.cni_version
            .filter(|version| SUPPORTED.contains(&version.as_str()))
    }

    /// Whether ADD can grant what the runtime asks for: a pod must not come up with another address
    /// than was wanted.
    ///
    /// # Errors
    /// Code 2, with key and value.
    pub(crate) fn is_grantable(&self) -> Result<(), Failure> {
        let RuntimeConfig { ips, mac } = &self.wishes;
        let reasons = [
            ("ips", ips, "EC2 decides which addresses a node has"),
            ("mac", mac, "the plugin chooses hardware addresses"),
        ];
        let asked = |value: &Value| !["null", "[]", "\"\""].contains(&value.to_string().as_str());
        for (key, value, reason) in reasons {
            if let Some(value) = value.as_ref().filter(|value| asked(value)) {
                return Err(failure(
                    UNSUPPORTED,
                    format!("runtimeConfig: `{key}` {value} is not supported"),
                    format!("{reason}; take `{key}` out of the configuration's `capabilities`"),
                ));
            }
        }
        Ok(())
    }

    fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        // A `Value` first: serde_json bounds its depth, which it does not for skipped keys.
        serde_json::from_slice::<Value>(bytes).map_err(|error| undecodable(&error))?;
        let raw: RawConfig = serde_json::from_slice(bytes).map_err(|error| undecodable(&error))?;
        // The specification: a configuration without a version is 0.1.0.
        let version = raw.cni_version.unwrap_or_else(|| "0.1.0".to_owned());
        if !SUPPORTED.contains(&version.as_str()) {
            return Err(failure(
                VERSION,
                format!("cniVersion {version:?} is not supported"),
                format!(
                    "supported: {}; the latest is {LATEST}",
                    SUPPORTED.join(", ")
                ),
            ));
        }
        Ok(Self {
            version,
            name: network_name(raw.name)?,
            veth_prefix: veth_prefix(raw.veth_prefix)?,
            run_dir: run_dir(raw.run_dir)?,
            mtu: raw.mtu.as_ref().map(mtu).transpose()?,
            dns: Value::Object(raw.dns.unwrap_or_default()),
            previous: raw.prev_result,
            wishes: raw.runtime_config.unwrap_or_default(),
            valid_attachments: raw.valid_attachments,
        })
    }
}

fn network_name(name: Option<String>) -> Result<String, Failure> {
    name.filter(|name| is_name(name)).ok_or_else(|| {
        invalid(
            "name",
            "expected letters, digits, `_`, `.` and `-`, starting with a letter or digit",
        )
    })
}

fn veth_prefix(prefix: Option<String>) -> Result<String, Failure> {
    let prefix = prefix.unwrap_or_else(|| "eni".to_owned());
    let taken = ["eth", "lo", "vlan"].contains(&prefix.as_str());
    let well_formed = (1..=VETH_PREFIX_BYTES).contains(&prefix.len())
        && prefix.chars().all(|c| c.is_ascii_alphanumeric());
    if taken || !well_formed {
        return Err(invalid(
            "vethPrefix",
            "expected 1 to 4 letters or digits, and not `eth`, `lo` or `vlan`",
        ));
    }
    Ok(prefix)
}

fn run_dir(path: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let path = path.unwrap_or_else(|| PathBuf::from("/run/penstock"));
    if !path.is_absolute() {
        return Err(invalid("runDir", "expected an absolute path"));
    }
    Ok(path)
}

/// A number, or a decimal string as the VPC CNI writes it.
fn mtu(value: &Value) -> Result<u32, Failure> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| number.try_into().ok()),
    };
    number.filter(|mtu| MTU_RANGE.contains(mtu)).ok_or_else(|| {
        invalid(
            "mtu",
            "expected 576 to 9001; leave it out to take the agent's",
        )
    })
}

fn bounded(mut stream: impl Read + AsFd) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: io::Error| {
        failure(
            IO,
            "cannot read the network configuration from standard input",
            error.to_string(),
        )
    };
    let deadline = Instant::now() + CONFIG_DEADLINE;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        wait_readable(&stream, deadline).map_err(unreadable)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
        if bytes.len() > CONFIG_BYTES {
            return Err(failure(
                DECODE,
                "the network configuration is too large",
                format!("at most {CONFIG_BYTES} bytes are read"),
            ));
        }
    }
}

fn wait_readable(stream: &impl AsFd, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => {
                let text = format!("no end of input within {CONFIG_DEADLINE:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn undecodable(error: &serde_json::Error) -> Failure {
    failure(
        DECODE,
        "the network configuration is not the expected JSON",
        error.to_string(),
    )
}

fn invalid(key: &str, expected: &str) -> Failure {
    failure(
        CONFIG,
        format!("network configuration: `{key}` is missing or invalid"),
        expected,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> u32 {
        Config::parse(text.as_bytes()).unwrap_err().code
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = Config::parse(br#"{"cniVersion":"1.0.0","name":"n","extra":[1]}"#).unwrap();
        assert_eq!(config.veth_prefix, "eni");
        assert_eq!(config.run_dir, PathBuf::from("/run/penstock"));
        assert_eq!(config.mtu, None);
    }

    #[test]
    fn every_key_is_checked() {
        let with = |extra: &str| format!(r#"{{"cniVersion":"1.0.0","name":"n",{extra}}}"#);
        for bad in [
            r#""vethPrefix":"eth""#,
            r#""vethPrefix":"fiveb""#,
            r#""vethPrefix":"""#,
            r#""vethPrefix":"a/b""#,
            r#""runDir":"relative""#,
            r#""mtu":"abc""#,
            r#""mtu":-1"#,
            r#""mtu":1000000000"#,
            r#""mtu":1e9"#,
            r#""mtu":[]"#,
        ] {
            assert_eq!(code(&with(bad)), 7, "{bad}");
        }
        for bad in [r#""vethPrefix":1"#, r#""name":"m""#, r#""prevResult":3"#] {
            assert_eq!(code(&with(bad)), 6, "{bad}");
        }
        assert!(Config::parse(with(r#""mtu":"1500""#).as_bytes()).is_ok());
    }

    #[test]
    fn versions_are_named_when_refused() {
        for text in [r#"{"name":"n"}"#, r#"{"cniVersion":"9.9.9","name":"n"}"#] {
            let failure = Config::parse(text.as_bytes()).unwrap_err();
            assert_eq!(failure.code, 1);
            for version in SUPPORTED {
                assert!(failure.details.contains(version), "{}", failure.details);
            }
        }
    }
}
