//! Where a guest's kernel requests come out.

pub mod calls;
pub mod descriptors;
pub mod files;
mod handles;
pub mod notify;
mod special;
mod terminal;
