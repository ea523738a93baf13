//! `cargo xtask test`: the whole suite, with a table of what took how long.

use crate::dawn;
use crate::run::{self, Steps};
use crate::wasm;
use crate::webgpu;
use serde_json::Value;
use std::process::Command;
use std::time::Instant;

/// Runs every test that this machine can run and names what it cannot.
pub fn test(steps: &mut Steps, quick: bool) {
    println!("needs: Rust 1.89 or later (here: {})", run::output("rustc", &["--version"]).trim());
    println!(
        "installs: mesa-vulkan-drivers where no GPU answers (Debian); cargo fetches the crates"
    );
    println!("installs: Dawn for Node into target/dawn, where there are node and npm");
    println!("instruction sets here: {}", present().join(", "));
    webgpu::device(steps);
    let mut command = run::cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    command.env("CARGO_TERM_COLOR", "never");
    if quick {
        command.args(["--lib", "--bins", "--tests"]);
    }
    let mut suites = Suites::new();
    steps.step("test", || {
        let result = run::status_with_lines(&mut command, |line| suites.line(line));
        let tests: u32 = suites.done.iter().map(|s| s.passed).sum();
        result.map(|_| format!("{tests} tests"))
    });
    let ignored: u32 = suites.done.iter().map(|s| s.ignored).sum();
    for suite in suites.done {
        let counts = format!("{} passed", suite.passed);
        let outcome = match suite.failed {
            0 => Ok(counts),
            n => Err(format!("{n} failed, {counts}")),
        };
        steps.part(format!("  {}", suite.name), suite.seconds, outcome);
    }
    if ignored > 0 {
        let how = "`cargo test --workspace -- --ignored` runs them";
        steps.skip(&format!("{ignored} tests marked #[ignore] for their length; {how}"));
    }
    dawn::shaders(steps);
    wasm::check(steps);
    if quick {
        steps.skip("examples in the documentation and the full table of cases: --quick");
    } else {
        let starling = || {
            let mut command = run::cargo();
            command.args(["run", "--release", "--package", "starling-cli", "--"]);
            command
        };
        for row in present() {
            verify(steps, starling().env("STARLING_ISA", row), "cpu", row, "full");
        }
        for (options, variant) in webgpu::VARIANTS {
            let mut command = starling();
            command.env("STARLING_WEBGPU", options);
            verify(steps, &mut command, "webgpu:0", variant, "full");
        }
    }
    for what in absent() {
        steps.skip(&what);
    }
}

/// Holds a device to the table of cases; `command` runs `starling` with a variable that forces the
/// row of vector instructions or the variant of shaders.
pub fn verify(steps: &mut Steps, command: &mut Command, device: &str, row: &str, tier: &str) {
    command.args(["verify", "--device", device, "--tier", tier, "--json"]);
    steps.step(&format!("verify --tier {tier} on {device}, {row}"), || {
        let mut last = String::new();
        let result = run::status_with_lines(command, |line| last = line.to_string());
        let counts = verified(&last, row);
        result.and(counts)
    });
}

/// Reads the last line of `starling verify --json`: the row that was asked for must have run.
fn verified(line: &str, row: &str) -> Result<String, String> {
    let counts: Value = serde_json::from_str(line).map_err(|e| format!("{line:?}: {e}"))?;
    if counts["isa"] != row {
        return Err(format!("ran on {} and not on {row}", counts["isa"]));
    }
    match (counts["passed"].as_u64(), counts["failed"].as_u64(), &counts["skipped"]) {
        (Some(passed @ 1..), Some(0), skipped) => {
            let all = passed + skipped.as_u64().unwrap_or(0);
            Ok(format!("{passed} of {all} cases passed, {skipped} skipped"))
        }
        _ => Err(line.to_string()),
    }
}

/// Every row of vector instructions and whether this machine has it.
#[cfg(target_arch = "x86_64")]
fn rows() -> Vec<(&'static str, bool)> {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    vec![("scalar", true), ("avx2", avx2), ("avx512", avx512), ("neon", false)]
}

#[cfg(not(target_arch = "x86_64"))]
fn rows() -> Vec<(&'static str, bool)> {
    let neon = cfg!(target_arch = "aarch64");
    vec![("scalar", true), ("avx2", false), ("avx512", false), ("neon", neon)]
}

fn present() -> Vec<&'static str> {
    rows().into_iter().filter(|r| r.1).map(|r| r.0).collect()
}

fn absent() -> Vec<String> {
    let arch = std::env::consts::ARCH;
    let text = |name: &str| match (name, arch) {
        ("neon", _) => format!("neon: this machine is {arch}; run `cargo xtask test-neon`"),
        (_, "x86_64") => format!("{name}: this processor does not have it"),
        _ => format!("{name}: this machine is {arch}"),
    };
    rows().into_iter().filter(|r| !r.1).map(|r| text(r.0)).collect()
}

/// Results read from the output of `cargo test`.
pub struct Suites {
    current: String,
    since: Instant,
    /// One entry for each test program, in the order in which they ran.
    pub done: Vec<Suite>,
}

/// One test program.
pub struct Suite {
    name: String,
    seconds: f64,
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    ignored: u32,
}

impl Suites {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self { current: String::new(), since: Instant::now(), done: Vec::new() }
    }

    /// Takes the next line. A program that dies without a result counts as one failure.
    pub fn line(&mut self, line: &str) {
        let line = line.trim_start();
        if let Some(name) = started(line) {
            self.current = name;
            self.since = Instant::now();
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            let (passed, failed) = (number(counts, "passed"), number(counts, "failed"));
            self.push(passed, failed, number(counts, "ignored"));
        } else if line.starts_with("error: test failed") && !self.current.is_empty() {
            self.push(0, 1, 0);
        }
    }

    fn push(&mut self, passed: u32, failed: u32, ignored: u32) {
        let name = std::mem::take(&mut self.current);
        // A suite that has nothing to test is no news.
        if passed + failed + ignored > 0 {
            let seconds = self.since.elapsed().as_secs_f64();
            self.done.push(Suite { name, seconds, passed, failed, ignored });
        }
    }
}

/// `Running unittests src/lib.rs (target/debug/deps/starling_ops-0123abcd)` or
/// `Doc-tests starling_ops`: the name of the program that starts.
fn started(line: &str) -> Option<String> {
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{name}, examples"));
    }
    let (source, program) = line.strip_prefix("Running ")?.split_once(" (")?;
    let program = program.trim_end_matches(')').rsplit(['/', '\\']).next()?;
    let program = program.rsplit_once('-').map_or(program, |p| p.0);
    Some(match source.strip_prefix("unittests ") {
        Some(_) => program.to_string(),
        None => format!("{program} ({source})"),
    })
}

/// The number before `word` in `ok. 5 passed; 0 failed; ...`.
fn number(counts: &str, word: &str) -> u32 {
    let part = counts.split([';', '.']).find(|p| p.trim_end().ends_with(word));
    part.and_then(|p| p.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verification_that_did_not_happen_is_a_failure() {
        let line = r#"{"passed":7,"failed":0,"skipped":1,"device":"cpu","isa":"avx2"}"#;
        assert_eq!(verified(line, "avx2"), Ok("7 of 8 cases passed, 1 skipped".to_string()));
        assert!(verified(line, "scalar").is_err());
        assert!(verified(&line.replace("7", "0"), "avx2").is_err());
        assert!(verified(&line.replace(":0", ":1"), "avx2").is_err());
        assert!(verified("", "avx2").is_err());
    }

    #[test]
    fn results_are_read_from_the_output_of_cargo() {
        let mut suites = Suites::new();
        for line in [
            "     Running unittests src/lib.rs (target/debug/deps/starling_ops-99ab)",
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
            "     Running tests/wgsl/main.rs (target/debug/deps/wgsl-99ab)",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            "error: test failed, to rerun pass `-p starling-ops --test wgsl`",
            "     Running tests/dies.rs (target/debug/deps/dies-99ab)",
            "error: test failed, to rerun pass `-p starling-ops --test dies`",
            "   Doc-tests starling_ops",
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            suites.line(line);
        }
        let rows: Vec<_> =
            suites.done.iter().map(|s| (s.name.as_str(), s.passed, s.failed, s.ignored)).collect();
        let expected = [
            ("starling_ops", 5, 0, 1),
            ("wgsl (tests/wgsl/main.rs)", 2, 1, 0),
            ("dies (tests/dies.rs)", 0, 1, 0),
        ];
        assert_eq!(rows, expected);
    }
}
