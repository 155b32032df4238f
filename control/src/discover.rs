//! Which ENIs the node has, by two sources, and making the kernel use one.
//!
//! An address is believed only when the metadata service and EC2 both show it (or, while EC2 cannot be asked, the one
//! that answers); ENIs that are not ours are counted and left alone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use penstock_dataplane_api::MacAddr;

use crate::clock::{Clock, Timestamp, within};
use crate::config::Config;
use crate::ec2::{Described, Ec2, Ec2Error, ErrorKind, Filter, Instance, Observed};
use crate::node::{EniSetup, Link, Node, NodeError, table_of};
use crate::state::{NodeEni, State};

/// Longest wait for the kernel to show an ENI that EC2 says is attached.
const LINK_PATIENCE: Duration = Duration::from_secs(60);

/// One ENI as the sources show it.
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
    /// EC2's name of the subnet.
    pub subnet_id: String,
    /// Security groups.
    pub groups: Vec<String>,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Secondary addresses both sources show.
    pub secondaries: Vec<Ipv4Addr>,
    /// Secondary addresses either source shows; what is in neither is gone.
    pub rumoured: Vec<Ipv4Addr>,
    /// Prefixes both sources show.
    pub prefixes: Vec<Ipv4Net>,
    /// Prefixes either source shows.
    pub rumoured_prefixes: Vec<Ipv4Net>,
    /// Both sources answered and know it.
    pub certain: bool,
    /// Ours to use.
    pub managed: bool,
}

impl Found {
    /// As the metadata service alone shows it; `None` without an IPv4 address.
    #[must_use]
    pub fn observed(seen: &Observed) -> Option<Self> {
        let (address, secondaries) = seen.addresses.split_first()?;
        Some(Self {
            eni_id: seen.eni_id.clone(),
            mac: seen.mac,
            device_number: seen.device_number,
            subnet: seen.subnet,
            subnet_id: seen.subnet_id.clone(),
            groups: seen.groups.clone(),
            address: *address,
            secondaries: secondaries.to_vec(),
            rumoured: secondaries.to_vec(),
            prefixes: seen.prefixes.clone(),
            rumoured_prefixes: seen.prefixes.clone(),
            certain: false,
            managed: true,
        })
    }

    /// As EC2 alone shows it, `subnet` being the range of its subnet; `None` when it lies elsewhere or is attached to
    /// nothing.
    #[must_use]
    pub fn described(eni: &Described, subnet: Ipv4Net) -> Option<Self> {
        if !subnet.contains(&eni.primary) {
            return None;
        }
        Some(Self {
            eni_id: eni.eni_id.clone(),
            mac: eni.mac,
            device_number: eni.attachment.as_ref()?.device_number,
            subnet,
            subnet_id: eni.subnet_id.clone(),
            groups: eni.groups.clone(),
            address: eni.primary,
            secondaries: eni.secondaries.clone(),
            rumoured: eni.secondaries.clone(),
            prefixes: eni.prefixes.clone(),
            rumoured_prefixes: eni.prefixes.clone(),
            certain: false,
            managed: true,
        })
    }

    /// Only what EC2 shows too is believed; what either shows is not gone.
    fn confirm_by(&mut self, eni: &Described) {
        self.subnet_id.clone_from(&eni.subnet_id);
        self.groups.clone_from(&eni.groups);
        self.secondaries
            .retain(|address| eni.secondaries.contains(address));
        self.rumoured.extend(&eni.secondaries);
        self.prefixes.retain(|prefix| eni.prefixes.contains(prefix));
        self.rumoured_prefixes.extend(&eni.prefixes);
        self.certain = true;
    }
}

/// What a look at the cloud shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovery {
    /// ENIs the metadata service shows, ours and others.
    pub enis: Vec<Found>,
    /// ENIs of the instance only EC2 shows: just coming or just going.
    pub only_described: Vec<String>,
    /// Ranges of the VPC.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// Both sources answered.
    pub complete: bool,
}

/// EC2's answer, and by which rule an ENI is ours.
#[derive(Debug, Clone)]
pub struct Told {
    enis: Vec<Described>,
    instance_id: String,
    untagged: bool,
}

/// Which ENIs are ours while EC2 is silent, for the metadata service shows no tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// All: there is no other source.
    All,
    /// The primary, and those that were ours before.
    Known(BTreeSet<String>),
}

/// Asks EC2 for our ENIs; `None` when it does not answer within `patience`.
pub async fn ask(
    ec2: &dyn Ec2,
    instance: &Instance,
    config: &Config,
    (clock, patience): (&dyn Clock, Duration),
) -> Option<Told> {
    let asked = ec2.describe(Filter::Instance(instance.id.clone()));
    match within(clock, patience, asked).await {
        Some(Ok(enis)) => Some(Told {
            enis,
            instance_id: instance.id.clone(),
            untagged: config.manage_untagged,
        }),
        Some(Err(error)) => {
            tracing::warn!(%error, "EC2 cannot be asked; going by the metadata service alone");
            None
        }
        None => {
            let trouble = ec2.trouble().unwrap_or_default();
            tracing::warn!(
                trouble,
                "EC2 is silent; going by the metadata service alone"
            );
            None
        }
    }
}

/// Looks at the metadata service.
///
/// # Errors
/// When it does not answer, or without the primary ENI.
pub async fn observe(ec2: &dyn Ec2) -> Result<Vec<Observed>, Ec2Error> {
    let observed = ec2.observe().await?;
    if observed.iter().any(|eni| eni.device_number == 0) {
        return Ok(observed);
    }
    Err(Ec2Error {
        call: "instance metadata",
        kind: ErrorKind::Transport,
        code: String::new(),
        message: "the answer lacks the primary ENI".to_owned(),
    })
}

/// Puts the two sources together; `told` is `None` when EC2 did not answer, and then `trust` says what is ours.
#[must_use]
pub fn combine(observed: &[Observed], told: Option<&Told>, trust: &Trust) -> Discovery {
    let mut discovery = Discovery {
        complete: told.is_some(),
        ..Discovery::default()
    };
    for seen in observed {
        let Some(mut found) = Found::observed(seen) else {
            continue;
        };
        let primary = seen.device_number == 0 && seen.network_card == 0;
        if primary {
            discovery.vpc_cidrs.clone_from(&seen.vpc_cidrs);
        }
        match told {
            None => {
                let known = match trust {
                    Trust::All => true,
                    Trust::Known(ours) => ours.contains(&seen.eni_id),
                };
                found.managed = primary || (known && seen.network_card == 0);
            }
            Some(told) => match told.enis.iter().find(|eni| eni.eni_id == seen.eni_id) {
                // EC2 answered and does not list it: it is just coming or just going.
                None => {
                    found.secondaries.clear();
                    found.prefixes.clear();
                }
                Some(eni) => {
                    found.confirm_by(eni);
                    let ours = eni.is_managed(&told.instance_id, told.untagged);
                    found.managed = ours && of_first_card(eni);
                }
            },
        }
        let subnet = found.subnet;
        found.secondaries.retain(|address| subnet.contains(address));
        found.prefixes.retain(|prefix| subnet.contains(prefix));
        discovery.enis.push(found);
    }
    discovery.enis.sort_by_key(|eni| eni.device_number);
    let described = told.into_iter().flat_map(|told| &told.enis);
    let unseen = described.filter(|eni| observed.iter().all(|seen| seen.eni_id != eni.eni_id));
    discovery.only_described = unseen.map(|eni| eni.eni_id.clone()).collect();
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
    let setup = setup_of(&eni);
    node.set_up_eni(&link, &setup).await?;
    tracing::info!(
        eni = %eni.eni_id, ifname = %eni.ifname, address = %eni.address, table = setup.table,
        "ENI in use"
    );
    Ok(eni)
}

/// What an ENI in use needs in the kernel.
#[must_use]
pub fn setup_of(eni: &NodeEni) -> EniSetup {
    EniSetup {
        primary: eni.device_number == 0,
        address: eni.address,
        subnet: eni.subnet,
        gateway: eni.gateway(),
        table: table_of(eni.device_number),
        mtu: eni.mtu,
    }
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

/// How an address came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// EC2 has just granted it to us.
    Granted,
    /// The first look at the cloud shows it.
    Present,
    /// A later look shows it.
    Sighted,
}

/// Enters a plugged ENI and its addresses into the state.
pub fn enter(state: &mut State, eni: NodeEni, found: &Found, origin: Origin, now: Timestamp) {
    state.pool.add_eni(&eni.eni_id, eni.device_number, now);
    state.enis.insert(eni.eni_id.clone(), eni);
    state.assign_roles();
    sight(state, found, origin, now);
}

/// Enters the addresses and prefixes of an ENI that is in the state.
pub fn sight(state: &mut State, found: &Found, origin: Origin, now: Timestamp) {
    let eni_id = &found.eni_id;
    let addresses = found.secondaries.iter().map(|address| match origin {
        Origin::Granted => state.pool.add_address(eni_id, *address),
        Origin::Present => state.pool.sight_address(eni_id, *address, (false, now)),
        Origin::Sighted => state.pool.sight_address(eni_id, *address, (true, now)),
    });
    let refused: Vec<_> = addresses.filter_map(Result::err).collect();
    let prefixes = found.prefixes.iter().map(|prefix| match origin {
        Origin::Granted => state.pool.add_prefix(eni_id, *prefix),
        Origin::Present => state.pool.sight_prefix(eni_id, *prefix, (false, now)),
        Origin::Sighted => state.pool.sight_prefix(eni_id, *prefix, (true, now)),
    });
    let refused_prefixes: Vec<_> = prefixes.filter_map(Result::err).collect();
    for error in refused.iter().chain(&refused_prefixes) {
        tracing::error!(%error, eni = %eni_id, "left out of the pool");
    }
}

/// Notes the ENIs that are not ours, which take up room and numbers.
pub fn note_foreign(state: &mut State, discovery: &Discovery) {
    let foreign: Vec<u32> = discovery
        .enis
        .iter()
        .filter(|eni| !eni.managed)
        .map(|eni| eni.device_number)
        .collect();
    state.unmanaged = u32::try_from(foreign.len()).unwrap_or(u32::MAX);
    state.foreign_devices = foreign;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::{Attachment, TAG_INSTANCE, TAG_NO_MANAGE, Tags};

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 1, last)
    }

    fn observed(device_number: u32, secondaries: &[u8]) -> Observed {
        let own = 10 + u8::try_from(device_number).unwrap();
        Observed {
            eni_id: format!("eni-{device_number}"),
            mac: MacAddr([2, 0, 0, 0, 0, own]),
            device_number,
            network_card: 0,
            subnet_id: "subnet-1".into(),
            subnet: "10.0.1.0/24".parse().unwrap(),
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            groups: vec!["sg-1".into()],
            addresses: std::iter::once(own)
                .chain(secondaries.iter().copied())
                .map(address)
                .collect(),
            prefixes: Vec::new(),
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
            prefixes: Vec::new(),
            description: String::new(),
            attachment: Some(Attachment {
                id: "a".into(),
                instance_id: "i-1".into(),
                device_number,
                network_card: 0,
            }),
            tags: Tags::new(),
        }
    }

    fn told(enis: &[Described]) -> Told {
        Told {
            enis: enis.to_vec(),
            instance_id: "i-1".into(),
            untagged: true,
        }
    }

    fn together(seen: &[Observed], enis: &[Described]) -> Discovery {
        combine(seen, Some(&told(enis)), &Trust::All)
    }

    fn prefix(last: u8) -> Ipv4Net {
        Ipv4Net::new(address(last), 28).unwrap()
    }

    #[test]
    fn an_address_or_prefix_needs_both_sources() {
        let mut seen = observed(0, &[20, 21]);
        let mut eni = described(0, &[21, 22]);
        seen.prefixes = vec![prefix(32), prefix(48)];
        eni.prefixes = vec![prefix(48), prefix(64)];
        let found = together(&[seen], &[eni]).enis.remove(0);
        assert!(found.certain);
        assert_eq!(found.secondaries, [address(21)]);
        assert_eq!(found.prefixes, [prefix(48)]);
        for last in [20, 21, 22] {
            assert!(found.rumoured.contains(&address(last)));
        }
        for last in [32, 48, 64] {
            assert!(found.rumoured_prefixes.contains(&prefix(last)));
        }
    }

    #[test]
    fn a_silent_ec2_is_no_reason_to_forget_or_to_trust_strangers() {
        let seen = [
            observed(0, &[20, 21]),
            observed(1, &[30]),
            observed(2, &[40]),
        ];
        let known = Trust::Known(BTreeSet::from(["eni-1".to_owned()]));
        let silent = combine(&seen, None, &known);
        assert!(!silent.complete && silent.enis.iter().all(|eni| !eni.certain));
        assert_eq!(silent.enis[0].secondaries, [address(20), address(21)]);
        let managed: Vec<bool> = silent.enis.iter().map(|eni| eni.managed).collect();
        assert_eq!(managed, [true, true, false]);
        let found = together(&[observed(1, &[20])], &[]).enis.remove(0);
        assert!(found.secondaries.is_empty() && found.rumoured == [address(20)]);
        let going = together(&[observed(0, &[])], &[described(0, &[]), described(1, &[])]);
        assert_eq!(going.only_described, ["eni-1"]);
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
        let found = together(&seen, &[primary, tagged, other_card]).enis;
        let managed: Vec<bool> = found.iter().map(|eni| eni.managed).collect();
        assert_eq!(managed, [true, false, false]);
        assert!(found[0].secondaries.is_empty(), "outside its subnet");
    }

    #[test]
    fn whose_an_eni_is_follows_its_tags() {
        let with = |tag: Option<(&str, &str)>| {
            let mut eni = described(1, &[]);
            let tag = tag.map(|(key, value)| (key.to_owned(), value.to_owned()));
            eni.tags.extend(tag);
            eni
        };
        for (tag, untagged, managed) in [
            (None, true, true),
            (None, false, false),
            (Some((TAG_INSTANCE, "i-1")), false, true),
            (Some((TAG_INSTANCE, "i-2")), false, false),
            (Some((TAG_INSTANCE, "i-2")), true, true),
            (Some((TAG_NO_MANAGE, "true")), true, false),
            (Some((TAG_NO_MANAGE, "True")), true, true),
        ] {
            assert_eq!(
                with(tag).is_managed("i-1", untagged),
                managed,
                "{tag:?} {untagged}"
            );
        }
    }
}
