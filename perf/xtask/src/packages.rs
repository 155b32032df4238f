//! The system packages that building and running need, installed by the system's own manager.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::step::{Privilege, Step};

/// A thing needed, how to see that it is there, and what the package is called.
struct Need {
    /// A command on PATH, or a file, that proves presence.
    proof: Proof,
    /// Package name for apt.
    apt: &'static str,
    /// Package name for dnf (Amazon Linux 2023).
    dnf: &'static str,
    /// What for.
    reason: &'static str,
}

enum Proof {
    Command(&'static str),
    File(&'static str),
    /// Distributions put it in one of these places.
    OneOf(&'static [&'static str]),
}

const NEEDS: &[Need] = &[
    Need {
        proof: Proof::Command("clang"),
        apt: "clang",
        dnf: "clang",
        reason: "compiles the BPF programs",
    },
    Need {
        proof: Proof::Command("make"),
        apt: "make",
        dnf: "make",
        reason: "builds libbpf",
    },
    Need {
        proof: Proof::Command("pkg-config"),
        apt: "pkg-config",
        dnf: "pkgconf-pkg-config",
        reason: "builds libbpf",
    },
    Need {
        proof: Proof::File("/usr/include/libelf.h"),
        apt: "libelf-dev",
        dnf: "elfutils-libelf-devel",
        reason: "builds libbpf",
    },
    Need {
        proof: Proof::File("/usr/include/zlib.h"),
        apt: "zlib1g-dev",
        dnf: "zlib-devel",
        reason: "builds libbpf",
    },
    Need {
        proof: Proof::File("/usr/include/linux/bpf.h"),
        apt: "linux-libc-dev",
        dnf: "kernel-headers",
        reason: "kernel interfaces for the BPF programs",
    },
    Need {
        proof: Proof::Command("ip"),
        apt: "iproute2",
        dnf: "iproute",
        reason: "used by tests to check the kernel's view",
    },
    Need {
        proof: Proof::Command("ethtool"),
        apt: "ethtool",
        dnf: "ethtool",
        reason: "switches a lab wire's offloads off",
    },
    Need {
        proof: Proof::Command("tcpdump"),
        apt: "tcpdump",
        dnf: "tcpdump",
        reason: "shows tests what a lab wire carries",
    },
    Need {
        proof: Proof::Command("strace"),
        apt: "strace",
        dnf: "strace",
        reason: "kills a daemon at a system call, for tests",
    },
    Need {
        proof: Proof::Command("ping"),
        apt: "iputils-ping",
        dnf: "iputils",
        reason: "to try a kept demo by hand",
    },
    Need {
        proof: Proof::Command("nft"),
        apt: "nftables",
        dnf: "nftables",
        reason: "the fallback path's SNAT and source guard",
    },
    Need {
        proof: Proof::Command("iptables"),
        apt: "iptables",
        dnf: "iptables-nft",
        reason: "the reference node with the VPC CNI's rules",
    },
    Need {
        proof: Proof::Command("containerd"),
        apt: "containerd",
        dnf: "containerd",
        reason: "tests run pods by it, relocated; the machine's own is not used",
    },
    Need {
        proof: Proof::Command("runc"),
        apt: "runc",
        dnf: "runc",
        reason: "the same",
    },
    Need {
        proof: Proof::OneOf(&[
            "/usr/lib/cni/portmap",
            "/opt/cni/bin/portmap",
            "/usr/libexec/cni/portmap",
        ]),
        apt: "containernetworking-plugins",
        dnf: "cni-plugins",
        reason: "the reference CNI plugins: in chains with ours, and to compare with",
    },
    Need {
        proof: Proof::File("/bin/busybox"),
        apt: "busybox-static",
        dnf: "busybox",
        reason: "what the pods of these tests run",
    },
];

/// Installs what is missing, and says so first.
///
/// # Errors
/// When something is missing and neither apt-get nor dnf is there, or the manager fails.
pub(crate) fn ensure() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !present(&need.proof)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: this machine lacks:");
    for need in &missing {
        eprintln!("  {:<18} {}", need.apt, need.reason);
    }
    if command_exists("apt-get") {
        let names: Vec<&str> = missing.iter().map(|need| need.apt).collect();
        Step::program("apt-get", Privilege::Root)
            .args(["update", "-qq"])
            .run("apt-get update")?;
        Step::program("env", Privilege::Root)
            .args([
                "DEBIAN_FRONTEND=noninteractive",
                "apt-get",
                "install",
                "-y",
                "-qq",
            ])
            .args(["--no-install-recommends"])
            .args(&names)
            .run(&format!("apt-get install {}", names.join(" ")))
    } else if command_exists("dnf") {
        let names: Vec<&str> = missing.iter().map(|need| need.dnf).collect();
        Step::program("dnf", Privilege::Root)
            .args(["install", "-y", "-q"])
            .args(&names)
            .run(&format!("dnf install {}", names.join(" ")))
    } else {
        bail!("neither apt-get nor dnf is here; install the above by hand and run this again")
    }
}

fn present(proof: &Proof) -> bool {
    match proof {
        Proof::Command(name) => command_exists(name),
        Proof::File(path) => Path::new(path).exists(),
        Proof::OneOf(paths) => paths.iter().any(|path| Path::new(path).exists()),
    }
}

/// Whether the shell finds `name`; system directories count, since root's PATH has them.
fn command_exists(name: &str) -> bool {
    let on_path = Command::new("sh")
        .args(["-c", &format!("command -v {name}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    on_path
        || ["/usr/sbin", "/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(name).exists())
}
