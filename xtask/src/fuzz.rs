//! `cargo xtask fuzz-graphs N [SEED]`: random graphs against PyTorch in float64, on every device.

use crate::run::{self, Steps};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

/// Names a Python that has torch, instead of one that is made here.
const PYTHON: &str = "STARLING_PYTHON";
/// Where Python and graphs are put.
const HOME: &str = "target/fuzz";
/// Graphs that are drawn, and then run, at a time.
const BATCH: u64 = 500;

/// Draws `count` graphs from `first` on, or from a seed that the clock gives, and runs them.
pub fn graphs(steps: &mut Steps, count: &str, first: Option<&str>) {
    let (mut wrong, mut drawn) = (BTreeSet::new(), 0);
    steps.step(&format!("{count} random graphs against PyTorch"), || {
        let (count, first) = seeds(count, first)?;
        let python = python()?;
        println!("seeds {first} to {}", first + count - 1);
        let mut failed = Ok(String::new());
        while drawn < count {
            let n = BATCH.min(count - drawn);
            let file = draw(&python, first + drawn, n)?;
            let mut command = run::cargo();
            command.args(["test", "--package", "starling-engine", "--test", "graphs"]);
            command.env("STARLING_GRAPHS", file);
            let result = run::status_with_lines(&mut command, |line| wrong.extend(seed(line)));
            failed = failed.and(result);
            drawn += n;
            println!("{drawn} of {count} graphs ran, {} are wrong", wrong.len());
        }
        for seed in &wrong {
            println!("seed {seed} fails: cargo xtask fuzz-graphs 1 {seed}");
        }
        match wrong.len() {
            0 => failed.map(|_| format!("{drawn} graphs agree")),
            n => Err(format!("{n} of {drawn} graphs are wrong")),
        }
    });
}

/// How many graphs, and the first seed.
fn seeds(count: &str, first: Option<&str>) -> Result<(u64, u64), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
    let count = number(count)?;
    let first = match first {
        Some(first) => number(first)?,
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?;
            now.as_secs()
        }
    };
    match first.checked_add(count) {
        Some(_) if count > 0 => Ok((count, first)),
        _ => Err(format!("{count} graphs from seed {first} on are none, or too many")),
    }
}

/// A Python with torch: the one that [`PYTHON`] names, or one of our own with what pip installs.
fn python() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(PYTHON) {
        let path = PathBuf::from(path);
        return match has_torch(&path) {
            true => Ok(path),
            false => Err(format!("{PYTHON}={} has no torch: pip install torch", path.display())),
        };
    }
    let home = Path::new(HOME).join("python");
    let python = home.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !has_torch(&python) {
        println!("installing torch and numpy into {}", home.display());
        fs::create_dir_all(HOME).map_err(|e| e.to_string())?;
        run::status(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
        run::status(Command::new(&python).args(["-m", "pip", "install", "torch", "numpy"]))?;
    }
    Ok(python)
}

fn has_torch(python: &Path) -> bool {
    run::succeeds(&python.to_string_lossy(), &["-c", "import torch, numpy"])
}

/// Draws graphs, a part in each of as many processes as there are processors; the file they are in.
fn draw(python: &Path, first: u64, count: u64) -> Result<PathBuf, String> {
    let home = fs::canonicalize(HOME)
        .or_else(|_| fs::create_dir_all(HOME).and_then(|()| fs::canonicalize(HOME)))
        .map_err(|e| format!("{HOME}: {e}"))?;
    let workers = available_parallelism().map_or(1, |n| n.get() as u64).min(count);
    let mut parts: Vec<(PathBuf, Child)> = Vec::new();
    for worker in 0..workers {
        let (begin, end) = (worker * count / workers, (worker + 1) * count / workers);
        let part = home.join(format!("part-{worker}.jsonl"));
        let (begin, n) = ((first + begin).to_string(), (end - begin).to_string());
        let mut command = Command::new(python);
        command.args(["tests/golden/make_graphs.py", &begin, &n]).arg(&part);
        parts.push((part, command.spawn().map_err(|e| format!("{}: {e}", python.display()))?));
    }
    let mut text = String::new();
    let mut outcome = Ok(());
    for (part, mut child) in parts {
        // Every process is waited for, also when another failed.
        let status = child.wait().map_err(|e| e.to_string())?;
        if !status.success() {
            outcome = Err(format!("tests/golden/make_graphs.py: {status}"));
            continue;
        }
        text += &fs::read_to_string(&part).map_err(|e| format!("{}: {e}", part.display()))?;
    }
    outcome?;
    let found = text.lines().count() as u64;
    if found != count {
        return Err(format!("{found} graphs were drawn and not {count}"));
    }
    let file = home.join("graphs.jsonl");
    fs::write(&file, text).map_err(|e| e.to_string())?;
    Ok(file)
}

/// The seed of a complaint.
fn seed(line: &str) -> Option<u64> {
    line.strip_prefix("seed ")?.split_once(':')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_name_their_seed() {
        assert_eq!(seed("seed 17: output 0 [3] is 1 and not 2 (cpu avx2)"), Some(17));
        assert_eq!(seed("cpu avx2: 120 graphs, 0 wrong"), None);
        assert_eq!(seed("seeds 1 to 7"), None);
    }

    #[test]
    fn counts_and_seeds_that_are_none_are_errors() {
        assert_eq!(seeds("5", Some("7")), Ok((5, 7)));
        assert!(seeds("5", None).is_ok());
        for (count, first) in [("0", "1"), ("-1", "1"), ("1", "x"), ("2", "18446744073709551615")] {
            assert!(seeds(count, Some(first)).is_err(), "{count} {first}");
        }
    }
}
