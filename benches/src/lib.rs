//! Benchmarks of the operations that decide how long a training step takes.
//!
//! - `cargo bench -p starling-benches` compares with the numbers of the last run (criterion).
//! - `cargo bench -p starling-benches --bench host` prints what the host does for an operation,
//!   eager and replayed: nanoseconds and allocations.
//! - `starling bench OP --json` measures one operation and one shape for scripts.
//! - `peers/` is a workspace of its own that times other libraries, call by call beside ours; what
//!   it printed stands in `results/`.
