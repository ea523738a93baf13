//! The whole table of operation cases: four verbs by themselves, all of them through the engine.

use starling_conformance::{Array, Case, Tier, Verdict, cases, run};
use starling_contract::{Backend, Error, Stream, Support, Verb};
use starling_engine::Device;
use starling_example_backend::MinimalBackend;
use std::sync::Arc;

fn backend() -> Arc<dyn Backend> {
    Arc::new(MinimalBackend::new())
}

/// Runs the table and returns how many cases passed and how many were skipped.
fn held_to(backend: &Arc<dyn Backend>, tier: Tier) -> (usize, usize) {
    let table = cases(tier);
    let mut wrong = Vec::new();
    let summary = run(backend, &table, None, &mut |case, verdict| {
        if let Verdict::Failed { message, .. } = verdict {
            wrong.push(format!("{}: {message}", case.title()));
        }
    });
    let (passed, skipped) = (summary.passed, summary.skipped);
    println!("{tier:?}: {passed} passed, {skipped} skipped of {} cases", table.len());
    for (reason, count) in &summary.reasons {
        println!("skipped {count}: {reason}");
    }
    assert!(wrong.is_empty(), "{} failed:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(passed + skipped, table.len());
    (passed, skipped)
}

/// Sums of integers do not fit f32: the one verb that can be neither run nor composed.
fn is_integer_product(verb: &Verb) -> bool {
    matches!(verb, Verb::Gemm(v) if !v.a.dtype.is_float())
}

/// The verb of a case over host memory.
fn on_host(case: &Case) -> Verb {
    let problem = case.problem();
    problem.over(&problem.on_host().unwrap())
}

fn passes_by_composition(tier: Tier) {
    let device = Device::from_backend(backend()).unwrap();
    let (passed, skipped) = held_to(&device.as_backend(), tier);
    let table = cases(tier);
    let integers = table.iter().filter(|case| is_integer_product(&on_host(case))).count();
    assert_eq!((passed, skipped), (table.len() - integers, integers));
    assert!(device.counters().launches > passed as u64, "composed verbs are several launches");
}

#[test]
fn the_engine_composes_the_whole_quick_table() {
    passes_by_composition(Tier::Quick);
}

#[test]
#[ignore = "minutes: gather and scatter_add compare every index with every row"]
fn the_engine_composes_the_whole_full_table() {
    passes_by_composition(Tier::Full);
}

#[test]
fn four_verbs_are_native_and_the_rest_is_left_to_the_engine() {
    let backend = backend();
    let stream = backend.stream().unwrap();
    let mut native = std::collections::BTreeMap::<_, usize>::new();
    for case in cases(Tier::Quick) {
        let problem = case.problem();
        let upload = |array: &Array| array.upload(backend.as_ref(), stream.as_ref()).unwrap();
        let views: Vec<_> = problem.arrays.iter().map(upload).collect();
        let verb = problem.over(&views);
        match backend.supports(&verb) {
            Support::Native => *native.entry(verb.name()).or_default() += 1,
            Support::Composed => refuses(stream.as_ref(), &verb),
            Support::No => assert!(is_integer_product(&verb), "{} is not run", case.title()),
        }
    }
    let names: Vec<_> = native.keys().copied().collect();
    assert_eq!(names, ["copy", "gemm", "map", "reduce"]);
    let (passed, _) = held_to(&backend, Tier::Quick);
    assert_eq!(passed, native.values().sum::<usize>(), "{native:?}");
}

/// A verb that is not native must not reach the stream; when it does, that is an error.
fn refuses(stream: &dyn Stream, verb: &Verb) {
    let error = stream.submit(&verb.clone().check().unwrap()).err();
    assert!(matches!(error, Some(Error::Unsupported { op, .. }) if op == verb.name()), "{error:?}");
}
