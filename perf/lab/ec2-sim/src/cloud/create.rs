//! Making a network interface.
//!
//! Guarantees: everything is checked before anything is taken; a client token makes one interface.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::cloud::address::{refusal, subnet_full, too_many};
use crate::cloud::state::{EniRecord, State, SubnetRecord, check_id};
use crate::cloud::tag::check_tags;
use crate::{ApiError, AttachmentStatus, Eni, EniStatus, Tags};

/// Security groups an interface may have ("Amazon VPC quotas", the default).
const GROUPS_PER_ENI: usize = 5;
/// Longest description (EC2 API reference, `CreateNetworkInterface`).
const DESCRIPTION_MAX: usize = 255;

/// `CreateNetworkInterface`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateRequest {
    /// The subnet.
    pub subnet_id: String,
    /// Free text.
    pub description: String,
    /// Security groups; empty for the VPC's default.
    pub groups: Vec<String>,
    /// The primary address, if it is to be a certain one.
    pub primary: Option<Ipv4Addr>,
    /// Secondary addresses that are to be certain ones.
    pub secondaries: Vec<Ipv4Addr>,
    /// How many secondary addresses of EC2's choice.
    pub secondary_count: usize,
    /// How many prefixes of EC2's choice.
    pub prefix_count: usize,
    /// Tags.
    pub tags: Tags,
    /// The same token again answers the same interface.
    pub client_token: Option<String>,
}

impl Cloud {
    /// Creates an interface.
    ///
    /// # Errors
    /// Unknown subnet or group, taken or reserved addresses, limits, a full subnet, a client token used with other
    /// parameters (`IdempotentParameterMismatch`).
    pub fn create_network_interface(&self, request: &CreateRequest) -> Result<Eni, ApiError> {
        self.change(|state, now| {
            let eni_id = state.create(request, now)?;
            let record = state
                .enis
                .get(&eni_id)
                .ok_or_else(|| ApiError::no_interface(&eni_id))?;
            Ok(record.eni.clone())
        })
    }
}

impl State {
    pub(super) fn create(
        &mut self,
        request: &CreateRequest,
        now: Duration,
    ) -> Result<String, ApiError> {
        if let Some(eni_id) = self.created_before(request)? {
            return Ok(eni_id);
        }
        let groups = self.check_create(request)?;
        let eni_id = self.new_id("eni-");
        let mac = self.new_mac();
        let vpc_id = self.vpc_id.clone();
        let prefixes = self.take_prefixes(&request.subnet_id, request.prefix_count)?;
        let prefixes = prefixes.ok_or_else(no_room_for_prefixes)?;
        let (primary, secondaries) = self.take_addresses(request)?;
        let subnet = &self.subnet(&request.subnet_id)?.config;
        let eni = Eni {
            eni_id: eni_id.clone(),
            mac,
            subnet_id: request.subnet_id.clone(),
            subnet_cidr: subnet.cidr.trunc(),
            vpc_id,
            availability_zone: subnet.availability_zone.clone(),
            primary,
            secondaries,
            prefixes,
            device_index: 0,
            attachment_id: None,
            instance_id: None,
            attachment_status: AttachmentStatus::Detached,
            attach_time: Duration::ZERO,
            delete_on_termination: false,
            groups,
            tags: request.tags.clone(),
            description: request.description.clone(),
            source_dest_check: true,
            status: EniStatus::Available,
        };
        let created_by = request.client_token.is_some().then(|| request.clone());
        let visible_at = now + self.visibility_delay;
        self.enis.insert(
            eni_id.clone(),
            EniRecord {
                eni,
                visible_at,
                transition_due: None,
                timer_set: false,
                created_by,
            },
        );
        self.announce(&eni_id);
        Ok(eni_id)
    }

    /// Takes the addresses of a request that was checked: the primary, then the others.
    fn take_addresses(
        &mut self,
        request: &CreateRequest,
    ) -> Result<(Ipv4Addr, Vec<Ipv4Addr>), ApiError> {
        let subnet = self.subnets.get_mut(&request.subnet_id);
        let pool = &mut subnet
            .ok_or_else(|| ApiError::no_subnet(&request.subnet_id))?
            .pool;
        request
            .primary
            .iter()
            .chain(&request.secondaries)
            .for_each(|&address| pool.take(address));
        let primary = request
            .primary
            .or_else(|| pool.take_any())
            .ok_or_else(subnet_full)?;
        let mut secondaries = request.secondaries.clone();
        secondaries.extend((0..request.secondary_count).map_while(|_| pool.take_any()));
        Ok((primary, secondaries))
    }

    fn subnet(&self, subnet_id: &str) -> Result<&SubnetRecord, ApiError> {
        self.subnets
            .get(subnet_id)
            .ok_or_else(|| ApiError::no_subnet(subnet_id))
    }

    /// The interface an earlier request with this client token made.
    fn created_before(&self, request: &CreateRequest) -> Result<Option<String>, ApiError> {
        let Some(token) = &request.client_token else {
            return Ok(None);
        };
        let same_token = |record: &&EniRecord| {
            record
                .created_by
                .as_ref()
                .is_some_and(|by| by.client_token.as_ref() == Some(token))
        };
        let Some(record) = self.enis.values().find(same_token) else {
            return Ok(None);
        };
        if record.created_by.as_ref() == Some(request) {
            return Ok(Some(record.eni.eni_id.clone()));
        }
        let message = "The specified idempotent token was used with different request parameters.";
        Err(ApiError::new("IdempotentParameterMismatch", message))
    }

    /// Everything that can be wrong with a creation; returns the groups it will have.
    fn check_create(&self, request: &CreateRequest) -> Result<Vec<String>, ApiError> {
        check_id(&request.subnet_id, "subnet-", "InvalidSubnetID.Malformed")?;
        let subnet = self.subnet(&request.subnet_id)?;
        check_description(&request.description)?;
        check_tags(&Tags::new(), &request.tags)?;
        let groups = self.check_groups(&request.groups)?;
        let wanted: Vec<Ipv4Addr> = request
            .primary
            .iter()
            .chain(&request.secondaries)
            .copied()
            .collect();
        for (i, &address) in wanted.iter().enumerate() {
            subnet
                .pool
                .check(address)
                .map_err(|why| refusal(address, why))?;
            if wanted.iter().take(i).any(|&earlier| earlier == address) {
                return Err(ApiError::invalid_value(format!(
                    "Address {address} is given twice"
                )));
            }
        }
        if request.secondary_count > 0 && !request.secondaries.is_empty() {
            let message = "secondaryPrivateIpAddressCount cannot be combined with secondary privateIpAddresses";
            return Err(ApiError::combination(message));
        }
        if request.prefix_count > 0
            && (request.secondary_count > 0 || !request.secondaries.is_empty())
        {
            let message = "ipv4PrefixCount cannot be combined with secondary private IP addresses";
            return Err(ApiError::combination(message));
        }
        let secondaries = request.secondaries.len().max(request.secondary_count);
        let secondaries = secondaries.max(request.prefix_count);
        let limit = self.types.iter().map(|t| t.ipv4_per_eni).max().unwrap_or(0) as usize;
        if secondaries >= limit {
            return Err(too_many());
        }
        let needed = match request.prefix_count {
            0 => secondaries,
            prefixes => prefixes * 16,
        };
        if needed + 1 > subnet.pool.free() {
            return Err(subnet_full());
        }
        Ok(groups)
    }

    pub(super) fn check_groups(&self, groups: &[String]) -> Result<Vec<String>, ApiError> {
        if groups.is_empty() {
            return Ok(self
                .groups
                .iter()
                .take(1)
                .map(|g| g.group_id.clone())
                .collect());
        }
        let unknown = groups
            .iter()
            .find(|id| self.groups.iter().all(|g| g.group_id != **id));
        if let Some(unknown) = unknown {
            return Err(ApiError::no_group(unknown));
        }
        if groups.len() > GROUPS_PER_ENI {
            let message = "The maximum number of security groups per interface has been reached.";
            return Err(ApiError::new(
                "SecurityGroupsPerInterfaceLimitExceeded",
                message,
            ));
        }
        Ok(groups.to_vec())
    }
}

/// Unlike assigning, creating reports a fragmented subnet by a general code.
fn no_room_for_prefixes() -> ApiError {
    ApiError::invalid_value("There are no sufficient free addresses or prefixes in the subnet.")
}

pub(super) fn check_description(text: &str) -> Result<(), ApiError> {
    if text.chars().count() <= DESCRIPTION_MAX {
        return Ok(());
    }
    Err(ApiError::invalid_value(format!(
        "Description is longer than {DESCRIPTION_MAX} characters"
    )))
}
