//! The table of operation cases, and the runner that holds a backend to it.
//!
//! Tests, `starling verify`, the benches and third-party backends use the same table: [`cases`]
//! lists it and [`run`] compares a backend with the reference. What a backend does not run itself
//! is reported as skipped and never left out. Adding a backend to the tests is
//!
//! ```
//! use starling_conformance::{Tier, cases, run};
//! use std::sync::Arc;
//!
//! let backend: Arc<dyn starling_contract::Backend> =
//!     Arc::new(starling_reference::ReferenceBackend::new());
//! let summary = run(&backend, &cases(Tier::Quick), Some("softmax"), &mut |_, _| ());
//! assert_eq!(summary.failed, 0);
//! ```
//!
//! The engine's `Device::as_backend` is a backend too, on which verbs that the device's own backend
//! leaves to composition are native: [`run`] on it judges them as well.

mod cases;
mod data;
mod runner;
pub mod tolerance;

pub use cases::{Tier, cases};
pub use data::{Array, Case, Place, Problem};
pub use runner::{OpLine, Summary, Verdict, bytes_after, run};
