//! A device for the WebGPU tests: the machine's own, or a driver that plays one.

use crate::debian;
use crate::run::{self, Steps};
use serde_json::Value;

/// What `STARLING_WEBGPU` is set to and the variant that must then run, one run of the table each:
/// the variants that every driver here has, and the kernels of silicon also on a driver that
/// computes on the processor. Cooperative matrices need a device that has them.
pub const VARIANTS: [(&str, &str); 5] = [
    ("plain", "plain"),
    ("subgroup", "subgroup"),
    ("f16", "f16"),
    ("plain+hardware", "plain"),
    ("subgroup+f16+hardware", "subgroup+f16"),
];

/// What `starling devices` says of WebGPU: the adapters' descriptions, or the reason that there are
/// none.
fn found() -> Result<Vec<String>, String> {
    let mut command = run::cargo();
    command.args(["run", "--quiet", "--package", "starling-cli", "--", "devices", "--json"]);
    let output = command.output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Value = serde_json::from_str(&text)
        .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let mut reason = String::from("it is not listed");
    let mut adapters = Vec::new();
    for device in all.as_array().into_iter().flatten() {
        if !device["name"].as_str().is_some_and(|n| n.starts_with("webgpu")) {
            continue;
        }
        match (device["description"].as_str(), device["reason"].as_str()) {
            (Some(description), _) => adapters.push(description.to_owned()),
            (_, Some(why)) => reason = why.to_owned(),
            _ => {}
        }
    }
    if adapters.is_empty() { Err(reason) } else { Ok(adapters) }
}

/// Finds an adapter, or installs a software one on Debian and its like.
pub fn device(steps: &mut Steps) -> bool {
    steps.step("a WebGPU device", || {
        let adapters = match found() {
            Ok(adapters) => adapters,
            Err(reason) if cfg!(target_os = "linux") => {
                println!("{reason}");
                debian::install(&["mesa-vulkan-drivers", "libvulkan1"])?;
                found()?
            }
            Err(reason) => return Err(reason),
        };
        Ok(adapters.join("; "))
    })
}
