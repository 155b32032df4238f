//! The result of ADD in the shape of each version of the specification.
//!
//! 0.3.1 and 0.4.0 name the address family in `ips`; 1.0.0 does not; 1.1.0 adds the interfaces'
//! MTU. An earlier plugin's result is kept and ours appended, indexes shifted.

use std::net::Ipv4Addr;

use penstock_control_api::{MacAddr, POD_GATEWAY};
use serde_json::{Map, Value, json};

use crate::config::Config;

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) address: Ipv4Addr,
    pub(crate) mtu: u32,
    pub(crate) host_ifname: String,
    pub(crate) host_mac: MacAddr,
    pub(crate) pod_ifname: String,
    pub(crate) pod_mac: MacAddr,
    pub(crate) sandbox: String,
}

/// The result of ADD.
pub(crate) fn added(config: &Config, attached: &Attached) -> Value {
    let mut result = config.previous.clone().unwrap_or_default();
    result.insert("cniVersion".to_owned(), config.version.clone().into());
    let mut host = json!({ "name": attached.host_ifname, "mac": attached.host_mac });
    let mut pod = json!({
        "name": attached.pod_ifname,
        "mac": attached.pod_mac,
        "sandbox": attached.sandbox,
    });
    if config.version == "1.1.0" {
        host["mtu"] = attached.mtu.into();
        pod["mtu"] = attached.mtu.into();
    }
    let earlier = append(&mut result, "interfaces", [host, pod]);
    let mut ip = json!({
        "address": format!("{}/32", attached.address),
        "gateway": POD_GATEWAY,
        "interface": earlier + 1,
    });
    if config.version.starts_with("0.") {
        ip["version"] = "4".into();
    }
    append(&mut result, "ips", [ip]);
    let default = json!({ "dst": "0.0.0.0/0", "gw": POD_GATEWAY });
    append(&mut result, "routes", [default]);
    result.entry("dns").or_insert_with(|| config.dns.clone());
    Value::Object(result)
}

/// Appends to an array of the result; returns how long it was.
fn append<const N: usize>(result: &mut Map<String, Value>, key: &str, values: [Value; N]) -> usize {
    let slot = result.entry(key).or_insert(Value::Null);
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().map_or(0, |array| {
        let length = array.len();
        array.extend(values);
        length
    })
}
