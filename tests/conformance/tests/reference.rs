//! The reference is within its own allowances: they are consistent.

use starling_conformance::tolerance::allowed;
use starling_conformance::{Tier, Verdict, cases, run};
use starling_contract::DType;
use starling_reference::ReferenceBackend;
use starling_reference::memory::round_to;
use std::sync::Arc;

#[test]
fn reference_passes_the_quick_tier() {
    let backend: Arc<dyn starling_contract::Backend> = Arc::new(ReferenceBackend::new());
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

#[test]
fn four_times_the_allowance_is_rejected() {
    for case in cases(Tier::Quick).iter().filter(|c| !c.special) {
        let problem = case.problem();
        let verb = problem.over(&problem.on_host().expect("host memory"));
        let all = allowed(&verb, case.exact, false).expect("a verb");
        for (view, elements) in verb.results().into_iter().zip(&all) {
            // The distance between the type's numbers where nothing else is allowed.
            let spacing = |x: f64| match view.dtype {
                DType::F16 => f64::max(x.abs() / 1024.0, 6e-8),
                float if float.is_float() => 2.0 * float.unit_roundoff() * x.abs().max(1e-30),
                _ => 1.0,
            };
            for e in elements {
                let off = 4.0 * e.error().max(spacing(e.value));
                let (above, below) = (e.value + off, e.value - off);
                let other = |x: f64| e.contains(round_to(view.dtype, x));
                // A byte holds no -1, and none above 255.
                let byte = !view.dtype.is_float();
                assert!(!other(above) || (byte && above > 1.0), "{}: {e:?}", case.title());
                assert!(!other(below) || (byte && below < 0.0), "{}: {e:?}", case.title());
            }
        }
    }
}
