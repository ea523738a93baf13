//! Passes over a captured list.
//!
//! What is captured is a program: verbs in order, and memory of which some is seen by nobody once
//! the list has run. Each pass makes a list that leaves the same bits in all other memory:
//!
//! - **dead verbs**: what only such memory would show is not computed;
//! - **merged maps**: a map moves into the one that reads its result, and maps over one shape that
//!   share an operand become one with several results;
//! - **epilogues**: a map of a product's result moves into the product.
//!
//! A verb moves only past verbs that neither write what it reads nor touch what it writes. Programs
//! are joined node by node ([`Builder::graft`](starling_ops::program::Builder::graft)), so every
//! element is computed by the same operations; a result that was stored in 16 bits in between is
//! rounded where it was.

mod epilogue;
mod explain;
mod list;
mod merge;
#[cfg(test)]
mod tests;

pub use explain::Explanation;
pub(crate) use explain::{Names, explain};

use starling_contract::{Capabilities, Checked, Verb, View};

/// Which passes a captured list goes through. All of them keep every bit of every result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes {
    /// Leaves out verbs whose results nobody sees.
    pub dead_verbs: bool,
    /// Joins maps.
    pub merged_maps: bool,
    /// Moves maps of a product's result into the product.
    pub epilogues: bool,
}

impl Passes {
    /// The list as it was recorded.
    pub const NONE: Self = Self { dead_verbs: false, merged_maps: false, epilogues: false };
    /// Every pass.
    pub const ALL: Self = Self { dead_verbs: true, merged_maps: true, epilogues: true };

    /// The passes that pay on a device. A host runs the programs of single operations in kernels of
    /// their own and joined ones in an interpreter, so joining loses there: a GPT's training step
    /// on one thread of an AMD Zen 3 takes 1.01 times as long as before there were passes without
    /// any, 1.03 with epilogues and 1.06 with merged maps too.
    pub fn that_pay_on(device: &Capabilities) -> Self {
        if device.threads.is_some() { Self { dead_verbs: true, ..Self::NONE } } else { Self::ALL }
    }
}

/// What the passes must know of the world around a list.
pub(crate) struct World<'a> {
    /// True for memory that nobody sees after the list.
    pub is_temporary: &'a dyn Fn(&View) -> bool,
    /// True when the backend itself runs the verb.
    pub is_native: &'a dyn Fn(&Verb) -> bool,
    /// Working memory that the verb wants.
    pub workspace_bytes: &'a dyn Fn(&Verb) -> usize,
    /// False where a program's intermediate values are wider than f32, so that joining two changes
    /// the bits.
    pub joins_programs: bool,
}

/// The list after the passes.
pub(crate) fn run(mut list: Vec<Checked>, passes: Passes, world: &World<'_>) -> Vec<Checked> {
    if passes.dead_verbs {
        list::drop_dead(&mut list, world);
    }
    if passes.epilogues && world.joins_programs {
        epilogue::fold(&mut list, world);
    }
    if passes.merged_maps && world.joins_programs {
        merge::merge(&mut list, world);
    }
    list
}
