//! IMDSv2 over a real connection: tokens, the tree, and what is not there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use ec2_sim::cloud::{AddressChoice, AssignRequest, AttachRequest, CreateRequest};
use ec2_sim::{Cloud, CloudConfig, Fault, Instance, imds};
use support::{Reply, Server};

const SUBNET: &str = "subnet-0000000000000000a";

struct Metadata {
    server: Server,
    token: String,
    instance: Instance,
}

impl Metadata {
    fn start() -> Self {
        let mut launched = None;
        let server = Server::start(CloudConfig::default(), |cloud: Arc<Cloud>| {
            let instance = cloud.launch_instance("m5.large", SUBNET, "node").unwrap();
            let router = imds::router(cloud, &instance.instance_id);
            launched = Some(instance);
            router
        });
        let reply = ask_token(&server, "60");
        assert_eq!(reply.status, 200);
        assert!(
            reply
                .head
                .contains("x-aws-ec2-metadata-token-ttl-seconds: 60"),
            "{}",
            reply.head
        );
        Self {
            server,
            token: reply.body,
            instance: launched.unwrap(),
        }
    }

    fn get(&self, path: &str) -> Reply {
        let token = &self.token;
        self.server.send(
            &format!("GET /latest/{path} HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}"),
            b"",
        )
    }

    #[track_caller]
    fn value(&self, path: &str) -> String {
        let reply = self.get(path);
        assert_eq!(reply.status, 200, "{path}");
        reply.body
    }

    fn lines(&self, path: &str) -> Vec<String> {
        self.value(path).lines().map(str::to_owned).collect()
    }
}

fn ask_token(server: &Server, ttl: &str) -> Reply {
    let head =
        format!("PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: {ttl}");
    server.send(&head, b"")
}

#[test]
fn nothing_is_told_without_a_token() {
    let metadata = Metadata::start();
    let bare = metadata
        .server
        .send("GET /latest/meta-data/mac HTTP/1.1", b"");
    assert_eq!((bare.status, bare.body.as_str()), (401, ""));
    let forged = metadata.server.send(
        "GET /latest/meta-data/mac HTTP/1.1\r\nX-aws-ec2-metadata-token: x",
        b"",
    );
    assert_eq!(forged.status, 401);
    assert_eq!(
        metadata
            .server
            .send("PUT /latest/api/token HTTP/1.1", b"")
            .status,
        400
    );
    for ttl in ["0", "21601", "x"] {
        assert_eq!(ask_token(&metadata.server, ttl).status, 400, "{ttl}");
    }
    let head = "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 9\r\nX-Forwarded-For: 10.0.0.9";
    assert_eq!(metadata.server.send(head, b"").status, 403);
    assert_eq!(
        metadata
            .server
            .send("DELETE /latest/meta-data/mac HTTP/1.1", b"")
            .status,
        405
    );
}

#[test]
fn the_instance_knows_itself() {
    let metadata = Metadata::start();
    let instance = &metadata.instance;
    let mac = instance.primary_eni.mac_text();
    for (path, expected) in [
        ("mac", mac.as_str()),
        ("instance-id", instance.instance_id.as_str()),
        ("instance-type", "m5.large"),
        ("local-ipv4", "10.0.1.4"),
        ("hostname", "ip-10-0-1-4.eu-west-1.compute.internal"),
        ("placement/availability-zone", "eu-west-1a"),
        ("placement/region", "eu-west-1"),
        ("services/domain", "amazonaws.com"),
        ("iam/security-credentials/", "penstock-node"),
    ] {
        assert_eq!(
            metadata.value(&format!("meta-data/{path}")),
            expected,
            "{path}"
        );
    }
    let document = metadata.value("dynamic/instance-identity/document");
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["region"], "eu-west-1");
    assert_eq!(document["instanceId"], *instance.instance_id);
    let credentials = metadata.value("meta-data/iam/security-credentials/penstock-node");
    let credentials: serde_json::Value = serde_json::from_str(&credentials).unwrap();
    assert_eq!(credentials["Code"], "Success");
    assert!(credentials["Expiration"].as_str() > credentials["LastUpdated"].as_str());
}

#[test]
fn interfaces_are_listed_as_the_vpc_cni_reads_them() {
    let metadata = Metadata::start();
    let primary = &metadata.instance.primary_eni;
    let macs = "meta-data/network/interfaces/macs";
    assert_eq!(
        metadata.lines(&format!("{macs}/")),
        [format!("{}/", primary.mac_text())]
    );
    let at = |leaf: &str| metadata.value(&format!("{macs}/{}/{leaf}", primary.mac_text()));
    assert_eq!(at("device-number"), "0");
    assert_eq!(at("interface-id"), primary.eni_id);
    assert_eq!(at("local-ipv4s"), "10.0.1.4");
    assert_eq!(at("subnet-id"), SUBNET);
    assert_eq!(at("vpc-id"), "vpc-00000000000000001");
    assert_eq!(at("security-group-ids"), "sg-00000000000000001");
    assert_eq!(at("subnet-ipv4-cidr-block"), "10.0.1.0/24");
    assert_eq!(at("vpc-ipv4-cidr-block"), "10.0.0.0/16");
    assert_eq!(at("vpc-ipv4-cidr-blocks"), "10.0.0.0/16");
    for missing in ["ipv4-prefix", "ipv6s", "local-ipv4"] {
        assert_eq!(
            metadata
                .get(&format!("{macs}/{}/{missing}", primary.mac_text()))
                .status,
            404
        );
    }
    assert_eq!(
        metadata
            .get(&format!("{macs}/02:00:00:00:00:00/interface-id"))
            .status,
        404
    );
}

#[test]
fn an_attached_interface_and_its_addresses_show_up() {
    let metadata = Metadata::start();
    let cloud = &metadata.server.cloud;
    let request = CreateRequest {
        subnet_id: SUBNET.to_owned(),
        ..CreateRequest::default()
    };
    let eni = cloud.create_network_interface(&request).unwrap();
    let leaf = format!(
        "meta-data/network/interfaces/macs/{}/local-ipv4s",
        eni.mac_text()
    );
    assert_eq!(metadata.get(&leaf).status, 404);
    let (eni_id, instance_id) = (eni.eni_id.clone(), metadata.instance.instance_id.clone());
    let attach = AttachRequest {
        eni_id: eni_id.clone(),
        instance_id,
        device_index: 1,
    };
    let attachment = cloud.attach_network_interface(&attach).unwrap();
    let choice = AddressChoice::Count(2);
    let assign = AssignRequest {
        eni_id,
        choice,
        allow_reassignment: false,
    };
    let new = cloud.assign_private_ip_addresses(&assign).unwrap();
    let all: Vec<String> = [eni.primary, new.addresses[0], new.addresses[1]]
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(metadata.lines(&leaf), all);
    assert_eq!(metadata.lines("meta-data/network/interfaces/macs").len(), 2);
    cloud.detach_network_interface(&attachment).unwrap();
    assert_eq!(metadata.get(&leaf).status, 404);
}

#[test]
fn directories_mark_directories_and_the_rest_is_not_there() {
    let metadata = Metadata::start();
    let top = metadata.lines("meta-data/");
    for entry in ["mac", "instance-id", "network/", "placement/", "iam/"] {
        assert!(top.iter().any(|line| line == entry), "{entry} in {top:?}");
    }
    assert_eq!(metadata.lines("meta-data/network/interfaces/"), ["macs/"]);
    for path in [
        "meta-data/nothing",
        "meta-data/mac/",
        "user-data",
        "meta-data/../api/token",
        "%2e%2e",
    ] {
        assert_eq!(metadata.get(path).status, 404, "{path}");
    }
}

#[test]
fn the_service_can_be_made_to_fail() {
    let metadata = Metadata::start();
    metadata.server.cloud.inject(Fault {
        action: "imds".to_owned(),
        error_code: "503".to_owned(),
        count: 1,
    });
    assert_eq!(metadata.get("meta-data/mac").status, 503);
    assert_eq!(metadata.get("meta-data/mac").status, 200);
}
