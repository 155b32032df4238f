//! The kernel path exactly as the Amazon VPC CNI lays it out: what Penstock is compared with.
//!
//! Secondary-address mode, AWS_VPC_K8S_CNI_EXTERNALSNAT=false, iptables back end, NodePort support
//! on: the chains, marks, rule priorities and routes of its documented behaviour. The texts are
//! rendered here and applied by `iptables-restore` and `ip -batch` inside the node's namespace.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// One pod on the reference node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencePod {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Host side of its veth pair.
    pub host_ifname: String,
    /// Route table of its ENI; `None` when that is the primary ENI (table main).
    pub table: Option<u32>,
}

/// Chains and marks (`iptables-restore` input).
#[must_use]
pub fn iptables(primary_ifname: &str, primary: Ipv4Addr, vpc_cidr: &str) -> String {
    format!(
        "\
*nat
:AWS-SNAT-CHAIN-0 - [0:0]
:AWS-CONNMARK-CHAIN-0 - [0:0]
-A PREROUTING -i eni+ -j AWS-CONNMARK-CHAIN-0
-A PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A POSTROUTING -j AWS-SNAT-CHAIN-0
-A AWS-CONNMARK-CHAIN-0 -d {vpc_cidr} -j RETURN
-A AWS-CONNMARK-CHAIN-0 -j CONNMARK --set-xmark 0x80/0x80
-A AWS-SNAT-CHAIN-0 -d {vpc_cidr} -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m addrtype ! --dst-type LOCAL -j SNAT --to-source {primary} --random-fully
COMMIT
*mangle
-A PREROUTING -i {primary_ifname} -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
-A PREROUTING -i eni+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
COMMIT
"
    )
}

/// Rules and routes (`ip -batch` input).
#[must_use]
pub fn rules(pods: &[ReferencePod]) -> String {
    let mut batch = String::from("rule add fwmark 0x80/0x80 lookup main priority 1024\n");
    for pod in pods {
        let ReferencePod {
            address,
            host_ifname,
            table,
        } = pod;
        batch.push_str(&format!(
            "route add {address}/32 dev {host_ifname} scope link\n"
        ));
        batch.push_str(&format!("rule add to {address} lookup main priority 512\n"));
        if let Some(table) = table {
            batch.push_str(&format!(
                "rule add from {address} lookup {table} priority 1536\n"
            ));
        }
    }
    batch
}

/// Runs `program` in the calling thread's namespace with `input` on its standard input.
///
/// # Errors
/// When it cannot be started or fails; the message carries what it printed.
pub fn feed(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}; is it installed?"))?;
    child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(input.as_bytes())
        .with_context(|| format!("{program} closed its input"))?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_on_a_secondary_eni_has_three_lines_and_one_on_the_primary_two() {
        let pod = |last, table| ReferencePod {
            address: Ipv4Addr::new(10, 0, 0, last),
            host_ifname: format!("eni{last}"),
            table,
        };
        let batch = rules(&[pod(10, None), pod(11, Some(3))]);
        assert_eq!(
            batch,
            "rule add fwmark 0x80/0x80 lookup main priority 1024\n\
             route add 10.0.0.10/32 dev eni10 scope link\n\
             rule add to 10.0.0.10 lookup main priority 512\n\
             route add 10.0.0.11/32 dev eni11 scope link\n\
             rule add to 10.0.0.11 lookup main priority 512\n\
             rule add from 10.0.0.11 lookup 3 priority 1536\n"
        );
    }
}
