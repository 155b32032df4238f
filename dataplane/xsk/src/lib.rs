//! AF_XDP sockets, rings and UMEM; the only crate with unsafe code.
