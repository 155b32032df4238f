//! Scenarios, generators and reports.
