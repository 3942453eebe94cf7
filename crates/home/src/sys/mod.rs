//! What the safe layers below cannot say: the system calls of a deputy, and what makes a process one.

pub mod call;
pub mod daemon;
pub mod interrupt;
pub mod message;
pub mod object;
pub mod process;
pub mod signals;
pub mod stream;
