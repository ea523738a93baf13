//! The table of cases on the first adapter, in every variant, checked and unchecked.

use starling_api::Backend;
use starling_conformance::{Tier, Verdict, cases, run};
use starling_webgpu::{Options, Variant, WebGpuBackend};
use std::sync::Arc;
use std::time::Instant;

fn passes(variant: &str, checked: bool) {
    let variant: Variant = variant.parse().unwrap();
    let options = Options { variant: Some(variant), checked, ..Options::default() };
    let backend: Arc<dyn Backend> = WebGpuBackend::with(0, options).unwrap();
    let tier = if std::env::var("FULL").is_ok() { Tier::Full } else { Tier::Quick };
    let table = cases(tier);
    let filter = std::env::var("FILTER").ok();
    let mut failures = Vec::new();
    let since = Instant::now();
    let mut last = Instant::now();
    let summary = run(&backend, &table, filter.as_deref(), &mut |case, verdict| {
        if let Verdict::Failed { message, .. } = verdict {
            failures.push(format!("{}: {message}", case.title()));
        }
        if last.elapsed().as_millis() > 2000 {
            eprintln!("slow {:?} {}", last.elapsed(), case.title());
        }
        last = Instant::now();
    });
    eprintln!(
        "{variant} checked {checked}: {} passed {} failed {} skipped {:?} {:?} {:?}",
        summary.passed,
        summary.failed,
        summary.skipped,
        summary.reasons,
        since.elapsed(),
        backend.stream().unwrap().counters()
    );
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures[..failures.len().min(40)].join("\n")
    );
}

#[test]
fn plain() {
    passes("plain", false);
}

#[test]
fn subgroup() {
    passes("subgroup", false);
}
