//! End-to-end tests: weir's binary in network namespaces, between real clients and real backends.
//!
//! The tests lie in `tests/`, one file per theme; what they share lies here. All need root, `WEIR_BIN` (or
//! `target/release/weir`) and the peers' packages. What is missing is a failure that says so, never a skipped test.
#![forbid(unsafe_code)]
