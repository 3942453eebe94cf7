//! What crosses between kernel, node and home, as data.

pub mod fuse;
