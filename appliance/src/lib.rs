//! The box: everything an outstation does, as a library.

pub mod generate;
