//! Generated files parse, have every tensor of their shape, and are the same bytes each time.

mod golden;
mod model;
mod tokens;

use super::*;
