//! Benchmarks of the operations that decide how long a training step takes.
//!
//! - `cargo bench -p starling-benches` compares with the numbers of the last run (criterion).
//! - `starling bench OP --json` measures one operation and one shape for scripts.
//! - `peers/` is a workspace of its own that times other libraries, call by call beside ours; what
//!   it printed stands in `results/`.
