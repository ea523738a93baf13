//! How the tests start the command.
#![allow(dead_code, reason = "each test file uses a part")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The command with arguments, without the caller's environment variables that change it.
pub fn starling(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starling"));
    command.args(args).env_remove("STARLING_THREADS").env("RUST_BACKTRACE", "1");
    // As over ssh, where drivers are the most talkative.
    command.env_remove("XDG_RUNTIME_DIR").env_remove("NODEVICE_SELECT");
    command
}

/// A training of a small model into `run`.
pub fn train_command(run: &Path, args: &[&str]) -> Command {
    let mut command = starling(&["train", "--preset", "tiny", "--batch", "4", "--seq", "32"]);
    command.args(args).arg("--out").arg(run);
    command
}

/// A training of a small model on a short text into `run`.
pub fn short_command(run: &Path, args: &[&str]) -> Command {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("short.txt");
    let text: String = (0..200).map(|i| format!("{i} birds sat on {} wires. ", i * i)).collect();
    // The same content whoever writes it, and never half of it.
    let own = path.with_extension(format!("{:?}", std::thread::current().id()));
    std::fs::write(&own, text).unwrap();
    std::fs::rename(&own, &path).unwrap();
    let mut command = train_command(run, args);
    command.arg("--text").arg(path);
    command
}

/// Runs a training of a small model on a short text into `run`.
pub fn short_train(run: &Path, args: &[&str]) -> Output {
    short_command(run, args).output().unwrap()
}

/// Runs a training of a small model into `run`.
pub fn train(run: &Path, args: &[&str]) -> Output {
    train_command(run, args).output().unwrap()
}

/// Asserts that the command ends with the user's error: exit code 2, one sentence on the standard
/// error that holds all of `words`, and no trace.
pub fn user_error(command: &mut Command, words: &[&str]) {
    let out = command.output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{command:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{command:?}: {word:?} is missing in {text:?}");
    }
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
    assert!(text.starts_with("error: ") && text.trim_end().lines().count() == 1, "{text}");
}

/// A file with some content.
pub fn text_file(dir: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// The novel that the command carries.
pub fn novel() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/pride_and_prejudice.txt")).unwrap()
}

/// Every line as JSON.
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
}
