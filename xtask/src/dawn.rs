//! Every planned shader through the WGSL compiler of Chrome (Dawn's Tint), which is stricter than
//! naga: a browser would meet what only it refuses.

use crate::run::{self, Steps};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The npm package that carries a build of Dawn for Node.
const PACKAGE: &str = "webgpu@0.6.2";
/// Compiles the files of a folder.
const SCRIPT: &str = include_str!("dawn.mjs");
/// What naga takes and Chrome refuses: mixed operators without parentheses.
const BAD: &str = "@compute @workgroup_size(1)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    _ = (id.x) | (id.y) << 16u;
}
";
const GOOD: &str = "@compute @workgroup_size(1)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    _ = (id.x) | ((id.y) << 16u);
}
";

/// The gate; it is skipped, and says so, where Node or the package cannot be had.
pub fn shaders(steps: &mut Steps) {
    let home = Path::new("target/dawn");
    let ready = match install(home) {
        Ok(ready) => ready,
        Err(reason) => return steps.skip(&format!("shaders through Chrome's compiler: {reason}")),
    };
    let held = steps.step("Chrome's compiler refuses a bad shader", || refuses(&ready));
    if held {
        steps.step("every planned shader through Chrome's compiler", || accepts(&ready));
    }
}

/// Puts the package and the script into `home`.
fn install(home: &Path) -> Result<PathBuf, String> {
    for (program, what) in [("node", "Node.js"), ("npm", "npm")] {
        if !run::succeeds(program, &["--version"]) {
            return Err(format!("{program} is not installed ({what} 20 or later is needed)"));
        }
    }
    fs::create_dir_all(home).map_err(|e| e.to_string())?;
    // npm would otherwise install into a folder further up that has a package.json.
    fs::write(home.join("package.json"), "{\"private\": true}\n").map_err(|e| e.to_string())?;
    fs::write(home.join("dawn.mjs"), SCRIPT).map_err(|e| e.to_string())?;
    let (name, version) = PACKAGE.rsplit_once('@').unwrap_or((PACKAGE, ""));
    let manifest = home.join("node_modules").join(name).join("package.json");
    let there = fs::read_to_string(&manifest)
        .ok()
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
        .is_some_and(|package| package["version"] == version);
    if !there {
        println!("installing {PACKAGE} into {}", home.display());
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-save", PACKAGE]).current_dir(home);
        run::status(&mut npm)?;
    }
    Ok(home.to_path_buf())
}

/// The self-test: of two shaders the compiler refuses the bad one, and that one only.
fn refuses(home: &Path) -> Result<String, String> {
    let folder = fresh(home, "self-test")?;
    for (name, text) in [("bad.wgsl", BAD), ("good.wgsl", GOOD)] {
        fs::write(folder.join(name), text).map_err(|e| e.to_string())?;
    }
    match compile(home, "self-test")? {
        (2, 1) => Ok("1 of 2 refused".into()),
        (compiled, refused) => Err(format!("{refused} of {compiled} were refused, not 1 of 2")),
    }
}

/// Plans every shader of the table of cases and compiles all.
fn accepts(home: &Path) -> Result<String, String> {
    let folder = fresh(home, "shaders")?;
    let folder = fs::canonicalize(folder).map_err(|e| e.to_string())?;
    let mut cargo = run::cargo();
    cargo.args(["test", "--package", "starling-webgpu", "--test", "shaders"]);
    run::status(cargo.env("STARLING_SHADERS", folder))?;
    match compile(home, "shaders")? {
        (compiled, 0) if compiled >= 3000 => Ok(format!("{compiled} shaders")),
        (compiled, 0) => Err(format!("only {compiled} shaders were planned")),
        (compiled, refused) => Err(format!("{refused} of {compiled} shaders are refused")),
    }
}

fn fresh(home: &Path, name: &str) -> Result<PathBuf, String> {
    let folder = home.join(name);
    match fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.to_string()),
        _ => {}
    }
    fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    Ok(folder)
}

/// How many shaders of a folder were compiled, and how many of them refused.
fn compile(home: &Path, folder: &str) -> Result<(u64, u64), String> {
    let mut node = Command::new("node");
    let mut last = String::new();
    // What it returns is in its last line too.
    let _ = run::status_with_lines(node.args(["dawn.mjs", folder]).current_dir(home), |line| {
        last = line.to_string();
    });
    counts(&last)
}

/// Reads the script's last line; one that is missing is a failure of the whole.
fn counts(line: &str) -> Result<(u64, u64), String> {
    let counts: Value = serde_json::from_str(line).map_err(|e| format!("{line:?}: {e}"))?;
    let of = |key: &str| counts[key].as_u64().ok_or_else(|| format!("{line:?} lacks {key}"));
    Ok((of("compiled")?, of("refused")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_said_nothing_is_a_failure() {
        assert_eq!(counts(r#"{"compiled":7,"refused":2}"#), Ok((7, 2)));
        for line in ["", "Error: cannot find package", r#"{"compiled":7}"#] {
            assert!(counts(line).is_err(), "{line}");
        }
    }
}
