//! What the CNI shim and the CLI ask of the node agent, as length-prefixed JSON over a Unix
//! stream socket (the framing is [`penstock_dataplane_api::frame`]).
//!
//! Attaching a pod takes two calls: [`Request::Add`] reserves an address and persists it; the shim
//! then builds the veth pair, host side *down*, and [`Request::Confirm`] makes the pod live:
//! routes, rules and hooks first, the host side up last. A reservation that is not confirmed in
//! time is rolled back. Every call is idempotent for its [`AttachmentKey`].
//!
//! Shim and agent may be one release apart: what a release adds is optional for the one before.

mod report;

pub use penstock_dataplane_api::{MacAddr, client, frame};
pub use report::{EniRow, PodRow, PoolReport, Status};

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Name of the agent's socket inside the run directory.
pub const SOCKET_NAME: &str = "control.sock";

/// Largest request the agent reads.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;

/// The gateway every pod routes to; answered by a static neighbour entry, never by ARP.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The runtime's name of one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// CNI network name (`name` of the configuration).
    pub network: String,
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME.
    pub ifname: String,
}

/// Who the pod is, from CNI_ARGS.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodIdentity {
    /// K8S_POD_NAMESPACE.
    pub namespace: String,
    /// K8S_POD_NAME.
    pub name: String,
    /// K8S_POD_UID; empty when the runtime does not send it.
    pub uid: String,
}

/// What a caller asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Reserve an address for a pod interface.
    Add {
        /// The attachment.
        key: AttachmentKey,
        /// The pod.
        pod: PodIdentity,
        /// CNI_NETNS, for the record.
        netns: String,
        /// Prefix of the host interface name (`vethPrefix` of the configuration).
        veth_prefix: String,
    },
    /// The veth pair exists, host side down: make the pod live.
    Confirm {
        /// The attachment.
        key: AttachmentKey,
        /// Kernel's index of the host side.
        host_ifindex: u32,
        /// Address of the host side.
        host_mac: MacAddr,
        /// Address of the pod's side.
        pod_mac: MacAddr,
        /// [`Attachment::generation`] of the reservation; 0 from a shim that knows none.
        #[serde(default)]
        generation: u64,
    },
    /// Take the pod down; succeeds for unknown attachments.
    Del {
        /// The attachment.
        key: AttachmentKey,
        /// 0 is the runtime's DEL: whatever is there goes, and an ADD for this key that comes later is
        /// refused. Otherwise an ADD undoes itself: only that reservation goes.
        #[serde(default)]
        generation: u64,
    },
    /// What is on record for an attachment.
    Check {
        /// The attachment.
        key: AttachmentKey,
    },
    /// Health and readiness.
    Status,
    /// All pods.
    Pods,
    /// All ENIs.
    Enis,
}

/// What the shim needs to build the pod's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The pod's address; used as a /32.
    pub address: Ipv4Addr,
    /// Name of the host side.
    pub host_ifname: String,
    /// MTU of both sides.
    pub mtu: u32,
    /// Device number of the ENI that owns the address.
    pub device_number: u32,
    /// EC2's name of that ENI.
    pub eni_id: String,
    /// Whether [`Request::Confirm`] has completed for it.
    pub confirmed: bool,
    /// Tells this reservation from an earlier one of the same key, so that a plugin that was slow
    /// cannot confirm or undo its successor's. 0 from an agent that knows none.
    #[serde(default)]
    pub generation: u64,
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Answer to Add and Check.
    Attachment(Attachment),
    /// Answer to Confirm, and to Del, whether or not there was anything to do.
    Done,
    /// Answer to [`Request::Status`].
    Status(Box<Status>),
    /// Answer to [`Request::Pods`].
    Pods(Vec<PodRow>),
    /// Answer to [`Request::Enis`].
    Enis(Vec<EniRow>),
    /// The request failed; a person can act on `message`.
    Error(Failure),
}

/// Why a request failed, in CNI terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// CNI error code: 1-99 of the specification, 100+ ours.
    pub code: u32,
    /// One line: what failed.
    pub message: String,
    /// The cause and what to do next.
    pub details: String,
}

/// CNI error codes, CNI specification 1.1.0 "Error", and Penstock's own from 100.
pub mod code {
    /// The runtime should retry later.
    pub const TRY_AGAIN: u32 = 11;
    /// The plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The container does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// No address could be had.
    pub const NO_ADDRESS: u32 = 100;
    /// The node's kernel refused a change.
    pub const KERNEL: u32 = 101;
    /// What is there differs from what should be.
    pub const MISMATCH: u32 = 102;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AttachmentKey {
        AttachmentKey {
            network: "n".into(),
            container_id: "c".into(),
            ifname: "eth0".into(),
        }
    }

    #[test]
    fn what_release_0_1_said_is_still_understood() {
        let key_json = r#"{"network":"n","container_id":"c","ifname":"eth0"}"#;
        let del: Request =
            serde_json::from_str(&format!(r#"{{"del":{{"key":{key_json}}}}}"#)).unwrap();
        assert_eq!(
            del,
            Request::Del {
                key: key(),
                generation: 0
            }
        );
        let confirm = format!(
            r#"{{"confirm":{{"key":{key_json},"host_ifindex":7,"host_mac":"02:00:00:00:00:01","pod_mac":"02:00:00:00:00:02"}}}}"#
        );
        let confirm: Request = serde_json::from_str(&confirm).unwrap();
        assert!(matches!(confirm, Request::Confirm { generation: 0, .. }));
        let attachment = r#"{"attachment":{"address":"10.0.0.1","host_ifname":"eni1","mtu":9001,
            "device_number":0,"eni_id":"eni-1","confirmed":true}}"#;
        let attachment: Response = serde_json::from_str(attachment).unwrap();
        assert!(matches!(
            attachment,
            Response::Attachment(Attachment { generation: 0, .. })
        ));
    }

    #[test]
    fn what_the_next_release_adds_is_ignored() {
        let del = r#"{"del":{"key":{"network":"n","container_id":"c","ifname":"eth0","more":1},
            "generation":3,"why":"because"}}"#;
        let del: Request = serde_json::from_str(del).unwrap();
        assert_eq!(
            del,
            Request::Del {
                key: key(),
                generation: 3
            }
        );
    }
}
