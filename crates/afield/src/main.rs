//! The command: see `afield --help`.
//!
//! The entry point is C's `main` ([`sys::entry`]), so that `afield run` finds signal dispositions and descriptors as it
//! inherited them: Rust's own would ignore `SIGPIPE` and open `/dev/null` in place of closed standard descriptors.

#![cfg_attr(not(test), no_main)]
// The tests have an entry point of their own.
#![cfg_attr(test, allow(dead_code))]

mod bench;
mod cli;
mod command;
mod config;
mod doctor;
mod failure;
mod sys;
