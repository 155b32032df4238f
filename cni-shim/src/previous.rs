//! What an earlier result says: the one CHECK compares with, or the one DEL finds its pair by.
//!
//! Later plugins of a chain may have changed what we made and said so in the result; what they did
//! not list there is nobody's. Every look-up copes with whatever JSON a runtime has kept.

use penstock_control_api::MacAddr;
use penstock_netlink::Ipv4Net;
use serde_json::{Map, Value};

/// A result of the plugin chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Previous<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Previous<'a> {
    /// Whether `ips` lists this address.
    pub(crate) fn has_address(self, wanted: Ipv4Net) -> bool {
        let text = |ip: &Value| ip["address"].as_str()?.parse::<Ipv4Net>().ok();
        self.list("ips").any(|ip| text(ip) == Some(wanted))
    }

    /// Whether `routes` lists an IPv4 default route.
    pub(crate) fn has_default_route(self) -> bool {
        self.list("routes").any(|route| route["dst"] == "0.0.0.0/0")
    }

    /// The MTU an interface is listed with, since version 1.1.0.
    pub(crate) fn mtu(self, interface: &str) -> Option<u32> {
        self.interface(interface)?["mtu"].as_u64()?.try_into().ok()
    }

    /// The hardware address an interface is listed with.
    pub(crate) fn mac(self, interface: &str) -> Option<MacAddr> {
        self.interface(interface)?["mac"].as_str()?.parse().ok()
    }

    fn interface(self, name: &str) -> Option<&'a Value> {
        self.0
            .get("interfaces")?
            .as_array()?
            .iter()
            .find(|interface| interface["name"] == name)
    }

    fn list(&self, key: &str) -> impl Iterator<Item = &Value> {
        let array = self.0.get(key).and_then(Value::as_array);
        array.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_json_is_coped_with() {
        for odd in [
            json!({}),
            json!({ "ips": 3, "routes": {}, "interfaces": [null, 7, "x"] }),
            json!({ "ips": [null, { "address": 1 }, { "address": "10.1.2.3" }] }),
            json!({ "interfaces": [{ "name": "eth0", "mtu": -1, "mac": "zz" }] }),
        ] {
            let previous = Previous(odd.as_object().unwrap());
            assert!(!previous.has_address("10.1.2.3/32".parse().unwrap()));
            assert!(!previous.has_default_route());
            assert_eq!((previous.mtu("eth0"), previous.mac("eth0")), (None, None));
        }
    }
}
