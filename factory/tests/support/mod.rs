//! What the tests of the data share.
#![allow(dead_code, reason = "not every test uses all of it")]

pub(crate) mod boxes;
pub(crate) mod fault;
pub(crate) mod oracle;
pub(crate) mod random;
