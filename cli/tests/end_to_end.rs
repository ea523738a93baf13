//! The command as users meet it: what it writes, what it prints, how it ends.

mod common;

use common::{json_lines, novel, starling, train, user_error};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("model.safetensors")).unwrap()
}

#[test]
fn a_run_is_trained_evaluated_and_continued_with_text() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let done = train(&run, &["--steps", "12"]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).contains("a sample:"));
    let rows = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let rows = json_lines(&rows);
    let steps: Vec<_> = rows.iter().filter(|r| r.get("loss").is_some()).collect();
    assert_eq!(steps.len(), 12);
    for key in ["step", "loss", "lr", "grad_norm", "tokens_per_s"] {
        assert!(steps.iter().all(|r| r[key].is_number()), "{key}");
    }
    assert!(steps.iter().all(|r| r["offsets"].as_array().unwrap().len() == 4));
    // In training over some windows of the last tenth, at the end over all of it.
    assert!(rows.iter().any(|r| r["val_loss"].is_number()));
    let last = rows.last().unwrap()["final_val_loss"].as_f64().unwrap();
    let tail = dir.path().join("tail.txt");
    let text = novel();
    std::fs::write(&tail, &text[text.len() * 9 / 10..]).unwrap();
    let out =
        starling(&["eval", "--json"]).arg("--run").arg(&run).arg("--text").arg(&tail).output();
    let report = &json_lines(&String::from_utf8(out.unwrap().stdout).unwrap())[0];
    assert!((report["loss"].as_f64().unwrap() - last).abs() < 1e-6);
    assert!((report["perplexity"].as_f64().unwrap() - last.exp()).abs() < 1e-3);
    assert_eq!(report["tokens"].as_u64().unwrap() as usize, text.len() - text.len() * 9 / 10 - 1);
    let sample = |seed: &str| {
        let mut command = starling(&["generate", "--prompt", "It is", "--tokens", "40"]);
        let out = command.args(["--seed", seed]).arg("--run").arg(&run).output().unwrap();
        assert_eq!(out.status.code(), Some(0));
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(sample("1").starts_with("It is"));
    assert_eq!(sample("1"), sample("1"));
    assert_ne!(sample("1"), sample("2"));
}

#[test]
fn one_and_two_threads_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("1"), dir.path().join("2"));
    for (run, threads) in [(&one, "1"), (&two, "2")] {
        let done = train(run, &["--steps", "8", "--dropout", "0.1", "--threads", threads]);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(weights(&one) == weights(&two));
    let env = dir.path().join("env");
    let mut command = common::train_command(&env, &["--steps", "8", "--dropout", "0.1"]);
    let done = command.env("STARLING_THREADS", "2").output().unwrap();
    assert_eq!(done.status.code(), Some(0));
    let text = std::fs::read_to_string(env.join("run.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["threads"], 2);
    assert!(weights(&one) == weights(&env));
}

#[test]
fn a_killed_run_continues_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let options = ["--steps", "60", "--checkpoint-every", "10", "--dropout", "0.1"];
    assert_eq!(train(&whole, &options).status.code(), Some(0));
    let mut command = common::train_command(&killed, &options);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let rows = || std::fs::read_to_string(killed.join("metrics.jsonl")).unwrap_or_default();
    while rows().lines().count() < 25 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut again = options.to_vec();
    again.push("--resume");
    let done = train(&killed, &again);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(weights(&whole) == weights(&killed));
    let state = |run: &Path| std::fs::read(run.join("state.safetensors")).unwrap();
    assert!(state(&whole) == state(&killed));
    let steps = |run: &Path| -> Vec<u64> {
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let rows = json_lines(&text).into_iter().filter(|r| r.get("loss").is_some());
        rows.map(|r| r["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps(&killed), (1..=60).collect::<Vec<_>>());
    // A finished run has nothing left to do, and says so.
    let done = train(&killed, &again);
    assert_eq!(done.status.code(), Some(0));
    assert!(weights(&whole) == weights(&killed));
}

#[test]
fn devices_are_listed_with_a_reason_for_each_that_is_missing() {
    let out = starling(&["devices", "--json"]).output().unwrap();
    let all = &json_lines(&String::from_utf8(out.stdout).unwrap())[0];
    let all = all.as_array().unwrap();
    let cpu = all.iter().find(|d| d["name"] == "cpu").unwrap();
    assert_eq!(cpu["available"], true);
    for device in all.iter().filter(|d| d["available"] == false) {
        assert!(!device["reason"].as_str().unwrap().is_empty());
    }
    let out = starling(&["devices"]).output().unwrap();
    assert!(String::from_utf8(out.stdout).unwrap().contains("cpu        available"));
}

#[test]
fn verify_prints_a_line_per_operation_and_the_counts_last() {
    let out = starling(&["verify", "--filter", "softmax", "--json"]).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stdout));
    let lines = json_lines(&String::from_utf8(out.stdout).unwrap());
    let last = lines.last().unwrap();
    assert!(last["passed"].as_u64().unwrap() > 0);
    assert_eq!(last["failed"], 0);
    assert_eq!(last["device"], "cpu");
    assert!(last["isa"].is_string() && last["skipped"].is_number());
    assert!(lines.iter().any(|l| l["op"] == "softmax"));
    let mut command = starling(&["verify", "--device", "cpu"]);
    user_error(command.env("STARLING_ISA", "sse9"), &["sse9", "scalar"]);
}

#[test]
fn benches_print_one_object_each() {
    let bench = |args: &[&str]| {
        let mut command = starling(&["bench"]);
        let out = command.args(args).args(["--secs", "0.01", "--json"]).output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{args:?} {}", String::from_utf8_lossy(&out.stderr));
        json_lines(&String::from_utf8(out.stdout).unwrap()).remove(0)
    };
    for layout in ["nn", "nt", "tn", "tt"] {
        let row = bench(&["gemm", "--shape", &format!("33x47x65:{layout}"), "--threads", "1"]);
        for key in ["median_ms", "min_ms", "runs", "gflops", "gbps"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key}");
        }
        assert_eq!((row["op"].as_str(), row["threads"].as_u64()), (Some("gemm"), Some(1)));
        assert_eq!((row["dtype"].as_str(), row["device"].as_str()), (Some("f32"), Some("cpu")));
    }
    bench(&["attention", "--shape", "2x3x33x16", "--causal", "--backward"]);
    bench(&["attention", "--shape", "1x2x17x16"]);
    for op in ["gelu", "add", "fma", "gt"] {
        bench(&["map", "--op", op, "--len", "10007"]);
    }
    for op in ["softmax", "log_softmax", "layer_norm", "rms_norm", "cross_entropy"] {
        bench(&["rows", "--op", op, "--shape", "7x131"]);
    }
    let sizes = "--layers 2 --dim 32 --heads 2 --seq 16 --batch 2 --vocab 100";
    let sizes: Vec<&str> = sizes.split(' ').collect();
    let row = bench(&[&["train"], &sizes[..]].concat());
    assert!(row["tokens_per_s"].as_f64().unwrap() > 0.0 && row["launches"].as_u64().unwrap() > 0);
    assert_eq!(row["pool_misses"], 0, "a replayed step allocates nothing");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(train(&run, &["--steps", "1"]).status.code(), Some(0));
    let mut command = starling(&["generate", "--prompt", "a", "--tokens", "2000"]);
    let mut child = command
        .arg("--run")
        .arg(&run)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}
