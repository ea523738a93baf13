//! The reference is within its own allowances: they are consistent.

use starling_conformance::{Tier, Verdict, cases, run};
use starling_reference::ReferenceBackend;
use std::sync::Arc;

#[test]
fn reference_passes_the_quick_tier() {
    let backend: Arc<dyn starling_api::Backend> = Arc::new(ReferenceBackend::new());
    let table = cases(Tier::Quick);
    let mut failures = Vec::new();
    let summary = run(&backend, &table, None, &mut |case, verdict| {
        if let Verdict::Failed { message, .. } = verdict {
            failures.push(format!("{}: {message}", case.title()));
        }
    });
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert_eq!((summary.passed, summary.skipped), (table.len(), 0));
}
