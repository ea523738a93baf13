//! Every mistake of a user's: one clear sentence, exit code 2, earlier files whole.

mod common;

use common::{starling, text_file, train, train_command, user_error};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every file below a folder with its content.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(snapshot(&path));
        } else {
            all.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn texts_that_cannot_be_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let with = |text: &Path| {
        let mut command = train_command(&out, &["--steps", "2"]);
        command.arg("--text").arg(text);
        command
    };
    user_error(&mut with(&dir.path().join("missing.txt")), &["missing.txt", "No such file"]);
    user_error(&mut with(&text_file(dir.path(), "empty.txt", b"")), &["empty.txt", "empty"]);
    let short = text_file(dir.path(), "short.txt", b"much too short");
    user_error(&mut with(&short), &["window needs 33"]);
    user_error(&mut with(dir.path()), &["no regular file"]);
    assert!(!out.exists(), "nothing was written");
}

#[test]
fn numbers_that_cannot_be_trained_with() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let with = |args: &[&str], words: &[&str]| user_error(&mut train_command(&out, args), words);
    with(&["--lr", "NaN"], &["learning rate is NaN"]);
    with(&["--lr", "inf"], &["learning rate"]);
    with(&["--lr", "-1"], &["learning rate is -1"]);
    with(&["--lr", "0"], &["learning rate is 0"]);
    with(&["--lr", "1e-60"], &["learning rate is 0.000", "f32"]);
    with(&["--lr", "fast"], &["--lr"]);
    with(&["--steps", "0"], &["steps is 0"]);
    with(&["--dropout", "1.5"], &["1.5"]);
    with(&["--dropout", "NaN"], &["NaN"]);
    with(&["--threads", "0"], &["--threads is 0"]);
    for number in ["0", "some", "4097"] {
        let mut command = train_command(&out, &["--device", "cpu"]);
        user_error(command.env("STARLING_THREADS", number), &["STARLING_THREADS", number, "4096"]);
    }
    with(&["--checkpoint-every", "0"], &["checkpoints is 0"]);
    let args = ["train", "--batch", "0", "--out"];
    user_error(starling(&args).arg(&out), &["batch is 0"]);
    with(&["--steps", "-1"], &["'-1'", "--steps"]);
    let args = ["train", "--seq", "0", "--out"];
    user_error(starling(&args).arg(&out), &["sequence length is 0"]);
    user_error(&mut starling(&["train", "--preset", "huge"]), &["huge"]);
    user_error(&mut starling(&["train", "--model", "llama"]), &["llama"]);
    assert!(!out.exists(), "nothing was written");
}

#[test]
fn devices_and_instruction_sets_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    for (device, word) in [("cuda:0", "CUDA"), ("webgpu:99", "webgpu:99"), ("abacus", "abacus")] {
        user_error(&mut train_command(&out, &["--device", device]), &[word]);
        user_error(&mut starling(&["verify", "--device", device]), &[word]);
        let bench = ["bench", "gemm", "--shape", "8x8x8", "--device", device];
        user_error(&mut starling(&bench), &[word]);
    }
    let foreign = if cfg!(target_arch = "aarch64") { "avx512" } else { "neon" };
    for isa in ["sse9", foreign] {
        let mut command = train_command(&out, &[]);
        user_error(command.env("STARLING_ISA", isa), &[isa, "scalar"]);
    }
    assert!(!out.exists(), "nothing was written");
}

#[test]
fn folders_that_hold_no_model_or_a_broken_one() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(train(&run, &["--steps", "2"]).status.code(), Some(0));
    let text = text_file(dir.path(), "text", b"some text to look at");
    let eval = |run: &Path, words: &[&str]| {
        let mut command = starling(&["eval", "--text"]);
        user_error(command.arg(&text).arg("--run").arg(run), words);
        let mut command = starling(&["generate", "--prompt", "a", "--run"]);
        user_error(command.arg(run), words);
    };
    eval(&dir.path().join("nowhere"), &["nowhere", "no such folder"]);
    eval(dir.path(), &["config.json", "No such file"]);
    let model = run.join("model.safetensors");
    let whole = std::fs::read(&model).unwrap();
    for keep in [0, 5, 200, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&model, &whole[..keep]).unwrap();
        eval(&run, &["model.safetensors", "no whole safetensors file"]);
    }
    let mut flipped = whole.clone();
    let last = flipped.len() - 3;
    flipped[last] ^= 1;
    std::fs::write(&model, &flipped).unwrap();
    eval(&run, &["checksum"]);
    std::fs::write(&model, &whole).unwrap();
    let config = run.join("config.json");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, "{\"model_type\": ").unwrap();
    eval(&run, &["config.json"]);
    std::fs::write(&config, good.replace("\"n_layer\": 4", "\"n_layer\": 5")).unwrap();
    eval(&run, &["h.4", "missing"]);
    std::fs::write(&config, good.replace("\"n_embd\": 128", "\"n_embd\": 64")).unwrap();
    eval(&run, &["shape"]);
    std::fs::write(&config, good).unwrap();
    let empty = text_file(dir.path(), "empty", b"");
    let mut command = starling(&["eval", "--run"]);
    user_error(command.arg(&run).arg("--text").arg(&empty), &["empty"]);
    let one = text_file(dir.path(), "one", b"x");
    let mut command = starling(&["eval", "--run"]);
    user_error(command.arg(&run).arg("--text").arg(&one), &["at least 2"]);
}

#[test]
fn runs_are_neither_overwritten_nor_resumed_as_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(train(&run, &["--steps", "2"]).status.code(), Some(0));
    let before = snapshot(&run);
    user_error(&mut train_command(&run, &["--steps", "2"]), &["--resume"]);
    let differs = ["--steps", "3", "--resume"];
    user_error(&mut train_command(&run, &differs), &["--steps", "differs"]);
    let text = text_file(dir.path(), "other", &b"another text. ".repeat(40));
    let mut command = train_command(&run, &["--resume"]);
    user_error(command.arg("--text").arg(&text), &["not the text"]);
    let nowhere = dir.path().join("nowhere");
    user_error(&mut train_command(&nowhere, &["--resume"]), &["no run to resume"]);
    assert!(!nowhere.exists());
    assert!(snapshot(&run) == before);
    let state = run.join("state.safetensors");
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() - 7]).unwrap();
    user_error(&mut train_command(&run, &["--resume"]), &["state.safetensors", "restore it"]);
    std::fs::write(run.join("run.json"), "{").unwrap();
    user_error(&mut train_command(&run, &["--resume"]), &["run.json", "no JSON"]);
}

#[test]
fn draws_and_benches_that_make_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(train(&run, &["--steps", "1"]).status.code(), Some(0));
    let draw = |prompt: &str, args: &[&str], words: &[&str]| {
        let mut command = starling(&["generate", "--prompt", prompt]);
        user_error(command.args(args).arg("--run").arg(&run), words);
    };
    draw("a", &["--temperature", "NaN"], &["temperature is NaN"]);
    draw("a", &["--temperature", "-1"], &["temperature is -1"]);
    draw("a", &["--top-k", "0"], &["top-k"]);
    draw("a", &["--top-p", "0"], &["top-p"]);
    draw("", &[], &["prompt is empty"]);
    let bench = |args: &str, words: &[&str]| {
        let args: Vec<&str> = args.split(' ').collect();
        user_error(starling(&["bench"]).args(args), words);
    };
    bench("gemm --shape 8x8", &["8x8"]);
    bench("gemm --shape 8x8x8:xy", &["nn"]);
    bench("gemm --shape 8x8x0", &["above 0"]);
    bench("gemm --shape 8x8x8 --secs NaN", &["--secs"]);
    bench("gemm --shape 8x8x8 --secs -1", &["--secs"]);
    bench("gemm --shape 8x8x8 --dtype f7", &["f7"]);
    bench("map --op frobnicate --len 10", &["frobnicate"]);
    bench("map --op gelu --len 0", &["--len"]);
    bench("rows --op gelu --shape 3x4", &["softmax"]);
    bench("train --layers 1 --dim 10 --heads 3 --seq 4 --batch 1 --vocab 9", &["n_head"]);
    bench("train --layers 1 --dim 12 --heads 3 --seq 4 --batch 0 --vocab 9", &["batch is 0"]);
    user_error(&mut starling(&["verify", "--filter", "frobnicate"]), &["frobnicate"]);
    user_error(&mut starling(&["frobnicate"]), &["frobnicate"]);
    user_error(&mut starling(&["train", "--frobnicate"]), &["frobnicate"]);
}
