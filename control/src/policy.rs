//! The kernel's half of the policy, as one nftables transaction.
//!
//! What a worker decides, the kernel decides the same way when a packet comes to it: source guard, metadata service,
//! what leaves the VPC is marked for the primary ENI and translated, what belongs to no pod is not sent back out.
//! Nothing here depends on the pods that exist (the source guard asks the route table, which has one /32 per pod), so
//! attaching a pod runs no process and costs the same with 250 pods as with one.
//!
//! Rendering is pure; [`apply`] hands the text to `nft`. Replacing the table is atomic: no packet sees half of it.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;

use ipnet::Ipv4Net;
use penstock_dataplane_api::{Access, PortChoice, PortRange};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::node::PRIMARY_MARK;

/// Ports and ICMP identifiers the kernel's own SNAT uses; never the dataplane's, so the two cannot collide.
pub const KERNEL_SNAT_PORTS: PortRange = PortRange {
    first: 32_768,
    last: 60_999,
};

/// The kernel end of the trunk: packets a worker gives back to the kernel arrive here.
const TRUNK: &str = "trunk0";

/// Everything the rules depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Prefix of pods' host interfaces.
    pub veth_prefix: String,
    /// Interface of the primary ENI.
    pub primary: String,
    /// Interfaces of all ENIs, the primary included.
    pub uplinks: Vec<String>,
    /// Destinations reached with the pod's own address: VPC and exclusions.
    pub direct: Vec<Ipv4Net>,
    /// Node's primary address.
    pub address: Ipv4Addr,
    /// `None` when something outside translates.
    pub snat: Option<PortChoice>,
    /// Ports the dataplane translates to.
    pub dataplane_ports: PortRange,
    /// Whether pods may reach the instance metadata service.
    pub imds: Access,
    /// Whether pods' answers to who came to the node's own address leave by the primary ENI.
    pub node_ports: bool,
}

/// `nft` failed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The program could not be run.
    #[error("run nft: {0}")]
    Run(#[from] std::io::Error),
    /// The kernel or `nft` refused the rules.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

impl Policy {
    /// The whole rule set as an `nft` script that replaces what we had.
    #[must_use]
    pub fn render(&self) -> String {
        let mut script = String::new();
        // Adding first makes the deletion succeed on a fresh node; all of it is one transaction.
        script.push_str("table ip penstock {}\ndelete table ip penstock\n");
        script.push_str("table ip6 penstock {}\ndelete table ip6 penstock\n");
        script.push_str("table ip penstock {\n");
        for name in ["spoofed", "metadata", "midstream", "stray", "late_reply"] {
            let _ = writeln!(script, "  counter {name} {{ }}");
        }
        self.render_sets(&mut script);
        self.render_guard(&mut script);
        self.render_stray(&mut script);
        if self.node_ports {
            self.render_node_ports(&mut script);
        }
        if let Some(choice) = self.snat {
            self.render_mark(&mut script);
            self.render_snat(&mut script, choice);
            self.render_late_replies(&mut script);
        }
        script.push_str("}\n");
        let prefix = &self.veth_prefix;
        let _ = write!(
            script,
            "table ip6 penstock {{\n  chain guard {{\n    \
             type filter hook prerouting priority raw; policy accept;\n    \
             iifname \"{prefix}*\" counter drop\n  }}\n}}\n"
        );
        script
    }

    fn render_sets(&self, script: &mut String) {
        let direct: Vec<String> = self.direct.iter().map(Ipv4Net::to_string).collect();
        let uplinks: Vec<String> = self
            .uplinks
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect();
        let set = |script: &mut String, name: &str, of: &str, elements: &[String]| {
            let _ = write!(script, "  set {name} {{\n    type {of}\n");
            if !elements.is_empty() {
                let _ = writeln!(script, "    elements = {{ {} }}", elements.join(", "));
            }
            script.push_str("  }\n");
        };
        set(
            script,
            "direct",
            "ipv4_addr; flags interval; auto-merge",
            &direct,
        );
        set(script, "uplinks", "ifname", &uplinks);
    }

    /// Before conntrack, so that a forged packet leaves no trace there.
    fn render_guard(&self, script: &mut String) {
        let prefix = &self.veth_prefix;
        let _ = write!(
            script,
            "  chain guard {{\n    type filter hook prerouting priority raw; policy accept;\n    \
             iifname \"{prefix}*\" fib saddr . iif oif missing counter name spoofed drop\n"
        );
        if self.imds == Access::Deny {
            let _ = writeln!(
                script,
                "    iifname \"{prefix}*\" ip daddr 169.254.169.254 counter name metadata drop"
            );
        }
        script.push_str("  }\n");
    }

    /// A destination that is no pod would be routed back out of an ENI. What kube-proxy redirected may be.
    fn render_stray(&self, script: &mut String) {
        script.push_str(
            "  chain stray {\n    type filter hook forward priority filter; policy accept;\n    \
             iifname @uplinks oifname @uplinks ct status dnat accept\n    \
             iifname @uplinks oifname @uplinks counter name stray drop\n  }\n",
        );
    }

    /// Before kube-proxy's translation of destinations, while they still are the node's. The answer is routed before it
    /// is translated back, so a pod of another ENI would send it out there, where its source does not belong.
    fn render_node_ports(&self, script: &mut String) {
        let Self {
            veth_prefix: prefix,
            primary,
            ..
        } = self;
        let _ = write!(
            script,
            "  chain requests {{\n    type filter hook prerouting priority mangle; policy accept;\n    \
             iifname {{ \"{primary}\", \"{TRUNK}\" }} ct direction original fib daddr type local \
             ct mark set ct mark or {PRIMARY_MARK:#x}\n    \
             iifname {{ \"{prefix}*\", \"{TRUNK}\" }} ct direction reply ct mark and {PRIMARY_MARK:#x} == {PRIMARY_MARK:#x} \
             meta mark set meta mark or {PRIMARY_MARK:#x}\n  }}\n"
        );
    }

    /// After kube-proxy's translation of destinations (-100), so that the real destination is judged.
    fn render_mark(&self, script: &mut String) {
        let prefix = &self.veth_prefix;
        // A TCP flow the kernel has not seen begin is a worker's: translating it anew would reset it.
        let _ = write!(
            script,
            "  chain outside {{\n    ip daddr @direct return\n    \
             ct direction reply return\n    \
             ct state new tcp flags & (fin | syn | rst | ack) != syn counter name midstream drop\n    \
             meta mark set meta mark or {PRIMARY_MARK:#x}\n  }}\n  \
             chain divert {{\n    type filter hook prerouting priority -90; policy accept;\n    \
             iifname \"{prefix}*\" jump outside\n    iifname \"{TRUNK}\" jump outside\n  }}\n"
        );
    }

    fn render_snat(&self, script: &mut String, choice: PortChoice) {
        let Self {
            veth_prefix: prefix,
            primary,
            address,
            ..
        } = self;
        let PortRange { first, last } = KERNEL_SNAT_PORTS;
        let random = match choice {
            PortChoice::Prng => " fully-random",
            PortChoice::Hashrandom => " random",
            PortChoice::None => "",
        };
        script.push_str("  chain translate {\n    ip daddr @direct return\n");
        for protocol in ["tcp", "udp", "icmp"] {
            let _ = writeln!(
                script,
                "    meta l4proto {protocol} snat to {address}:{first}-{last}{random}"
            );
        }
        let _ = write!(
            script,
            "    snat to {address}\n  }}\n  \
             chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n    \
             iifname \"{prefix}*\" oifname \"{primary}\" jump translate\n    \
             iifname \"{TRUNK}\" oifname \"{primary}\" jump translate\n  }}\n"
        );
    }

    /// While no worker runs, answers to its flows must not be reset by the host's own stack: the peer would give up.
    fn render_late_replies(&self, script: &mut String) {
        let PortRange { first, last } = self.dataplane_ports;
        let Self {
            primary, address, ..
        } = self;
        let _ = write!(
            script,
            "  chain late {{\n    type filter hook input priority filter; policy accept;\n    \
             iifname \"{primary}\" ip daddr {address} tcp dport {first}-{last} \
             ct state {{ new, invalid }} tcp flags & (fin | syn | rst | ack) != syn \
             counter name late_reply drop\n  }}\n"
        );
    }
}

/// Installs the policy in place of the previous one.
///
/// # Errors
/// When `nft` cannot be run or refuses; the previous policy is then still in force.
pub async fn apply(policy: &Policy) -> Result<(), PolicyError> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(policy.render().as_bytes()).await?;
    }
    let output = nft.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(PolicyError::Refused(
        text.lines().take(5).collect::<Vec<_>>().join(" | "),
    ))
}

/// The policy as the kernel holds it, counters left out; `None` when there is none. Costs one short-lived process.
///
/// # Errors
/// When `nft` cannot be run.
pub async fn listing() -> Result<Option<String>, PolicyError> {
    let mut text = String::new();
    for family in ["ip", "ip6"] {
        let nft = Command::new("nft")
            .args(["--stateless", "list", "table", family, "penstock"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        if !nft.status.success() {
            return Ok(None);
        }
        text.push_str(&String::from_utf8_lossy(&nft.stdout));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Policy {
        Policy {
            veth_prefix: "eni".into(),
            primary: "eth0".into(),
            uplinks: vec!["eth0".into(), "eth1".into()],
            direct: vec![
                "10.0.0.0/16".parse().unwrap(),
                "192.0.2.0/24".parse().unwrap(),
            ],
            address: Ipv4Addr::new(10, 0, 1, 10),
            snat: Some(PortChoice::Prng),
            dataplane_ports: PortRange {
                first: 11_000,
                last: 29_999,
            },
            imds: Access::Deny,
            node_ports: true,
        }
    }

    #[test]
    fn the_rules_are_these() {
        assert_eq!(sample().render(), include_str!("policy_sample.nft"));
    }

    #[test]
    fn external_snat_neither_marks_nor_translates() {
        let script = Policy {
            snat: None,
            node_ports: false,
            ..sample()
        }
        .render();
        for absent in ["snat to", "meta mark", "ct mark", "late_reply drop"] {
            assert!(!script.contains(absent), "{absent} in {script}");
        }
        assert!(script.contains("spoofed drop") && script.contains("stray drop"));
    }

    #[test]
    fn allowed_metadata_is_not_dropped_and_empty_sets_are_legal() {
        let policy = Policy {
            imds: Access::Allow,
            direct: Vec::new(),
            ..sample()
        };
        let script = policy.render();
        assert!(!script.contains("169.254.169.254"));
        assert!(
            !script.contains("{  }"),
            "nft refuses an empty element list"
        );
    }

    #[test]
    fn randomisation_follows_the_setting() {
        let ending = |choice| {
            let script = Policy {
                snat: Some(choice),
                ..sample()
            }
            .render();
            let line = script
                .lines()
                .find(|line| line.contains("tcp snat"))
                .unwrap()
                .to_owned();
            line.rsplit_once("60999").unwrap().1.to_owned()
        };
        assert_eq!(ending(PortChoice::Prng), " fully-random");
        assert_eq!(ending(PortChoice::Hashrandom), " random");
        assert_eq!(ending(PortChoice::None), "");
    }
}
