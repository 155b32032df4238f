//! Scenarios, generators and reports.

pub mod allocations;
pub mod capture;
pub mod conntrack;
pub mod delay_line;
pub mod drop_at_hook;
pub mod foreign;
pub mod generator;
pub mod inject;
pub mod instructions;
pub mod load;
pub mod pipeline;
pub mod place;
pub mod profile;
pub mod reference;
pub mod reference_node;
pub mod report;
pub mod scenario;
pub mod stats;
pub mod targets;
pub mod testbed;
pub mod validity;
