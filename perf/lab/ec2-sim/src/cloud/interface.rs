//! Life of a network interface: create, attach, modify, detach, delete.
//!
//! Guarantees: each call checks everything before it changes anything.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::cloud::address::refusal;
use crate::cloud::state::{EniRecord, State, check_id};
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
    /// Tags.
    pub tags: Tags,
    /// The same token again answers the same interface.
    pub client_token: Option<String>,
}

/// `AttachNetworkInterface`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// The interface.
    pub eni_id: String,
    /// The instance.
    pub instance_id: String,
    /// Position in the instance.
    pub device_index: u32,
}

/// `ModifyNetworkInterfaceAttribute`: one attribute per call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceChange {
    /// Free text.
    Description(String),
    /// Security groups, replacing those it has.
    Groups(Vec<String>),
    /// Whether the VPC checks addresses.
    SourceDestCheck(bool),
    /// Whether it goes when its instance goes.
    DeleteOnTermination {
        /// The attachment the caller means.
        attachment_id: String,
        /// The new value.
        delete: bool,
    },
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

    /// Starts to attach an interface and returns the attachment id.
    ///
    /// # Errors
    /// Unknown ids, an interface in use, a taken device index, another zone, `AttachmentLimitExceeded`.
    pub fn attach_network_interface(&self, request: &AttachRequest) -> Result<String, ApiError> {
        self.change(|state, now| state.attach(request, now))
    }

    /// Changes one attribute.
    ///
    /// # Errors
    /// Unknown ids, too many groups, too long a description.
    pub fn modify_network_interface(
        &self,
        eni_id: &str,
        change: &InterfaceChange,
    ) -> Result<(), ApiError> {
        self.change(|state, now| state.modify(eni_id, change, now))
    }

    /// Starts to detach an interface.
    ///
    /// # Errors
    /// Unknown attachment, the primary interface, an attachment that is not `attached`.
    pub fn detach_network_interface(&self, attachment_id: &str) -> Result<(), ApiError> {
        self.change(|state, now| state.detach(attachment_id, now))
    }

    /// Deletes an interface that is available.
    ///
    /// # Errors
    /// Unknown interface, `InvalidNetworkInterface.InUse`.
    pub fn delete_network_interface(&self, eni_id: &str) -> Result<(), ApiError> {
        self.change(|state, now| state.delete(eni_id, now))
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
        let subnet = self.subnets.get_mut(&request.subnet_id);
        let subnet = subnet.ok_or_else(|| ApiError::no_subnet(&request.subnet_id))?;
        request
            .primary
            .iter()
            .chain(&request.secondaries)
            .for_each(|&a| subnet.pool.take(a));
        let full = || {
            ApiError::new(
                "InsufficientFreeAddressesInSubnet",
                super::address::SUBNET_FULL,
            )
        };
        let primary = request
            .primary
            .or_else(|| subnet.pool.take_any())
            .ok_or_else(full)?;
        let mut secondaries = request.secondaries.clone();
        secondaries.extend((0..request.secondary_count).map_while(|_| subnet.pool.take_any()));
        let eni = Eni {
            eni_id: eni_id.clone(),
            mac,
            subnet_id: request.subnet_id.clone(),
            subnet_cidr: subnet.config.cidr.trunc(),
            vpc_id,
            availability_zone: subnet.config.availability_zone.clone(),
            primary,
            secondaries,
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
        let subnet = self
            .subnets
            .get(&request.subnet_id)
            .ok_or_else(|| ApiError::no_subnet(&request.subnet_id))?;
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
        let secondaries = request.secondaries.len().max(request.secondary_count);
        let limit = self.types.iter().map(|t| t.ipv4_per_eni).max().unwrap_or(0) as usize;
        if secondaries >= limit {
            return Err(super::address::too_many());
        }
        if secondaries + 1 > subnet.pool.free() {
            return Err(ApiError::new(
                "InsufficientFreeAddressesInSubnet",
                super::address::SUBNET_FULL,
            ));
        }
        Ok(groups)
    }

    fn check_groups(&self, groups: &[String]) -> Result<Vec<String>, ApiError> {
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

    fn attach(&mut self, request: &AttachRequest, now: Duration) -> Result<String, ApiError> {
        let AttachRequest {
            eni_id,
            instance_id,
            device_index,
        } = request;
        let eni = &self.visible(eni_id, now)?.eni;
        let instance = self.instance_record(instance_id)?;
        if eni.status == EniStatus::InUse {
            return Err(in_use(eni_id));
        }
        let attached = self.enis_of(instance_id);
        let same_zone = attached
            .iter()
            .all(|other| other.availability_zone == eni.availability_zone);
        if !same_zone {
            let message = "You may not attach a network interface to an instance if they are not in the same \
                           availability zone";
            return Err(ApiError::combination(message));
        }
        if attached
            .iter()
            .any(|other| other.device_index == *device_index)
        {
            let message = format!(
                "Instance '{instance_id}' already has an interface attached at device index '{device_index}'."
            );
            return Err(ApiError::invalid_value(message));
        }
        let kind = &instance.instance_type;
        if attached.len() >= kind.max_enis as usize {
            let message = format!(
                "Interface count {} exceeds the limit for {}",
                attached.len() + 1,
                kind.name
            );
            return Err(ApiError::new("AttachmentLimitExceeded", message));
        }
        if eni.addresses().count() > kind.ipv4_per_eni as usize {
            return Err(super::address::too_many());
        }
        let attachment_id = self.new_id("eni-attach-");
        let delay = self.attach_delay;
        let record = self.visible_mut(eni_id, now)?;
        record.eni.attachment_id = Some(attachment_id.clone());
        record.eni.instance_id = Some(instance_id.clone());
        record.eni.device_index = *device_index;
        record.eni.attachment_status = AttachmentStatus::Attaching;
        record.eni.attach_time = now;
        record.eni.status = EniStatus::InUse;
        record.transition_due = Some(now + delay);
        record.timer_set = false;
        Ok(attachment_id)
    }

    fn modify(
        &mut self,
        eni_id: &str,
        change: &InterfaceChange,
        now: Duration,
    ) -> Result<(), ApiError> {
        self.visible(eni_id, now)?;
        match change {
            InterfaceChange::Description(text) => {
                check_description(text)?;
                self.visible_mut(eni_id, now)?
                    .eni
                    .description
                    .clone_from(text);
            }
            InterfaceChange::Groups(groups) => {
                let groups = self.check_groups(groups)?;
                self.visible_mut(eni_id, now)?.eni.groups = groups;
            }
            InterfaceChange::SourceDestCheck(check) => {
                self.visible_mut(eni_id, now)?.eni.source_dest_check = *check;
                self.announce(eni_id);
            }
            InterfaceChange::DeleteOnTermination {
                attachment_id,
                delete,
            } => {
                let record = self.visible_mut(eni_id, now)?;
                if record.eni.attachment_id.as_ref() != Some(attachment_id) {
                    return Err(no_attachment(attachment_id));
                }
                record.eni.delete_on_termination = *delete;
            }
        }
        Ok(())
    }

    fn detach(&mut self, attachment_id: &str, now: Duration) -> Result<(), ApiError> {
        check_id(
            attachment_id,
            "eni-attach-",
            "InvalidAttachmentId.Malformed",
        )?;
        let delay = self.detach_delay;
        let mut records = self.enis.values_mut();
        let record =
            records.find(|record| record.eni.attachment_id.as_deref() == Some(attachment_id));
        let record = record.ok_or_else(|| no_attachment(attachment_id))?;
        if record.eni.device_index == 0 {
            let message = "The network interface at device index 0 cannot be detached.";
            return Err(ApiError::new("OperationNotPermitted", message));
        }
        if record.eni.attachment_status != AttachmentStatus::Attached {
            let status = record.eni.attachment_status.as_str();
            return Err(ApiError::new(
                "IncorrectState",
                format!("Attachment '{attachment_id}' is {status}."),
            ));
        }
        record.eni.attachment_status = AttachmentStatus::Detaching;
        record.transition_due = Some(now + delay);
        record.timer_set = false;
        Ok(())
    }

    fn delete(&mut self, eni_id: &str, now: Duration) -> Result<(), ApiError> {
        if self.visible(eni_id, now)?.eni.status == EniStatus::InUse {
            return Err(in_use(eni_id));
        }
        self.remove_eni(eni_id);
        Ok(())
    }
}

fn check_description(text: &str) -> Result<(), ApiError> {
    if text.chars().count() <= DESCRIPTION_MAX {
        return Ok(());
    }
    Err(ApiError::invalid_value(format!(
        "Description is longer than {DESCRIPTION_MAX} characters"
    )))
}

fn in_use(eni_id: &str) -> ApiError {
    let message = format!("Interface '{eni_id}' is currently in use.");
    ApiError::new("InvalidNetworkInterface.InUse", message)
}

fn no_attachment(attachment_id: &str) -> ApiError {
    let message = format!("The attachment '{attachment_id}' does not exist");
    ApiError::new("InvalidAttachmentID.NotFound", message)
}
