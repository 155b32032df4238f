//! What EC2's error codes mean for the caller. Codes: EC2 API reference, "Error codes"; texts: as users of the VPC CNI
//! have reported them, because one code covers several causes.

/// What an error means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// EC2 asks us to slow down; the call had no effect.
    Throttled,
    /// The subnet has too few addresses left.
    SubnetFull,
    /// The subnet may have addresses, but no free /28.
    NoPrefix,
    /// The ENI holds all the addresses it can.
    AddressLimit,
    /// The instance, or the account, holds all the ENIs it can.
    EniLimit,
    /// Another ENI is plugged in at that number.
    DeviceTaken,
    /// Not there, or not visible yet.
    NotFound,
    /// What is to be taken away is not there.
    NotHeld,
    /// The client token was used for another request.
    TokenReused,
    /// Missing permission or bad credentials.
    Unauthorized,
    /// No answer, or one that makes no sense; the call may have had its effect.
    Transport,
    /// Anything else EC2 says.
    Other,
}

/// Reads an EC2 error.
#[must_use]
pub fn classify(code: &str, message: &str) -> ErrorKind {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "RequestThrottled"
        | "EC2ThrottledException"
        | "SlowDown"
        | "Client.RequestLimitExceeded" => ErrorKind::Throttled,
        "InsufficientFreeAddressesInSubnet" => ErrorKind::SubnetFull,
        "InsufficientCidrBlocks" => ErrorKind::NoPrefix,
        "PrivateIpAddressLimitExceeded" => ErrorKind::AddressLimit,
        "AttachmentLimitExceeded"
        | "NetworkInterfaceLimitExceeded"
        | "NetworkInterfacesPerRegionLimitExceeded" => ErrorKind::EniLimit,
        "IdempotentParameterMismatch" => ErrorKind::TokenReused,
        "UnauthorizedOperation"
        | "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidClientTokenId"
        | "OptInRequired"
        | "AccessDenied" => ErrorKind::Unauthorized,
        code if code.ends_with(".NotFound") => ErrorKind::NotFound,
        // What came has no code: it was not EC2 that spoke, or not to the end.
        "" | "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" => {
            ErrorKind::Transport
        }
        "InvalidParameterValue" => by_text(&message.to_ascii_lowercase()),
        _ => ErrorKind::Other,
    }
}

/// `InvalidParameterValue` is also how CreateNetworkInterface reports a full or fragmented subnet, AttachNetworkInterface
/// a taken device number, and UnassignPrivateIpAddresses what is gone already.
fn by_text(message: &str) -> ErrorKind {
    let says = |words: &[&str]| words.iter().all(|word| message.contains(word));
    let lacking = [
        "insufficient",
        "no sufficient",
        "not enough",
        "not have enough",
    ];
    let lacks = lacking.iter().any(|word| message.contains(word));
    if lacks && (says(&["prefix"]) || says(&["cidr"])) {
        ErrorKind::NoPrefix
    } else if lacks && says(&["address"]) {
        ErrorKind::SubnetFull
    } else if says(&["already has an interface attached at device index"]) {
        ErrorKind::DeviceTaken
    } else if says(&["not assigned to interface"]) {
        ErrorKind::NotHeld
    } else {
        ErrorKind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_mean_what_the_stock_keeper_needs() {
        for (code, kind) in [
            ("RequestLimitExceeded", ErrorKind::Throttled),
            ("InsufficientFreeAddressesInSubnet", ErrorKind::SubnetFull),
            ("InsufficientCidrBlocks", ErrorKind::NoPrefix),
            ("PrivateIpAddressLimitExceeded", ErrorKind::AddressLimit),
            ("AttachmentLimitExceeded", ErrorKind::EniLimit),
            ("NetworkInterfaceLimitExceeded", ErrorKind::EniLimit),
            ("InvalidNetworkInterfaceID.NotFound", ErrorKind::NotFound),
            ("IdempotentParameterMismatch", ErrorKind::TokenReused),
            ("UnauthorizedOperation", ErrorKind::Unauthorized),
            ("InternalError", ErrorKind::Transport),
            ("InvalidParameterValue", ErrorKind::Other),
            ("", ErrorKind::Transport),
        ] {
            assert_eq!(classify(code, "said by the test"), kind, "{code}");
        }
    }

    #[test]
    fn one_code_with_many_causes_is_told_apart_by_its_text() {
        for (message, kind) in [
            (
                "There are no sufficient free addresses or prefixes in subnet subnet-1",
                ErrorKind::NoPrefix,
            ),
            (
                "The specified subnet does not have enough free addresses to satisfy the request.",
                ErrorKind::SubnetFull,
            ),
            (
                "Insufficient free addresses in subnet",
                ErrorKind::SubnetFull,
            ),
            (
                "Instance 'i-1' already has an interface attached at device index '1'.",
                ErrorKind::DeviceTaken,
            ),
            (
                "Some of the specified addresses are not assigned to interface eni-1",
                ErrorKind::NotHeld,
            ),
            ("Value (x) for parameter y is invalid", ErrorKind::Other),
        ] {
            assert_eq!(
                classify("InvalidParameterValue", message),
                kind,
                "{message}"
            );
        }
    }
}
