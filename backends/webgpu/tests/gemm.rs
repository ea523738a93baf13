//! Products as a driver on the processor runs them by default, with subgroups: the table in
//! `variants.rs` takes the other ways.

use starling_conformance::{Tier, Verdict, cases, run};
use starling_contract::Backend;
use starling_webgpu::{Options, WebGpuBackend};
use std::sync::Arc;

fn passes(variant: &str, checked: bool) {
    let options = Options { checked, ..variant.parse().unwrap() };
    let backend: Arc<dyn Backend> = WebGpuBackend::with(0, options).unwrap();
    let tier = if std::env::var_os("FULL").is_some() { Tier::Full } else { Tier::Quick };
    let mut failures = Vec::new();
    let summary = run(&backend, &cases(tier), Some("gemm"), &mut |case, verdict| {
        if let Verdict::Failed { message, .. } = verdict {
            failures.push(format!("{}: {message}", case.title()));
        }
    });
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(summary.passed > 150, "only {} products ran", summary.passed);
    assert!(summary.reasons.is_empty(), "{:?}", summary.reasons);
}

/// What a driver on the processor runs by default: rows of a passed on within subgroups.
#[test]
fn subgroup_lanes() {
    passes("subgroup", false);
}

#[test]
fn subgroup_lanes_checked() {
    passes("subgroup", true);
}
