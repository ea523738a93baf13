//! Sizes beyond memory, endless and odd files, numbers at the edge.

mod common;

use common::{short_command, short_train, starling, text_file, user_error};
use std::path::Path;

#[test]
fn sizes_beyond_memory_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let huge = ["1000000000", "4294967296", "9223372036854775808", "18446744073709551615"];
    for option in ["--batch", "--seq", "--accumulate"] {
        for size in huge {
            let args = ["train", option, size, "--out"];
            user_error(starling(&args).arg(&out), &[]);
        }
    }
    let args = ["train", "--batch", "1000000000", "--out"];
    user_error(starling(&args).arg(&out), &["GiB"]);
    let args = ["train", "--seq", "1000000000", "--out"];
    user_error(starling(&args).arg(&out), &["GiB"]);
    assert!(!out.exists(), "nothing was written");
    let huge = ["1000000", "18446744073709551615"];
    for size in huge {
        user_error(&mut starling(&["devices", "--threads", size]), &["threads"]);
    }
}

#[test]
fn benches_beyond_memory_are_refused() {
    let bench = |args: &str, words: &[&str]| {
        let args: Vec<&str> = args.split(' ').collect();
        user_error(starling(&["bench"]).args(args), words);
    };
    bench("gemm --shape 99999999999x1x1", &["GiB"]);
    bench("gemm --shape 1x99999999999x1", &["GiB"]);
    bench("gemm --shape 4294967296x4294967296x4294967296", &[]);
    bench("gemm --shape 18446744073709551615x2x2", &[]);
    bench("rows --op cross_entropy --shape 1x4294967296", &[]);
    bench("rows --op softmax --shape 99999999999x7", &["GiB"]);
    bench("map --op gelu --len 18446744073709551615", &[]);
    bench("map --op gelu --len 99999999999", &["GiB"]);
    bench("attention --shape 99999999999x1x1x1", &["GiB"]);
    bench("attention --shape 1x4294967296x4294967296x1", &[]);
    bench("train --layers 1 --dim 4 --heads 1 --seq 99999999999 --batch 1 --vocab 9", &["GiB"]);
    bench("train --layers 1 --dim 4 --heads 1 --seq 4 --batch 99999999999 --vocab 9", &["GiB"]);
    bench("train --layers 99999999999 --dim 4 --heads 1 --seq 4 --batch 1 --vocab 9", &["GiB"]);
    bench("train --layers 1 --dim 4 --heads 1 --seq 4 --batch 1 --vocab 4294967297", &[]);
    let wide = "train --layers 1 --dim 18446744073709551615 --heads 1 --seq 4 --batch 1 --vocab 9";
    bench(wide, &[]);
    bench("map --op gelu --len 8 --secs 1e300", &["--secs"]);
    bench("map --op gelu --len 8 --secs -inf", &["--secs"]);
}

#[test]
fn the_same_sizes_in_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(short_train(&run, &["--steps", "1"]).status.code(), Some(0));
    let edit = |file: &str, from: &str, to: &str, command: &[&str], words: &[&str]| {
        let path = run.join(file);
        let good = std::fs::read_to_string(&path).unwrap();
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        user_error(starling(command).arg(&run), words);
        std::fs::write(&path, good).unwrap();
    };
    let resume = ["train", "--resume", "--out"];
    for size in ["1000000000", "18446744073709551615", "36893488147419103232", "-1"] {
        for name in ["batch", "accumulate", "seq", "n_positions", "n_embd", "n_layer"] {
            let path = run.join("run.json");
            let text = std::fs::read_to_string(&path).unwrap();
            let from = text.lines().find(|l| l.contains(&format!("\"{name}\":"))).unwrap();
            let to = format!("\"{name}\": {size},");
            edit("run.json", from.trim(), &to, &resume, &[]);
        }
    }
    let generate = ["generate", "--prompt", "a", "--run"];
    for size in ["1000000000", "9223372036854775808", "18446744073709551615"] {
        for (name, old) in
            [("n_layer", 4), ("n_embd", 128), ("n_positions", 32), ("vocab_size", 256)]
        {
            let from = format!("\"{name}\": {old}");
            edit("config.json", &from, &format!("\"{name}\": {size}"), &generate, &["config"]);
        }
    }
    let config = std::fs::read_to_string(run.join("config.json")).unwrap();
    let epsilon = config.lines().find(|l| l.contains("layer_norm_epsilon")).unwrap();
    edit(
        "config.json",
        epsilon.trim().trim_end_matches(','),
        "\"layer_norm_epsilon\": -1.0",
        &generate,
        &["epsilon"],
    );
    edit("config.json", "{", "[{", &generate, &["config.json"]);
    let path = run.join("config.json");
    std::fs::write(&path, "[]").unwrap();
    user_error(starling(&generate).arg(&run), &["config.json", "no model description"]);
    // A header that its length says is 94 MB, and one that is.
    let model = run.join("model.safetensors");
    for real in [false, true] {
        let mut bytes = 94_000_000u64.to_le_bytes().to_vec();
        bytes.resize(if real { 94_000_100 } else { 200 }, b'[');
        std::fs::write(&model, bytes).unwrap();
        std::fs::write(&path, "{\"n_layer\": 1}").unwrap();
        user_error(starling(&generate).arg(&run), &["model.safetensors", "header"]);
    }
}

#[test]
fn numbers_at_the_edge() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let with = |args: &[&str], words: &[&str]| user_error(&mut short_command(&out, args), words);
    with(&["--lr", "-inf"], &["learning rate is -inf"]);
    with(&["--lr", "-nan"], &["learning rate is NaN"]);
    with(&["--dropout", "-inf"], &["-inf"]);
    with(&["--patience", "0"], &["patience is 0"]);
    with(&["--device", "cpu:99999"], &["cpu:99999"]);
    with(&["--device", "cpu:-1"], &["cpu:-1"]);
    assert!(!out.exists(), "nothing was written");
    let run = dir.path().join("run");
    assert_eq!(short_train(&run, &["--steps", "1"]).status.code(), Some(0));
    let mut command = starling(&["generate", "--prompt", "a", "--temperature", "-inf", "--run"]);
    user_error(command.arg(&run), &["temperature is -inf"]);
}

/// The content of a model file, without its checksum, with the last of its numbers changed.
fn as_from_elsewhere(whole: &[u8], count: usize, number: f32) -> Vec<u8> {
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&whole[8..8 + header]).unwrap();
    let at = text.find("\"__metadata__\":").unwrap();
    let end = text[at..].find('}').unwrap() + at + 2;
    let text = format!("{}{}", &text[..at], &text[end..]);
    let mut data = whole[8 + header..].to_vec();
    let from = data.len().saturating_sub(4 * count);
    for word in data[from..].chunks_exact_mut(4) {
        word.copy_from_slice(&number.to_le_bytes());
    }
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &data].concat()
}

#[test]
fn models_that_cannot_be_computed_with() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(short_train(&run, &["--steps", "1"]).status.code(), Some(0));
    let text = text_file(dir.path(), "text", b"some text");
    let eval = || {
        let mut eval = starling(&["eval", "--json", "--text"]);
        eval.arg(&text).arg("--run").arg(&run);
        eval
    };
    let path = run.join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let put = |count: usize, number: f32| {
        std::fs::write(&path, as_from_elsewhere(&whole, count, number)).unwrap();
    };
    put(0, 0.0);
    assert_eq!(eval().output().unwrap().status.code(), Some(0), "without a checksum: foreign");
    for number in [f32::NAN, f32::INFINITY] {
        put(1, number);
        user_error(&mut eval(), &["model.safetensors", "finite"]);
    }
    // Finite numbers whose products are not.
    put(usize::MAX / 4, 3e38);
    let generate = ["generate", "--prompt", "a", "--tokens", "1", "--run"];
    let mut generate = starling(&generate);
    for (command, word) in [(&mut eval(), "loss"), (generate.arg(&run), "logits")] {
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.contains(word), "{said}");
        assert!(out.stdout.is_empty(), "{}", String::from_utf8_lossy(&out.stdout));
    }
}

#[cfg(unix)]
fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
#[cfg(unix)]
fn endless_and_odd_files_are_refused() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    assert_eq!(short_train(&run, &["--steps", "1"]).status.code(), Some(0));
    let pipe = dir.path().join("pipe");
    fifo(&pipe);
    let text = text_file(dir.path(), "text", b"some text to look at");
    let odd = [Path::new("/dev/zero"), &pipe, Path::new("/dev/stdin"), dir.path()];
    let read = [
        ("config.json", &["generate", "--prompt", "a", "--run"][..]),
        ("model.safetensors", &["generate", "--prompt", "a", "--run"]),
        ("tokenizer.json", &["generate", "--prompt", "a", "--run"]),
        ("run.json", &["train", "--resume", "--out"]),
        ("state.safetensors", &["train", "--resume", "--out"]),
        ("metrics.jsonl", &["train", "--resume", "--out"]),
    ];
    for (name, command) in read {
        let (path, away) = (run.join(name), dir.path().join("away"));
        std::fs::rename(&path, &away).unwrap();
        for target in odd {
            symlink(target, &path).unwrap();
            user_error(starling(command).arg(&run), &[name]);
            std::fs::remove_file(&path).unwrap();
        }
        fifo(&path);
        user_error(starling(command).arg(&run), &[name, "no regular file"]);
        std::fs::remove_file(&path).unwrap();
        if !name.ends_with("safetensors") && name != "metrics.jsonl" {
            let large = std::fs::File::create(&path).unwrap();
            large.set_len(1 << 40).unwrap();
            user_error(starling(command).arg(&run), &[name, "larger"]);
        }
        std::fs::rename(&away, &path).unwrap();
    }
    for target in odd {
        let mut command = starling(&["eval", "--text"]);
        user_error(command.arg(target).arg("--run").arg(&run), &["no regular file"]);
    }
    let sparse = dir.path().join("sparse");
    std::fs::File::create(&sparse).unwrap().set_len(1 << 42).unwrap();
    let mut command = starling(&["eval", "--text"]);
    user_error(command.arg(&sparse).arg("--run").arg(&run), &["GiB"]);
    // What is no file is never replaced by one.
    let logits = |out: &Path| {
        let mut command = starling(&["logits", "--tokens", "4", "--text"]);
        command.arg(&text).arg("--run").arg(&run).arg("--out").arg(out);
        command
    };
    let link = dir.path().join("link");
    symlink("/dev/null", &link).unwrap();
    for out in [&pipe, &link, dir.path()] {
        user_error(&mut logits(out), &["no regular file"]);
    }
    use std::os::unix::fs::FileTypeExt;
    assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(std::fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
    assert_eq!(logits(&dir.path().join("x")).status().unwrap().code(), Some(0));
}
