//! Secondary addresses: assign, unassign, move between interfaces.
//!
//! Guarantees: a call gives all it was asked for or nothing; the primary address never moves.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::cloud::state::State;
use crate::subnet::Refusal;
use crate::{ApiError, Eni};

/// Which addresses to assign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressChoice {
    /// This many of EC2's choice.
    Count(usize),
    /// These.
    Exactly(Vec<Ipv4Addr>),
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
    /// Assigns secondary addresses and returns the new ones only.
    ///
    /// # Errors
    /// Unknown interface, `PrivateIpAddressLimitExceeded`, `InsufficientFreeAddressesInSubnet`, an address outside the
    /// subnet, reserved or taken.
    pub fn assign_private_ip_addresses(
        &self,
        request: &AssignRequest,
    ) -> Result<Vec<Ipv4Addr>, ApiError> {
        self.change(|state, now| state.assign(request, now))
    }

    /// Gives secondary addresses back.
    ///
    /// # Errors
    /// Unknown interface; the primary address or one it does not own (`InvalidParameterValue`).
    pub fn unassign_private_ip_addresses(
        &self,
        eni_id: &str,
        addresses: &[Ipv4Addr],
    ) -> Result<(), ApiError> {
        self.change(|state, now| state.unassign(eni_id, addresses, now))
    }
}

impl State {
    fn assign(
        &mut self,
        request: &AssignRequest,
        now: Duration,
    ) -> Result<Vec<Ipv4Addr>, ApiError> {
        let eni = self.visible(&request.eni_id, now)?.eni.clone();
        let wanted = match &request.choice {
            AddressChoice::Count(count) => *count,
            AddressChoice::Exactly(list) => list.len(),
        };
        if wanted == 0 {
            return Err(ApiError::invalid_value(
                "At least one address has to be asked for",
            ));
        }
        if eni.addresses().count().saturating_add(wanted) > self.address_limit(&eni) {
            return Err(too_many());
        }
        let new = match &request.choice {
            AddressChoice::Count(count) => self.take_count(&eni, *count)?,
            AddressChoice::Exactly(list) => {
                self.take_exactly(&eni, list, request.allow_reassignment)?
            }
        };
        self.visible_mut(&request.eni_id, now)?
            .eni
            .secondaries
            .extend_from_slice(&new);
        self.announce(&request.eni_id);
        Ok(new)
    }

    fn take_count(&mut self, eni: &Eni, count: usize) -> Result<Vec<Ipv4Addr>, ApiError> {
        let subnet = self
            .subnets
            .get_mut(&eni.subnet_id)
            .ok_or_else(|| ApiError::no_subnet(&eni.subnet_id))?;
        if count > subnet.pool.free() {
            return Err(subnet_full());
        }
        Ok((0..count).map_while(|_| subnet.pool.take_any()).collect())
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

    fn unassign(
        &mut self,
        eni_id: &str,
        addresses: &[Ipv4Addr],
        now: Duration,
    ) -> Result<(), ApiError> {
        let record = self.visible_mut(eni_id, now)?;
        if addresses.is_empty() {
            return Err(ApiError::missing("privateIpAddresses"));
        }
        if addresses.contains(&record.eni.primary) {
            let message = format!(
                "The primary address {} cannot be unassigned",
                record.eni.primary
            );
            return Err(ApiError::invalid_value(message));
        }
        if addresses
            .iter()
            .any(|address| !record.eni.secondaries.contains(address))
        {
            let message =
                format!("Some of the specified addresses are not assigned to interface {eni_id}");
            return Err(ApiError::invalid_value(message));
        }
        record
            .eni
            .secondaries
            .retain(|address| !addresses.contains(address));
        let subnet_id = record.eni.subnet_id.clone();
        if let Some(subnet) = self.subnets.get_mut(&subnet_id) {
            addresses
                .iter()
                .for_each(|&address| subnet.pool.give_back(address));
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
