//! The plan: elementwise work is put off and fused into the verb that needs its result.
//!
//! A [`Node`] is a value that is either stored or still an expression over other nodes:
//! definitions, numbers, casts, and views of any of these. It is computed when a verb that is no
//! map needs it, when it is downloaded, when memory that it reads is about to be overwritten, or
//! when it has grown too long or has too many operands. What a program has in common with others of
//! its outline is made once (`outline`).
//!
//! A fused chain computes in f32, and rounds to f16 or bf16 wherever a value of that type would
//! have been stored: the bits of a result do not depend on what was looked at in between. For the
//! same reason nothing is fused on a device whose programs are wider inside (the reference).

mod fusion;
mod node;
mod outline;
mod parts;
mod verbs;
mod watch;

pub(crate) use node::{Lazy, Memory, Node, Rearrange, Stored, check_shape};
pub(crate) use outline::slope_is_one;
pub(crate) use verbs::{reduce, reduce_into, update, write};
pub(crate) use watch::{Watching, Written};

use node::lock;
