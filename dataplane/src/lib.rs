//! The Penstock dataplane daemon: pinned AF_XDP workers and their wiring.
