//! `starling verify`

use crate::args::{TierArg, VerifyArgs};
use crate::output;
use serde_json::json;
use starling_conformance::{Summary, Tier, Verdict, cases};
use starling_engine::{Device, Error, Result};
use std::process::ExitCode;

pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let device = Device::new(&args.device)?;
    let tier = match args.tier {
        TierArg::Quick => Tier::Quick,
        TierArg::Full => Tier::Full,
    };
    let mut failures = Vec::new();
    let summary = starling_conformance::run(
        device.backend(),
        &cases(tier),
        args.filter.as_deref(),
        &mut |case, verdict| {
            if let Verdict::Failed { message, .. } = verdict {
                failures.push((case.title(), message.clone()));
            }
        },
    );
    if let Some(filter) = args.filter.as_deref().filter(|_| summary.ops.is_empty()) {
        return Err(Error::invalid(format!(
            "no case's title contains {filter:?}: shorten --filter, or leave it out"
        )));
    }
    let failed = summary.failed > 0 || summary.passed == 0;
    if args.json {
        print_json(&device, &summary, &failures)?
    } else {
        print_text(&device, &summary, &failures)?
    }
    Ok(ExitCode::from(u8::from(failed)))
}

fn print_json(device: &Device, summary: &Summary, failures: &[(String, String)]) -> Result<()> {
    for line in &summary.ops {
        output::line(json!({
            "op": line.op,
            "cases": line.cases,
            "failed": line.failed,
            "skipped": line.skipped,
            // JSON has no infinity: null stands for an error where none is allowed.
            "worst_over_allowed": line.worst,
        }))?;
    }
    for (case, message) in failures {
        output::line(json!({"case": case, "message": message}))?;
    }
    for (reason, count) in &summary.reasons {
        output::line(json!({"skipped_because": reason, "cases": count}))?;
    }
    output::line(json!({
        "passed": summary.passed,
        "failed": summary.failed,
        "skipped": summary.skipped,
        "device": device.name(),
        "isa": device.capabilities().variant,
    }))
}

fn print_text(device: &Device, summary: &Summary, failures: &[(String, String)]) -> Result<()> {
    for line in &summary.ops {
        let verdict = match (line.failed, line.cases) {
            (0, 0) => "skipped",
            (0, _) => "ok",
            _ => "FAILED",
        };
        output::line(format!(
            "{:<22} {verdict:<8} worst error {:>6.3} of what is allowed, {} cases{}",
            line.op,
            line.worst,
            line.cases,
            if line.skipped > 0 { format!(", {} skipped", line.skipped) } else { String::new() }
        ))?;
    }
    for (case, message) in failures {
        output::line(format!("FAILED {case}: {message}"))?;
    }
    for (reason, count) in &summary.reasons {
        output::line(format!("skipped {count}: {reason}"))?;
    }
    output::line(format!(
        "{} passed, {} failed, {} skipped on {} ({})",
        summary.passed,
        summary.failed,
        summary.skipped,
        device.name(),
        device.capabilities().variant
    ))
}
