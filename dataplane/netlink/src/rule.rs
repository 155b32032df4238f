//! IPv4 policy routing rules.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::{Result, What};
use crate::socket::Netlink;

/// One rule that looks a table up; all given selectors must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Priority; lower is earlier.
    pub priority: u32,
    /// Source addresses; any when absent.
    pub from: Option<Ipv4Net>,
    /// Destination addresses; any when absent.
    pub to: Option<Ipv4Net>,
    /// Firewall mark; any when absent.
    pub fwmark: Option<u32>,
    /// Bits of the mark that are compared; all when absent.
    pub fwmask: Option<u32>,
    /// Table to look up.
    pub table: u32,
}

impl Netlink {
    /// Adds a rule.
    ///
    /// # Errors
    /// [`crate::Error::is_exists`] for an exact duplicate; otherwise what the kernel reports.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        let object = object(rule);
        let what = What {
            op: "add rule",
            object: &object,
        };
        let message = RouteNetlinkMessage::NewRule(message(rule));
        self.change(what, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Deletes the first rule that matches in every given field.
    ///
    /// # Errors
    /// [`crate::Error::is_not_found`] when there is none; otherwise what the kernel reports.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        let object = object(rule);
        let what = What {
            op: "delete rule",
            object: &object,
        };
        self.change(what, RouteNetlinkMessage::DelRule(message(rule)), 0)
    }

    /// The rules that look a table up, by priority.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        let what = What {
            op: "list",
            object: "rules",
        };
        let mut query = RuleMessage::default();
        query.header.family = AddressFamily::Inet;
        let found = self.dump(what, &RouteNetlinkMessage::GetRule(query))?;
        Ok(found.into_iter().filter_map(rule_from).collect())
    }
}

fn object(rule: &Rule) -> String {
    let mut text = format!("priority {}", rule.priority);
    if let Some(from) = rule.from {
        text += &format!(" from {from}");
    }
    if let Some(to) = rule.to {
        text += &format!(" to {to}");
    }
    if let Some(mark) = rule.fwmark {
        text += &format!(" fwmark {mark:#x}");
    }
    text + &format!(" table {}", rule.table)
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Table(rule.table));
    if let Some(from) = rule.from {
        message.header.src_len = from.prefix_len();
        attributes.push(RuleAttribute::Source(IpAddr::V4(from.network())));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.prefix_len();
        attributes.push(RuleAttribute::Destination(IpAddr::V4(to.network())));
    }
    attributes.extend(rule.fwmark.map(RuleAttribute::FwMark));
    attributes.extend(rule.fwmask.map(RuleAttribute::FwMask));
    message
}

fn rule_from(message: RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = message else {
        return None;
    };
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let mut rule = Rule {
        priority: 0,
        from: None,
        to: None,
        fwmark: None,
        fwmask: None,
        table: message.header.table.into(),
    };
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = priority,
            RuleAttribute::Table(table) => rule.table = table,
            RuleAttribute::Source(IpAddr::V4(address)) => {
                rule.from = Ipv4Net::new(address, message.header.src_len).ok();
            }
            RuleAttribute::Destination(IpAddr::V4(address)) => {
                rule.to = Ipv4Net::new(address, message.header.dst_len).ok();
            }
            RuleAttribute::FwMark(mark) => rule.fwmark = Some(mark),
            RuleAttribute::FwMask(mask) => rule.fwmask = Some(mask),
            _ => {}
        }
    }
    Some(rule)
}
