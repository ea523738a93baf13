//! Outputs that are full or closed, and signals.
#![cfg(unix)]

mod common;

use common::{json_lines, short_command, short_train, starling};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

fn steps(run: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let rows = text.lines().filter_map(|l| serde_json::from_str(l).ok());
    rows.filter(|r: &serde_json::Value| r.get("loss").is_some())
        .map(|r| r["step"].as_u64().unwrap())
        .collect()
}

fn wait_for_rows(run: &Path, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while steps(run).len() < count && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    let mut kill = std::process::Command::new("kill");
    assert!(kill.args(["-s", name]).arg(child.id().to_string()).status().unwrap().success());
}

#[test]
#[cfg(target_os = "linux")]
fn a_lost_error_output_does_not_end_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["--steps", "3", "--validate-every", "1"];
    let run = dir.path().join("full");
    let out = short_command(&run, &options).stderr(full()).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{:?}", out.status);
    let run = dir.path().join("closed");
    let mut command = short_command(&run, &options);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(steps(&run), [1, 2, 3]);
    // As after `2>&1 | head -1`: the reader takes a line and goes.
    let run = dir.path().join("both");
    let mut command = short_command(&run, &options);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(steps(&run), [1, 2, 3]);
    // An error keeps its code when nobody can read its sentence.
    let out = short_command(&run, &["--steps", "0"]).stderr(full()).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_standard_output_is_an_error() {
    for args in [&["devices"][..], &["--help"], &["--version"], &["train", "--help"]] {
        let out = starling(args).stdout(full()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains("standard output") && text.lines().count() == 1, "{text}");
    }
}

/// True when this process ignores a signal, and with it every program that it starts.
fn is_ignored_here(signal: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[test]
fn a_signal_finishes_the_step_saves_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["--steps", "40", "--checkpoint-every", "1000", "--dropout", "0.1"];
    let whole = dir.path().join("whole");
    assert_eq!(short_train(&whole, &options).status.code(), Some(0));
    for (name, code, number) in [("INT", 130, 2), ("TERM", 143, 15), ("HUP", 129, 1)] {
        if is_ignored_here(number) {
            println!("SKIPPED: these tests were started with {name} ignored, as nohup does");
            continue;
        }
        let run = dir.path().join(name);
        let mut command = short_command(&run, &options);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_rows(&run, 5);
        signal(&child, name);
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{name}: {text}");
        assert!(text.contains("--resume") && text.contains(run.to_str().unwrap()), "{text}");
        let done = steps(&run);
        assert!(!done.is_empty() && done.len() < 40, "{done:?}");
        // What was done is saved: nothing is computed twice.
        let again = [&options[..], &["--resume"]].concat();
        let out = short_train(&run, &again);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(0), "{text}");
        assert!(text.contains(&format!("going on after step {}", done.len())), "{text}");
        assert_eq!(steps(&run), (1..=40).collect::<Vec<_>>());
        let bytes = |run: &Path, name: &str| std::fs::read(run.join(name)).unwrap();
        for file in ["model.safetensors", "state.safetensors"] {
            assert!(bytes(&run, file) == bytes(&whole, file), "{name} {file}");
        }
        let rows = |run: &Path| -> Vec<serde_json::Value> {
            let mut rows = json_lines(&String::from_utf8(bytes(run, "metrics.jsonl")).unwrap());
            rows.iter_mut().for_each(|r| drop(r.as_object_mut().unwrap().remove("tokens_per_s")));
            rows
        };
        assert_eq!(rows(&run), rows(&whole), "{name}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_signal_that_the_caller_ignores_stays_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut shell = std::process::Command::new("sh");
    // As nohup does.
    shell.arg("-c").arg("trap '' HUP; exec \"$@\"").arg("sh").arg(env!("CARGO_BIN_EXE_starling"));
    shell.args(["train", "--batch", "4", "--seq", "32", "--steps", "30", "--out"]).arg(&run);
    let mut child = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_rows(&run, 3);
    signal(&child, "HUP");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(steps(&run).len(), 30);
}
