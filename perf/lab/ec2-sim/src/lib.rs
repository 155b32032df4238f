//! The EC2 query API and IMDSv2 over HTTP, strict on limits.
