//! Products on the first adapter: in every variant, with the kernels for a driver on the processor
//! and with those for silicon.

use starling_api::Backend;
use starling_conformance::{Tier, Verdict, cases, run};
use starling_webgpu::{Options, WebGpuBackend};
use std::sync::Arc;

fn passes(variant: &str, checked: bool, hardware: bool) {
    let options = Options { variant: Some(variant.parse().unwrap()), checked, hardware };
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

#[test]
fn plain_tiles() {
    passes("plain", true, true);
}

#[test]
fn f16_tiles() {
    passes("subgroup+f16", false, true);
}
