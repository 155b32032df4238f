//! What the metadata service knows about one instance, as a tree of paths.
//!
//! Guarantees: a path is either a value or a directory; both are made from one look at the cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use crate::cloud::Cloud;
use crate::http::{IMAGE_ID, timestamp};
use crate::{Eni, Instance};

/// How long the credentials handed out claim to be good for: what the real service gives.
const CREDENTIALS_LIFE: Duration = Duration::from_secs(6 * 3600);

type Leaves = BTreeMap<String, String>;

/// The value or listing at `path`; `None` where there is nothing.
pub(super) fn read(cloud: &Cloud, instance_id: &str, path: &str) -> Option<String> {
    let leaves = leaves(cloud, &cloud.instance(instance_id)?);
    let path = path.trim_start_matches('/');
    if let Some(value) = leaves.get(path) {
        return Some(value.clone());
    }
    let directory = if path.is_empty() || path.ends_with('/') {
        path.to_owned()
    } else {
        format!("{path}/")
    };
    let below = leaves.keys().filter_map(|key| key.strip_prefix(&directory));
    let entries: BTreeSet<String> = below
        .map(|rest| rest.split_inclusive('/').take(1).collect())
        .collect();
    (!entries.is_empty()).then(|| entries.into_iter().collect::<Vec<_>>().join("\n"))
}

fn leaves(cloud: &Cloud, instance: &Instance) -> Leaves {
    let config = cloud.config();
    let primary = &instance.primary_eni;
    let mut leaves = Leaves::new();
    let mut put = |path: &str, value: &str| {
        leaves.insert(format!("latest/meta-data/{path}"), value.to_owned());
    };
    put("ami-id", IMAGE_ID);
    put("hostname", &instance.private_dns_name);
    put("instance-id", &instance.instance_id);
    put("instance-life-cycle", "on-demand");
    put("instance-type", &instance.instance_type);
    put("local-hostname", &instance.private_dns_name);
    put("local-ipv4", &primary.primary.to_string());
    put("mac", &primary.mac_text());
    put("placement/availability-zone", &instance.availability_zone);
    put("placement/region", &config.region);
    put("security-groups", &group_names(cloud, primary));
    put("services/domain", "amazonaws.com");
    put("services/partition", "aws");
    put(
        &format!("iam/security-credentials/{}", config.iam_role),
        &credentials(cloud.now()),
    );
    for eni in cloud.metadata_enis(&instance.instance_id) {
        interface(cloud, &eni, &mut put);
    }
    let identity = "latest/dynamic/instance-identity/document".to_owned();
    leaves.insert(identity, identity_document(cloud, instance));
    leaves
}

fn interface(cloud: &Cloud, eni: &Eni, put: &mut impl FnMut(&str, &str)) {
    let directory = format!("network/interfaces/macs/{}", eni.mac_text());
    let mut put = |name: &str, value: &str| put(&format!("{directory}/{name}"), value);
    let config = cloud.config();
    let lines = |values: Vec<String>| values.join("\n");
    let vpc_cidrs: Vec<String> = config
        .vpc_cidrs
        .iter()
        .map(|cidr| cidr.trunc().to_string())
        .collect();
    put("device-number", &eni.device_index.to_string());
    put("interface-id", &eni.eni_id);
    put(
        "local-ipv4s",
        &lines(eni.addresses().map(|address| address.to_string()).collect()),
    );
    if !eni.prefixes.is_empty() {
        let prefixes = eni.prefixes.iter().map(ToString::to_string);
        put("ipv4-prefix", &lines(prefixes.collect()));
    }
    put("mac", &eni.mac_text());
    put("network-card", "0");
    put("owner-id", &config.account_id);
    put("security-group-ids", &lines(eni.groups.clone()));
    put("security-groups", &group_names(cloud, eni));
    put("subnet-id", &eni.subnet_id);
    put("subnet-ipv4-cidr-block", &eni.subnet_cidr.to_string());
    put("vpc-id", &eni.vpc_id);
    put(
        "vpc-ipv4-cidr-block",
        vpc_cidrs.first().map_or("", String::as_str),
    );
    put("vpc-ipv4-cidr-blocks", &lines(vpc_cidrs.clone()));
}

fn group_names(cloud: &Cloud, eni: &Eni) -> String {
    let groups = cloud
        .config()
        .security_groups
        .iter()
        .filter(|group| eni.groups.contains(&group.group_id));
    groups
        .map(|group| group.name.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Credentials in the right form that open nothing.
fn credentials(now: Duration) -> String {
    let document = json!({
        "Code": "Success",
        "LastUpdated": timestamp(now),
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIASIMULATED0000000",
        "SecretAccessKey": "simulated-secret-that-opens-nothing",
        "Token": "simulated-session-token",
        "Expiration": timestamp(now + CREDENTIALS_LIFE),
    });
    format!("{document:#}")
}

fn identity_document(cloud: &Cloud, instance: &Instance) -> String {
    let document = json!({
        "accountId": cloud.config().account_id,
        "architecture": "x86_64",
        "availabilityZone": instance.availability_zone,
        "imageId": IMAGE_ID,
        "instanceId": instance.instance_id,
        "instanceType": instance.instance_type,
        "pendingTime": timestamp(instance.launch_time),
        "privateIp": instance.primary_eni.primary.to_string(),
        "region": cloud.config().region,
        "version": "2017-09-30",
    });
    format!("{document:#}")
}
