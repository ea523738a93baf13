//! The contract between the engine and its backends.
//!
//! A backend implements [`Backend`] (identity, memory, what it can do) and [`Stream`] (an in-order
//! queue that takes [`Verb`]s). Everything that crosses the contract is data: a [`View`] of untyped
//! bytes, a [`Program`] for elementwise work, a struct of named fields per
//! verb. The engine checks shapes, dtypes, bounds and aliasing once ([`Verb::check`]); backends
//! only `debug_assert`.
//!
//! `examples/minimal-backend` is the smallest complete backend, with the rules at the places where
//! they matter.

mod backend;
mod cache;
mod error;
mod host;
mod identity;
mod layout;
mod maybe;
mod pool;
mod turn;
mod verb;

pub use backend::{
    Backend, Capabilities, Download, Event, LEAST_BINDING_BYTES, LEAST_BINDINGS, ListReplay,
    Passed, Pending, Replay, Stream, StreamCounters, Support,
};
pub use cache::Cache;
pub use error::{Error, Result};
pub use host::HostStorage;
pub use identity::DeviceId;
pub use layout::{Layout, MAX_RANK, Storage, View};
pub use maybe::{MaybeSend, MaybeSync};
pub use pool::{Buffer, Capture, Pool, PoolStats};
pub use starling_ops::program::Immediates;
pub use starling_ops::{DType, Program};
pub use turn::{Taken, Turn};
pub use verb::{
    Attention, AttentionBackward, BlockMask, Checked, CheckedRef, Copy, CrossEntropy,
    CrossEntropyBackward, Epilogue, Fill, Gather, Gemm, Kind, Lengths, Map, Norm, NormBackward,
    NormKind, Reduce, ReduceKind, ScatterAdd, Score, Sequence, Sight, Softmax, SoftmaxBackward,
    Verb, Views, WeightDropout,
};
