//! Life of a network interface after its creation: attach, modify, detach, delete.
//!
//! Guarantees: each call checks everything before it changes anything.

use std::time::Duration;

use crate::cloud::Cloud;
use crate::cloud::address::too_many;
use crate::cloud::create::check_description;
use crate::cloud::state::{State, check_id};
use crate::{ApiError, AttachmentStatus, EniStatus};

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
        if eni.slots() > kind.ipv4_per_eni as usize {
            return Err(too_many());
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

fn in_use(eni_id: &str) -> ApiError {
    let message = format!("Interface '{eni_id}' is currently in use.");
    ApiError::new("InvalidNetworkInterface.InUse", message)
}

fn no_attachment(attachment_id: &str) -> ApiError {
    let message = format!("The attachment '{attachment_id}' does not exist");
    ApiError::new("InvalidAttachmentID.NotFound", message)
}
