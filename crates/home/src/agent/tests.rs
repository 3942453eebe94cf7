//! Tests with a node that is made up.
