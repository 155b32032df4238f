//! The host below Penstock: kernel, BTF, the runtime's plugins, kernel rules, metadata service.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use super::{Finding, Verdict};
use crate::host::Host;
use crate::knob::{Compare, version};

/// TCX, by which pods' hooks are attached, came with it.
const OLDEST_KERNEL: &str = "6.6";

/// The names under which the agent installs (`control/src/install.rs`).
const PLUGIN: &str = "penstock-cni";
const CONFLIST: &str = "05-penstock.conflist";

/// Longest the metadata service may take; it answers within milliseconds.
const METADATA_DEADLINE: Duration = Duration::from_secs(2);
/// The metadata service's address, and the variable the SDKs take another from.
const METADATA: &str = "http://169.254.169.254";
const METADATA_VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";

/// All of it.
pub(super) fn check(host: &Host, conf_dir: &str, bin_dir: &str) -> Vec<Finding> {
    vec![
        kernel(host),
        btf(host),
        configuration(host, conf_dir),
        plugin(host, bin_dir),
        policy(),
        metadata(),
    ]
}

fn kernel(host: &Host) -> Finding {
    let name = ("kernel", "node");
    match host.read_file("/proc/sys/kernel/osrelease") {
        Ok(release) if Compare::AtLeast.accepts(OLDEST_KERNEL, &release) => {
            Finding::pass(name.0, name.1, release)
        }
        Ok(release) if version(&release).is_some() => {
            let found = format!("{release}, older than {OLDEST_KERNEL}: pods' hooks need TCX");
            let fix = format!("a machine image with kernel {OLDEST_KERNEL} or later");
            Finding::bad(Verdict::Fail, name, found, fix)
        }
        Ok(release) => Finding::bad(Verdict::Warn, name, release, "not a version number"),
        Err(error) => Finding::bad(Verdict::Warn, name, error.to_string(), "is /proc mounted?"),
    }
}

fn btf(host: &Host) -> Finding {
    let path = "/sys/kernel/btf/vmlinux";
    if host.path(path).exists() {
        return Finding::pass("btf", "node", "present");
    }
    let found = format!("{path} is missing: tools cannot name the kernel's structures");
    let fix = "a kernel with CONFIG_DEBUG_INFO_BTF";
    Finding::bad(Verdict::Warn, ("btf", "node"), found, fix)
}

/// The runtime takes the first configuration by name.
fn configuration(host: &Host, directory: &str) -> Finding {
    let name = ("cni-configuration", "node");
    let is_configuration = |file: &String| {
        [".conf", ".conflist", ".json"]
            .iter()
            .any(|end| file.ends_with(end))
    };
    let mut files: Vec<String> = fs::read_dir(host.path(directory))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(is_configuration)
        .collect();
    files.sort();
    match files.first() {
        Some(first) if first == CONFLIST => {
            Finding::pass(name.0, name.1, format!("{directory}/{CONFLIST}"))
        }
        Some(first) if files.iter().any(|file| file == CONFLIST) => Finding::bad(
            Verdict::Fail,
            name,
            format!("{directory}/{first} comes first: new pods get another network"),
            format!("remove {directory}/{first}, or rename it to come after {CONFLIST}"),
        ),
        first => Finding::bad(
            Verdict::Fail,
            name,
            match first {
                Some(first) => format!("{directory}/{first} only: new pods get another network"),
                None => format!("{directory} has none: no pod can start"),
            },
            "penstock-control install",
        ),
    }
}

fn plugin(host: &Host, directory: &str) -> Finding {
    let name = ("cni-plugin", "node");
    let path = format!("{directory}/{PLUGIN}");
    let runs = |metadata: &fs::Metadata| metadata.permissions().mode() & 0o111 != 0;
    match fs::metadata(host.path(&path)) {
        Ok(metadata) if runs(&metadata) => Finding::pass(name.0, name.1, path),
        Ok(_) => {
            let found = format!("{path} may not be executed");
            Finding::bad(Verdict::Fail, name, found, format!("chmod 755 {path}"))
        }
        Err(error) => {
            let found = format!("{path}: {error}");
            Finding::bad(Verdict::Fail, name, found, "penstock-control install")
        }
    }
}

/// The kernel's half of the policy.
fn policy() -> Finding {
    let name = ("policy-table", "node");
    let listed = Command::new("nft").args(["list", "tables"]).output();
    let tables = match listed {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => {
            let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Finding::bad(Verdict::Warn, name, problem, "run as root");
        }
        Err(error) => {
            let found = format!("nft: {error}");
            return Finding::bad(Verdict::Fail, name, found, "install nftables");
        }
    };
    let tables = String::from_utf8_lossy(&tables).into_owned();
    let missing: Vec<&str> = ["table ip penstock", "table ip6 penstock"]
        .into_iter()
        .filter(|table| !tables.lines().any(|line| line.trim() == *table))
        .collect();
    if missing.is_empty() {
        return Finding::pass(name.0, name.1, "present");
    }
    let found = format!(
        "{} is missing: the kernel path has no source guard and no SNAT",
        missing.join(" and ")
    );
    Finding::bad(Verdict::Fail, name, found, "restart penstock-control")
}

/// A session token, as every call of the agent begins.
fn metadata() -> Finding {
    let name = ("metadata-service", "node");
    let endpoint = std::env::var(METADATA_VARIABLE).unwrap_or_else(|_| METADATA.to_owned());
    match token(&endpoint) {
        Ok(()) => Finding::pass(name.0, name.1, format!("{endpoint} gives tokens")),
        Err(error) => Finding::bad(
            Verdict::Fail,
            name,
            format!("{endpoint}: {error}"),
            "switch the instance's metadata service on; hop limit 1 is enough in the host's network",
        ),
    }
}

fn token(endpoint: &str) -> io::Result<()> {
    let authority = endpoint
        .strip_prefix("http://")
        .unwrap_or(endpoint)
        .trim_end_matches('/');
    let address: SocketAddr = authority
        .parse()
        .or_else(|_| format!("{authority}:80").parse())
        .map_err(|_| io::Error::other("not an address"))?;
    let mut stream = TcpStream::connect_timeout(&address, METADATA_DEADLINE)?;
    stream.set_read_timeout(Some(METADATA_DEADLINE))?;
    stream.set_write_timeout(Some(METADATA_DEADLINE))?;
    write!(
        stream,
        "PUT /latest/api/token HTTP/1.1\r\nHost: {authority}\r\n\
         X-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    // The status line is all that counts; a larger answer is none of a metadata service.
    stream.take(4096).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) == Some("200") {
        return Ok(());
    }
    Err(io::Error::other(format!("answered {status:?}")))
}
