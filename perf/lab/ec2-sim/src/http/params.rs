//! The parameters of a query request, taken out one by one.
//!
//! Guarantees: what is left at the end is an error, so no parameter is silently ignored; values that XML could not
//! carry back are refused.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

use crate::cloud::{Filter, PageRequest};
use crate::{ApiError, Tags};

/// Largest position in a list, as in `InstanceId.1000`.
const LIST_MAX: u32 = 1000;

#[derive(Debug, Default)]
pub(super) struct Params {
    values: BTreeMap<String, String>,
}

impl Params {
    pub(super) fn new(pairs: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut params = Self::default();
        for (name, value) in pairs {
            if name.contains(not_xml) || value.contains(not_xml) {
                return Err(ApiError::invalid_value(
                    "A parameter contains characters that are not allowed",
                ));
            }
            if params.values.contains_key(&name) {
                let message = format!("The parameter {name} is given twice");
                return Err(ApiError::new("InvalidQueryParameter", message));
            }
            params.values.insert(name, value);
        }
        Ok(params)
    }

    /// One value, if it is there. The result is fallible so that every taker reads alike.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        Ok(self.values.remove(name))
    }

    pub(super) fn required(&mut self, name: &str) -> Result<String, ApiError> {
        self.text(name)?
            .filter(|value| !value.is_empty())
            .ok_or_else(|| ApiError::missing(name))
    }

    pub(super) fn parsed<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.text(name)? else {
            return Ok(None);
        };
        let invalid =
            || ApiError::invalid_value(format!("Value ({value}) for parameter {name} is invalid."));
        value.parse().map(Some).map_err(|_| invalid())
    }

    /// A flag; absent is false.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        Ok(self.parsed(name)?.unwrap_or(false))
    }

    /// The members of the list `name`, by position: `name.1.Field` becomes `Field` of the first.
    pub(super) fn members(&mut self, name: &str) -> Result<Vec<Self>, ApiError> {
        let prefix = format!("{name}.");
        let keys: Vec<String> = self
            .values
            .keys()
            .filter(|key| key.starts_with(&prefix))
            .cloned()
            .collect();
        let mut members: BTreeMap<u32, Self> = BTreeMap::new();
        for key in keys {
            let rest = key.strip_prefix(&prefix).unwrap_or_default();
            let (position, field) = rest.split_once('.').unwrap_or((rest, ""));
            let Some(position) = position.parse().ok().filter(|p| (1..=LIST_MAX).contains(p))
            else {
                return Err(unknown(&key));
            };
            if let Some(value) = self.values.remove(&key) {
                members
                    .entry(position)
                    .or_default()
                    .values
                    .insert(field.to_owned(), value);
            }
        }
        Ok(members.into_values().collect())
    }

    /// A list of plain values.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        let one = |mut member: Self| {
            let value = member.required("").map_err(|_| ApiError::missing(name))?;
            member.nothing_left().map(|()| value)
        };
        self.members(name)?.into_iter().map(one).collect()
    }

    /// A list of IPv4 addresses.
    pub(super) fn addresses(&mut self, name: &str) -> Result<Vec<Ipv4Addr>, ApiError> {
        let parse = |text: String| {
            text.parse().map_err(|_| {
                ApiError::invalid_value(format!("invalid value for parameter address: {text}"))
            })
        };
        self.list(name)?.into_iter().map(parse).collect()
    }

    /// A list of IPv4 prefixes.
    pub(super) fn prefixes(&mut self, name: &str) -> Result<Vec<Ipv4Net>, ApiError> {
        let parse = |text: String| {
            text.parse().map_err(|_| {
                ApiError::invalid_value(format!("invalid value for parameter prefix: {text}"))
            })
        };
        self.list(name)?.into_iter().map(parse).collect()
    }

    /// `Filter.N.Name`, `Filter.N.Value.M`.
    pub(super) fn filters(&mut self) -> Result<Vec<Filter>, ApiError> {
        let one = |mut member: Self| {
            let filter = Filter {
                name: member.required("Name")?,
                values: member.list("Value")?,
            };
            member.nothing_left()?;
            if filter.values.is_empty() {
                return Err(ApiError::missing("Filter.Value"));
            }
            Ok(filter)
        };
        self.members("Filter")?.into_iter().map(one).collect()
    }

    pub(super) fn page(&mut self) -> Result<PageRequest, ApiError> {
        Ok(PageRequest {
            max_results: self.parsed("MaxResults")?,
            next_token: self.text("NextToken")?,
        })
    }

    /// `Tag.N.Key`, `Tag.N.Value`; a tag without a value has an empty one.
    pub(super) fn tags(&mut self) -> Result<Tags, ApiError> {
        let mut tags = Tags::new();
        for (key, value) in self.optional_tags()? {
            if tags
                .insert(key.clone(), value.unwrap_or_default())
                .is_some()
            {
                return Err(ApiError::invalid_value(format!(
                    "Duplicate tag key '{key}' specified."
                )));
            }
        }
        Ok(tags)
    }

    /// As [`Self::tags`], telling an absent value from an empty one.
    pub(super) fn optional_tags(&mut self) -> Result<Vec<(String, Option<String>)>, ApiError> {
        let one = |mut member: Self| {
            let tag = (member.required("Key")?, member.text("Value")?);
            member.nothing_left().map(|()| tag)
        };
        self.members("Tag")?.into_iter().map(one).collect()
    }

    /// Tags given to a new resource of `kind` by `TagSpecification.N`.
    pub(super) fn tag_specification(&mut self, kind: &str) -> Result<Tags, ApiError> {
        let mut tags = Tags::new();
        for mut member in self.members("TagSpecification")? {
            let resource_type = member.required("ResourceType")?;
            if resource_type != kind {
                let message = format!(
                    "'{resource_type}' is not a valid taggable resource type for this operation."
                );
                return Err(ApiError::invalid_value(message));
            }
            tags.extend(member.tags()?);
            member.nothing_left()?;
        }
        Ok(tags)
    }

    /// Ends the reading: nothing may be left over, and a dry run goes no further.
    pub(super) fn finish(mut self) -> Result<(), ApiError> {
        let dry_run = self.flag("DryRun")?;
        self.nothing_left()?;
        if dry_run {
            let message = "Request would have succeeded, but DryRun flag is set.";
            return Err(ApiError::new("DryRunOperation", message));
        }
        Ok(())
    }

    pub(super) fn nothing_left(&self) -> Result<(), ApiError> {
        match self.values.keys().next() {
            Some(name) => Err(unknown(name)),
            None => Ok(()),
        }
    }
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(
        "UnknownParameter",
        format!("The parameter {name} is not recognized"),
    )
}

/// Characters XML 1.0 has no way to carry.
fn not_xml(c: char) -> bool {
    let space = matches!(c, '\t' | '\n' | '\r');
    (c.is_ascii_control() && !space) || matches!(c, '\u{fffe}'..='\u{ffff}')
}
