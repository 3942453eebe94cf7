//! A process that stands for a guest.
