//! Making failures; their codes are those of the CNI specification 1.1.0, section "Error".
//! Penstock's own start at 100 and live in [`penstock_control_api::code`].

use penstock_control_api::Failure;

/// The configuration's cniVersion is not supported.
pub(crate) const VERSION: u32 = 1;
/// The configuration asks for something that cannot be had here.
pub(crate) const UNSUPPORTED: u32 = 2;
/// An environment variable is missing or invalid.
pub(crate) const ENVIRONMENT: u32 = 4;
/// Reading or writing failed.
pub(crate) const IO: u32 = 5;
/// The configuration is not the expected JSON.
pub(crate) const DECODE: u32 = 6;
/// The configuration says something that cannot be.
pub(crate) const CONFIG: u32 = 7;
/// The network namespace is the node's own.
pub(crate) const NETNS: u32 = 8;
/// STATUS: running pods go on, but not as well as they should.
pub(crate) const LIMITED: u32 = 51;

/// A failure; `details` is the cause and what to do next.
pub(crate) fn failure(
    code: u32,
    message: impl Into<String>,
    details: impl Into<String>,
) -> Failure {
    Failure {
        code,
        message: message.into(),
        details: details.into(),
    }
}
