//! The table of cases on every instruction set of this machine, and on 1, 2 and 3 threads.

use starling_conformance::{Case, Tier, Verdict, bytes_after, cases, run};
use starling_contract::Backend;
use starling_cpu::{CpuBackend, Isa};
use std::sync::Arc;

/// Threads with different tables would compete; one test at a time does.
fn passes(tier: Tier) {
    let table = cases(tier);
    let mut failures = Vec::new();
    for isa in Isa::under_test().unwrap() {
        let backend: Arc<dyn Backend> = CpuBackend::new(isa, Some(2)).unwrap();
        let summary = run(&backend, &table, None, &mut |case, verdict| {
            if let Verdict::Failed { message, .. } = verdict {
                failures.push(format!("{isa}: {}: {message}", case.title()));
            }
        });
        // Products and rows are computed in f32 alone; nothing else of the table is left out.
        let narrow =
            |r: &&String| ["f16", "bf16", "i8"].iter().any(|d| r.ends_with(&format!("on {d}")));
        let other: Vec<_> = summary.reasons.keys().filter(|r| !narrow(r)).collect();
        assert!(other.is_empty(), "{isa}: {other:?}");
        assert_eq!(summary.passed + summary.failed + summary.skipped, table.len());
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_instruction_set_passes_the_quick_tier() {
    passes(Tier::Quick);
}

#[test]
#[ignore = "minutes long; `starling verify --tier full` runs the same"]
fn every_instruction_set_passes_the_full_tier() {
    passes(Tier::Full);
}

fn same_on_every_number_of_threads(table: &[Case]) {
    for isa in Isa::under_test().unwrap() {
        let backends = [1, 2, 3].map(|n| CpuBackend::new(isa, Some(n)).unwrap());
        for case in table {
            let problem = case.problem();
            let [one, two, three] =
                backends.each_ref().map(|b| bytes_after(b.as_ref(), &problem).unwrap());
            assert!(one == two && one == three, "{} on {isa}", case.title());
        }
    }
}

#[test]
fn threads_do_not_change_a_bit_of_the_quick_tier() {
    same_on_every_number_of_threads(&cases(Tier::Quick));
}

#[test]
#[ignore = "minutes long"]
fn threads_do_not_change_a_bit_of_the_full_tier() {
    same_on_every_number_of_threads(&cases(Tier::Full));
}
