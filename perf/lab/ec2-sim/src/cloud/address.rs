//! Secondary addresses: assign, unassign, move between interfaces.
//!
//! Guarantees: a call gives all it was asked for or nothing; the primary address never moves.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::cloud::Cloud;
use crate::cloud::state::{State, SubnetRecord};
use crate::subnet::Refusal;
use crate::{ApiError, Eni, Hypervisor};

/// Which addresses to assign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressChoice {
    /// This many of EC2's choice.
    Count(usize),
    /// These.
    Exactly(Vec<Ipv4Addr>),
    /// This many prefixes of EC2's choice.
    Prefixes(usize),
}

/// What a call has assigned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assigned {
    /// Addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Prefixes.
    pub prefixes: Vec<Ipv4Net>,
}

/// `AssignPrivateIpAddresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignRequest {
    /// The interface.
    pub eni_id: String,
    /// Which addresses.
    pub choice: AddressChoice,
    /// Whether secondary addresses of other interfaces may be moved here.
    pub allow_reassignment: bool,
}

impl Cloud {
    /// Assigns secondary addresses or prefixes and returns the new ones only.
    ///
    /// # Errors
    /// Unknown interface, `PrivateIpAddressLimitExceeded`, `InsufficientFreeAddressesInSubnet`,
    /// `InsufficientCidrBlocks`, an address outside the subnet, reserved or taken, prefixes on an instance that is not
    /// built on Nitro.
    pub fn assign_private_ip_addresses(
        &self,
        request: &AssignRequest,
    ) -> Result<Assigned, ApiError> {
        self.change(|state, now| state.assign(request, now))
    }

    /// Gives secondary addresses and prefixes back.
    ///
    /// # Errors
    /// Unknown interface; the primary address or what it does not own (`InvalidParameterValue`).
    pub fn unassign_private_ip_addresses(
        &self,
        eni_id: &str,
        given: &Assigned,
    ) -> Result<(), ApiError> {
        self.change(|state, now| state.unassign(eni_id, given, now))
    }

    /// A CIDR reservation of type `prefix`: single addresses of EC2's choice do not come from `range`.
    ///
    /// # Errors
    /// Unknown subnet.
    pub fn keep_for_prefixes(&self, subnet_id: &str, range: Ipv4Net) -> Result<(), ApiError> {
        self.change(|state, _| {
            state.subnet_mut(subnet_id)?.pool.keep_for_prefixes(range);
            Ok(())
        })
    }

    /// Takes an address as something else in the subnet would, for example to fragment it.
    ///
    /// # Errors
    /// Unknown subnet, an address that cannot be had.
    pub fn occupy(&self, subnet_id: &str, address: Ipv4Addr) -> Result<(), ApiError> {
        self.change(|state, _| {
            let pool = &mut state.subnet_mut(subnet_id)?.pool;
            pool.check(address).map_err(|why| refusal(address, why))?;
            pool.take(address);
            Ok(())
        })
    }

    /// Frees what [`Self::occupy`] took.
    ///
    /// # Errors
    /// Unknown subnet.
    pub fn vacate(&self, subnet_id: &str, address: Ipv4Addr) -> Result<(), ApiError> {
        self.change(|state, _| {
            state.subnet_mut(subnet_id)?.pool.give_back(address);
            Ok(())
        })
    }
}

impl State {
    fn assign(&mut self, request: &AssignRequest, now: Duration) -> Result<Assigned, ApiError> {
        let eni = self.visible(&request.eni_id, now)?.eni.clone();
        let wanted = match &request.choice {
            AddressChoice::Count(count) | AddressChoice::Prefixes(count) => *count,
            AddressChoice::Exactly(list) => list.len(),
        };
        if wanted == 0 {
            return Err(ApiError::invalid_value(
                "At least one address has to be asked for",
            ));
        }
        if eni.slots().saturating_add(wanted) > self.address_limit(&eni) {
            return Err(too_many());
        }
        let mut new = Assigned::default();
        match &request.choice {
            AddressChoice::Count(count) => new.addresses = self.take_count(&eni, *count)?,
            AddressChoice::Exactly(list) => {
                new.addresses = self.take_exactly(&eni, list, request.allow_reassignment)?;
            }
            AddressChoice::Prefixes(count) => {
                self.check_prefixes(&eni)?;
                let prefixes = self.take_prefixes(&eni.subnet_id, *count)?;
                new.prefixes = prefixes.ok_or_else(no_prefix)?;
            }
        }
        let eni = &mut self.visible_mut(&request.eni_id, now)?.eni;
        eni.secondaries.extend_from_slice(&new.addresses);
        eni.prefixes.extend_from_slice(&new.prefixes);
        self.announce(&request.eni_id);
        Ok(new)
    }

    /// Prefixes need Nitro or bare metal.
    fn check_prefixes(&self, eni: &Eni) -> Result<(), ApiError> {
        let instance = eni
            .instance_id
            .as_ref()
            .and_then(|id| self.instances.get(id));
        match instance.map(|instance| &instance.instance_type) {
            Some(kind) if kind.hypervisor == Hypervisor::Xen => Err(ApiError::invalid_value(
                format!("The instance type {} does not support prefixes", kind.name),
            )),
            _ => Ok(()),
        }
    }

    /// All of them, or `None` and nothing is taken.
    pub(super) fn take_prefixes(
        &mut self,
        subnet_id: &str,
        count: usize,
    ) -> Result<Option<Vec<Ipv4Net>>, ApiError> {
        let pool = &mut self.subnet_mut(subnet_id)?.pool;
        let taken: Vec<Ipv4Net> = (0..count).map_while(|_| pool.take_prefix()).collect();
        if taken.len() == count {
            return Ok(Some(taken));
        }
        taken
            .into_iter()
            .for_each(|prefix| pool.give_back_prefix(prefix));
        Ok(None)
    }

    pub(super) fn subnet_mut(&mut self, subnet_id: &str) -> Result<&mut SubnetRecord, ApiError> {
        let subnet = self.subnets.get_mut(subnet_id);
        subnet.ok_or_else(|| ApiError::no_subnet(subnet_id))
    }

    fn take_count(&mut self, eni: &Eni, count: usize) -> Result<Vec<Ipv4Addr>, ApiError> {
        let pool = &mut self.subnet_mut(&eni.subnet_id)?.pool;
        let taken: Vec<Ipv4Addr> = (0..count).map_while(|_| pool.take_any()).collect();
        if taken.len() == count {
            return Ok(taken);
        }
        taken
            .into_iter()
            .for_each(|address| pool.give_back(address));
        Err(subnet_full())
    }

    fn take_exactly(
        &mut self,
        eni: &Eni,
        list: &[Ipv4Addr],
        reassign: bool,
    ) -> Result<Vec<Ipv4Addr>, ApiError> {
        let mut moved = Vec::new();
        for (i, &address) in list.iter().enumerate() {
            if list.iter().take(i).any(|&earlier| earlier == address) {
                return Err(ApiError::invalid_value(format!(
                    "Address {address} is given twice"
                )));
            }
            let subnet = self
                .subnets
                .get(&eni.subnet_id)
                .ok_or_else(|| ApiError::no_subnet(&eni.subnet_id))?;
            match subnet.pool.check(address) {
                Ok(()) => {}
                Err(Refusal::Taken) if reassign => {
                    moved.push((self.secondary_owner(eni, address)?, address));
                }
                Err(why) => return Err(refusal(address, why)),
            }
        }
        for (owner, address) in &moved {
            if let Some(record) = self.enis.get_mut(owner) {
                record.eni.secondaries.retain(|a| a != address);
            }
        }
        let owners: BTreeSet<String> = moved.into_iter().map(|(owner, _)| owner).collect();
        owners.iter().for_each(|owner| self.announce(owner));
        if let Some(subnet) = self.subnets.get_mut(&eni.subnet_id) {
            list.iter().for_each(|&address| subnet.pool.take(address));
        }
        Ok(list.to_vec())
    }

    /// The other interface that has `address` as a secondary one.
    fn secondary_owner(&self, eni: &Eni, address: Ipv4Addr) -> Result<String, ApiError> {
        let mut others = self
            .enis
            .values()
            .map(|record| &record.eni)
            .filter(|other| other.eni_id != eni.eni_id);
        let owner = others.find(|other| other.secondaries.contains(&address));
        owner
            .map(|other| other.eni_id.clone())
            .ok_or_else(|| refusal(address, Refusal::Taken))
    }

    fn unassign(&mut self, eni_id: &str, given: &Assigned, now: Duration) -> Result<(), ApiError> {
        let addresses = &given.addresses;
        let record = self.visible_mut(eni_id, now)?;
        if addresses.is_empty() && given.prefixes.is_empty() {
            return Err(ApiError::missing("privateIpAddresses"));
        }
        if addresses.contains(&record.eni.primary) {
            let message = format!(
                "The primary address {} cannot be unassigned",
                record.eni.primary
            );
            return Err(ApiError::invalid_value(message));
        }
        let foreign = |prefix: &Ipv4Net| !record.eni.prefixes.contains(prefix);
        if addresses
            .iter()
            .any(|address| !record.eni.secondaries.contains(address))
            || given.prefixes.iter().any(foreign)
        {
            let message =
                format!("Some of the specified addresses are not assigned to interface {eni_id}");
            return Err(ApiError::invalid_value(message));
        }
        record
            .eni
            .secondaries
            .retain(|address| !addresses.contains(address));
        record
            .eni
            .prefixes
            .retain(|prefix| !given.prefixes.contains(prefix));
        let subnet_id = record.eni.subnet_id.clone();
        if let Some(subnet) = self.subnets.get_mut(&subnet_id) {
            addresses
                .iter()
                .for_each(|&address| subnet.pool.give_back(address));
            let prefixes = given.prefixes.iter();
            prefixes.for_each(|&prefix| subnet.pool.give_back_prefix(prefix));
        }
        self.announce(eni_id);
        Ok(())
    }
}

pub(super) fn subnet_full() -> ApiError {
    let message =
        "The specified subnet does not have enough free addresses to satisfy the request.";
    ApiError::new("InsufficientFreeAddressesInSubnet", message)
}

fn no_prefix() -> ApiError {
    let message =
        "The specified subnet does not have enough free cidr blocks to satisfy the request.";
    ApiError::new("InsufficientCidrBlocks", message)
}

pub(super) fn too_many() -> ApiError {
    ApiError::new(
        "PrivateIpAddressLimitExceeded",
        "Number of private addresses will exceed limit.",
    )
}

pub(super) fn refusal(address: Ipv4Addr, why: Refusal) -> ApiError {
    match why {
        Refusal::Outside => ApiError::invalid_value(format!(
            "Address {address} does not fall within the subnet's address range"
        )),
        Refusal::Reserved => ApiError::invalid_value(format!(
            "Address {address} is in subnet's reserved address range"
        )),
        Refusal::Taken => ApiError::new(
            "InvalidIPAddress.InUse",
            format!("Address {address} is in use."),
        ),
    }
}
