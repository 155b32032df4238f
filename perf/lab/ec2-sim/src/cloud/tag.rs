//! Tags on every kind of resource the cloud has.
//!
//! Limits: "Tag restrictions" in the EC2 user guide.

use std::time::Duration;

use crate::cloud::Cloud;
use crate::cloud::state::State;
use crate::{ApiError, Tags};

const TAGS_PER_RESOURCE: usize = 50;
const KEY_MAX: usize = 128;
const VALUE_MAX: usize = 256;
const RESERVED_PREFIX: &str = "aws:";

impl Cloud {
    /// Adds tags to resources, replacing values of keys they have.
    ///
    /// # Errors
    /// An unknown resource, or limits; then no resource is changed.
    pub fn create_tags(&self, resources: &[String], tags: &Tags) -> Result<(), ApiError> {
        self.change(|state, now| {
            for id in resources {
                let present = state.tags_mut(id, now)?;
                check_tags(present, tags)?;
            }
            for id in resources {
                let present = state.tags_mut(id, now)?;
                present.extend(tags.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
            Ok(())
        })
    }

    /// Removes tags: a key with a value only if the value is the same, a key without one in any case; no keys at all
    /// means every tag.
    ///
    /// # Errors
    /// An unknown resource; then no resource is changed.
    pub fn delete_tags(
        &self,
        resources: &[String],
        keys: &[(String, Option<String>)],
    ) -> Result<(), ApiError> {
        self.change(|state, now| {
            for id in resources {
                state.tags_mut(id, now)?;
            }
            for id in resources {
                let present = state.tags_mut(id, now)?;
                let named = |k: &String, v: &String| {
                    let same =
                        |wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| wanted == v);
                    keys.iter().any(|(key, value)| key == k && same(value))
                };
                present.retain(|k, v| !keys.is_empty() && !named(k, v));
            }
            Ok(())
        })
    }
}

impl State {
    fn tags_mut(&mut self, id: &str, now: Duration) -> Result<&mut Tags, ApiError> {
        let (kind, _) = id.split_once('-').unwrap_or_default();
        match kind {
            "eni" => Ok(&mut self.visible_mut(id, now)?.eni.tags),
            "i" => {
                let record = self.instances.get_mut(id);
                record
                    .map(|record| &mut record.tags)
                    .ok_or_else(|| ApiError::no_instance(id))
            }
            "subnet" => {
                let record = self.subnets.get_mut(id);
                record
                    .map(|record| &mut record.config.tags)
                    .ok_or_else(|| ApiError::no_subnet(id))
            }
            "sg" => {
                let group = self.groups.iter_mut().find(|group| group.group_id == id);
                group
                    .map(|group| &mut group.tags)
                    .ok_or_else(|| ApiError::no_group(id))
            }
            "vpc" if id == self.vpc_id => Ok(&mut self.vpc_tags),
            "vpc" => Err(ApiError::no_vpc(id)),
            _ => Err(ApiError::new(
                "InvalidID",
                format!("The ID '{id}' is not valid"),
            )),
        }
    }
}

/// Whether `new` may be added to `present`.
pub(super) fn check_tags(present: &Tags, new: &Tags) -> Result<(), ApiError> {
    for (key, value) in new {
        if key.is_empty() || key.chars().count() > KEY_MAX {
            return Err(ApiError::invalid_value(format!(
                "Tag key must have 1 to {KEY_MAX} characters"
            )));
        }
        if value.chars().count() > VALUE_MAX {
            return Err(ApiError::invalid_value(format!(
                "Tag value must have at most {VALUE_MAX} characters"
            )));
        }
        if key.starts_with(RESERVED_PREFIX) {
            let message = "Tag keys starting with 'aws:' are reserved for internal use";
            return Err(ApiError::invalid_value(message));
        }
    }
    let added = new.keys().filter(|key| !present.contains_key(*key)).count();
    if present.len() + added > TAGS_PER_RESOURCE {
        let message = "You have reached the maximum number of tags for the resource.";
        return Err(ApiError::new("TagLimitExceeded", message));
    }
    Ok(())
}
