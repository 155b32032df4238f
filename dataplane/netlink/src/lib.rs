//! Synchronous rtnetlink requests for processes without an async runtime.
