//! The XDP and TCX programs and their maps.
