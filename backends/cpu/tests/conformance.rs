//! The table of cases on every instruction set of this machine, and on 1, 2 and 3 threads.

use starling_api::{Backend, DType, Support, Verb, View};
use starling_conformance::{Case, Problem, Tier, Verdict, cases, run};
use starling_cpu::{CpuBackend, Isa};
use std::sync::Arc;

/// Threads with different tables would compete; one test at a time does.
fn passes(tier: Tier) {
    let table = cases(tier);
    let mut failures = Vec::new();
    for isa in Isa::available() {
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

/// The bytes of every array after the case's verb has run; `None` where it cannot.
fn bytes_after(backend: &CpuBackend, problem: &Problem) -> Option<Vec<Vec<u8>>> {
    let stream = backend.stream().unwrap();
    let upload = |a: &starling_conformance::Array| a.upload(backend, stream.as_ref()).unwrap();
    let views: Vec<View> = problem.arrays.iter().map(upload).collect();
    let mut verb = problem.over(&views);
    if backend.supports(&verb) != Support::Native {
        return None;
    }
    let bytes = backend.workspace_bytes(&verb);
    let workspace =
        (bytes > 0).then(|| View::contiguous(backend.alloc(bytes).unwrap(), DType::U8, &[bytes]));
    match &mut verb {
        Verb::AttentionBackward(v) => v.workspace = workspace,
        Verb::NormBackward(v) => v.workspace = workspace,
        Verb::ScatterAdd(v) => v.workspace = workspace,
        _ => {}
    }
    stream.submit(&verb).unwrap();
    let download = |(view, array): (&View, &starling_conformance::Array)| {
        let mut bytes = vec![0; array.bytes.len()];
        let whole = View::contiguous(view.storage.clone(), DType::U8, &[bytes.len()]);
        pollster::block_on(stream.download(&whole, &mut bytes)).unwrap();
        bytes
    };
    Some(views.iter().zip(&problem.arrays).map(download).collect())
}

fn same_on_every_number_of_threads(table: &[Case]) {
    for isa in Isa::available() {
        let backends = [1, 2, 3].map(|n| CpuBackend::new(isa, Some(n)).unwrap());
        for case in table {
            let problem = case.problem();
            let [one, two, three] = backends.each_ref().map(|b| bytes_after(b, &problem));
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
