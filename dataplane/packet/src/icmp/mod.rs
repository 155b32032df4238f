//! ICMP and ICMPv6: what a message is, what an error quotes, what neighbors claim, and how to
//! write an error. References: RFC 792, RFC 4443.

mod error;
mod four;
mod neighbor;
mod quote;
mod six;

pub use error::{Envelope, Error, MAX_ERROR, build_error};
pub use neighbor::{Neighbor, NeighborKind, neighbor};
pub use quote::{Quote, QuotedL4, quote};

pub(crate) use four::read as read4;
pub(crate) use six::read as read6;

/// ICMP and ICMPv6 messages that quote a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// ICMP type 3, ICMPv6 type 1.
    Unreachable,
    /// ICMP type 4, obsolete (RFC 6633) but still about a quoted packet.
    SourceQuench,
    /// ICMP type 5. ICMPv6 counts redirects among neighbor discovery:
    /// [`NeighborKind::Redirect`].
    Redirect,
    /// ICMPv6 type 2; ICMP says this with a code of [`Self::Unreachable`].
    TooBig,
    /// ICMP type 11, ICMPv6 type 3.
    TimeExceeded,
    /// ICMP type 12, ICMPv6 type 4.
    ParameterProblem,
}
