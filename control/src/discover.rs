//! Which ENIs the node has, by two sources, and making the kernel use one.
//!
//! An address is believed only when the metadata service and EC2 both show it (or, while EC2 cannot be asked, the one
//! that answers); ENIs that are not ours are counted and left alone.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use penstock_dataplane_api::MacAddr;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::ec2::{Described, Ec2, Ec2Error, ErrorKind, Filter, Observed};
use crate::node::{EniSetup, Link, Node, NodeError, table_of};
use crate::state::{NodeEni, State};

/// Longest wait for the kernel to show an ENI that EC2 says is attached.
const LINK_PATIENCE: Duration = Duration::from_secs(60);

/// One ENI both sources agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// `eni-…`
    pub eni_id: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// 0 is the primary.
    pub device_number: u32,
    /// Range of its subnet.
    pub subnet: Ipv4Net,
    /// EC2's name of the subnet; empty when EC2 could not be asked.
    pub subnet_id: String,
    /// Security groups; empty when EC2 could not be asked.
    pub groups: Vec<String>,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Secondary addresses both sources show.
    pub secondaries: Vec<Ipv4Addr>,
    /// Secondary addresses either source shows; what is in neither is gone.
    pub rumoured: Vec<Ipv4Addr>,
    /// Ours to use.
    pub managed: bool,
}

/// What a look at the cloud shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovery {
    /// ENIs, ours and others.
    pub enis: Vec<Found>,
    /// Ranges of the VPC.
    pub vpc_cidrs: Vec<Ipv4Net>,
}

/// Looks at both sources.
///
/// # Errors
/// When the metadata service does not answer, or without the primary ENI. EC2's silence is not an error: pods must not wait for it.
pub async fn discover(ec2: &dyn Ec2, instance_id: &str) -> Result<Discovery, Ec2Error> {
    let observed = ec2.observe().await?;
    if !observed.iter().any(|eni| eni.device_number == 0) {
        return Err(Ec2Error {
            call: "instance metadata",
            kind: ErrorKind::Transport,
            code: String::new(),
            message: "the answer lacks the primary ENI".to_owned(),
        });
    }
    let described = match ec2.describe(Filter::Instance(instance_id.to_owned())).await {
        Ok(described) => Some(described),
        Err(error) => {
            tracing::warn!(%error, "EC2 cannot be asked; going by the metadata service alone");
            None
        }
    };
    Ok(combine(&observed, described.as_deref()))
}

fn combine(observed: &[Observed], described: Option<&[Described]>) -> Discovery {
    let mut discovery = Discovery::default();
    for seen in observed {
        let Some((address, secondaries)) = seen.addresses.split_first() else {
            continue;
        };
        if seen.device_number == 0 {
            discovery.vpc_cidrs.clone_from(&seen.vpc_cidrs);
        }
        let told = described.map(|all| all.iter().find(|eni| eni.eni_id == seen.eni_id));
        let mut found = Found {
            eni_id: seen.eni_id.clone(),
            mac: seen.mac,
            device_number: seen.device_number,
            subnet: seen.subnet,
            subnet_id: String::new(),
            groups: Vec::new(),
            address: *address,
            secondaries: secondaries.to_vec(),
            rumoured: secondaries.to_vec(),
            managed: true,
        };
        match told {
            None => {}
            // EC2 answered and does not list it: it is just coming or just going.
            Some(None) => found.secondaries.clear(),
            Some(Some(eni)) => {
                found.subnet_id.clone_from(&eni.subnet_id);
                found.groups.clone_from(&eni.groups);
                found
                    .secondaries
                    .retain(|address| eni.secondaries.contains(address));
                found.rumoured.extend(&eni.secondaries);
                found.managed = eni.is_managed() && of_first_card(eni);
            }
        }
        found
            .secondaries
            .retain(|address| found.subnet.contains(address));
        discovery.enis.push(found);
    }
    discovery.enis.sort_by_key(|eni| eni.device_number);
    discovery
}

fn of_first_card(eni: &Described) -> bool {
    eni.attachment
        .as_ref()
        .is_none_or(|plug| plug.network_card == 0)
}

/// Why an ENI could not be put to use.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// The kernel refused something.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// EC2 says it is attached, the kernel does not show it.
    #[error("{eni_id} ({mac}) did not appear in the kernel within {LINK_PATIENCE:?}")]
    NoLink {
        /// The ENI.
        eni_id: String,
        /// Its hardware address.
        mac: MacAddr,
    },
}

/// Waits for the ENI's link and sets it up.
///
/// # Errors
/// When the link does not appear, or the kernel refuses a step.
pub async fn plug(node: &Node, config: &Config, found: &Found) -> Result<NodeEni, PlugError> {
    let link = await_link(node, config, found).await?;
    let eni = NodeEni {
        eni_id: found.eni_id.clone(),
        ifname: link.name.clone(),
        ifindex: link.index,
        mac: found.mac,
        mtu: config.eni_mtu,
        device_number: found.device_number,
        address: found.address,
        subnet: found.subnet,
        subnet_id: found.subnet_id.clone(),
        groups: found.groups.clone(),
        gateway_mac: None,
        leaving: false,
    };
    let setup = EniSetup {
        primary: eni.device_number == 0,
        address: eni.address,
        subnet: eni.subnet,
        gateway: eni.gateway(),
        table: table_of(eni.device_number),
        mtu: eni.mtu,
    };
    node.set_up_eni(&link, &setup).await?;
    tracing::info!(
        eni = %eni.eni_id, ifname = %eni.ifname, address = %eni.address, table = setup.table,
        "ENI in use"
    );
    Ok(eni)
}

async fn await_link(node: &Node, config: &Config, found: &Found) -> Result<Link, PlugError> {
    let deadline = tokio::time::Instant::now() + LINK_PATIENCE;
    let mut pause = Duration::from_millis(20);
    loop {
        if let Some(link) = node.link_by_mac(found.mac, &config.veth_prefix).await? {
            return Ok(link);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(PlugError::NoLink {
                eni_id: found.eni_id.clone(),
                mac: found.mac,
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Enters a plugged ENI and its addresses into the state.
pub fn enter(state: &mut State, eni: NodeEni, found: &Found, now: Timestamp) {
    state.pool.add_eni(&eni.eni_id, eni.device_number, now);
    for address in &found.secondaries {
        if let Err(error) = state.pool.add_address(&eni.eni_id, *address) {
            tracing::error!(%error, eni = %eni.eni_id, "address left out of the pool");
        }
    }
    state.enis.insert(eni.eni_id.clone(), eni);
}

/// Finds one just-attached ENI by EC2 alone, which knows it before the metadata service does.
///
/// # Errors
/// What EC2 says; `NotFound` while the ENI is not visible or lies in another subnet than `like`.
pub async fn find_new(ec2: &dyn Ec2, eni_id: &str, like: &NodeEni) -> Result<Found, Ec2Error> {
    let described = ec2.describe(Filter::Eni(eni_id.to_owned())).await?;
    let eni = described.into_iter().find(|eni| eni.eni_id == eni_id);
    let eni = eni
        .filter(|eni| like.subnet.contains(&eni.primary))
        .ok_or_else(|| Ec2Error {
            call: "DescribeNetworkInterfaces",
            kind: ErrorKind::NotFound,
            code: String::new(),
            message: format!("{eni_id} is not visible in {}", like.subnet),
        })?;
    Ok(Found {
        device_number: eni.attachment.as_ref().map_or(0, |plug| plug.device_number),
        managed: eni.is_managed(),
        eni_id: eni.eni_id,
        mac: eni.mac,
        subnet: like.subnet,
        subnet_id: eni.subnet_id,
        groups: eni.groups,
        address: eni.primary,
        rumoured: eni.secondaries.clone(),
        secondaries: eni.secondaries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::{Attachment, TAG_NO_MANAGE, Tags};

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 1, last)
    }

    fn observed(device_number: u32, secondaries: &[u8]) -> Observed {
        let own = 10 + u8::try_from(device_number).unwrap();
        Observed {
            eni_id: format!("eni-{device_number}"),
            mac: MacAddr([2, 0, 0, 0, 0, own]),
            device_number,
            subnet: "10.0.1.0/24".parse().unwrap(),
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            addresses: std::iter::once(own)
                .chain(secondaries.iter().copied())
                .map(address)
                .collect(),
        }
    }

    fn described(device_number: u32, secondaries: &[u8]) -> Described {
        let own = 10 + u8::try_from(device_number).unwrap();
        Described {
            eni_id: format!("eni-{device_number}"),
            mac: MacAddr([2, 0, 0, 0, 0, own]),
            subnet_id: "subnet-1".into(),
            groups: vec!["sg-1".into()],
            primary: address(own),
            secondaries: secondaries.iter().copied().map(address).collect(),
            attachment: Some(Attachment {
                id: "a".into(),
                device_number,
                network_card: 0,
            }),
            tags: Tags::new(),
        }
    }

    #[test]
    fn an_address_needs_both_sources() {
        let seen = [observed(0, &[20, 21])];
        let told = [described(0, &[21, 22])];
        let found = combine(&seen, Some(&told)).enis.remove(0);
        assert_eq!(found.secondaries, [address(21)]);
        for last in [20, 21, 22] {
            assert!(found.rumoured.contains(&address(last)));
        }
    }

    #[test]
    fn a_silent_ec2_is_no_reason_to_forget() {
        let found = combine(&[observed(0, &[20, 21])], None).enis.remove(0);
        assert_eq!(found.secondaries, [address(20), address(21)]);
        let found = combine(&[observed(1, &[20])], Some(&[])).enis.remove(0);
        assert!(found.secondaries.is_empty() && found.rumoured == [address(20)]);
    }

    #[test]
    fn foreign_enis_and_foreign_addresses_are_left_alone() {
        let mut tagged = described(1, &[30]);
        tagged.tags.insert(TAG_NO_MANAGE.into(), "true".into());
        let mut other_card = described(2, &[31]);
        other_card.attachment.as_mut().unwrap().network_card = 1;
        let mut outside = observed(0, &[]);
        outside.addresses.push(Ipv4Addr::new(192, 0, 2, 1));
        let mut primary = described(0, &[]);
        primary.secondaries.push(Ipv4Addr::new(192, 0, 2, 1));
        primary.tags.insert(TAG_NO_MANAGE.into(), "true".into());
        let seen = [outside, observed(1, &[30]), observed(2, &[31])];
        let found = combine(&seen, Some(&[primary, tagged, other_card])).enis;
        let managed: Vec<bool> = found.iter().map(|eni| eni.managed).collect();
        assert_eq!(managed, [true, false, false]);
        assert!(found[0].secondaries.is_empty(), "outside its subnet");
    }
}
