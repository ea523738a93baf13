//! The table.

mod attention;
mod index;
mod map;
mod matmul;
mod programs;
mod reduce;
mod rows;

use crate::data::Case;

/// How much of the table is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Every operation, type and layout in tiny shapes: fit for an emulator.
    Quick,
    /// Those and sizes that cross every block boundary.
    Full,
}

/// Every case of a tier, in a fixed order.
pub fn cases(tier: Tier) -> Vec<Case> {
    let mut all = Vec::new();
    map::cases(tier, &mut all);
    programs::cases(tier, &mut all);
    reduce::cases(tier, &mut all);
    matmul::cases(tier, &mut all);
    attention::cases(tier, &mut all);
    rows::cases(tier, &mut all);
    index::cases(tier, &mut all);
    all
}
