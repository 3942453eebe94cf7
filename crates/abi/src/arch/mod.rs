//! What differs between processor architectures.

pub mod x86_64;

/// The architecture that this program is built for.
#[cfg(target_arch = "x86_64")]
pub use x86_64 as native;

/// A system call's number and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The number in the architecture's table.
    pub number: u32,
    /// The name without `sys_`.
    pub name: &'static str,
}
