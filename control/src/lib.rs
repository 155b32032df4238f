//! The Penstock node agent: EC2, addresses, netlink, the shim's server.
