//! Flow state and decisions: keys, tables, SNAT, forwarding.
