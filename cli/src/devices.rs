//! `starling devices`

use crate::args::DevicesArgs;
use crate::output;
use serde_json::{Value, json};
use starling_engine::{Device, Probe, Result};
use std::process::ExitCode;

pub fn run(args: &DevicesArgs) -> Result<ExitCode> {
    let probes = Device::probe();
    if args.json {
        let all: Vec<Value> = probes.iter().map(as_json).collect();
        output::line(Value::Array(all))?;
    } else {
        for probe in &probes {
            output::line(as_text(probe))?;
        }
        let choice = Device::choose();
        output::line(format!("auto takes {}", choice.name))?;
        for reason in &choice.passed_over {
            output::line(format!("  {reason}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(probe: &Probe) -> Value {
    match &probe.status {
        Ok(c) => json!({
            "name": probe.name,
            "available": true,
            "description": c.description,
            "variant": c.variant,
            "memory_bytes": c.memory_bytes,
            "threads": c.threads,
            "software": c.software,
            "special_values": c.special_values,
            "subnormals": c.subnormals,
        }),
        Err(reason) => json!({"name": probe.name, "available": false, "reason": reason}),
    }
}

fn as_text(probe: &Probe) -> String {
    match &probe.status {
        Ok(c) => {
            let mut parts = vec![c.description.clone(), c.variant.clone()];
            parts.extend(c.threads.map(|n| format!("{n} threads")));
            parts.extend(
                c.memory_bytes.map(|b| format!("{:.1} GiB", b as f64 / (1u64 << 30) as f64)),
            );
            format!("{:<10} available: {}", probe.name, parts.join(", "))
        }
        Err(reason) => format!("{:<10} unavailable: {reason}", probe.name),
    }
}
