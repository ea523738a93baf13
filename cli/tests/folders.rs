//! Run folders that are not what they should be: foreign, linked, half gone, flipped.

mod common;

use common::{json_lines, short_command, short_train, starling, text_file, user_error};
use std::path::Path;

/// A folder with files that are not ours.
fn foreign(dir: &Path, names: &[&str]) {
    for name in names {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "precious").unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    all.sort();
    all
}

#[test]
fn only_a_folder_that_is_empty_is_begun_in() {
    for name in [
        "state.safetensors",
        "tokenizer.json",
        "loss.svg",
        "metrics.jsonl",
        "initial/model.safetensors",
        "notes.txt",
        ".lock",
        ".run.json.tmp",
    ] {
        let dir = tempfile::tempdir().unwrap();
        foreign(dir.path(), &[name]);
        let before = names(dir.path());
        user_error(&mut short_command(dir.path(), &["--steps", "1"]), &["another folder"]);
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"precious", "{name}");
        assert_eq!(names(dir.path()), before, "{name}: nothing was written");
    }
}

#[test]
#[cfg(unix)]
fn nothing_is_written_through_a_link() {
    use std::os::unix::fs::symlink;
    for name in ["metrics.jsonl", ".lock", "initial", ".run.json.tmp"] {
        let dir = tempfile::tempdir().unwrap();
        let (run, outside) = (dir.path().join("run"), dir.path().join("outside"));
        std::fs::create_dir(&run).unwrap();
        std::fs::write(&outside, "precious").unwrap();
        symlink(&outside, run.join(name)).unwrap();
        user_error(&mut short_command(&run, &["--steps", "1"]), &["another folder"]);
        assert_eq!(std::fs::read(&outside).unwrap(), b"precious", "{name}");
    }
    // Nor when a run of ours goes on.
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(short_train(&run, &["--steps", "2"]).status.code(), Some(0));
    for name in ["metrics.jsonl", "loss.svg", "model.safetensors", "initial", ".lock"] {
        let (path, outside) = (run.join(name), dir.path().join("outside"));
        std::fs::rename(&path, &outside).unwrap();
        symlink(&outside, &path).unwrap();
        user_error(&mut short_command(&run, &["--resume"]), &[name, "link"]);
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&outside, &path).unwrap();
    }
    assert_eq!(short_train(&run, &["--resume"]).status.code(), Some(0));
}

#[test]
fn a_run_json_of_another_program_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["[]", "{}", "{\"name\": \"x\", \"scripts\": {}}", "3"] {
        std::fs::write(dir.path().join("run.json"), text).unwrap();
        user_error(&mut short_command(dir.path(), &["--resume"]), &["run.json"]);
        assert_eq!(names(dir.path()), ["run.json"], "{text}");
    }
}

#[test]
fn a_missing_state_is_an_error_once_the_run_has_begun() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(short_train(&run, &["--steps", "2"]).status.code(), Some(0));
    let model = std::fs::read(run.join("model.safetensors")).unwrap();
    let (state, away) = (run.join("state.safetensors"), dir.path().join("away"));
    std::fs::rename(&state, &away).unwrap();
    let words = ["state.safetensors", "missing", "restore"];
    user_error(&mut short_command(&run, &["--resume"]), &words);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/nowhere/at/all", &state).unwrap();
        user_error(&mut short_command(&run, &["--resume"]), &["state.safetensors", "link"]);
        std::fs::remove_file(&state).unwrap();
    }
    // Any trace of steps is enough.
    std::fs::remove_file(run.join("metrics.jsonl")).unwrap();
    user_error(&mut short_command(&run, &["--resume"]), &words);
    assert!(std::fs::read(run.join("model.safetensors")).unwrap() == model);
    // And metrics without which the state says more steps than are known.
    std::fs::rename(&away, &state).unwrap();
    user_error(&mut short_command(&run, &["--resume"]), &["metrics.jsonl", "missing"]);
}

#[test]
fn a_flipped_bit_in_the_header_of_the_state_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(short_train(&run, &["--steps", "2"]).status.code(), Some(0));
    let path = run.join("state.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let find = |text: &str| whole.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
    for at in [find("step\\\":2") + 7, find("model.transformer.h.0") + 20] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        user_error(&mut short_command(&run, &["--resume"]), &["state.safetensors", "restore it"]);
    }
}

#[test]
fn a_bad_row_is_skipped_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let options = ["--steps", "6", "--checkpoint-every", "3"];
    assert_eq!(short_train(&run, &options).status.code(), Some(0));
    let path = run.join("metrics.jsonl");
    let good = std::fs::read_to_string(&path).unwrap();
    for bad in ["garbage", "{\"step\":1.8e308}", "\u{0}\u{0}", "[]"] {
        let mut lines: Vec<&str> = good.lines().collect();
        lines[1] = bad;
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let out = short_train(&run, &["--resume"]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(0), "{bad}: {text}");
        assert!(text.contains("metrics.jsonl") && text.contains("1 row"), "{bad}: {text}");
        let now = std::fs::read_to_string(&path).unwrap();
        assert_eq!(now.lines().last(), good.lines().last(), "{bad}");
        assert!(now.lines().count() >= good.lines().count() - 1, "{bad}");
    }
}

#[test]
fn a_run_says_plainly_that_it_moves() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(short_train(&run, &["--steps", "2"]).status.code(), Some(0));
    let path = run.join("run.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"device\": \"cpu\""), "{text}");
    std::fs::write(&path, text.replace("\"device\": \"cpu\"", "\"device\": \"webgpu:99\""))
        .unwrap();
    // Without a word it stays where it began, or cannot go on.
    let words = ["webgpu:99", "--device"];
    user_error(&mut short_command(&run, &["--resume"]), &words);
    let out = short_train(&run, &["--resume", "--device", "cpu"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(0), "{said}");
    assert!(said.contains("moves from webgpu:99 to cpu"), "{said}");
    // It lives there from now on.
    let out = short_train(&run, &["--resume"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(0), "{said}");
    assert!(!said.contains("moves"), "{said}");
}

#[test]
fn a_run_that_diverges_ends_with_1_and_keeps_the_last_good_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let text = text_file(dir.path(), "text", &b"a short text. ".repeat(60));
    for every in ["1", "3"] {
        let run = dir.path().join(every);
        let options = ["--steps", "30", "--lr", "1e20", "--checkpoint-every", every];
        let mut command = short_command(&run, &options);
        let out = command.args(["--validate-every", every]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("diverged") && said.contains("step"), "{said}");
        assert!(!said.contains("NaN (best"), "{said}");
        // What is there can be read and computes a loss.
        if run.join("model.safetensors").exists() {
            let mut eval = starling(&["eval", "--json", "--run"]);
            let out = eval.arg(&run).arg("--text").arg(&text).output().unwrap();
            assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
            let report = &json_lines(&String::from_utf8(out.stdout).unwrap())[0];
            assert!(report["loss"].is_number() && report["perplexity"].is_number());
        }
        let state = std::fs::read(run.join("state.safetensors")).unwrap();
        let header = u64::from_le_bytes(state[..8].try_into().unwrap()) as usize;
        let numbers = state[8 + header..].chunks_exact(4);
        assert!(numbers.map(|b| f32::from_le_bytes(b.try_into().unwrap())).all(f32::is_finite));
    }
}
