//! Tests against the kernel, in network namespaces of their own.
