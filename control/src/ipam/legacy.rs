//! The VPC CNI's checkpoint, for taking its pods over: which attachment holds which address.
//!
//! Only read, never written. It is a hint and no more: a pod is taken over because its interface and route are in the
//! kernel, and this file says by which name the runtime knows it.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use penstock_control_api::{AttachmentKey, PodIdentity};
use serde::Deserialize;

/// The only version there has been.
const VERSION: &str = "vpc-cni-ipam/1";

/// Attachment and pod of each address.
pub type Holders = HashMap<Ipv4Addr, (AttachmentKey, PodIdentity)>;

#[derive(Debug, Deserialize)]
struct File {
    version: String,
    #[serde(default)]
    allocations: Vec<Allocation>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Allocation {
    network_name: String,
    #[serde(rename = "containerID")]
    container_id: String,
    if_name: String,
    #[serde(default)]
    ipv4: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "k8sPodNamespace")]
    namespace: String,
    #[serde(rename = "k8sPodName")]
    name: String,
}

/// Reads the file's text. Entries without an IPv4 address, or with an address another entry has too, are left out.
///
/// # Errors
/// Text for people when it is not that file.
pub fn parse(text: &str) -> Result<Holders, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if file.version != VERSION {
        return Err(format!("version {:?} instead of {VERSION:?}", file.version));
    }
    let mut holders = Holders::new();
    let mut twice = Vec::new();
    for allocation in file.allocations {
        let Ok(address) = allocation.ipv4.parse() else {
            continue;
        };
        let key = AttachmentKey {
            network: allocation.network_name,
            container_id: allocation.container_id,
            ifname: allocation.if_name,
        };
        let pod = PodIdentity {
            namespace: allocation.metadata.namespace,
            name: allocation.metadata.name,
            uid: String::new(),
        };
        if holders.insert(address, (key, pod)).is_some() {
            twice.push(address);
        }
    }
    for address in twice {
        holders.remove(&address);
    }
    Ok(holders)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{
        "version": "vpc-cni-ipam/1",
        "allocations": [
            {"networkName": "aws-cni", "containerID": "c1", "ifName": "eth0", "ipv4": "10.0.1.9",
             "allocationTimestamp": 1700000000000000000,
             "metadata": {"k8sPodNamespace": "default", "k8sPodName": "web-0", "interfacesCount": 1}},
            {"networkName": "aws-cni", "containerID": "c2", "ifName": "eth0", "ipv4": "10.0.1.10"},
            {"networkName": "aws-cni", "containerID": "c3", "ifName": "eth0", "ipv6": "2001:db8::1"},
            {"networkName": "aws-cni", "containerID": "c4", "ifName": "eth0", "ipv4": "10.0.1.11"},
            {"networkName": "aws-cni", "containerID": "c5", "ifName": "eth0", "ipv4": "10.0.1.11"}
        ]
    }"#;

    #[test]
    fn the_runtimes_names_are_found_by_address() {
        let holders = parse(SAMPLE).unwrap();
        assert_eq!(holders.len(), 2, "no IPv6, nothing that is there twice");
        let (key, pod) = &holders[&Ipv4Addr::new(10, 0, 1, 9)];
        assert_eq!(
            (key.network.as_str(), key.container_id.as_str()),
            ("aws-cni", "c1")
        );
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str()),
            ("default", "web-0")
        );
    }

    #[test]
    fn another_file_is_refused_and_damage_is_no_panic() {
        assert!(parse("{}").is_err());
        let newer = SAMPLE.replace("ipam/1", "ipam/2");
        assert!(parse(&newer).unwrap_err().contains("vpc-cni-ipam/2"));
        for cut in 0..SAMPLE.len() {
            assert!(parse(&SAMPLE[..cut]).is_err(), "cut at {cut}");
        }
    }
}
