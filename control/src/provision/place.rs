//! Where new ENIs are made: which subnets, with which security groups.
//!
//! The tags of subnets are the VPC CNI's: `kubernetes.io/role/cni` opens (`1`, or anything else) or closes (`0`) a
//! subnet; a subnet that names clusters is for these only; without a tag only the primary ENI's own subnet is used.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use crate::ec2::{Subnet, TAG_SUBNET_CLUSTER, TAG_SUBNET_ROLE};

/// One subnet to make ENIs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `subnet-…`
    pub subnet_id: String,
    /// Its range.
    pub cidr: Ipv4Net,
    /// Security groups of ENIs made there.
    pub groups: Vec<String>,
}

/// Whether a subnet is open to pods; `own` is the primary ENI's.
pub(super) fn is_open(subnet: &Subnet, own: bool, cluster: Option<&str>) -> bool {
    let role = subnet.tags.get(TAG_SUBNET_ROLE).map(String::as_str);
    let mut clusters = subnet
        .tags
        .keys()
        .filter_map(|key| key.strip_prefix(TAG_SUBNET_CLUSTER))
        .peekable();
    match role {
        Some("0") => false,
        // The node is there already; who else may be is no matter.
        None => own,
        Some(_) => match (clusters.peek(), cluster) {
            (None, _) | (Some(_), None) => true,
            (Some(_), Some(ours)) => clusters.any(|name| name == ours),
        },
    }
}

/// Subnets whose tag closes them to pods: ENIs that are in them already are retired.
pub(super) fn closed(subnets: &[Subnet]) -> BTreeSet<String> {
    let is_closed = |subnet: &&Subnet| {
        subnet
            .tags
            .get(TAG_SUBNET_ROLE)
            .is_some_and(|role| role == "0")
    };
    let closed = subnets.iter().filter(is_closed);
    closed.map(|subnet| subnet.id.clone()).collect()
}

/// The open subnets, that with most free addresses first.
pub(super) fn open_places(
    mut subnets: Vec<Subnet>,
    own: &str,
    cluster: Option<&str>,
    groups: &[String],
) -> Vec<Place> {
    subnets.retain(|subnet| is_open(subnet, subnet.id == own, cluster));
    subnets.sort_by(|a, b| b.free.cmp(&a.free).then_with(|| a.id.cmp(&b.id)));
    subnets
        .into_iter()
        .map(|subnet| Place {
            subnet_id: subnet.id,
            cidr: subnet.cidr,
            groups: groups.to_vec(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::Tags;

    fn subnet(id: &str, free: u32, tags: &[(&str, &str)]) -> Subnet {
        Subnet {
            id: id.to_owned(),
            cidr: "10.0.1.0/24".parse().unwrap(),
            free,
            tags: tags
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<Tags>(),
        }
    }

    const OPEN: (&str, &str) = (TAG_SUBNET_ROLE, "1");

    #[test]
    fn tags_open_and_close_subnets() {
        let ours = ("cni.networking.k8s.aws/cluster/blue", "1");
        let theirs = ("cni.networking.k8s.aws/cluster/red", "1");
        for (tags, own, cluster, open) in [
            (&[][..], true, Some("blue"), true),
            (&[], false, Some("blue"), false),
            (&[OPEN], false, None, true),
            (&[(TAG_SUBNET_ROLE, "0")], true, None, false),
            (&[OPEN, ours], false, Some("blue"), true),
            (&[OPEN, theirs], false, Some("blue"), false),
            (&[OPEN, theirs, ours], false, Some("blue"), true),
            (&[OPEN, theirs], false, None, true),
            (&[theirs], true, Some("blue"), true),
        ] {
            let subnet = subnet("subnet-1", 1, tags);
            assert_eq!(
                is_open(&subnet, own, cluster),
                open,
                "{tags:?} {own} {cluster:?}"
            );
        }
    }

    #[test]
    fn the_emptiest_subnet_comes_first() {
        let subnets = vec![
            subnet("subnet-a", 5, &[]),
            subnet("subnet-b", 9, &[OPEN]),
            subnet("subnet-c", 100, &[]),
        ];
        let places = open_places(subnets, "subnet-a", None, &["sg-1".to_owned()]);
        let ids: Vec<_> = places
            .iter()
            .map(|place| place.subnet_id.as_str())
            .collect();
        assert_eq!(ids, ["subnet-b", "subnet-a"]);
    }
}
