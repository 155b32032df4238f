//! Bytes to meaning and back, in place: parsing, checksums, rewrites.
