//! The program's entry point.

use std::ffi::{c_char, c_int};
use std::panic::catch_unwind;

use crate::command;
use crate::failure::OWN;

/// Called by the C library. The arguments are taken from where Rust's library keeps them, which glibc tells it before
/// `main`. A panic ends here; it has been reported by then.
// SAFETY: the one symbol `main` of the program, with the type that the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    catch_unwind(command::main).unwrap_or(OWN).into()
}
