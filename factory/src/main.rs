//! `outstation-factory`: see `outstation-factory --help`.

fn main() {}
