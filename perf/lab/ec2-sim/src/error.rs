//! EC2's errors: a code callers decide by, a message for people, an HTTP status.
//!
//! Source of codes and texts: "Error codes for the Amazon EC2 API" in the EC2 API reference.

use std::borrow::Cow;

/// An error as the EC2 API reports it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// For example `InvalidNetworkInterface.InUse`.
    pub code: Cow<'static, str>,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// An error with a code of the API.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }

    /// The HTTP status that goes with the code.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self.code.as_ref() {
            "AuthFailure" => 401,
            "UnauthorizedOperation" | "OptInRequired" | "MissingAuthenticationToken" => 403,
            "DryRunOperation" => 412,
            "RequestEntityTooLarge" => 413,
            "InternalError" | "InternalFailure" | "InsufficientInstanceCapacity" => 500,
            "RequestLimitExceeded" | "ServiceUnavailable" | "Unavailable" | "Throttling" => 503,
            _ => 400,
        }
    }

    pub(crate) fn invalid_value(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    pub(crate) fn missing(parameter: &str) -> Self {
        Self::new(
            "MissingParameter",
            format!("The request must contain the parameter {parameter}"),
        )
    }

    pub(crate) fn combination(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterCombination", message)
    }

    pub(crate) fn no_interface(eni_id: &str) -> Self {
        let message = format!("The networkInterface ID '{eni_id}' does not exist");
        Self::new("InvalidNetworkInterfaceID.NotFound", message)
    }

    pub(crate) fn no_instance(instance_id: &str) -> Self {
        Self::new(
            "InvalidInstanceID.NotFound",
            format!("The instance ID '{instance_id}' does not exist"),
        )
    }

    pub(crate) fn no_subnet(subnet_id: &str) -> Self {
        Self::new(
            "InvalidSubnetID.NotFound",
            format!("The subnet ID '{subnet_id}' does not exist"),
        )
    }

    pub(crate) fn no_group(group_id: &str) -> Self {
        Self::new(
            "InvalidGroup.NotFound",
            format!("The security group '{group_id}' does not exist"),
        )
    }

    pub(crate) fn no_vpc(vpc_id: &str) -> Self {
        Self::new(
            "InvalidVpcID.NotFound",
            format!("The vpc ID '{vpc_id}' does not exist"),
        )
    }
}
