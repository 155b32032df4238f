//! IPv4 unicast routes.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::{Result, What};
use crate::socket::Netlink;

/// Number of the main table (RT_TABLE_MAIN).
pub const MAIN_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// How far away the destination is (rtm_scope).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Behind a gateway (RT_SCOPE_UNIVERSE).
    #[default]
    Universe,
    /// On the link itself (RT_SCOPE_LINK).
    Link,
    /// On this host (RT_SCOPE_HOST).
    Host,
}

/// One unicast route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination; 0.0.0.0/0 is the default route.
    pub destination: Ipv4Net,
    /// Next hop; absent for destinations on the link.
    pub gateway: Option<Ipv4Addr>,
    /// Index of the outgoing link.
    pub oif: Option<u32>,
    /// Scope.
    pub scope: Scope,
    /// Table; [`MAIN_TABLE`] unless rules say otherwise.
    pub table: u32,
}

impl Route {
    /// The default route by `gateway`, in the main table.
    #[must_use]
    pub fn default_via(gateway: Ipv4Addr, oif: u32) -> Self {
        Self {
            destination: Ipv4Net::default(),
            gateway: Some(gateway),
            oif: Some(oif),
            scope: Scope::Universe,
            table: MAIN_TABLE,
        }
    }

    /// `destination` directly on link `oif`, in the main table.
    #[must_use]
    pub fn on_link(destination: Ipv4Net, oif: u32) -> Self {
        Self {
            destination,
            gateway: None,
            oif: Some(oif),
            scope: Scope::Link,
            table: MAIN_TABLE,
        }
    }
}

impl Netlink {
    /// Adds a route.
    ///
    /// # Errors
    /// [`crate::Error::is_exists`] when the table has one for the destination; otherwise what the
    /// kernel reports (`ENETUNREACH` for an unreachable gateway or a link that is down).
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        self.new_route("add route", route, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a route, replacing one for the same destination.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.new_route("replace route", route, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn new_route(&mut self, op: &'static str, route: &Route, flags: u16) -> Result<()> {
        let object = object(route);
        let what = What {
            op,
            object: &object,
        };
        self.change(what, RouteNetlinkMessage::NewRoute(message(route)), flags)
    }

    /// Deletes the route that matches in every given field.
    ///
    /// # Errors
    /// [`crate::Error::is_not_found`] when there is none; otherwise what the kernel reports.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let object = object(route);
        let what = What {
            op: "delete route",
            object: &object,
        };
        self.change(what, RouteNetlinkMessage::DelRoute(message(route)), 0)
    }

    /// The unicast routes of one table; none when the table does not exist.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn routes(&mut self, table: u32) -> Result<Vec<Route>> {
        let what = What {
            op: "list",
            object: "routes",
        };
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let found = self.dump(what, &RouteNetlinkMessage::GetRoute(query))?;
        Ok(found
            .into_iter()
            .filter_map(route_from)
            .filter(|route| route.table == table)
            .collect())
    }
}

fn object(route: &Route) -> String {
    let destination = route.destination;
    let via = route
        .gateway
        .map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let dev = route
        .oif
        .map_or_else(String::new, |index| format!(" dev {index}"));
    format!("{destination}{via}{dev} table {}", route.table)
}

fn message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = match route.scope {
        Scope::Universe => RouteScope::Universe,
        Scope::Link => RouteScope::Link,
        Scope::Host => RouteScope::Host,
    };
    // The header's field has eight bits; the attribute carries every table.
    message.attributes.push(RouteAttribute::Table(route.table));
    if route.destination.prefix_len() > 0 {
        let network = RouteAddress::Inet(route.destination.network());
        message
            .attributes
            .push(RouteAttribute::Destination(network));
    }
    message.attributes.extend(
        route
            .gateway
            .map(|gateway| RouteAttribute::Gateway(RouteAddress::Inet(gateway))),
    );
    message
        .attributes
        .extend(route.oif.map(RouteAttribute::Oif));
    message
}

fn route_from(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut route = Route {
        destination: Ipv4Net::default(),
        gateway: None,
        oif: None,
        scope: match message.header.scope {
            RouteScope::Link => Scope::Link,
            RouteScope::Host => Scope::Host,
            _ => Scope::Universe,
        },
        table: message.header.table.into(),
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(address),
            RouteAttribute::Oif(index) => route.oif = Some(index),
            RouteAttribute::Table(table) => route.table = table,
            _ => {}
        }
    }
    route.destination = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    Some(route)
}
